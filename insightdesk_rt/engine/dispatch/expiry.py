"""Ends a connection when its token expires. The client is warned a minute before, and may refresh the token in place.

The timer wheel wakes this code, but the wall clock decides: a token's `exp` is wall time, and a machine's clock may be
set while the timer runs.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

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
    """Without a token, the back end is asked again who the user is (`connect_url`)."""

    token: str | None = None


class Refreshed(Struct):
    expiresAt: int


REFRESH = EventSpec(
    "session:refresh",
    "refresh",
    Refresh,
    None,
    EVERYBODY,
    waits=True,
    binary=False,
    weigh=None,
    doc="Go on with a newer token of the same user.",
)


class Expiry:
    """`ask` identifies a socket's user as its connect did, without a token; None: there is no such way."""

    def __init__(
        self,
        verify: Callable[[object], User],
        timers: Timers,
        ask: Callable[[Socket], Awaitable[User]] | None = None,
    ) -> None:
        self._verify = verify
        self._timers = timers
        self._ask = ask

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

    async def refresh(self, socket: Socket, ask: Refresh) -> Refreshed:
        """Extend all sockets of the user on this connection; without a token this socket only.

        Raises RtError AUTH_*; FORBIDDEN for another user, role or team; UNAVAILABLE.
        """
        old = socket.user
        if ask.token is None:
            if self._ask is None:
                raise RtError("BAD_REQUEST", "Object missing required field `token`", field="token")
            return self._extend(socket, await self._ask(socket))
        user = self._verify(ask.token)
        if not _same(user, old):
            raise RtError("FORBIDDEN", "A refreshed token must be of the same user, role and team.")
        for other in socket.client.sockets.values():
            if other.connected and _same(other.user, old):
                other.user = user
                self.watch(other)
        return Refreshed(user.expires_s)

    def _extend(self, socket: Socket, user: User) -> Refreshed:
        if not _same(user, socket.user):
            raise RtError("FORBIDDEN", "The user, role or team has changed; connect again.")
        if set(user.rooms or ()) != set(socket.user.rooms or ()):
            raise RtError("FORBIDDEN", "The rooms of this user have changed; connect again.")
        if not socket.gone:
            socket.user = user
            self.watch(socket)
        return Refreshed(user.expires_s)


def _same(one: User, other: User) -> bool:
    return (one.key, one.role, one.team_id) == (other.key, other.role, other.team_id)


def _key(socket: Socket) -> tuple[str, Socket]:
    return "expiry", socket
