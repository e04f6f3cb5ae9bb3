"""Who may use the admin API: admins' tokens, static keys from a file, and a limit on wrong keys and tokens.

A key is `irt_` and 256 random bits. The file holds its SHA-256; a slow hash is not needed for random keys. A line is

    grafana   viewer     sha256:6f1c…        # name, scope, hash
    shop      publisher  sha256:9a04…  namespaces=/tickets rooms=ticket:,team:

A publisher may call only the operations by which a back end pushes, and these only into its namespaces and rooms. It
reads nothing. `Principal.require_push` holds the rule; each push operation calls it for every room it publishes to.

The file is checked before each request with a key, so removing a line disables its key at once. If the file has an
error (it is logged, with the line), the keys of its last valid state remain; if the file is deleted, there are no keys.

A correct key or token is always accepted. The back end, Prometheus and the shell may share an address (127.0.0.1, or
one proxy), so wrong keys from an address must not lock out correct ones from it. 256 random bits, or a signature,
cannot be guessed at any rate; the limit only keeps a loop with an old key from filling the log.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, NamedTuple, get_args
from urllib.parse import quote, unquote

from msgspec import Struct

from insightdesk_rt.engine.addresses import is_loopback
from insightdesk_rt.engine.errors import ConfigError, RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.rate_limits import Rate, counted_as
from insightdesk_rt.engine.settings import Help, Names, Port, SettingsPart
from insightdesk_rt.engine.shared_limits import SharedLimits, SharedWindows

log = logging.getLogger(__name__)

Scope = Literal["viewer", "operator", "admin", "publisher"]
SCOPES: tuple[str, ...] = get_args(Scope)
LADDER: tuple[str, ...] = (
    "viewer",
    "operator",
    "admin",
)  # each includes those before it; admin includes publisher, too
PUBLISHER = "publisher"
ANY_ROOM = "*"  # in a key's line: every room

KEY_PREFIX = "irt_"
KEY_BYTES = 32
MAX_FAILURES = 10  # wrong keys or tokens from one address within PER_S, on all nodes; more are answered with 429
PER_S = 60

_BEARER = re.compile(r"Bearer +([^\s]+)", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@\-]{0,63}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class AdminSettings(SettingsPart, frozen=True):
    """The settings of the admin port."""

    admin_address: Annotated[Names, Help("addresses of the admin port")] = ("127.0.0.1", "::1")
    admin_port: Annotated[Port, Help("admin port, of the first worker; 0 takes free ones")] = 3002
    admin_allow_plaintext: Annotated[bool, Help("allow the admin port off loopback without TLS")] = False
    admin_hosts: Annotated[Names, Help("host names of the admin port, besides localhost and IP addresses")] = ()
    admin_keys_file: Annotated[
        str, Help("file of static keys for the admin port; the command `key` makes its lines")
    ] = ""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the admin port."""
        return all(map(is_loopback, self.admin_address))


class PushLimits(Struct, frozen=True):
    """Where a publisher's key may push: into these namespaces, to rooms whose names begin with one of these."""

    namespaces: tuple[str, ...]
    rooms: tuple[str, ...]  # prefixes; "" is the prefix of every room


