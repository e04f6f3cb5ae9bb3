"""Limits that count once per cluster: each node counts its own use, and adds what the other nodes reported. Pure.

Once a second each node sends one message to all nodes, with the limits of which it uses much (`REPORT_PART`), through
cluster/limit_exchange.py. A report replaces the node's last one, so a late, lost or repeated report never counts twice.
A node that is silent for LOST_MS has died, and counts no more. While Valkey is unreachable no reports arrive, so each
node counts alone.

The alternative was to take grants from Valkey in batches. It counts exactly from the first event on, but costs a round
trip for each user who becomes active, and a second mechanism while Valkey is unreachable. Nearly all users are on one
node and far below their limits. For them reports cost nothing: no node sends or looks up anything.

A window (`SharedWindow`) is the same on all nodes: they adopt the earliest beginning. What is left of it is divided
among the nodes that use it. Each reports what it has reserved, so that two nodes do not grant the same calls.
A bucket (`SharedBucket`) needs no shares: what the other nodes took of it is taken a second later, and it may owe.

The first second is not covered. Until the first report arrives, each node grants a user up to the whole limit. Such a
window lasts longer in proportion, so the average rate holds, and the next one is divided from its beginning. A cap
refuses only new connections: those that several nodes accepted within the same second stay.

A limit that no node uses much is not reported. Together the nodes then use less than all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from insightdesk_rt.engine.rate_limits import Bucket, Cap, Rate, Window, Windows

EXCHANGE_MS = 1_000
LOST_MS = 5_000  # a lease and a beat: so long the other nodes take a dead node for a living one
REPORT_PART = 4  # a limit is reported from the fourth part of it on; with more than four nodes from 1/nodes on
MAX_USES = 1_000  # of one report, those with the largest part of their limit, some 50 KB; and windows of one kind
MAX_REPORT_BYTES = 60_000  # below the size that any node accepts in a message, whatever `max_event_bytes` is
ENTRY_BYTES = 40  # of a use in a report, beside its names
TALLY_MS = 10_000
IDLE = -1

Key = tuple[str, str]  # subject (a user or an address) and name (an event, or "")


class Use(Struct, frozen=True, array_like=True, gc=False):
    """What one node uses of one limit.

    Of a window: `used` since it began `age_ms` ago, `before` in the window before it, and `reserved`: what the node may
    use of it before the next report, with what it has used. With IDLE as age no window is open, and `used` is of the
    last one. Of a bucket: `used` ever, `before` since the last report. Of a cap: `used` now.
    `much`: other nodes report the limit, too, however little they use.
    """

    subject: str
    name: str
    used: int
    before: int
    reserved: int
    age_ms: int
    much: bool


class Elsewhere(NamedTuple):
    """The use of one limit on another node, reported at `heard_ms`. `began_ms`: None if no window was open.

    Both times are of this node's clock.
    """

    used: int
    before: int
    reserved: int
    began_ms: int | None
    much: bool
    heard_ms: int

    def idle_since(self, began_ms: int) -> bool:
        """Has the node reported that it has not used the window that began then?"""
        return self.began_ms is None and self.heard_ms >= began_ms


NOWHERE: Mapping[str, Elsewhere] = {}


class Others:
    """What the other nodes use of one kind of limits, as they reported it last."""

    def __init__(self) -> None:
        self._by_key: dict[Key, dict[str, Elsewhere]] = {}
        self._by_node: dict[str, list[Key]] = {}

    def replace(self, node: str, uses: Iterable[Use], now_ms: int) -> set[Key]:
        """Take a node's report in place of its last one. Returns the limits that either of them names."""
        gone = self._by_node.pop(node, [])
        for key in gone:
            theirs = self._by_key[key]
            del theirs[node]
            if not theirs:
                del self._by_key[key]
        found = {
            (one.subject, one.name): Elsewhere(
                one.used,
                one.before,
                one.reserved,
                None if one.age_ms < 0 else now_ms - one.age_ms,
                one.much,
                now_ms,
            )
            for one in uses
        }
        for key, elsewhere in found.items():
            self._by_key.setdefault(key, {})[node] = elsewhere
        if found:
            self._by_node[node] = list(found)
        return {*gone, *found}

    def of(self, key: Key) -> Mapping[str, Elsewhere]:
        return self._by_key.get(key, NOWHERE)

    def forget(self, name: str | None) -> None:
        """Forget the limits of this name, None: all. They have another rate now."""
        for key in [key for key in self._by_key if name in (None, key[1])]:
            for node in self._by_key.pop(key):
                self._by_node[node].remove(key)

    def much_used(self) -> Iterator[Key]:
        """Yield the limits that some node uses much."""
        return (key for key, theirs in self._by_key.items() if any(one.much for one in theirs.values()))

    def __len__(self) -> int:
        return len(self._by_key)


