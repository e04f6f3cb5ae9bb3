"""Socket: one client in one namespace. A namespace uses it to send to the client and to know its user and rooms.

Slots only: an idle agent has five of these. `client` and `outbox` belong to engine/transport; this file uses three of
their methods and names them here, so that the hub can be tested with ten-line fakes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Raw

from insightdesk_rt.engine.counters import EventCounts
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.model import NO_OFFSET, Offset, Right, Room, Sid, User
from insightdesk_rt.engine.rate_limits import Window
from insightdesk_rt.engine.wire.codec import Call, Codec, Encoded

MAX_ASKED = 64  # unanswered requests to a client, for clients that never answer


class MemberOutbox(Protocol):
    @property
    def behind(self) -> bool: ...

    def put(self, message: Encoded) -> CloseReason | None: ...

    def when_room(self, call: Callable[[], None]) -> None: ...


class SocketPeer(Protocol):
    """What a socket needs of its client."""

    id: str
    address: str
    agent: str
    sockets: dict[str, Any]  # namespace → Socket

    def close(self, why: CloseReason) -> None: ...

    def leave(self, namespace: str) -> None: ...


class Socket:
    __slots__ = (
        "_acks",
        "_next_ack",
        "_room",
        "asked_with",
        "asks",
        "busy",
        "calls_in",
        "client",
        "codec",
        "connected",
        "connected_at_s",
        "gone",
        "namespace",
        "outbox",
        "pid",
        "rooms",
        "sent",
        "shut",
        "sid",
        "since",
        "since_in",
        "starts",
        "task",
        "user",
        "waiting",
        "windows",
    )

    def __init__(
        self,
        sid: Sid,
        namespace: str,
        user: User,
        client: SocketPeer,
        outbox: MemberOutbox,
        codec: Codec,
        sent: EventCounts,
        pid: str = "",
    ) -> None:
        self.sid = sid
        self.pid = pid  # the secret with which a client resumes this session; "" when recovery is off
        self.namespace = namespace
        self.user = user
        self.client = client
        self.outbox = outbox
        self.codec = codec
        self.sent = sent  # counts for all sockets of the namespace on this node; owned by the hub
        self.rooms: set[Room] = set()
        self.since = NO_OFFSET  # it needs no events first logged up to here; set by the hub
        self.since_in: dict[Room, Offset] | None = None  # the same for rooms it joined later
        # For rooms it joined after its connect: the offset after which it may be sent their events, also on a resume.
        self.starts: dict[Room, Right] | None = None
        # Rooms that it was refused when it resumed. Sent again if it resumes again, as the notice may have been lost.
        self.shut: set[Room] | None = None
        self.connected_at_s = 0.0  # Unix seconds, for people
        self.calls_in = 0
        # While a handler awaits, later calls of its socket wait: calls run in the order of arrival.
        self.busy = True  # until its connect is done
        self.waiting: deque[Call] | None = None
        self.task: asyncio.Task[None] | None = None  # the handler that awaits; owned by dispatch
        self.windows: dict[str, Window] = {}  # the user's rate windows, shared by all sockets of the user here
        self.connected = False  # the client has been sent the answer to its CONNECT
        self.asked_with = 0  # a hash of the auth in its CONNECT
        self.asks = 1  # CONNECTs that came before the first was answered; each gets an answer
        self.gone = False
        self._acks: dict[int, asyncio.Future[Raw]] | None = None
        self._next_ack = 0
        self._room: asyncio.Future[None] | None = None

    def send(self, message: Encoded) -> None:
        """Queue a message for this client. A client that is too far behind is closed instead."""
        why = self.outbox.put(message)
        if why is not None:
            self.client.close(why)

    async def room(self) -> None:
        """Wait until the client has read most of what it was sent, or has disconnected. Returns at once if it has.

        Code that sends a client several big messages awaits this in between. Otherwise the client would be closed as a
        slow consumer because of what others wrote.
        """
        while self.outbox.behind and not self.gone:
            room = self._room = asyncio.get_running_loop().create_future()
            self.outbox.when_room(lambda room=room: room.done() or room.set_result(None))  # type: ignore[misc]
            await room

    def emit(self, name: str, payload: str, offset: str = "") -> None:
        """Send an event to this socket alone. `payload` is JSON text."""
        self.sent.add(name)
        self.send(self.codec.event(self.namespace, name, payload, offset))

    async def request(self, name: str, payload: str, timeout_s: float) -> Raw:
        """Send an event and return the client's answer: the JSON text of the array of its arguments.

        Raises RtError UNAVAILABLE if none arrives in time, the client disconnects, or MAX_ASKED requests are
        unanswered. If it is cancelled, the ack is ignored.
        """
        acks = self._acks = {} if self._acks is None else self._acks
        if len(acks) >= MAX_ASKED:
            raise RtError("UNAVAILABLE", "The client has not answered what it was asked before.")
        ack_id = self._next_ack
        self._next_ack += 1
        acks[ack_id] = answer = _future()
        try:
            self.send(self.codec.event(self.namespace, name, payload, ack_id=ack_id))
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            raise RtError("UNAVAILABLE", f"The client did not answer {name} in time.") from None
        finally:
            acks.pop(ack_id, None)

    def acked(self, ack_id: int, payload: Raw) -> None:
        """Pass the client's ack to the code that waits for it. An unknown id is ignored: the ack may be late."""
        answer = self._acks.pop(ack_id, None) if self._acks else None
        if answer is not None and not answer.done():
            answer.set_result(payload)

    def ended(self) -> None:
        """Mark the socket as gone and fail the requests that wait for its client."""
        self.gone = True
        self.waiting = None
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        for answer in (self._acks or {}).values():
            if not answer.done():
                answer.set_exception(RtError("UNAVAILABLE", "The client is gone."))

    def fields(self) -> dict[str, Any]:
        """The fields of log lines about this socket; without the client's engine sid and pid, which are secrets."""
        return {"sid": self.sid, "user": self.user.id, "namespace": self.namespace}


def _future() -> asyncio.Future[Raw]:
    return asyncio.get_running_loop().create_future()
