"""Seal: authenticates calls between nodes, because access to Valkey alone must not make a program a node.

A call carries its time (Valkey's, Unix ms) and an HMAC over the channel, the time and the text, under a key that only
the nodes of a cluster have. So a call is refused if no node sent it, if it was sent on another channel, if it was
received before, or if it is older than FRESH_MS. The calls are not encrypted: whoever may read in Valkey can read them.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

# A node that was stopped for this long was declared dead and registers everything again. The clock is Valkey's.
FRESH_MS = 60_000
KEY = b"insightdesk-rt calls between nodes 1"
FINGERPRINT = b"insightdesk-rt fingerprint 1"


class NotSealed(ValueError):
    """A call does not come from a node with our key, or is a replay."""


def derived_key(secret: bytes) -> bytes:
    """Derive the key from a secret. Neither the key nor what it sealed reveals the secret."""
    return hmac.digest(secret, KEY, hashlib.sha256)


def fingerprint(secret: bytes) -> str:
    """Return a fingerprint that distinguishes secrets and, as they are long and random, reveals nothing."""
    return hmac.digest(secret, FINGERPRINT, hashlib.sha256)[:8].hex()


class Seal:
    """`now_ms`: Valkey's time."""

    def __init__(self, key: bytes, now_ms: Callable[[], int] = lambda: int(time.time() * 1000)) -> None:
        self._key = key
        self._now_ms = now_ms
        self._seen: set[bytes] = set()  # the MACs of the last FRESH_MS, and those before them
        self._seen_before: set[bytes] = set()
        self._turned_ms = 0

    def stamp(self, channel: str, text: str) -> str:
        """Return the stamp of a text on a channel: its time and MAC."""
        at_ms = self._now_ms()
        return f"{at_ms} {self._mac(channel.encode(), at_ms, text.encode()).hex()}"

    def check(self, channel: bytes, stamp: bytes, text: bytes) -> None:
        """Raise NotSealed, with the reason, unless a node sent this text on this channel recently, and only once."""
        time_, _, mac = stamp.partition(b" ")
        if not mac or not time_.isdigit() or len(time_) > 16:
            raise NotSealed("it has no seal")
        at_ms, now_ms = int(time_), self._now_ms()
        if not hmac.compare_digest(self._mac(channel, at_ms, text).hex().encode(), mac):
            raise NotSealed("it was sealed with another key")
        if abs(now_ms - at_ms) > FRESH_MS:
            raise NotSealed("it is too old")
        if mac in self._seen or mac in self._seen_before:
            raise NotSealed("it was received before")
        if now_ms - self._turned_ms > 2 * FRESH_MS:
            self._turned_ms = now_ms
            self._seen_before, self._seen = self._seen, set()
        self._seen.add(mac)

    def _mac(self, channel: bytes, at_ms: int, text: bytes) -> bytes:
        return hmac.digest(self._key, b"%d %d %b\n%b" % (at_ms, len(channel), channel, text), hashlib.sha256)