class LimitKind(Protocol):
    """One kind of limits that is counted over all nodes."""

    @property
    def others(self) -> Others: ...

    def heard(self, keys: Iterable[Key], now_ms: int) -> None:
        """The other nodes' use of these limits has changed."""
        ...

    def uses(self, now_ms: int) -> list[tuple[float, Use]]:
        """Return what this node reports, each with the part of its limit that is used."""
        ...


class SharedLimits:
    """All limits of this node that count once per cluster. `address` names the node among the others.

    `nodes` is how many nodes live. With one node nothing is reported.
    """

    def __init__(self, address: str = "") -> None:
        self.address = address
        self.nodes = 1
        self._kinds: dict[str, LimitKind] = {}
        self._heard_ms: dict[str, int] = {}
        self._silent = True  # the last report was empty
        self.not_reported = 0  # uses that found no room in a report

    def add(self, name: str, kind: LimitKind) -> None:
        self._kinds[name] = kind

    def much(self, limit: int) -> int:
        """Return from which use on a limit is reported."""
        return limit // max(REPORT_PART, self.nodes) if self.nodes > 1 else limit

    def others(self) -> int:
        """Return the number of limits that other nodes report."""
        return sum(len(kind.others) for kind in self._kinds.values())

    def report(self, now_ms: int) -> dict[str, list[Use]] | None:
        """Return this node's report, by kind; None if there is nothing to send. Call it every EXCHANGE_MS.

        A node with nothing to report is silent, after one empty report.
        """
        for node in [node for node, heard_ms in self._heard_ms.items() if now_ms - heard_ms > LOST_MS]:
            self.hear(node, {}, now_ms)
            del self._heard_ms[node]
        all_uses = [(part, name, use) for name, kind in self._kinds.items() for part, use in kind.uses(now_ms)]
        found: dict[str, list[Use]] = {}
        for name, use in self._that_fit(all_uses):
            found.setdefault(name, []).append(use)
        was_silent, self._silent = self._silent, not found or self.nodes == 1
        return None if self._silent and was_silent else found

    def _that_fit(self, uses: list[tuple[float, str, Use]]) -> Iterator[tuple[str, Use]]:
        if len(uses) > MAX_USES // 10:  # else they fit in any order
            uses.sort(key=lambda one: -one[0])
        left_bytes = MAX_REPORT_BYTES
        for count, (_, name, use) in enumerate(uses):
            left_bytes -= ENTRY_BYTES + len(use.subject.encode("utf-8", "replace")) + len(use.name)
            if count >= MAX_USES or left_bytes < 0:
                self.not_reported += len(uses) - count
                return
            yield name, use

    def hear(self, node: str, uses: Mapping[str, Sequence[Use]], now_ms: int) -> None:
        """Take another node's report. A kind that this version does not have is ignored."""
        if node == self.address:
            return
        self._heard_ms[node] = now_ms
        for name, kind in self._kinds.items():
            kind.heard(kind.others.replace(node, uses.get(name, ()), now_ms), now_ms)


class Standing(NamedTuple):
    """Where a window stands in the cluster, as far as this node knows.

    `used` and `taken` (used or reserved) are of the other nodes; `began_ms` is the earliest beginning, this node's
    included. `sharers` nodes divide what is left, and this one is number `rank` of them. Not among them is a node that
    has not reported on this window: what it may use of it (`first_parts`) is in `taken`.
    """

    used: int
    taken: int
    began_ms: int
    sharers: int
    rank: int


