"""Lists that must fit into one answer: as many of the first items as a limit in bytes of JSON allows.

A list of what other users wrote must be bounded where it is built. The number of its items does not bound its length
on the wire, and an answer that is too long closes the client that asked, not the ones that wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from insightdesk_rt.engine.wire import json

T = TypeVar("T", bound=Struct)


def parts(items: Sequence[T], limit_bytes: int) -> Iterator[list[T]]:
    """Yield lists of at most `limit_bytes` of JSON, or of one longer item; one empty list if there are no items."""
    part: list[T] = []
    left = limit_bytes
    for item in items:
        size = len(json.encode_struct(item).encode()) + 1  # and a comma
        if part and size > left:
            yield part
            part, left = [], limit_bytes
        part.append(item)
        left -= size
    yield part


def fitting(items: Sequence[T], limit_bytes: int) -> tuple[list[T], bool]:
    """Return the first items that fit into `limit_bytes` of JSON, but at least one, and whether there are more."""
    first = next(parts(items, limit_bytes))
    return first, len(first) < len(items)
