"""Rate windows and caps, pure: how often something may happen, and how many of something there may be.

These count on one node. shared_limits.py has those that count once per cluster.

Callers pass the time as milliseconds of a clock that never goes back. A window is fixed: it opens with the first event,
allows `max` events, and a new one begins after it has expired.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import NamedTuple

from insightdesk_rt.engine.addresses import parse_address

ANY = 2**31 - 1  # stands for "no limit"; clients in Java read it as an int, too
SWEEP_AT = 1024  # keys, of some 200 bytes each, before expired windows are removed


class Rate(NamedTuple):
    """At most `max` in `per_s` seconds. With a `burst` that is the average; `burst` may come at once after a pause."""

    max: int
    per_s: int
    burst: int = 0


def or_any(limit: int) -> int:
    """Return the limit; for 0, which means no limit, ANY."""
    return limit or ANY


def parse_rate(text: str) -> Rate:
    """Return the rate that "10/60" means: 10 in 60 seconds. Raises ValueError with one clear line."""
    first, slash, second = text.partition("/")
    if not (slash and _is_count(first) and _is_count(second)):
        raise ValueError(f'a rate is written "max/seconds", both at least 1, as in "10/60"; this is {text[:40]!r}')
    return Rate(int(first), int(second))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0


class Window:
    """At most `max` in `per_ms`, counted from the first one."""

    __slots__ = ("_count", "_max", "_per_ms", "_reset_at_ms")

    def __init__(self, max: int, per_ms: int) -> None:
        self._max = max
        self._per_ms = per_ms
        self._count = 0
        self._reset_at_ms = 0

    def take(self, now_ms: int) -> int:
        """Return 0 if one more is allowed, else how many milliseconds until it is (never 0).

        hot: once per event of a client. The window expires at its end and not a millisecond later, which would give the
        answer "wait 0".
        """
        if not self._count or now_ms >= self._reset_at_ms:
            self._reset_at_ms = now_ms + self._per_ms
            self._count = 1
            return 0 if self._max > 0 else self._per_ms
        if self._count >= self._max:
            return self._reset_at_ms - now_ms
        self._count += 1
        return 0

    def take_more(self, more: int, now_ms: int) -> int:
        """Count a taken call as `more` further ones, all or none. Returns 0, or the milliseconds to wait.

        A call that is bigger than the whole window is allowed if it is the only one in the window.
        """
        if self._count + more > self._max and self._count > 1:
            return max(self._reset_at_ms - now_ms, 1)
        self._count += more
        return 0

    def wait_ms(self, now_ms: int) -> int:
        """Return what `take` would, and count nothing."""
        full = self._count >= self._max and self._count and now_ms < self._reset_at_ms
        return self._reset_at_ms - now_ms if full else 0

    def expired(self, now_ms: int) -> bool:
        """Does the window affect no later call? Then it may be forgotten."""
        return not self._count or now_ms >= self._reset_at_ms


class Bucket(Window):
    """A window for calls that come in bursts: `burst` at once after a pause, and `max` in `per_s` on average.

    It stores only the moment at which the bucket is full again (GCRA), so that nothing must run to fill it.
    """

    __slots__ = ("_each_ms", "_full_at_ms", "_spare_ms")

    def __init__(self, rate: Rate) -> None:
        super().__init__(rate.max, rate.per_s * 1000)
        self._each_ms = rate.per_s * 1000 / rate.max
        self._spare_ms = self._each_ms * (rate.burst - 1)
        self._full_at_ms = 0.0

    def take(self, now_ms: int) -> int:
        wait_ms = self.wait_ms(now_ms)
        if not wait_ms:
            self._full_at_ms = max(self._full_at_ms, now_ms) + self._each_ms
        return wait_ms

    def take_more(self, more: int, now_ms: int) -> int:
        self._full_at_ms += self._each_ms * more
        return 0

    def wait_ms(self, now_ms: int) -> int:
        return max(-int(now_ms + self._spare_ms - self._full_at_ms), 0)

    def expired(self, now_ms: int) -> bool:
        return now_ms >= self._full_at_ms


class Windows:
    """One window per key (an address). Expired windows are removed as the table grows, so that it stays small."""

    __slots__ = ("_max", "_per_ms", "_sweep_at", "_windows")

    def __init__(self, max: int, per_ms: int) -> None:
        self._max = max
        self._per_ms = per_ms
        self._windows: dict[str, Window] = {}
        self._sweep_at = SWEEP_AT

    def take(self, key: str, now_ms: int) -> int:
        """Return 0 if one more is allowed for the key, else the milliseconds until it is."""
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._sweep_at:
                self._sweep(now_ms)
            window = self._windows[key] = self.new_window(key)
        return window.take(now_ms)

    def new_window(self, key: str) -> Window:
        return Window(self._max, self._per_ms)

    def wait_ms(self, key: str, now_ms: int) -> int:
        """Return what `take` would, and count nothing."""
        window = self._windows.get(key)
        return window.wait_ms(now_ms) if window is not None else 0

    def __len__(self) -> int:
        return len(self._windows)

    def _sweep(self, now_ms: int) -> None:
        # The next sweep waits until the table has doubled, so that a key costs O(1) of sweeping on average.
        self._windows = {key: window for key, window in self._windows.items() if not window.expired(now_ms)}
        self._sweep_at = max(SWEEP_AT, 2 * len(self._windows))


class Offender(NamedTuple):
    """`refusals` of one user's calls of one event, the last at `last_ms`."""

    user: str
    namespace: str
    event: str
    refusals: int
    last_ms: int