class RateShares:
    """The rate windows of one kind. `find` returns this node's window of a limit, None if it has none.

    `_active` are the windows that this node reports, or that other nodes report.
    """

    def __init__(self, limits: SharedLimits, name: str, find: Callable[[str, str], Window | None]) -> None:
        self.others = Others()
        self._limits = limits
        self._find = find
        self._active: dict[Key, SharedWindow | SharedBucket] = {}
        limits.add(name, self)

    def window(self, rate: Rate, subject: str, name: str = "") -> Window:
        """Return a new window of this rate, which counts over all nodes."""
        return SharedBucket(rate, self, subject, name) if rate.burst else SharedWindow(rate, self, subject, name)

    def forget(self, name: str | None) -> None:
        """Forget the windows of this name, None: all. They have another rate now."""
        self.others.forget(name)
        for key in [key for key in self._active if name in (None, key[1])]:
            del self._active[key]

    # ── called by a window ───────────────────────────────────────────────────────────────────────────────────────

    def much(self, limit: int) -> int:
        return self._limits.much(limit)

    def opened(self, window: SharedWindow, now_ms: int) -> bool:
        """A window begins. Returns False if it counts alone until this node uses much of it."""
        known = window.key in self._active or self.others.of(window.key)
        return bool(known) and self._enter(window, now_ms)

    def used_much(self, window: SharedWindow | SharedBucket, now_ms: int) -> None:
        """This node uses much of a window: report it from now on."""
        if not self.reports(window) and not self._enter(window, now_ms):
            window.count_unreported()

    def reports(self, window: SharedWindow | SharedBucket) -> bool:
        return self._active.get(window.key) is window

    def _enter(self, window: SharedWindow | SharedBucket, now_ms: int) -> bool:
        """Report a window from now on. Returns False if the table is full: its size bounds the work of a second."""
        if len(self._active) >= MAX_USES and window.key not in self._active:
            self._limits.not_reported += 1
            return False
        self._active[window.key] = window
        window.hear(self.others.of(window.key), now_ms, may_grow=True)
        return True

    # ── the exchange ─────────────────────────────────────────────────────────────────────────────────────────────

    def heard(self, keys: Iterable[Key], now_ms: int) -> None:
        for key in keys:
            others, window = self.others.of(key), self._active.get(key)
            if window is not None:
                window.hear(others, now_ms, may_grow=False)  # a node grows only when it reports that
            elif any(one.much for one in others.values()):
                found = self._find(*key)
                if isinstance(found, SharedWindow | SharedBucket) and not found.expired(now_ms):
                    self._enter(found, now_ms)

    def uses(self, now_ms: int) -> list[tuple[float, Use]]:
        found, gone = [], []
        for key, window in self._active.items():
            use = window.report(self.others.of(key), now_ms)
            if use is None:
                gone.append(key)
            else:
                found.append((window.part(use), use))
        for key in gone:
            self._active.pop(key).count_alone()
        return found

    def standing(self, window: SharedWindow, others: Mapping[str, Elsewhere], now_ms: int) -> Standing:
        """Return where a window stands. What the other nodes used of a window before it does not count."""
        limit, began_ms, used, taken = window.limit, window.began_ms, 0, 0
        running = {node: one for node, one in others.items() if one.began_ms is not None}
        own = 0 if window.expired(now_ms) else min(window.used, limit)
        lasts_ms = window.lasts_ms(own + sum(min(one.used, limit) for one in running.values()))
        for node, one in running.copy().items():
            if one.began_ms is None or one.began_ms < window.after_ms or one.began_ms + lasts_ms <= now_ms:
                del running[node]  # a window before this one
                continue
            began_ms = min(began_ms, one.began_ms)
            used += min(one.used, limit)
            taken += max(one.used, one.reserved)
        me = self._limits.address
        sharers = [node for node, one in others.items() if node in running or one.idle_since(began_ms)]
        if len(sharers) < len(others):
            lately = {node: max(one.used, one.before) for node, one in others.items()}
            parts = first_parts(limit, self.much(limit), {**lately, me: max(window.used, window.used_before)})
            taken += sum(part for node, part in parts.items() if node != me and node not in sharers)
        return Standing(used, taken, began_ms, len(sharers) + 1, sum(node < me for node in sharers))


