"""Ends a connection when its token expires. The client is warned a minute before, and may refresh the token in place.

The timer wheel wakes this code, but the wall clock decides: a token's `exp` is wall time, and a machine's clock may be
set while the timer runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from insightdesk_rt.engine.dispatch.namespace import EVERYBODY, EventSpec, Payload, Timers
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.wire import json

EXPIRING = "session:expiring"
EXPIRING_MS = 60_000  # how long before its token expires a client is warned
LONGEST_TIMER_MS = 86_400_000


class Refresh(Payload):
    token: str


class Refreshed(Struct):
    expiresAt: int


REFRESH = EventSpec(
    "session:refresh",
    "refresh",
    Refresh,
    None,
    EVERYBODY,
    waits=False,
    binary=False,
    weigh=None,
    doc="Go on with a newer token of the same user.",
)


class Expiry:
    def __init__(self, verify: Callable[[object], User], timers: Timers) -> None:
        self._verify = verify
        self._timers = timers

    def watch(self, socket: Socket) -> None:
        """Start the timer of the socket's token, or restart it for a newer token."""
        left_ms = int((socket.user.expires_s - time.time()) * 1000)
        if left_ms > EXPIRING_MS:
            delay_ms = min(left_ms - EXPIRING_MS, LONGEST_TIMER_MS)
            self._timers.later(_key(socket), delay_ms, self.watch, socket)
        else:
            self._warn(socket, left_ms)
            self._timers.later(_key(socket), max(left_ms, 0), self._expired, socket)

    def _warn(self, socket: Socket, left_ms: int) -> None:
        fields = {"expiresAt": socket.user.expires_s, "inSeconds": max(left_ms // 1000, 0)}
        socket.emit(EXPIRING, json.dumps(fields))

    def _expired(self, socket: Socket) -> None:
        try:
            socket.emit("error", json.dumps(RtError("AUTH_TOKEN_EXPIRED").as_dict()))
        finally:
            socket.client.close(CloseReason.TOKEN_EXPIRED)

    def forget(self, socket: Socket) -> None:
        self._timers.cancel(_key(socket))

    def refresh(self, socket: Socket, ask: Refresh) -> Refreshed:
        """Extend all sockets of the user on this connection.

        Raises RtError AUTH_*; FORBIDDEN for another user, role or team.
        """
        user, old = self._verify(ask.token), socket.user
        if not _same(user, old):
            raise RtError("FORBIDDEN", "A refreshed token must be of the same user, role and team.")
        for other in socket.client.sockets.values():
            if other.connected and _same(other.user, old):
                other.user = user
                self.watch(other)
        return Refreshed(user.expires_s)


def _same(one: User, other: User) -> bool:
    return (one.key, one.role, one.team_id) == (other.key, other.role, other.team_id)


def _key(socket: Socket) -> tuple[str, Socket]:
    return "expiry", socket
