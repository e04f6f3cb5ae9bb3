"""Lists in pages: the query parameters, the answer, and the cursor that leads from one page to the next.

    class FindThings(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
        name: str = ""

    @operation("viewer", query=FindThings, answer=Page[Thing])
    async def get(self, query: FindThings) -> Answer:
        after = read_cursor(query.cursor, tuple[str])                    # None on the first page
        found = await self.things.find(query.name, query.limit + 1, after)
        shown, cursor = cut(found, query.limit, lambda thing: (thing.id,))
        return Answer(Page(shown, cursor))

A handler asks for one item more than the page holds: if it gets that item, there is a next page. A cursor is the sort
key of the last item shown, so a page stays correct while items come and go.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.api.operation import Query
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.wire import json

MAX_LIMIT = 500  # items of a page
USUAL_LIMIT = 100
MAX_CURSOR = 1000  # characters

T = TypeVar("T")
SortKey = Sequence[str | int | float]

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="items of a page")]
Cursor = Annotated[str, Meta(max_length=MAX_CURSOR, description="`next` of the page before")]


class Paged(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a list: how many items, and where the page starts."""

    limit: Limit = USUAL_LIMIT
    cursor: Cursor = ""


class Page(Struct, Generic[T]):
    """`next` is the cursor of the next page, null on the last one. `missing`: nodes that did not answer in time."""

    items: list[T]
    next: str | None = None
    missing: list[str] = []


def cut(found: Sequence[T], limit: int, place: Callable[[T], SortKey]) -> tuple[list[T], str | None]:
    """Return the items of a page, and the cursor of the next one (None: this is the last page).

    `found` holds up to `limit` + 1 items in order. `place` returns the sort key of an item, as the cursor keeps it.
    """
    shown = list(found[:limit])
    return shown, make_cursor(*place(shown[-1])) if len(found) > limit else None


def make_cursor(*after: str | int | float) -> str:
    """Return the sort key of a page's last item as opaque text."""
    return urlsafe_b64encode(json.dumps(list(after)).encode()).decode().rstrip("=")


def read_cursor(text: str, kind: type[T]) -> T | None:
    """Return what `make_cursor` was given, as a `tuple[…]`; None for the first page. Raises RtError BAD_REQUEST."""
    if not text:
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)), type=kind)
    except (ValueError, RecursionError):  # msgspec's and base64's errors are ValueErrors
        raise RtError("BAD_REQUEST", "This is not a cursor of this server", field="cursor") from None
