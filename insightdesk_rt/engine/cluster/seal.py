"""The seal on what nodes say to each other through Valkey: whoever may write to Valkey is not a node by that.

A call between nodes carries its time (Valkey's, Unix ms) and an HMAC over the channel, the time and the text, under a
key that all nodes of a cluster share and nobody else has. So nothing is taken that a node did not say, nor on another
channel than it was said on, nor again, nor later than FRESH_MS. Whoever may read in Valkey can still read it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

# A node that was stopped for that long has been declared dead, and asks for everything anew. Clocks are Valkey's.
FRESH_MS = 60_000
KEY = b"insightdesk-rt calls between nodes 1"
FINGERPRINT = b"insightdesk-rt fingerprint 1"


class NotSealed(ValueError):
    """No node with our key has said this here and now."""


def derived_key(secret: bytes) -> bytes:
    """Return the key that belongs to a secret; the secret is not found from it, nor from what it has sealed."""
    return hmac.digest(secret, KEY, hashlib.sha256)


def fingerprint(secret: bytes) -> str:
    """Return what may be shown to tell two secrets apart, and tells nothing of them as they are long and random."""
    return hmac.digest(secret, FINGERPRINT, hashlib.sha256)[:8].hex()


class Seal:
    """`now_ms`: Valkey's time."""

    def __init__(self, key: bytes, now_ms: Callable[[], int] = lambda: int(time.time() * 1000)) -> None:
        self._key = key
        self._now_ms = now_ms
        self._seen: set[bytes] = set()  # the MACs of the last FRESH_MS, and those of the time before
        self._seen_before: set[bytes] = set()
        self._turned_ms = 0

    def stamp(self, channel: str, text: str) -> str:
        """Return what goes with a text on a channel: its time and MAC."""
        at_ms = self._now_ms()
        return f"{at_ms} {self._mac(channel.encode(), at_ms, text.encode()).hex()}"

    def check(self, channel: bytes, stamp: bytes, text: bytes) -> None:
        """Raise NotSealed, with the reason, unless a node has said this on the channel, lately and not before."""
        time_, _, mac = stamp.partition(b" ")
        if not mac or not time_.isdigit() or len(time_) > 16:
            raise NotSealed("it has no seal")
        at_ms, now_ms = int(time_), self._now_ms()
        if not hmac.compare_digest(self._mac(channel, at_ms, text).hex().encode(), mac):
            raise NotSealed("another key has sealed it")
        if abs(now_ms - at_ms) > FRESH_MS:
            raise NotSealed("it is too old")
        if mac in self._seen or mac in self._seen_before:
            raise NotSealed("it was said before")
        if now_ms - self._turned_ms > 2 * FRESH_MS:
            self._turned_ms = now_ms
            self._seen_before, self._seen = self._seen, set()
        self._seen.add(mac)

    def _mac(self, channel: bytes, at_ms: int, text: bytes) -> bytes:
        return hmac.digest(self._key, b"%d %d %b\n%b" % (at_ms, len(channel), channel, text), hashlib.sha256)
