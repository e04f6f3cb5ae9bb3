"""Socket.IO protocol 5 in Engine.IO messages: SocketIOCodec writes packets, SocketIOSession reads those of a client.

    <type>[<n>-][/namespace,][<ack id>][JSON]

For each session, a namespace is unknown or in one of these states:
    ASKED     the client's CONNECT is not answered yet
    FRESH     joined, but the client has sent nothing to it yet
    JOINED    the client has sent something to it, so it has seen the answer
    REASKED   FRESH, and another CONNECT arrived
    EXPELLED  the server disconnected the client from it
Packets of the client change the state:
    CONNECT                 unknown, EXPELLED, ASKED → ASKED; FRESH, REASKED → REASKED; in JOINED a violation
    EVENT, ACK, DISCONNECT  FRESH → JOINED; accepted in JOINED, REASKED; ignored in EXPELLED, since they may have
                            crossed our DISCONNECT; else a violation
A violation is a WireError: the whole connection closes, as Node's does.

A second CONNECT is allowed as long as the client may not have seen the answer to the first. A stock client on an open
Manager sends two for connect(), disconnect(), connect() in one tick (React's StrictMode), because its disconnect()
sends nothing while it is not connected. Node answers both if its middleware awaits anything; otherwise it closes the
connection, and with it all other namespaces.

Payloads stay JSON text. They are checked and never rebuilt, so numbers beyond 2^53 pass unchanged. Measured on a 2-core
VM: 1.3 µs to read an event, 1.0 µs to write one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Raw

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.rate_limits import ANY
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.attachments import check_placeholders, take_out, with_attachments
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS, Ack, Call, Codec, Connect, Encoded, Inbound, Leave
from insightdesk_rt.engine.wire.frames import encoded, text_frame
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.engine.wire.unfinished import numbers

__all__ = ["SocketIOCodec", "SocketIOSession", "with_attachments"]

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = "0123456"


MAX_ACK_DIGITS = 16  # 2^53, the largest integer of a stock client, has 16
# The JSON of a binary packet, without its placeholders. Its value is built to find them; other packets are only checked
# for valid JSON. Large data belongs in the attachments.
MAX_BINARY_CHARS = 65_536
PLACE_CHARS = 64  # of one placeholder

# The head of an ordinary event. Its parts are bounded, so that 1 MB of digits costs what 16 do.
_EVENT_HEAD = re.compile(r"2(?:(/[^,]{0,127}),)?([0-9]{1,16})?\[").match


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class SocketIOCodec:
    """Writes packets as Engine.IO messages. With `recovery` it sends a pid, and the offset with each logged event."""

    __slots__ = ("plain", "recovery")

    def __init__(self, recovery: bool = True) -> None:
        self.recovery = recovery
        self.plain: Codec = SocketIOCodec(recovery=False) if recovery else self

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
        """Return `42/ns,["name",payload,"offset"]`. hot: once per codec per event; all receivers share it."""
        head, name_text = _event_head(namespace, name)
        if ack_id is not None:
            head = f"{head}{ack_id}"
        parts = f"{head}[{name_text},{payload}" if payload else f"{head}[{name_text}"
        text = f'{parts},"{offset}"]' if offset and self.recovery else parts + "]"
        return Encoded(text, text_frame(text), volatile=volatile)

    def ack(self, namespace: str, ack_id: int, data: object) -> Encoded:
        items = [] if data is None else [data]
        attachments: list[bytes] = []
        bare = take_out(items, attachments)
        if not attachments:
            return encoded(f"4{ACK}{_prefix(namespace)}{ack_id}{json.dumps(items)}")
        head = f"4{BINARY_ACK}{len(attachments)}-{_prefix(namespace)}{ack_id}"
        return encoded(head + json.dumps(bare), attachments=tuple(attachments))

    def ack_text(self, namespace: str, ack_id: int, payload: str) -> Encoded:
        """hot: once per call of a client."""
        text = f"43{namespace},{ack_id}[{payload}]" if namespace != "/" else f"43{ack_id}[{payload}]"
        return Encoded(text, text_frame(text))

    def connected(self, namespace: str, sid: str, pid: str, recovered: bool) -> Encoded:
        """Return the answer to CONNECT. A client that gets its former sid and pid knows that it was recovered."""
        names = {"sid": sid, "pid": pid} if pid and self.recovery else {"sid": sid}
        return encoded(f"40{_prefix(namespace)}{json.dumps(names)}")

    def refused(self, namespace: str, code: str, message: str) -> Encoded:
        """Return a CONNECT_ERROR. The client's `err.message` is the code; `err.data` has code and message."""
        error: dict[str, Any] = {"message": message}
        if code:
            error = {"message": code, "data": {"code": code, "message": message}}
        return encoded(f"44{_prefix(namespace)}{json.dumps(error)}")

    def left(self, namespace: str) -> Encoded:
        return encoded(f"41{_prefix(namespace)}")


