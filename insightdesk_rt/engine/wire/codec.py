"""What every protocol has in common: what clients send (Connect, Call, Ack, Leave), what we send (Codec, Encoded).

A WireSession is one client's state in a protocol: messages in, these structs out. A Codec encodes what the server
sends. It has no state of a client, so that an event is encoded once per codec and not once per client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Raw, Struct

# socket.io-parser 4.2: events that client libraries emit by themselves. A stock client that receives one ends its
# connection, reconnects, is sent the same event from the log, and so on for ever.
RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
RESERVED_EVENT = "This name is reserved by Socket.IO clients"


class Connect(Struct, frozen=True, gc=False):
    """The client asks to join a namespace. `auth` is a JSON object as text (`token`; `pid` and `offset` to resume)."""

    namespace: str
    auth: Raw


class Call(Struct, frozen=True, gc=False):
    """The client sends an event. `payload` is the JSON text of its first argument, b"" if it has none.

    With an `ack_id` the client expects an ack. `attachments` are what `{"_placeholder":true,"num":i}` stand for.
    """

    namespace: str
    event: str
    payload: Raw
    ack_id: int | None = None
    attachments: tuple[bytes, ...] = ()


class Ack(Struct, frozen=True, gc=False):
    """The client's ack of an event of ours. `payload` is the JSON text of the array of its arguments."""

    namespace: str
    ack_id: int
    payload: Raw
    attachments: tuple[bytes, ...] = ()


class Leave(Struct, frozen=True, gc=False):
    """The client leaves a namespace and keeps its connection."""

    namespace: str


Inbound = Connect | Call | Ack | Leave


class Encoded(Struct, frozen=True, gc=False, eq=False):
    """One message ready for any transport: `text` for polling, `frame` for websockets (built once, shared by all).

    `size` is in bytes of the websocket form. A message with attachments is several messages that must stay together:
    the `attachments` follow it as binary messages. A control frame (ping) has a `frame` and no text, and is never sent
    by polling.
    """

    text: str
    frame: bytes  # RFC 6455 frame(s), attachments included
    volatile: bool = False
    attachments: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        return len(self.frame)


class Codec(Protocol):
    """Encodes messages of one protocol. A `payload` is JSON text; `data` is a value that may contain bytes."""

    recovery: bool
    """Does it send a pid and the offsets of logged events?"""

    plain: Codec
    """The codec without recovery, for clients that do not use it; itself if this one has none."""

    def event(
        self,
        namespace: str,
        name: str,
        payload: str,
        offset: str = "",
        *,
        volatile: bool = False,
        ack_id: int | None = None,
    ) -> Encoded:
        """`offset` is "" for an event that is not logged. A volatile event is dropped first when its reader is slow."""
        ...

    def ack(self, namespace: str, ack_id: int, data: object) -> Encoded:
        """`data` is what a handler returned: a msgspec Struct or plain JSON values, with bytes if the codec can."""
        ...

    def ack_text(self, namespace: str, ack_id: int, payload: str) -> Encoded:
        """The same for a result that is JSON text already."""
        ...

    def connected(self, namespace: str, sid: str, pid: str, recovered: bool) -> Encoded:
        """`pid` is "" when connection recovery is off."""
        ...

    def refused(self, namespace: str, code: str, message: str) -> Encoded: ...

    def left(self, namespace: str) -> Encoded:
        """The server disconnects the client from a namespace; stock clients do not reconnect by themselves."""
        ...


class WireSession(Protocol):
    """One client's state in a protocol. Pure: the caller passes `now_ms`, monotonic milliseconds."""

    codec: Codec

    def opened(self, now_ms: int) -> Sequence[Encoded]:
        """Return what is sent first: Engine.IO's OPEN packet; nothing on the native protocol."""
        ...

    def receive(self, message: str | bytes, now_ms: int) -> Sequence[Inbound]:
        """Return what one websocket message or polling packet contains. Raises WireError: close the connection."""
        ...

    def heard(self, now_ms: int) -> None:
        """Note that bytes arrived, even of an unfinished frame: the peer is alive."""
        ...

    def heartbeat(self, now_ms: int) -> Encoded | None:
        """Return the ping if one is due now. Called at `deadline_ms()`."""
        ...

    def deadline_ms(self) -> int:
        """When `heartbeat` must be called next. While a ping is unanswered, when the peer counts as dead."""
        ...

    def due_ms(self) -> int:
        """When the next ping leaves if the last one is answered by then."""
        ...

    def dead(self, now_ms: int) -> bool:
        """Has the peer been silent past its ping timeout? Also checked when a request comes for the session."""
        ...

    def accept(self, namespace: str) -> None:
        """The client has joined the namespace and may send events there."""
        ...

    def drop(self, namespace: str) -> None:
        """The server disconnected the client from the namespace, or refused it."""
        ...

    @property
    def unfinished(self) -> int:
        """The number of the packet whose attachments have not all arrived; 0 if there is none."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The limit of one message's size before the client has joined a namespace; ANY from then on."""
        ...

    @property
    def skips_binary(self) -> bool:
        """Will the attachments that are due be thrown away, so that none of them needs to be kept?"""
        ...

    @property
    def waiting(self) -> bool:
        """Has the client not joined any namespace yet? Then the connect timeout runs."""
        ...
