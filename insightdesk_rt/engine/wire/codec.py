"""What any protocol says upward (Connect, Call, Ack, Leave) and what the hub asks of it downward (Codec, Encoded).

A Session is one client's side of a protocol: messages in, these structs out. A Codec is the protocol's way to write;
it holds nothing of a client, so that an event is encoded once per codec and not once per client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Raw, Struct


class Connect(Struct, frozen=True, gc=False):
    """The client asks into a namespace. `auth` is JSON text of an object (`token`, and to resume `pid`, `offset`)."""

    namespace: str
    auth: Raw


class Call(Struct, frozen=True, gc=False):
    """The client sends an event. `payload` is the JSON text of its first argument, b"" if it has none.

    `ack_id` asks for an answer. `attachments` are the binary parts that `{"_placeholder":true,"num":i}` stand for.
    """

    namespace: str
    event: str
    payload: Raw
    ack_id: int | None = None
    attachments: tuple[bytes, ...] = ()


class Ack(Struct, frozen=True, gc=False):
    """The client answers an event of ours. `payload` is the JSON text of the array of its arguments."""

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
    `attachments` follow it as binary ones. A control frame (ping) has a `frame` and no text; polling never sees one.
    """

    text: str
    frame: bytes  # RFC 6455 frame(s), attachments included
    volatile: bool = False
    attachments: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        return len(self.frame)


class Codec(Protocol):
    """How one protocol writes. Payloads are JSON text already; `data` is a value that may hold bytes (binary)."""

    recovery: bool
    """Does it write a pid and the offsets of logged events?"""

    plain: Codec
    """The same without recovery, for clients that have no use for it; itself if it has none."""

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
        """`offset` is "" for what is not in the log. A volatile event is dropped first when its reader is behind."""
        ...

    def binary_event(self, namespace: str, name: str, data: object, ack_id: int | None = None) -> Encoded: ...

    def ack(self, namespace: str, ack_id: int, data: object) -> Encoded:
        """`data` is what a handler returned: a msgspec Struct, plain JSON values, bytes within where the codec can."""
        ...

    def ack_text(self, namespace: str, ack_id: int, payload: str) -> Encoded:
        """The same for an answer that is JSON text already."""
        ...

    def connected(self, namespace: str, sid: str, pid: str, recovered: bool) -> Encoded:
        """`pid` is "" when connection recovery is off."""
        ...

    def refused(self, namespace: str, code: str, message: str) -> Encoded: ...

    def left(self, namespace: str) -> Encoded:
        """The server ends the client's stay in a namespace; stock clients do not come back by themselves."""
        ...


class WireSession(Protocol):
    """One client's side of a protocol. Pure: `now_ms` is monotonic milliseconds, given in."""

    codec: Codec

    def opened(self, now_ms: int) -> Sequence[Encoded]:
        """Return what is sent first (Engine.IO's OPEN packet; nothing on the native protocol)."""
        ...

    def receive(self, message: str | bytes, now_ms: int) -> Sequence[Inbound]:
        """Return what one websocket message or polling packet says. Raises WireError: close the connection."""
        ...

    def heard(self, now_ms: int) -> None:
        """Any byte of the peer is a sign of life, also one of an unfinished frame."""
        ...

    def heartbeat(self, now_ms: int) -> Encoded | None:
        """Return the ping that is due now, if one is. Called at `deadline_ms()`."""
        ...

    def deadline_ms(self) -> int:
        """When `heartbeat` must be called next, or, with a ping out, when the peer is dead."""
        ...

    def due_ms(self) -> int:
        """When the next ping leaves, if the last one is answered by then."""
        ...

    def dead(self, now_ms: int) -> bool:
        """Has the peer been silent past its ping timeout? Also asked lazily, when a request comes for the session."""
        ...

    def accept(self, namespace: str) -> None:
        """The client is now in the namespace: its calls there are no violation any more."""
        ...

    def drop(self, namespace: str) -> None:
        """The client is out of the namespace by our doing, or was refused."""
        ...

    @property
    def unfinished(self) -> int:
        """The number of the packet whose attachments have not all come; 0 if there is none."""
        ...

    @property
    def most_bytes(self) -> int:
        """The most that one message may have as long as the client has joined nothing; ANY from then on."""
        ...

    @property
    def skips_binary(self) -> bool:
        """Do attachments come now that nobody wants, so that nothing of them needs to be kept?"""
        ...

    @property
    def waiting(self) -> bool:
        """Has the client not joined any namespace yet? Then the connect timeout runs."""
        ...