def _prefix(namespace: str) -> str:
    return "" if namespace == "/" else namespace + ","


@lru_cache(1024)  # bounded, because back ends publish events under names of their own
def _event_head(namespace: str, name: str) -> tuple[str, str]:
    return f"42{_prefix(namespace)}", json.dumps(name)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_ASKED, _FRESH, _JOINED, _REASKED, _EXPELLED = range(5)
_INSIDE = frozenset({_FRESH, _JOINED, _REASKED})


def check_event_name(name: str, limits: PacketLimits) -> None:
    """Raise WireError for a name that no client may send. hot: once per event of a client."""
    if name in RESERVED_EVENTS:
        raise WireError("event name that may not be sent")
    if len(name) > limits.max_event_name_chars:
        raise WireError("event name too long", limit_name="max_event_name_chars")


class _PendingPacket(NamedTuple):
    """A binary packet whose attachments have not all arrived."""

    packet: Call | Ack
    expected: int
    attachments: list[bytes]
    number: int
    kept: bool  # False if the event takes no attachments: each is replaced by an empty one


class SocketIOSession:
    __slots__ = ("_entered", "_limits", "_namespaces", "_pending", "_pending_bytes", "codec")

    def __init__(self, codec: SocketIOCodec, limits: PacketLimits = PacketLimits()) -> None:
        self.codec = codec
        self._limits = limits
        self._namespaces: dict[str, int] = {}
        self._entered = False
        self._pending: _PendingPacket | None = None
        self._pending_bytes = 0

    def accept(self, namespace: str) -> None:
        self._namespaces[namespace] = _FRESH
        self._entered = True

    def drop(self, namespace: str) -> None:
        """Packets that a joined client has already sent are ignored; after a refusal the namespace is unknown again."""
        if self._namespaces.get(namespace) in _INSIDE:
            self._namespaces[namespace] = _EXPELLED
        else:
            self._namespaces.pop(namespace, None)

    @property
    def waiting(self) -> bool:
        return not self._entered

    @property
    def unfinished(self) -> int:
        return self._pending.number if self._pending is not None else 0

    @property
    def skips_binary(self) -> bool:
        return self._pending is not None and not self._pending.kept

    @property
    def max_message_bytes(self) -> int:
        return ANY if self._entered else self._limits.max_connect_bytes

    def receive_text(self, text: str) -> Sequence[Inbound]:
        """Decode a text packet. Raises WireError.

        hot: once per event of a client, `2/ns,id["name",{…}]`.
        """
        if self._pending is not None:
            raise WireError("text while attachments are due")
        head = _EVENT_HEAD(text)
        if head is not None:
            namespace, digits = head.group(1, 2)
            if self._namespaces.get(namespace or "/") == _JOINED:
                return (self._call(text, head.end() - 1, namespace or "/", int(digits) if digits else None),)
        kind = text[:1]
        if kind == EVENT:
            namespace, at = self._namespace(text, 1)
            return self._event(text, at, namespace) if self._is_joined(namespace) else ()
        if kind == ACK:
            namespace, at = self._namespace(text, 1)
            return self._ack(text, at, namespace) if self._is_joined(namespace) else ()
        if kind == CONNECT:
            return self._connect(text)
        if kind == DISCONNECT:
            return self._disconnect(text)
        if kind in (BINARY_EVENT, BINARY_ACK):
            return self._binary(text)
        raise WireError("unknown packet type")  # CONNECT_ERROR, too: only servers send it

    def receive_binary(self, data: bytes) -> Sequence[Inbound]:
        """Take an attachment. Returns its packet if it was the last one. Raises WireError, TooBig."""
        pending = self._pending
        if pending is None:
            if not self._namespaces:
                raise WireError("binary data before any CONNECT: does it use another parser, such as msgpack?")
            raise WireError("an attachment without a packet that announces it")
        if not pending.kept:
            data = b""
        self._pending_bytes += len(data)
        if self._pending_bytes > self._limits.max_attachments_bytes:
            raise TooBig(f"attachments over {self._limits.max_attachments_bytes} bytes", limit_name="max_payload_bytes")
        pending.attachments.append(data)
        if len(pending.attachments) < pending.expected:
            return ()
        self._pending = None
        self._pending_bytes = 0
        packet, attachments = pending.packet, tuple(pending.attachments)
        if self._namespaces.get(packet.namespace) not in _INSIDE:  # expelled while the attachments arrived
            return ()
        if isinstance(packet, Call):
            return (Call(packet.namespace, packet.event, packet.payload, packet.ack_id, attachments),)
        return (Ack(packet.namespace, packet.ack_id, packet.payload, attachments),)

    # ── one method per kind of packet ──────────────────────────────────────────────────────────────────────────────

    def _connect(self, text: str) -> Sequence[Inbound]:
        if len(text) > self._limits.max_connect_bytes:  # also if the client has joined another namespace
            raise TooBig(f"CONNECT over {self._limits.max_connect_bytes} bytes", limit_name="max_connect_bytes")
        namespace, at = self._namespace(text, 1)
        auth = text[at:] or "{}"
        if auth[:1] != "{":
            raise WireError("auth is an object")
        try:
            json.check_depth(auth, self._limits.max_json_depth)
            json.check_object(auth)
        except json.BadJson as bad:
            raise WireError(f"auth: {bad.why}", limit_name=bad.limit_name) from None
        phase = self._namespaces.get(namespace)
        if phase == _JOINED:
            raise WireError("CONNECT to a namespace that the client is in")
        namespace = sys.intern(namespace)  # thousands of clients share a few names
        self._namespaces[namespace] = _REASKED if phase in (_FRESH, _REASKED) else _ASKED
        if len(self._namespaces) > self._limits.max_namespaces:
            raise WireError(f"more than {self._limits.max_namespaces} namespaces")
        return (Connect(namespace, Raw(auth.encode("utf-8", "replace"))),)

    def _disconnect(self, text: str) -> Sequence[Inbound]:
        namespace, at = self._namespace(text, 1)
        if at < len(text):
            raise WireError("DISCONNECT has no payload")
        if not self._is_joined(namespace):
            return ()
        del self._namespaces[namespace]
        return (Leave(namespace),)

    def _event(self, text: str, at: int, namespace: str) -> Sequence[Call]:
        ack_id, at = self._ack_id(text, at)
        if at == len(text):
            return ()  # an event without payload is ignored, as Node does
        return (self._call(text, at, namespace, ack_id),)

    def _call(self, text: str, at: int, namespace: str, ack_id: int | None) -> Call:
        try:
            name, payload = json.split_event(text[at:])
        except json.BadJson as bad:
            raise WireError(f"event: {bad.why}", limit_name=bad.limit_name) from None
        check_event_name(name, self._limits)
        return Call(namespace, name, payload, ack_id)

    def _ack(self, text: str, at: int, namespace: str) -> Sequence[Ack]:
        ack_id, at = self._ack_id(text, at)
        arguments = text[at:] or "[]"
        try:
            json.check_array(arguments)
        except json.BadJson as bad:
            raise WireError(f"ack: {bad.why}") from None
        # An ack without an id belongs to no event. It is ignored, like an unknown id.
        return () if ack_id is None else (Ack(namespace, ack_id, Raw(arguments.encode("utf-8", "replace"))),)

    def _binary(self, text: str) -> Sequence[Inbound]:
        """Remember the packet until its attachments have arrived.

        CVE-2026-33151 and -69185: 1 ≤ n ≤ max_attachments.
        """
        dash = text.find("-", 1, 1 + len(str(self._limits.max_attachments_per_packet)) + 1)
        digits = text[1:dash] if dash > 0 else ""
        count = int(digits) if digits.isascii() and digits.isdigit() else 0
        if not count or count > self._limits.max_attachments_per_packet:
            raise WireError("number of attachments", limit_name="max_attachments_per_packet" if count else "")
        if len(text) > MAX_BINARY_CHARS + count * PLACE_CHARS:
            raise TooBig(f"over {MAX_BINARY_CHARS} characters beside attachments")
        namespace, at = self._namespace(text, dash + 1)
        self._is_joined(namespace)  # the attachments of an expelled client are read, too, and dropped with the packet
        packets: Sequence[Call | Ack] = (
            self._event(text, at, namespace) if text[0] == BINARY_EVENT else self._ack(text, at, namespace)
        )
        start = text.find("[", at)
        if not packets or start < 0:
            raise WireError("attachments without a payload")
        try:
            check_placeholders(json.loads(text[start:], self._limits.max_json_depth), count)
        except json.BadJson as bad:
            raise WireError(f"attachments: {bad.why}", limit_name=bad.limit_name) from None
        packet = packets[0]
        event = packet.event if isinstance(packet, Call) else ""
        kept = (packet.namespace, event) in self._limits.binary
        self._pending = _PendingPacket(packet, count, [], next(numbers), kept)
        return ()

    # ── parts of a packet ──────────────────────────────────────────────────────────────────────────────────────────

    def _namespace(self, text: str, at: int) -> tuple[str, int]:
        """Return the namespace that begins at `at` ("/" if none does) and the index behind it."""
        if text[at : at + 1] != "/":
            return "/", at
        comma = text.find(",", at, at + self._limits.max_namespace_chars + 1)
        end = comma if comma > 0 else len(text)  # `40/ns` is complete without its comma
        namespace = text[at:end]
        if len(namespace) > self._limits.max_namespace_chars:
            raise WireError("namespace too long", limit_name="max_namespace_chars")
        if not namespace.isprintable():
            raise WireError("namespace that may not be sent")
        return namespace, end + 1 if comma > 0 else end

    def _is_joined(self, namespace: str) -> bool:
        phase = self._namespaces.get(namespace)
        if phase == _FRESH:
            self._namespaces[namespace] = _JOINED
        if phase in _INSIDE:
            return True
        if phase == _EXPELLED:
            return False
        raise WireError("a packet for a namespace that was not joined")

    def _ack_id(self, text: str, at: int) -> tuple[int | None, int]:
        """Return the number at `at`, or None, and the index behind it: that of "[" or the end of the text."""
        end = text.find("[", at, at + MAX_ACK_DIGITS + 1)
        if end < 0:
            end = len(text)
        digits = text[at:end]
        if not digits:
            return None, end
        if len(digits) > MAX_ACK_DIGITS or not (digits.isascii() and digits.isdigit()):
            raise WireError("ack id")
        return int(digits), end
