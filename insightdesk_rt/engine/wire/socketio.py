"""Socket.IO protocol 5: the codec, and SocketIOSession, one client's side of it, inside Engine.IO messages.

    <type>[<n>-][/namespace,][<ack id>][JSON]

A namespace of a session is unknown, or in one of these states:
    ASKED     its CONNECT waits for an answer
    FRESH     joined, and nothing has come from the client in it yet
    JOINED    the client uses it, so it has seen the answer
    REASKED   FRESH, and another CONNECT came
    EXPELLED  the server ended the stay
What a client sends moves it:
    CONNECT                 unknown, EXPELLED, ASKED → ASKED; FRESH, REASKED → REASKED; in JOINED a violation
    EVENT, ACK, DISCONNECT  FRESH → JOINED; in JOINED, REASKED taken; in EXPELLED ignored, since they may have crossed
                            our DISCONNECT; else a violation
A violation is a WireError: the whole connection closes, as Node's does.

A second CONNECT is no violation as long as the client may not have seen the answer to the first. A stock client on an
open Manager sends two for connect(), disconnect(), connect() in one tick (React's StrictMode): its disconnect() says
nothing while it is not connected. Node answers both when its middleware awaits anything; without one it cuts the
connection, and with it all other namespaces.

Payloads stay JSON text: parsed for their shape, never rebuilt, so that numbers beyond 2^53 pass as they were written.
Measured on a 2-core VM: an event read in 1.3 µs, written in 1.0 µs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Raw

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.ids import RESERVED_EVENTS
from insightdesk_rt.engine.rate_limits import ANY
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.attachments import check_placeholders, take_out, with_attachments
from insightdesk_rt.engine.wire.codec import Ack, Call, Codec, Connect, Encoded, Inbound, Leave
from insightdesk_rt.engine.wire.frames import encoded, text_frame
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.engine.wire.unfinished import numbers

__all__ = ["SocketIOCodec", "SocketIOSession", "with_attachments"]

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = "0123456"


MAX_ACK_DIGITS = 16  # 2^53, as far as a stock client can count, has 16
# Of a packet beside its attachments and their places: its value is built, to look for them, while other packets are
# only checked for being JSON. What is big is in the attachments.
MAX_BINARY_CHARS = 65_536
PLACE_CHARS = 64

# An event's head when nothing is odd about it, its parts within bounds: 1 MB of digits costs what 16 do.
_EVENT_HEAD = re.compile(r"2(?:(/[^,]{0,127}),)?([0-9]{1,16})?\[").match


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class SocketIOCodec:
    """Writes packets as Engine.IO messages. With `recovery`, sessions have a pid and logged events their offset."""

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
        """Return `42/ns,["name",payload,"offset"]`. hot: once per codec per event, then shared by all its readers."""
        head, name_text = _event_head(namespace, name)
        if ack_id is not None:
            head = f"{head}{ack_id}"
        parts = f"{head}[{name_text},{payload}" if payload else f"{head}[{name_text}"
        text = f'{parts},"{offset}"]' if offset and self.recovery else parts + "]"
        return Encoded(text, text_frame(text), volatile=volatile)

    def binary_event(self, namespace: str, name: str, data: object, ack_id: int | None = None) -> Encoded:
        """Return an event whose data may hold bytes anywhere; without any it is a plain one."""
        return _with_bytes(EVENT, namespace, ack_id, [name, data])

    def ack(self, namespace: str, ack_id: int, data: object) -> Encoded:
        return _with_bytes(ACK, namespace, ack_id, [] if data is None else [data])

    def ack_text(self, namespace: str, ack_id: int, payload: str) -> Encoded:
        """hot: once per call of a client."""
        text = f"43{namespace},{ack_id}[{payload}]" if namespace != "/" else f"43{ack_id}[{payload}]"
        return Encoded(text, text_frame(text))

    def connected(self, namespace: str, sid: str, pid: str, recovered: bool) -> Encoded:
        """Return the answer to CONNECT. A client knows that it was recovered by the sid and pid it had."""
        names = {"sid": sid, "pid": pid} if pid and self.recovery else {"sid": sid}
        return encoded(f"40{_prefix(namespace)}{json.dumps(names)}")

    def refused(self, namespace: str, code: str, message: str) -> Encoded:
        """Return a CONNECT_ERROR: the client's `err.message` is the code, `err.data` has both."""
        error: dict[str, Any] = {"message": message}
        if code:
            error = {"message": code, "data": {"code": code, "message": message}}
        return encoded(f"44{_prefix(namespace)}{json.dumps(error)}")

    def left(self, namespace: str) -> Encoded:
        return encoded(f"41{_prefix(namespace)}")