class Principal(Struct, frozen=True):
    """The caller of a request and its scope. `name` is a user's id, or the name in a key's line.

    `limits` are those of a publisher's key; None: it may push everywhere, if its scope allows pushing.
    """

    name: str
    scope: Scope
    is_key: bool = False
    limits: PushLimits | None = None

    @property
    def id(self) -> str:
        """The caller's name in the audit log: `key:NAME` for a key, the id for a user.

        A user whose id begins like one of the two forms is written as `user:ID`, so that no user looks like a key.
        """
        if self.is_key:
            return f"key:{self.name}"
        return f"user:{self.name}" if self.name.startswith(("key:", "user:")) else self.name

    def may(self, scope: Scope) -> bool:
        """Whether the caller may use operations that need this scope, a publisher's key within its limits."""
        if PUBLISHER in (scope, self.scope):
            return self.scope in (scope, "admin")
        return LADDER.index(self.scope) >= LADDER.index(scope)

    def require_push(self, namespace: str, rooms: Iterable[str], field: str = "") -> None:
        """Raise RtError FORBIDDEN unless the caller may push into the namespace, to each of the rooms.

        `field` is the field of the request that the error names; "": none.
        """
        limits = self.limits
        if limits is None:
            return
        named = {"field": field} if field else {}
        if namespace not in limits.namespaces:
            raise RtError("FORBIDDEN", f"This key may not push into {namespace}.", **named)
        for room in rooms:
            if not room.startswith(limits.rooms):
                raise RtError("FORBIDDEN", f"This key may not push to the room {room}.", **named)


class AdminKey(NamedTuple):
    principal: Principal
    hash: str


def new_key(name: str, scope: str, limits: PushLimits | None = None) -> tuple[str, str]:
    """Return a new key and its line for the file. Raises ValueError for a name that the file cannot hold."""
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 64 letters, digits or _.@-")
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return key, " ".join([name, scope, _hashed(key), *(_limit_words(limits) if limits else ())])