class Offenders:
    """Users who recently hit a rate limit. The table has a bounded size.

    A user is forgotten after `remember_ms` without a refusal. When the table is full, the one whose last refusal is the
    oldest is dropped.
    """

    __slots__ = ("_found", "_max_entries", "_remember_ms")

    def __init__(self, max_entries: int = 1_000, remember_ms: int = 600_000) -> None:
        self._max_entries = max_entries
        self._remember_ms = remember_ms
        self._found: dict[tuple[str, str, str], tuple[int, int]] = {}  # in the order of their last refusals

    def add(self, user: str, namespace: str, event: str, now_ms: int) -> None:
        """hot: once per refusal."""
        key = (user, namespace, event)
        count, last_ms = self._found.pop(key, (0, now_ms))
        if now_ms - last_ms > self._remember_ms:
            count = 0
        if len(self._found) >= self._max_entries:
            del self._found[next(iter(self._found))]
        self._found[key] = (count + 1, now_ms)

    def worst(self, max_count: int, now_ms: int) -> list[Offender]:
        """Return at most `max_count` offenders, those with the most refusals first."""
        since_ms = now_ms - self._remember_ms
        recent = (Offender(*key, *counted) for key, counted in self._found.items() if counted[1] >= since_ms)
        return sorted(recent, key=lambda one: (-one.refusals, one.user, one.namespace, one.event))[:max_count]


class Cap:
    """At most `max` at a time per key (connections of an address). 0: no limit."""

    __slots__ = ("_counts", "_max")

    def __init__(self, max: int) -> None:
        self._max = max
        self._counts: dict[str, int] = {}

    def full(self, key: str) -> bool:
        """Has the key reached its limit?"""
        return self._max > 0 and self._counts.get(key, 0) >= self._max

    def enter(self, key: str) -> None:
        """Count one more, even beyond the limit, which the caller has checked before."""
        self._counts[key] = self._counts.get(key, 0) + 1

    def leave(self, key: str) -> None:
        """Count one less. Call it once for each `enter`."""
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]

    def count(self, key: str) -> int:
        return self._counts.get(key, 0)

    def __contains__(self, key: object) -> bool:
        return key in self._counts

    def __iter__(self) -> Iterator[str]:
        """Yield the keys that were entered and not left."""
        return iter(self._counts)


def counted_as(address: str) -> str:
    """Return the key for limits per address. For IPv6 it is the /64, because every customer has a whole one."""
    if ":" not in address:
        return address
    parsed = parse_address(address)
    if parsed is None:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(ip_network(f"{parsed}/64", strict=False)) if not parsed.is_loopback else address
