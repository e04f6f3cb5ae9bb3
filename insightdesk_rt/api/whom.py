"""Whom a request names: `userId` is staff and `customerId` a customer, where `user_ids = "separate"` tells them apart.

Where ids are shared one id is one person, `userId` names anybody, and `customerId` is refused: a back end that uses it
expects customers to be people of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import USER, Refused, sift
from insightdesk_rt.engine.model import ONE_KIND, UserKey, UserKeys, named

NOBODY = UserKey("")


def key_of(
    keys: UserKeys,
    user_id: str | UnsetType | None,
    customer_id: str | UnsetType | None,
    names: tuple[str, str] = ("userId", "customerId"),
) -> UserKey:
    """Return the key of whom two fields name, NOBODY if neither does. Raises RtError BAD_REQUEST: both, or not here."""
    if customer_id and user_id:
        raise RtError("BAD_REQUEST", f"Say either {names[0]} or {names[1]}.", field=names[1])
    if customer_id:
        return customer(keys, customer_id, names[1])
    return keys.staff(user_id) if user_id else NOBODY


def customer(keys: UserKeys, id: str, field: str = "customerId") -> UserKey:
    """Return a customer's key. Raises RtError BAD_REQUEST where ids are shared."""
    if not keys.separate:
        raise RtError("BAD_REQUEST", ONE_KIND, field=field)
    return keys.customer(id)


def keys_of(
    keys: UserKeys, user_ids: Sequence[object], customer_ids: Sequence[object]
) -> tuple[list[UserKey], list[Refused], list[Refused]]:
    """Return the keys of all who are named rightly, and the items of either list that no user can have as id.

    Raises RtError BAD_REQUEST if a list holds no id at all, and for customers where ids are shared.
    """
    staff, refused = sift(user_ids, USER, "userIds")
    customers, refused_customers = sift(customer_ids, USER, "customerIds")
    found = [*map(keys.staff, staff), *(customer(keys, id, "customerIds") for id in customers)]
    return found, refused, refused_customers


def user_of(key: str) -> str | None:
    """Return what stands in `userId` of an answer: null for a customer, who stands in `customerId`, and for nobody."""
    return named(key).user_id or None


def customer_of(key: str) -> str | UnsetType:
    """Return what stands in `customerId` of an answer; the field is left out for anybody else."""
    return named(key).customer_id or UNSET
