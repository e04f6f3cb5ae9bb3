"""ModelStore: the data of a model Valkey, with the commands that the package and its scripts use.

A command that writes is recorded as its effect: with the id that XADD gave, with a point in time instead of a
duration. Applied in order to an empty store, the effects lead to the same data. So a replica is a store that has
applied fewer of them, and a server that lost its last second is one that applied those before it.

`tests/simulation/test_model.py` holds that each command answers as the real server does.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Reply = Any  # bytes, int, None, list of replies, Status, or ReplyError
NEVER = math.inf
NODE_ENTRIES = 100  # stream-node-max-entries: XTRIM ~ drops whole nodes only


class ReplyError(Exception):
    """An error reply. The text begins with its code."""


class Status(bytes):
    """A simple string, such as OK."""


OK = Status(b"OK")
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Stream:
    """Entries in the order of their ids."""

    __slots__ = ("entries", "ids", "last")

    def __init__(self) -> None:
        self.ids: list[tuple[int, int]] = []
        self.entries: list[list[bytes]] = []
        self.last = (0, 0)


class SortedSet(dict[bytes, float]):
    def ordered(self) -> list[tuple[float, bytes]]:
        return sorted((score, member) for member, score in self.items())


class Hash(dict[bytes, bytes]):
    pass


class Members(dict[bytes, None]):
    """A set that remembers the order in which its members came."""


class Effect(NamedTuple):
    at_ms: int
    args: tuple[bytes, ...]


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise ReplyError("ERR value is not an integer or out of range") from None


def _score(text: bytes) -> float:
    return float(text)


def _shown(score: float) -> bytes:
    if score in (math.inf, -math.inf):
        return b"inf" if score > 0 else b"-inf"
    return b"%d" % score if score == int(score) else repr(score).encode()


def stream_id(text: bytes, seq: int = 0) -> tuple[int, int]:
    ms, dash, after = text.partition(b"-")
    return _number(ms), _number(after) if dash else seq


def id_text(id: tuple[int, int]) -> bytes:
    return b"%d-%d" % id


class ModelStore:
    """`now_ms` is the server's clock. `effects` is everything that was written, in order."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.data: dict[bytes, Any] = {}
        self.expires: dict[bytes, float] = {}
        self.effects: list[Effect] = []

    @classmethod
    def of(cls, effects: Iterable[Effect], now_ms: Callable[[], int]) -> ModelStore:
        """Return the store to which these effects lead."""
        store = cls(now_ms)
        for effect in effects:
            COMMANDS[effect.args[0].decode()](store, effect.args[1:])
        return store

    def run(self, args: tuple[bytes, ...]) -> Reply:
        """Execute one command of data. Raises ReplyError."""
        command = COMMANDS.get(args[0].upper().decode("latin-1"))
        if command is None:
            raise ReplyError(f"ERR unknown command '{args[0].decode('latin-1')}'")
        return command(self, args[1:])

    def wrote(self, *args: bytes | int) -> None:
        self.effects.append(
            Effect(self.now_ms(), tuple(arg if isinstance(arg, bytes) else b"%d" % arg for arg in args))
        )

    def get(self, key: bytes, kind: type) -> Any:
        """Return the value, or None. Raises ReplyError for another type."""
        value = self.data.get(key)
        if value is None:
            return None
        if self.expires and self.expires.get(key, NEVER) <= self.now_ms():
            self.drop(key)
            return None
        if type(value) is not kind:
            raise ReplyError(WRONG_TYPE)
        return value

    def made(self, key: bytes, kind: type) -> Any:
        value = self.get(key, kind)
        if value is None:
            value = self.data[key] = kind()
        return value

    def exists(self, key: bytes) -> bool:
        if self.expires.get(key, NEVER) <= self.now_ms():
            self.drop(key)
        return key in self.data

    def drop(self, key: bytes) -> bool:
        self.expires.pop(key, None)
        return self.data.pop(key, None) is not None

    def drop_if_empty(self, key: bytes) -> None:
        if not self.data.get(key):
            self.drop(key)


Args = tuple[bytes, ...]
COMMANDS: dict[str, Callable[[ModelStore, Args], Reply]] = {}