def _prefix(namespace: str) -> str:
    return "" if namespace == "/" else namespace + ","


@lru_cache(1024)  # names come from the code, but also from whoever publishes: bounded
def _event_head(namespace: str, name: str) -> tuple[str, str]:
    return f"42{_prefix(namespace)}", json.dumps(name)


def _with_bytes(kind: str, namespace: str, ack_id: int | None, items: list[object]) -> Encoded:
    number = "" if ack_id is None else str(ack_id)
    attachments: list[bytes] = []
    bare = take_out(items, attachments)
    if not attachments:
        return encoded(f"4{kind}{_prefix(namespace)}{number}{json.dumps(items)}")
    kind = BINARY_EVENT if kind == EVENT else BINARY_ACK
    head = f"4{kind}{len(attachments)}-{_prefix(namespace)}{number}"
    return encoded(head + json.dumps(bare), attachments=tuple(attachments))


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
    """A binary packet whose attachments are still to come."""

    packet: Call | Ack
    expected: int
    attachments: list[bytes]
    number: int
    kept: bool  # does the event take attachments? Else each counts as an empty one


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
        """A client that was in may still have sent something; one that was refused has nothing to say there."""
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
        """Return what a packet says. Raises WireError.

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
        raise WireError("unknown packet type")  # CONNECT_ERROR, too, is not for clients to send

    def receive_binary(self, data: bytes) -> Sequence[Inbound]:
        """Return the packet whose last attachment this is. Raises WireError; TooBig."""
        pending = self._pending
        if pending is None:
            if not self._namespaces:
                raise WireError("binary data before any CONNECT: does it use another parser, such as msgpack?")
            raise WireError("an attachment of nothing")
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
        if self._namespaces.get(packet.namespace) not in _INSIDE:  # expelled while they came
            return ()
        if isinstance(packet, Call):
            return (Call(packet.namespace, packet.event, packet.payload, packet.ack_id, attachments),)
        return (Ack(packet.namespace, packet.ack_id, packet.payload, attachments),)

    # ── one kind of packet each ────────────────────────────────────────────────────────────────────────────────────

    def _connect(self, text: str) -> Sequence[Inbound]:
        if len(text) > self._limits.max_connect_bytes:  # also of one who has joined something
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
        namespace = sys.intern(namespace)  # thousands of clients hold the same few
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
            return ()  # Node: an event without payload is accepted and ignored
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
        # Without an id it answers nothing; as unknown ids, it is ignored.
        return () if ack_id is None else (Ack(namespace, ack_id, Raw(arguments.encode("utf-8", "replace"))),)

    def _binary(self, text: str) -> Sequence[Inbound]:
        """Remember the packet and wait for its attachments, to keep or to skip them.

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
        self._is_joined(namespace)  # an expelled client's attachments must be read, too; they end with the packet
        packets: Sequence[Call | Ack] = (
            self._event(text, at, namespace) if text[0] == BINARY_EVENT else self._ack(text, at, namespace)
        )
        start = text.find("[", at)
        if not packets or start < 0:
            raise WireError("attachments of nothing")
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
        """Return the namespace that begins at `at` ("/" if none does) and where the packet goes on."""
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
        """Return the number at `at`, None if there is none, and where it ends: at "[" or at the end of the text."""
        end = text.find("[", at, at + MAX_ACK_DIGITS + 1)
        if end < 0:
            end = len(text)
        digits = text[at:end]
        if not digits:
            return None, end
        if len(digits) > MAX_ACK_DIGITS or not (digits.isascii() and digits.isdigit()):
            raise WireError("ack id")
        return int(digits), end
