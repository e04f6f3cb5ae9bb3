"""The user that a request names: with `user_ids = "separate"` `userId` is staff and `customerId` is a customer.

With shared ids one id is one person, and `userId` can be anybody. `customerId` is refused then: a back end that uses it
assumes separate ids.
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
    """Return the key of the user that two fields name, NOBODY if both are empty.

    Raises RtError BAD_REQUEST if both are given, or `customerId` with shared ids.
    """
    if customer_id and user_id:
        raise RtError("BAD_REQUEST", f"Give either {names[0]} or {names[1]}.", field=names[1])
    if customer_id:
        return customer(keys, customer_id, names[1])
    return keys.staff(user_id) if user_id else NOBODY


def customer(keys: UserKeys, id: str, field: str = "customerId") -> UserKey:
    """Return a customer's key. Raises RtError BAD_REQUEST with shared ids."""
    if not keys.separate:
        raise RtError("BAD_REQUEST", ONE_KIND, field=field)
    return keys.customer(id)


def keys_of(
    keys: UserKeys, user_ids: Sequence[object], customer_ids: Sequence[object]
) -> tuple[list[UserKey], list[Refused], list[Refused]]:
    """Return the keys of all valid ids, and the invalid items of either list.

    Raises RtError BAD_REQUEST if a list holds no valid id, and for customers with shared ids.
    """
    staff, refused = sift(user_ids, USER, "userIds")
    customers, refused_customers = sift(customer_ids, USER, "customerIds")
    found = [*map(keys.staff, staff), *(customer(keys, id, "customerIds") for id in customers)]
    return found, refused, refused_customers


def user_of(key: str) -> str | None:
    """Return the `userId` of an answer: null for nobody, and for a customer, who has a `customerId`."""
    return named(key).user_id or None


def customer_of(key: str) -> str | UnsetType:
    """Return the `customerId` of an answer; the field is left out for anybody else."""
    return named(key).customer_id or UNSET