def command(name: str) -> Callable[[Callable[[ModelStore, Args], Reply]], Callable[[ModelStore, Args], Reply]]:
    def register(function: Callable[[ModelStore, Args], Reply]) -> Callable[[ModelStore, Args], Reply]:
        COMMANDS[name] = function
        return function

    return register


def _removed(store: ModelStore, name: bytes, kind: type, args: Args) -> int:
    """Remove fields or members of a key, and the key with its last one. Returns how many there were."""
    value = store.get(args[0], kind)
    if value is None:
        return 0
    before = len(value)
    for one in args[1:]:
        value.pop(one, None)
    count = before - len(value)
    store.drop_if_empty(args[0])
    if count:
        store.wrote(name, *args)
    return count


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@command("DEL")
def delete(store: ModelStore, args: Args) -> Reply:
    count = sum(store.exists(key) and store.drop(key) for key in args)
    if count:
        store.wrote(b"DEL", *args)
    return count


@command("EXISTS")
def exists(store: ModelStore, args: Args) -> Reply:
    return sum(store.exists(key) for key in args)


@command("PEXPIREAT")
def expire_at(store: ModelStore, args: Args) -> Reply:
    key, at_ms = args
    if not store.exists(key):
        return 0
    store.expires[key] = int(at_ms)
    store.wrote(b"PEXPIREAT", key, at_ms)
    return 1


@command("PEXPIRE")
def expire_ms(store: ModelStore, args: Args) -> Reply:
    return expire_at(store, (args[0], b"%d" % (store.now_ms() + _number(args[1]))))


@command("EXPIRE")
def expire_s(store: ModelStore, args: Args) -> Reply:
    return expire_at(store, (args[0], b"%d" % (store.now_ms() + 1000 * _number(args[1]))))


@command("PERSIST")
def persist(store: ModelStore, args: Args) -> Reply:
    if not store.exists(args[0]) or args[0] not in store.expires:
        return 0
    del store.expires[args[0]]
    store.wrote(b"PERSIST", args[0])
    return 1


@command("PTTL")
def pttl(store: ModelStore, args: Args) -> Reply:
    if not store.exists(args[0]):
        return -2
    at_ms = store.expires.get(args[0])
    return -1 if at_ms is None else int(at_ms - store.now_ms())


@command("TTL")
def ttl(store: ModelStore, args: Args) -> Reply:
    ms = pttl(store, args)
    return ms if ms < 0 else (ms + 500) // 1000