def lingers_ms(per_ms: int) -> int:
    """Return how long after the end of a window a node still reports it, so that the next one is divided at once."""
    return max(per_ms, 2 * EXCHANGE_MS)


def first_parts(limit: int, much: int, used: Mapping[str, int]) -> dict[str, int]:
    """Divide a limit for the first second of a window, by what each node used before. All nodes find the same parts.

    A node that used little gets twice that, so that it may grow. Those that used much get equal parts of the rest.
    """
    equal = limit // len(used)
    used_much = sorted(node for node, count in used.items() if count >= much) or sorted(used)
    parts = {node: min(2 * count + 1, equal) for node, count in used.items() if node not in used_much}
    part, more = divmod(limit - sum(parts.values()), len(used_much))
    parts |= {node: part + (rank < more) for rank, node in enumerate(used_much)}
    return parts


class SharedWindow(Window):
    """A window that counts over all nodes. `_cap` is what this node may use of it now.

    While it counts alone, `_cap` is what it may use before this node reports it, so that `take` has one comparison.
    """

    __slots__ = (
        "_cap",
        "_more_soon",
        "_name",
        "_shares",
        "_subject",
        "after_ms",
        "began_ms",
        "used_before",
    )

    def __init__(self, rate: Rate, shares: RateShares, subject: str, name: str) -> None:
        super().__init__(rate.max, rate.per_s * 1000)
        self._shares = shares
        self._subject = subject
        self._name = name
        self._cap = 0
        self._more_soon = False  # something is left that this node may get a share of
        self.began_ms = 0
        self.used_before = 0  # in the window before
        self.after_ms = 0  # windows of other nodes that began before belong to an earlier one

    @property
    def key(self) -> Key:
        return self._subject, self._name

    @property
    def limit(self) -> int:
        return self._max

    @property
    def used(self) -> int:
        return self._count

    def take(self, now_ms: int) -> int:
        """hot: once per event of a client."""
        if self._count < self._cap and now_ms < self._reset_at_ms:
            self._count += 1
            return 0
        wait_ms = self._wait_for_one(now_ms)
        if not wait_ms:
            self._count += 1
        return wait_ms

    def take_more(self, more: int, now_ms: int) -> int:
        if self._count + more > self._cap:
            if self._cap < self._max:
                self._shares.used_much(self, now_ms)
            # One call that is bigger than the window is allowed if no node had another one in it.
            others = self._shares.others.of(self.key)
            only_one = self._count <= 1 and not self._shares.standing(self, others, now_ms).used
            if self._count + more > self._cap and not only_one:
                return self._until_more_ms(now_ms)
        self._count += more
        return 0

    def wait_ms(self, now_ms: int) -> int:
        cap = self._cap if self._shares.reports(self) else self._max
        return 0 if self.expired(now_ms) or self._count < cap else self._until_more_ms(now_ms)

    def expired(self, now_ms: int) -> bool:
        return now_ms >= self._reset_at_ms

    def _wait_for_one(self, now_ms: int) -> int:
        if self.expired(now_ms):
            just_now = now_ms < self._reset_at_ms + lingers_ms(self._per_ms)
            self.used_before, self._count = self._count if just_now else 0, 0
            self.after_ms = self._reset_at_ms - min(self._per_ms, EXCHANGE_MS) // 2
            self.began_ms, self._reset_at_ms = now_ms, now_ms + self._per_ms
            if not self._shares.opened(self, now_ms):
                self.count_alone()
        if self._cap <= self._count < self._max:
            self._shares.used_much(self, now_ms)
        return self._until_more_ms(now_ms) if self._count >= self._cap else 0

    def _until_more_ms(self, now_ms: int) -> int:
        """Return when the window ends, or when this node has its next share if something is left of it."""
        left_ms = max(self._reset_at_ms - now_ms, 1)
        return min(left_ms, EXCHANGE_MS) if self._more_soon else left_ms

    # ── called by RateShares ─────────────────────────────────────────────────────────────────────────────────────

    def count_alone(self) -> None:
        """Count alone until this node uses much of the window."""
        self._cap = min(self._shares.much(self._max), self._max)

    def count_unreported(self) -> None:
        """Count alone up to the whole limit."""
        self._cap = self._max

    def lasts_ms(self, used: int) -> int:
        """Return how long a window lasts in which all nodes used this much: longer than usual if it is too much."""
        return self._per_ms * max(used, self._max) // self._max

    def hear(self, others: Mapping[str, Elsewhere], now_ms: int, *, may_grow: bool) -> None:
        """Adopt what the other nodes reported. `may_grow`: the window may get a new share."""
        if not may_grow and self._count >= self._cap and self._reset_at_ms > now_ms + EXCHANGE_MS:
            return  # nothing is left that it could lose, and it is not over before the next share
        standing = self._shares.standing(self, others, now_ms)
        self.began_ms = standing.began_ms
        # One call may be bigger than the window. That does not make the window longer.
        self._reset_at_ms = self.began_ms + self.lasts_ms(min(self._count, self._max) + standing.used)
        left = max(self._max - self._count - standing.taken, 0)
        share = left // standing.sharers + (standing.rank < left % standing.sharers)
        cap = self._count + share
        self._cap = cap if may_grow else min(cap, self._cap)
        self._more_soon = left > self._cap - self._count

    def report(self, others: Mapping[str, Elsewhere], now_ms: int) -> Use | None:
        """Take a new share and return this node's use; None if it need not be reported any more."""
        if not self.expired(now_ms):
            self.hear(others, now_ms, may_grow=True)
        if self.expired(now_ms):
            over = now_ms >= self._reset_at_ms + lingers_ms(self._per_ms)
            return None if over else Use(*self.key, self._count, 0, 0, IDLE, False)
        much = max(self._count, self.used_before) >= self._shares.much(self._max)
        if not much and not others:
            return None
        reserved = max(self._cap, self._count) if others else self._count
        return Use(*self.key, self._count, self.used_before, reserved, max(now_ms - self.began_ms, 0), much)

    def part(self, use: Use) -> float:
        """Return the part of the limit that a reported use is."""
        return use.used / self._max


