"""Why Valkey does not serve: a short reason for people, and two log lines per outage instead of one per command.

`in_words` turns an error of the client library or the system into a short reason without secrets, which may be shown on
`/readyz` and as the last line of a failed start. `Refusals` follows a server that is reachable and refuses commands
(full, read-only, disk full). It logs when that begins, and at its end how many commands were refused.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger(__name__)

QUIET_S = 5.0  # an outage is over when nothing was refused for this long: at a limit, refusals come and go
UNKNOWN = "it answered with an error; the log says which"


class NoServer(ConnectionError):
    """There is no server to connect to. The text says why, in words that may be shown to anybody."""


class ValkeyRefusal(NamedTuple):
    """An error reply of the server: how its text begins, valkey-py's class for it, and what it means."""

    code: str
    kind: str
    words: str


# valkey-py removes the codes it knows from the text and gives these errors a class; other texts begin with the code.
ANSWERS = (
    ValkeyRefusal("OOM", "OutOfMemoryError", "it is full: its memory has reached maxmemory"),
    ValkeyRefusal("MISCONF", "", "it takes no writes because it cannot save them to its disk (MISCONF)"),
    ValkeyRefusal("READONLY", "ReadOnlyError", "it is a read-only replica"),
    ValkeyRefusal("NOREPLICAS", "", "it takes no writes because too few replicas are in step (min-replicas-to-write)"),
    ValkeyRefusal("MASTERDOWN", "", "it is a replica that has lost its primary"),
    ValkeyRefusal("CLUSTERDOWN", "", "its cluster is down: too few primaries can be reached (CLUSTERDOWN)"),
    ValkeyRefusal("MOVED", "", "another primary of the cluster has taken over these keys (MOVED)"),
    ValkeyRefusal("ASK", "", "these keys are being moved to another primary of the cluster (ASK)"),
    ValkeyRefusal("TRYAGAIN", "", "these keys are being moved to another primary of the cluster (TRYAGAIN)"),
    ValkeyRefusal("LOADING", "BusyLoadingError", "it is loading its data"),
    ValkeyRefusal("BUSY", "", "a script that runs for too long keeps it busy"),
    ValkeyRefusal("NOAUTH", "", "it wants a password"),
    ValkeyRefusal("Authentication required", "", "it wants a password"),
    ValkeyRefusal("WRONGPASS", "AuthenticationError", "the user or password is wrong"),
    ValkeyRefusal("invalid username-password", "", "the user or password is wrong"),
    ValkeyRefusal("invalid password", "", "the user or password is wrong"),
    ValkeyRefusal("NOPERM", "NoPermissionError", "its user lacks a permission (see conf/valkey.acl)"),
    ValkeyRefusal("WAITAOF", "", "durable = true needs appendonly yes there (WAITAOF was refused)"),
    ValkeyRefusal("ERR WAITAOF", "", "durable = true needs appendonly yes there (WAITAOF was refused)"),
    ValkeyRefusal("max number of clients", "", "it has as many clients as it takes (maxclients)"),
    ValkeyRefusal("DB index is out of range", "", "it has no database of this number"),
    ValkeyRefusal("Connection closed by server", "", "it closed the connection"),
    ValkeyRefusal("Protocol Error", "InvalidResponse", "what answers there is not a Valkey"),
)


def in_words(error: BaseException) -> str:
    """Return why a command or connection failed: a few words without names, keys or passwords."""
    if isinstance(error, NoServer):
        return str(error)
    text = str(error)
    for answer in ANSWERS:
        if text.startswith(answer.code):
            return answer.words
    for answer in ANSWERS:
        if answer.kind and type(error).__name__.startswith(answer.kind):
            return answer.words
    cause: BaseException | None = error
    while cause is not None:
        if words := _of_system(cause):
            return words
        cause = cause.__cause__ or cause.__context__
    return UNKNOWN


def _of_system(error: BaseException) -> str:
    match error:
        case socket.gaierror():
            return "its host name is not known"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return "TLS failed; does it speak TLS on this port?"
        case ConnectionRefusedError():
            return "nothing listens there"
        case FileNotFoundError():
            return "there is no such socket"
        case PermissionError():
            return "this user may not open its socket"
        case TimeoutError():
            return "no answer in time"
        case ConnectionResetError() | BrokenPipeError() | EOFError():
            return "it closed the connection"
        case OSError() if error.strerror:
            return error.strerror[0].lower() + error.strerror[1:]
    return "no answer in time" if type(error).__name__ == "TimeoutError" else ""


class Refusals:
    """Follows a server that refuses commands. `why`: the reason in words, "" while it serves. `name`: for the log."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic, name: str = "") -> None:
        self.why = ""
        self._named = {"primary": name} if name else {}
        self._now_s = now_s
        self._names: set[str] = set()
        self._count = 0
        self._began_s = self._last_s = 0.0

    def refused(self, name: str, error: Exception) -> None:
        """Note that a command was refused. Logs the first, and each one with another reason than before."""
        self._last_s = self._now_s()
        why = in_words(error)
        if not self.why:
            self._count, self._began_s = 0, self._last_s
        if why != self.why:
            log.warning("valkey cannot serve", extra={"why": why, "command": name, "said": str(error), **self._named})
            self.why = why
        self._count += 1
        self._names.add(name)

    def served(self, name: str, *, wrote: bool = False) -> None:
        """Note that a command succeeded. After QUIET_S of quiet it ends the outage, if it had been refused before.

        A command that only reads proves nothing, because a full server still answers those. `wrote`: readiness has
        written to the server, which proves as much. Otherwise the outage would not end if the refused command is one
        that is sent only after a connect.
        """
        now_s = self._now_s()
        if (wrote or name in self._names) and now_s - self._last_s >= QUIET_S:
            seconds = round(self._last_s - self._began_s, 1)
            extra = {"was": self.why, "refused": self._count, "seconds": seconds, **self._named}
            log.warning("valkey serves again", extra=extra)
            self.forget()

    def forget(self) -> None:
        """Forget the outage: it has ended, or the connection is a new one."""
        self.why = ""
        self._names.clear()