@command("TIME")
def server_time(store: ModelStore, args: Args) -> Reply:
    ms = store.now_ms()
    return [b"%d" % (ms // 1000), b"%d" % (ms % 1000 * 1000)]


# ── strings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@command("GET")
def get(store: ModelStore, args: Args) -> Reply:
    return store.get(args[0], bytes)


@command("SET")
def set_(store: ModelStore, args: Args) -> Reply:
    key, value, *options = args
    at_ms: int | None = None
    words = [option.upper() for option in options]
    if b"NX" in words and store.exists(key):
        return None
    for word, unit in ((b"PX", 1), (b"EX", 1000)):
        if word in words:
            at_ms = store.now_ms() + unit * _number(options[words.index(word) + 1])
    if b"PXAT" in words:
        at_ms = _number(options[words.index(b"PXAT") + 1])
    store.data[key] = value
    store.expires.pop(key, None)
    if at_ms is None:
        store.wrote(b"SET", key, value)
    else:
        store.expires[key] = at_ms
        store.wrote(b"SET", key, value, b"PXAT", at_ms)
    return OK


@command("INCRBY")
def increase(store: ModelStore, args: Args) -> Reply:
    value = _number(store.get(args[0], bytes) or b"0") + _number(args[1])
    store.data[args[0]] = b"%d" % value
    store.wrote(b"INCRBY", *args)
    return value


@command("DECRBY")
def decrease(store: ModelStore, args: Args) -> Reply:
    return increase(store, (args[0], b"%d" % -_number(args[1])))


# ── hashes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@command("HSET")
def hset(store: ModelStore, args: Args) -> Reply:
    table, before = store.made(args[0], Hash), 0
    before = len(table)
    for field, value in zip(args[1::2], args[2::2], strict=True):
        table[field] = value
    store.wrote(b"HSET", *args)
    return len(table) - before


@command("HSETNX")
def hsetnx(store: ModelStore, args: Args) -> Reply:
    table = store.get(args[0], Hash)
    if table is not None and args[1] in table:
        return 0
    return hset(store, args)


@command("HGET")
def hget(store: ModelStore, args: Args) -> Reply:
    return (store.get(args[0], Hash) or {}).get(args[1])


@command("HMGET")
def hmget(store: ModelStore, args: Args) -> Reply:
    table = store.get(args[0], Hash) or {}
    return [table.get(field) for field in args[1:]]


@command("HGETALL")
def hgetall(store: ModelStore, args: Args) -> Reply:
    return [part for item in (store.get(args[0], Hash) or {}).items() for part in item]


@command("HKEYS")
def hkeys(store: ModelStore, args: Args) -> Reply:
    return list(store.get(args[0], Hash) or ())


@command("HVALS")
def hvals(store: ModelStore, args: Args) -> Reply:
    return list((store.get(args[0], Hash) or {}).values())


@command("HLEN")
def hlen(store: ModelStore, args: Args) -> Reply:
    return len(store.get(args[0], Hash) or ())


@command("HEXISTS")
def hexists(store: ModelStore, args: Args) -> Reply:
    return int(args[1] in (store.get(args[0], Hash) or ()))


@command("HDEL")
def hdel(store: ModelStore, args: Args) -> Reply:
    return _removed(store, b"HDEL", Hash, args)


@command("HINCRBY")
def hincrby(store: ModelStore, args: Args) -> Reply:
    table = store.made(args[0], Hash)
    value = _number(table.get(args[1], b"0")) + _number(args[2])
    table[args[1]] = b"%d" % value
    store.wrote(b"HINCRBY", *args)
    return value


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@command("LPUSH")
def lpush(store: ModelStore, args: Args) -> Reply:
    items = store.made(args[0], list)
    for value in args[1:]:
        items.insert(0, value)
    store.wrote(b"LPUSH", *args)
    return len(items)


@command("RPUSH")
def rpush(store: ModelStore, args: Args) -> Reply:
    items = store.made(args[0], list)
    items.extend(args[1:])
    store.wrote(b"RPUSH", *args)
    return len(items)


@command("LPOP")
def lpop(store: ModelStore, args: Args) -> Reply:
    items = store.get(args[0], list)
    if not items:
        return None
    first = items.pop(0)
    store.drop_if_empty(args[0])
    store.wrote(b"LPOP", args[0])
    return first


def _slice(length: int, start: bytes, stop: bytes) -> slice:
    first, last = _number(start), _number(stop)
    first = max(first + length, 0) if first < 0 else first
    last = last + length if last < 0 else last
    return slice(first, max(last + 1, 0))


@command("LRANGE")
def lrange(store: ModelStore, args: Args) -> Reply:
    items = store.get(args[0], list) or []
    return items[_slice(len(items), args[1], args[2])]


@command("LINDEX")
def lindex(store: ModelStore, args: Args) -> Reply:
    items, at = store.get(args[0], list) or [], _number(args[1])
    return items[at] if -len(items) <= at < len(items) else None


@command("LTRIM")
def ltrim(store: ModelStore, args: Args) -> Reply:
    items = store.get(args[0], list)
    if items is not None:
        items[:] = items[_slice(len(items), args[1], args[2])]
        store.drop_if_empty(args[0])
        store.wrote(b"LTRIM", *args)
    return OK


# ── sets ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@command("SADD")
def sadd(store: ModelStore, args: Args) -> Reply:
    members = store.made(args[0], Members)
    before = len(members)
    members.update(dict.fromkeys(args[1:]))
    store.wrote(b"SADD", *args)
    return len(members) - before


@command("SREM")
def srem(store: ModelStore, args: Args) -> Reply:
    return _removed(store, b"SREM", Members, args)


@command("SPOP")
def spop(store: ModelStore, args: Args) -> Reply:
    """The real server picks at random; here those that came first go first."""
    members = store.get(args[0], Members)
    taken = list(members or ())[: _number(args[1]) if len(args) > 1 else 1]
    if taken:
        srem(store, (args[0], *taken))
    if len(args) > 1:
        return taken
    return taken[0] if taken else None


@command("SRANDMEMBER")
def srandmember(store: ModelStore, args: Args) -> Reply:
    """As with SPOP, those that came first."""
    members = list(store.get(args[0], Members) or ())
    if len(args) > 1:
        return members[: _number(args[1])]
    return members[0] if members else None


@command("SMEMBERS")
def smembers(store: ModelStore, args: Args) -> Reply:
    return list(store.get(args[0], Members) or ())


@command("SCARD")
def scard(store: ModelStore, args: Args) -> Reply:
    return len(store.get(args[0], Members) or ())


@command("SISMEMBER")
def sismember(store: ModelStore, args: Args) -> Reply:
    return int(args[1] in (store.get(args[0], Members) or ()))


# ── sorted sets ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _bound(text: bytes) -> tuple[float, bool]:
    """Return a bound's score, and whether it is exclusive."""
    return (_score(text[1:]), True) if text[:1] == b"(" else (_score(text), False)


def _between(ordered: list[tuple[float, bytes]], low: bytes, high: bytes) -> list[tuple[float, bytes]]:
    (least, open_low), (greatest, open_high) = _bound(low), _bound(high)
    return [
        (score, member)
        for score, member in ordered
        if (score > least or (score == least and not open_low))
        and (score < greatest or (score == greatest and not open_high))
    ]


def _listed(found: list[tuple[float, bytes]], scores: bool) -> list[bytes]:
    return [part for score, member in found for part in ((member, _shown(score)) if scores else (member,))]


@command("ZADD")
def zadd(store: ModelStore, args: Args) -> Reply:
    zset = store.made(args[0], SortedSet)
    rest = list(args[1:])
    only_new = rest[0].upper() == b"NX"
    if only_new:
        rest.pop(0)
    before = len(zset)
    for score, member in zip(rest[::2], rest[1::2], strict=True):
        if not (only_new and member in zset):
            zset[member] = _score(score)
    store.wrote(b"ZADD", *args)
    return len(zset) - before


@command("ZREM")
def zrem(store: ModelStore, args: Args) -> Reply:
    return _removed(store, b"ZREM", SortedSet, args)


@command("ZREMRANGEBYSCORE")
def zremrangebyscore(store: ModelStore, args: Args) -> Reply:
    zset = store.get(args[0], SortedSet)
    found = _between(zset.ordered(), args[1], args[2]) if zset else []
    return zrem(store, (args[0], *(member for _, member in found))) if found else 0


@command("ZSCORE")
def zscore(store: ModelStore, args: Args) -> Reply:
    score = (store.get(args[0], SortedSet) or {}).get(args[1])
    return None if score is None else _shown(score)


@command("ZCARD")
def zcard(store: ModelStore, args: Args) -> Reply:
    return len(store.get(args[0], SortedSet) or ())


@command("ZCOUNT")
def zcount(store: ModelStore, args: Args) -> Reply:
    zset = store.get(args[0], SortedSet)
    return len(_between(zset.ordered(), args[1], args[2])) if zset else 0


@command("ZRANK")
def zrank(store: ModelStore, args: Args) -> Reply:
    ordered = [member for _, member in (store.get(args[0], SortedSet) or SortedSet()).ordered()]
    return ordered.index(args[1]) if args[1] in ordered else None


@command("ZRANGE")
def zrange(store: ModelStore, args: Args) -> Reply:
    ordered = (store.get(args[0], SortedSet) or SortedSet()).ordered()
    options = [option.upper() for option in args[3:]]
    if b"BYSCORE" in options:
        found = _between(ordered, args[1], args[2])
    else:
        found = ordered[_slice(len(ordered), args[1], args[2])]
    if b"LIMIT" in options:
        at = options.index(b"LIMIT")
        skip, count = _number(args[4 + at]), _number(args[5 + at])
        found = found[skip:] if count < 0 else found[skip : skip + count]
    return _listed(found, b"WITHSCORES" in options)


@command("ZRANGEBYSCORE")
def zrangebyscore(store: ModelStore, args: Args) -> Reply:
    return zrange(store, (*args[:3], b"BYSCORE", *args[3:]))


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trim(store: ModelStore, key: bytes, stream: Stream, drop: int, roughly: bool) -> int:
    if roughly:
        drop = drop // NODE_ENTRIES * NODE_ENTRIES
    if drop > 0:
        del stream.ids[:drop], stream.entries[:drop]
        store.wrote(b"XTRIM", key, b"MAXLEN", len(stream.ids))
    return max(drop, 0)


@command("XADD")
def xadd(store: ModelStore, args: Args) -> Reply:
    key, rest = args[0], list(args[1:])
    keep, roughly = None, False
    if rest[0].upper() == b"MAXLEN":
        rest.pop(0)
        roughly = rest[0] == b"~"
        if rest[0] in (b"~", b"="):
            rest.pop(0)
        keep = _number(rest.pop(0))
    stream = store.made(key, Stream)
    text, fields = rest[0], rest[1:]
    id = max((store.now_ms(), 0), (stream.last[0], stream.last[1] + 1)) if text == b"*" else stream_id(text)
    if id <= stream.last:
        if not stream.ids and stream.last == (0, 0):
            store.drop(key)
        raise ReplyError(
            "ERR The ID specified in XADD is equal or smaller than the target stream top item"
            if id != (0, 0)
            else "ERR The ID specified in XADD must be greater than 0-0"
        )
    stream.ids.append(id)
    stream.entries.append(fields)
    stream.last = id
    store.wrote(b"XADD", key, id_text(id), *fields)
    if keep is not None:
        _trim(store, key, stream, len(stream.ids) - keep, roughly)
    return id_text(id)


@command("XTRIM")
def xtrim(store: ModelStore, args: Args) -> Reply:
    stream = store.get(args[0], Stream)
    roughly = args[2] == b"~"
    limit = args[3] if args[2] in (b"~", b"=") else args[2]
    if stream is None:
        return 0
    if args[1].upper() == b"MAXLEN":
        return _trim(store, args[0], stream, len(stream.ids) - _number(limit), roughly)
    return _trim(store, args[0], stream, bisect.bisect_left(stream.ids, stream_id(limit)), roughly)


@command("XDEL")
def xdel(store: ModelStore, args: Args) -> Reply:
    stream, count = store.get(args[0], Stream), 0
    for text in args[1:] if stream else ():
        at = bisect.bisect_left(stream.ids, stream_id(text))
        if at < len(stream.ids) and stream.ids[at] == stream_id(text):
            del stream.ids[at], stream.entries[at]
            count += 1
    if count:
        store.wrote(b"XDEL", *args)
    return count


@command("XLEN")
def xlen(store: ModelStore, args: Args) -> Reply:
    stream = store.get(args[0], Stream)
    return len(stream.ids) if stream else 0


def _range(stream: Stream, low: bytes, high: bytes) -> tuple[int, int]:
    ids = stream.ids
    if low == b"-":
        first = 0
    elif low[:1] == b"(":
        first = bisect.bisect_right(ids, stream_id(low[1:]))
    else:
        first = bisect.bisect_left(ids, stream_id(low))
    if high == b"+":
        last = len(ids)
    elif high[:1] == b"(":
        last = bisect.bisect_left(ids, stream_id(high[1:], 1 << 64))
    else:
        last = bisect.bisect_right(ids, stream_id(high, 1 << 64))
    return first, last


@command("XRANGE")
def xrange(store: ModelStore, args: Args) -> Reply:
    stream = store.get(args[0], Stream)
    if stream is None:
        return []
    first, last = _range(stream, args[1], args[2])
    if len(args) > 3:
        last = min(last, first + _number(args[4]))
    return [[id_text(stream.ids[at]), stream.entries[at]] for at in range(first, last)]


@command("XREVRANGE")
def xrevrange(store: ModelStore, args: Args) -> Reply:
    stream = store.get(args[0], Stream)
    if stream is None:
        return []
    first, last = _range(stream, args[2], args[1])
    if len(args) > 3:
        first = max(first, last - _number(args[4]))
    return [[id_text(stream.ids[at]), stream.entries[at]] for at in range(last - 1, first - 1, -1)]