def parse_keys(text: str) -> list[AdminKey]:
    """Parse the text of a key file. Raises ValueError naming the line."""
    keys: dict[str, AdminKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _parse_key(words)
        except ValueError as why:
            raise ValueError(f"line {number}: {why}") from None
        if key.principal.name in keys:
            raise ValueError(f"line {number}: the name {key.principal.name} occurs twice")
        keys[key.principal.name] = key
    return list(keys.values())


def _parse_key(words: Sequence[str]) -> AdminKey:
    if len(words) < 3 or (len(words) > 3 and words[1] != PUBLISHER):
        raise ValueError("expected name, scope and hash")
    name, scope, hash, *limits = words
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 64 letters, digits or _.@-")
    if scope not in SCOPES:
        raise ValueError(f"the scope is one of {', '.join(SCOPES)}")
    if not _HASH.fullmatch(hash):
        raise ValueError("expected sha256: and 64 hexadecimal digits, as `insightdesk-rt key` prints them")
    found = _parse_limits(limits) if scope == PUBLISHER else None
    return AdminKey(Principal(name, scope, True, found), hash)  # type: ignore[arg-type]  # it is in SCOPES


def _parse_limits(words: Sequence[str]) -> PushLimits:
    fields = dict(word.partition("=")[::2] for word in words)
    if len(words) != 2 or set(fields) != {"namespaces", "rooms"}:
        raise ValueError("a publisher has two more words, like namespaces=/tickets rooms=ticket:,team:")
    return push_limits(*([unquote(one) for one in fields[name].split(",")] for name in ("namespaces", "rooms")))


def push_limits(namespaces: Sequence[str], rooms: Sequence[str]) -> PushLimits:
    """Return the limits of a publisher. Raises ValueError for an empty list or item; every room is `*`."""
    for name, given in (("namespaces", namespaces), ("rooms", rooms)):
        if not given or not all(given):
            raise ValueError(f"{name}: expected one or several, separated by commas, and none of them empty")
    return PushLimits(tuple(namespaces), tuple("" if room == ANY_ROOM else room for room in rooms))


def _limit_words(limits: PushLimits) -> tuple[str, str]:
    """Return the limits as words of a line. Spaces, commas and other special characters are percent-encoded."""
    namespaces = ",".join(quote(one) for one in limits.namespaces)
    return f"namespaces={namespaces}", "rooms=" + ",".join(quote(room, "/:") or ANY_ROOM for room in limits.rooms)


class KeyFile:
    """The keys of a file, re-read when it changes. Raises ConfigError if it cannot be used at the start."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._keys: list[AdminKey] = []
        if path:
            try:
                self._read()
            except (OSError, ValueError) as why:
                raise ConfigError(f"admin_keys_file = {path}: {_reason(why)}") from None

    def find(self, key: str) -> Principal | None:
        """Return the principal of a key.

        Takes the same time for every key, because it compares all of them completely.
        """
        self._refresh()
        hashed, found = _hashed(key), None
        for one in self._keys:
            if hmac.compare_digest(one.hash, hashed):
                found = one.principal
        return found

    def reload(self) -> None:
        """Re-read the file now, and log how many keys there are. An error leaves the keys as they are."""
        if not self._path:
            return
        self._seen = self._seen and (0,)  # differs from the state of every file
        self._refresh()
        log.info("the file of admin keys was read again", extra={"file": self._path, "keys": len(self._keys)})

    def _refresh(self) -> None:
        if not self._path:
            return
        try:
            if _state(os.stat(self._path)) != self._seen:
                self._read()
        except FileNotFoundError:
            if self._seen:
                log.error("the file of admin keys was deleted; no key is accepted", extra={"file": self._path})
            self._seen, self._keys = (), []
        except (OSError, ValueError) as why:
            log.error("the file of admin keys has an error; the previous keys remain", extra={"why": _reason(why)})

    def _read(self) -> None:
        with open(self._path, encoding="utf-8") as file:
            state = os.fstat(file.fileno())
            self._seen = _state(state)  # also for a file with an error: it is logged once
            self._keys = parse_keys(file.read())
        if state.st_mode & 0o077:
            log.warning("other users can read the file of admin keys; chmod 600 it", extra={"file": self._path})


class AdminAccess:
    """Turns a request's key or token into a Principal. `verify` checks a token, as on the client port.

    `now_ms` is the clock of the shared limits.
    """

    def __init__(
        self,
        verify: Callable[[object], User],
        keys: KeyFile,
        now_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
        shared: SharedLimits | None = None,
    ) -> None:
        self._verify = verify
        self._keys = keys
        self._now_ms = now_ms
        self._failures = SharedWindows(Rate(MAX_FAILURES, PER_S), shared or SharedLimits(), "wrong keys")

    def principal(self, authorization: str, address: str) -> Principal:
        """Return the principal of an Authorization header.

        Raises RtError AUTH_*; FORBIDDEN for tokens of other roles; RATE_LIMITED for a wrong key or token from an
        address that has sent too many of them.
        """
        bearer = _BEARER.fullmatch(authorization.strip())
        return self.holder(bearer.group(1) if bearer else "", address)

    def holder(self, shown: str, address: str) -> Principal:
        """Return the principal of a key or token."""
        try:
            return self._holder(shown)
        except RtError as refused:
            if refused.code == "AUTH_TOKEN_INVALID":  # a missing or expired token is not a guess
                self._count_wrong(address)
            raise

    def _count_wrong(self, address: str) -> None:
        """Count a wrong key or token, and log it. Raises RtError RATE_LIMITED when there were too many."""
        place, now_ms = counted_as(address), self._now_ms()
        if wait_ms := self._failures.take(place, now_ms):
            raise RtError("RATE_LIMITED", "Too many wrong keys from this address.", retryAfter=-(-wait_ms // 1000))
        log.info("a wrong key or token on the admin port", extra={"address": address})
        if self._failures.wait_ms(place, now_ms):
            log.warning("too many wrong keys on the admin port; more are answered with 429", extra={"address": address})

    def _holder(self, shown: str) -> Principal:
        if shown.startswith(KEY_PREFIX):
            found = self._keys.find(shown)
            if found is None:
                raise RtError("AUTH_TOKEN_INVALID")
            return found
        user = self._verify(shown)
        if user.role != "admin":
            raise RtError("FORBIDDEN", "The admin API is for admins.")
        return Principal(user.id, "admin")


def _hashed(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _reason(why: Exception) -> str:
    return getattr(why, "strerror", None) or str(why)