class SharedBucket(Bucket):
    """A bucket that counts over all nodes: what the other nodes took is taken from this one, too, a second later.

    `used` are all calls that this node allowed. A node reports them while it allows more than its part of the rate in
    TALLY_MS, so that calls below the rate on each of several nodes count.
    """

    __slots__ = (
        "_heard",
        "_much",
        "_name",
        "_report_at",
        "_reported",
        "_shares",
        "_subject",
        "_tally_ms",
        "_tally_used",
        "limit",
        "used",
    )

    def __init__(self, rate: Rate, shares: RateShares, subject: str, name: str) -> None:
        super().__init__(rate)
        self.limit = max(rate.max * TALLY_MS // (rate.per_s * 1000), 1)  # in a tally
        self._shares = shares
        self._subject = subject
        self._name = name
        self.used = self._reported = self._report_at = 0
        self._tally_ms = self._tally_used = 0
        self._much = False
        self._heard: Mapping[str, int] = {}  # node → what it had used when it reported last

    @property
    def key(self) -> Key:
        return self._subject, self._name

    def take(self, now_ms: int) -> int:
        wait_ms = super().take(now_ms)
        if not wait_ms:
            self._count_used(1, now_ms)
        return wait_ms

    def take_more(self, more: int, now_ms: int) -> int:
        self._count_used(more, now_ms)
        return super().take_more(more, now_ms)

    def _count_used(self, count: int, now_ms: int) -> None:
        self.used += count
        if self.used >= self._report_at:
            if self._tallies(now_ms):
                self._shares.used_much(self, now_ms)
            else:
                self._begin_tally(now_ms)

    def _tallies(self, now_ms: int) -> bool:
        """Has this node allowed much since the tally began, and is that not long ago?"""
        much = self.used - self._tally_used >= max(self._shares.much(self.limit), 1)
        return much and now_ms - self._tally_ms <= TALLY_MS

    def _begin_tally(self, now_ms: int) -> None:
        self._tally_ms, self._tally_used = now_ms, self.used
        self.count_alone()

    # ── called by RateShares ─────────────────────────────────────────────────────────────────────────────────────

    def count_alone(self) -> None:
        """Count alone until this node allows much."""
        self._report_at = self._tally_used + max(self._shares.much(self.limit), 1)

    def count_unreported(self) -> None:
        """Count alone, and look again after as many calls."""
        self._begin_tally(self._tally_ms)

    def hear(self, others: Mapping[str, Elsewhere], now_ms: int, *, may_grow: bool) -> None:
        """Take from this bucket what the other nodes reported since their last reports."""
        taken = 0
        for node, one in others.items():
            known = self._heard.get(node, one.used - one.before)
            taken += max(one.used - known, 0)
        self._heard = {node: one.used for node, one in others.items()}
        if taken:
            self._full_at_ms = max(self._full_at_ms, now_ms) + self._each_ms * taken

    def report(self, others: Mapping[str, Elsewhere], now_ms: int) -> Use | None:
        """Return what this node has used; None if it need not be reported any more."""
        since_last = self.used - max(self._reported, self._tally_used)
        self._reported = self.used
        self._much = self._much or self._tallies(now_ms)
        if now_ms - self._tally_ms >= TALLY_MS:
            self._much = self._tallies(now_ms)
            self._begin_tally(now_ms)
        if not self._much and not any(one.much for one in others.values()):
            return None
        return Use(*self.key, self.used, since_last, 0, IDLE, self._much)

    def part(self, use: Use) -> float:
        """Return the part of the limit that a reported use is."""
        return use.before * TALLY_MS / EXCHANGE_MS / self.limit


class SharedWindows(Windows):
    """One window per key, which counts over all nodes. `name` is that of the kind of limit."""

    __slots__ = ("_rate", "_shares")

    def __init__(self, rate: Rate, limits: SharedLimits, name: str) -> None:
        super().__init__(rate.max, rate.per_s * 1000)
        self._rate = rate
        self._shares = RateShares(limits, name, lambda subject, _: self._windows.get(subject))

    def new_window(self, key: str) -> Window:
        return self._shares.window(self._rate, key)


class SharedCap(Cap):
    """A cap that counts over all nodes. `name` is that of the kind of limit.

    `_many` are the keys with at least a 25th of the limit, so that a report need not look at all of them.
    """

    __slots__ = ("_elsewhere", "_limits", "_many", "_many_from", "others")

    def __init__(self, max_count: int, limits: SharedLimits, name: str) -> None:
        super().__init__(max_count)
        self.others = Others()
        self._limits = limits
        self._many: set[str] = set()
        self._many_from = max(max_count // 25, 1)
        self._elsewhere: dict[str, int] = {}  # key → how many the other nodes have
        if max_count > 0:
            limits.add(name, self)

    def full(self, key: str) -> bool:
        return self._max > 0 and self._counts.get(key, 0) + self._elsewhere.get(key, 0) >= self._max

    def enter(self, key: str) -> None:
        super().enter(key)
        if self._counts[key] >= self._many_from:
            self._many.add(key)

    def leave(self, key: str) -> None:
        super().leave(key)
        if self._counts.get(key, 0) < self._many_from:
            self._many.discard(key)

    def heard(self, keys: Iterable[Key], now_ms: int) -> None:
        for key in keys:
            count = sum(one.used for one in self.others.of(key).values())
            if count:
                self._elsewhere[key[0]] = count
            else:
                self._elsewhere.pop(key[0], None)

    def uses(self, now_ms: int) -> list[tuple[float, Use]]:
        """Return the keys with much of their limit, and those of which another node has much."""
        much = max(self._limits.much(self._max), 1)
        among = self._many if much >= self._many_from else self._counts
        found = {key for key in among if self._counts[key] >= much}
        found.update(subject for subject, _ in self.others.much_used() if subject in self._counts)
        counts = [(key, self._counts[key]) for key in found]
        return [(count / self._max, Use(key, "", count, 0, count, IDLE, count >= much)) for key, count in counts]
