"""Counts the different users of several nodes together without sending all their names. Pure.

Each node sends the smallest hashes of its users' names, at most MAX_MARKS (the "k minimum values" sketch: Bar-Yossef et
al. 2002). If every node has fewer users, all hashes are known and the count is exact. Otherwise the MAX_MARKS-th
smallest hash estimates the density: 512 hashes are within 4.4 % (one standard error).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from heapq import nsmallest

MAX_MARKS = 512  # 8 KB of JSON per node and request
BITS = 53  # the largest integers of JavaScript


@lru_cache(maxsize=65_536)
def mark(name: str) -> int:
    """Return the hash of a user's name, the same on every node."""
    digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - BITS)


def marks(names: Iterable[str]) -> list[int]:
    """Return the smallest hashes of different names, in order, at most MAX_MARKS."""
    return nsmallest(MAX_MARKS, map(mark, names))


def count(nodes: Sequence[tuple[int, list[int]]]) -> int:
    """Return how many different names there are, from each node's count and `marks`."""
    union = sorted({one for _, found in nodes for one in found})
    if all(total <= len(found) for total, found in nodes):
        return len(union)
    guess = round((MAX_MARKS - 1) * (1 << BITS) / union[MAX_MARKS - 1])
    return min(max(guess, *(total for total, _ in nodes)), sum(total for total, _ in nodes))
