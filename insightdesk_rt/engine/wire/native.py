"""The JSON protocol of /rt/<namespace>: one websocket per namespace, one JSON object per text frame.

    C→S {"event":"connect","data":{"token":"…","pid":"…","offset":"…"}}     first
    S→C {"event":"connect","data":{"sid":"…","pid":"…","recovered":false}}
    C→S {"event":"ticket:subscribe","data":{"ticketId":"42"},"id":7}        id asks for an ack
    S→C {"ack":7,"data":{…}}

An event of the server that expects an ack has an `id`, and the client answers {"ack":id,"data":…} the same way. Calls
may follow `connect` at once; they wait until it is answered. JSON has no bytes, so bytes in a value are sent as base64.
The heartbeat is RFC 6455's ping, and any byte of the peer counts as the answer.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.rate_limits import ANY
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import Ack, Call, Codec, Connect, Encoded, Inbound
from insightdesk_rt.engine.wire.frames import encoded, ping_frame, text_frame
from insightdesk_rt.engine.wire.limits import LATE_MS, PacketLimits
from insightdesk_rt.engine.wire.socketio import check_event_name

MAX_ID = 2**53  # the largest integer of JavaScript

PING = Encoded("", ping_frame())


class Frame(Struct, frozen=True, gc=False):
    """What a client may send: an event (with or without an id) or an ack. Other members are ignored."""

    event: str | UnsetType = UNSET
    data: Raw = Raw()
    id: int | None = None
    ack: int | UnsetType = UNSET


_frame = msgspec.json.Decoder(Frame)


class NativeCodec:
    """Encodes the server's frames. With `recovery` it sends a pid, and the offset with each logged event."""

    __slots__ = ("plain", "recovery")

    def __init__(self, recovery: bool = True) -> None:
        self.recovery = recovery
        self.plain: Codec = NativeCodec(recovery=False) if recovery else self

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
        """Return {"event","data","offset","id"}; all but the first are optional. hot: once per event."""
        text = _head(name)
        if payload:
            text = f'{text},"data":{payload}'
        if offset and self.recovery:
            text = f'{text},"offset":"{offset}"'
        text = f"{text}}}" if ack_id is None else f'{text},"id":{ack_id}}}'
        return Encoded(text, text_frame(text), volatile=volatile)

    def ack(self, namespace: str, ack_id: int, data: object) -> Encoded:
        return self.ack_text(namespace, ack_id, json.dumps(_as_base64(data)))

    def ack_text(self, namespace: str, ack_id: int, payload: str) -> Encoded:
        return encoded(f'{{"ack":{ack_id},"data":{payload or "null"}}}')

    def connected(self, namespace: str, sid: str, pid: str, recovered: bool) -> Encoded:
        data: dict[str, Any] = {"sid": sid, "recovered": recovered}
        if pid and self.recovery:
            data = {"sid": sid, "pid": pid, "recovered": recovered}
        return self.event(namespace, "connect", json.dumps(data))

    def refused(self, namespace: str, code: str, message: str) -> Encoded:
        error = {"code": code, "message": message} if code else {"message": message}
        return self.event(namespace, "connect_error", json.dumps(error))

    def left(self, namespace: str) -> Encoded:
        return self.event(namespace, "disconnect", "")


@lru_cache(1024)  # bounded, because back ends publish events under names of their own
def _head(name: str) -> str:
    return f'{{"event":{json.dumps(name)}'


def _as_base64(value: Any, depth: int = 0) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode()
    if depth > json.MAX_DEPTH:
        raise json.BadJson(f"nested deeper than {json.MAX_DEPTH}")
    if isinstance(value, dict):
        return {key: _as_base64(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_base64(item, depth + 1) for item in value]
    return value


class NativePhase(Enum):
    NEW = "new"  # nothing but `connect` may come
    ASKED = "asked"  # calls may come; they wait for the answer
    JOINED = "joined"
    DROPPED = "dropped"  # refused or expelled: the transport is about to close, input is ignored


class NativeSession:
    """One client's side of one namespace."""

    __slots__ = (
        "_due_ms",
        "_interval_ms",
        "_limits",
        "_namespace",
        "_phase",
        "_pinged_ms",
        "_timeout_ms",
        "codec",
    )

    skips_binary = False  # a binary message closes the connection
    unfinished = 0  # a message is one frame, so there is no unfinished packet

    def __init__(
        self,
        namespace: str,
        codec: NativeCodec,
        ping_interval_ms: int,
        ping_timeout_ms: int,
        limits: PacketLimits = PacketLimits(),
    ) -> None:
        self.codec: Codec = codec
        self._limits = limits
        self._namespace = namespace
        self._interval_ms = ping_interval_ms
        self._timeout_ms = ping_timeout_ms
        self._phase = NativePhase.NEW
        self._due_ms = 0
        self._pinged_ms: int | None = None  # when the last ping left, if nothing was heard since

    def opened(self, now_ms: int) -> Sequence[Encoded]:
        self._due_ms = now_ms + self._interval_ms
        return ()

    def receive(self, message: str | bytes, now_ms: int) -> Sequence[Inbound]:
        """Decode one text frame. Raises WireError: 1003 for a binary one, TooBig, 1002 for other violations."""
        if isinstance(message, bytes):
            raise WireError("binary frame", 1003)
        if self._phase is not NativePhase.JOINED:
            if self._phase is NativePhase.DROPPED:
                return ()
            if len(message) > self._limits.max_connect_bytes:
                why = f"over {self._limits.max_connect_bytes} bytes before connect"
                raise TooBig(why, limit_name="max_connect_bytes")
        try:
            frame = json.decode_outer(_frame, message)
        except json.BadJson as bad:
            raise WireError(f"frame: {bad.why}", limit_name=bad.limit_name) from None
        if (frame.event is UNSET) is (frame.ack is UNSET):
            raise WireError("a frame is an event or an ack")
        if frame.event == "connect":
            return self._connect(frame)
        if self._phase is NativePhase.NEW:
            raise WireError("the first frame is connect")
        return self._answer(frame) if frame.event is UNSET else self._call(frame)

    def _connect(self, frame: Frame) -> Sequence[Inbound]:
        if self._phase is not NativePhase.NEW:
            raise WireError("connect comes once")
        auth = frame.data if frame.data else Raw(b"{}")
        if bytes(auth)[:1] != b"{":
            raise WireError("connect: data is an object")
        try:
            json.check_depth(bytes(auth), self._limits.max_json_depth)
        except json.BadJson as bad:
            raise WireError(f"connect: {bad.why}", limit_name=bad.limit_name) from None
        self._phase = NativePhase.ASKED
        return (Connect(self._namespace, auth),)

    def _call(self, frame: Frame) -> Sequence[Inbound]:
        name = str(frame.event)
        check_event_name(name, self._limits)
        if frame.id is not None and not 0 <= frame.id <= MAX_ID:
            raise WireError("id")
        return (Call(self._namespace, name, frame.data, frame.id),)

    def _answer(self, frame: Frame) -> Sequence[Inbound]:
        assert isinstance(frame.ack, int)
        if not 0 <= frame.ack <= MAX_ID:
            raise WireError("ack")
        return (Ack(self._namespace, frame.ack, Raw(b"[%b]" % bytes(frame.data))),)

    # ── heartbeat ──────────────────────────────────────────────────────────────────────────────────────────────────

    def heard(self, now_ms: int) -> None:
        """Pongs do not reach `receive`, so any byte of the peer counts as one."""
        self._pinged_ms = None

    def heartbeat(self, now_ms: int) -> Encoded | None:
        if self._pinged_ms is not None or now_ms < self._due_ms:
            return None
        self._pinged_ms = now_ms
        late_ms = now_ms - self._due_ms
        self._due_ms = (now_ms if late_ms > LATE_MS else self._due_ms) + self._interval_ms
        return PING

    def due_ms(self) -> int:
        return self._due_ms

    def deadline_ms(self) -> int:
        return self._due_ms if self._pinged_ms is None else self._pinged_ms + self._timeout_ms

    def dead(self, now_ms: int) -> bool:
        return self._pinged_ms is not None and now_ms >= self.deadline_ms()

    # ── its namespace ──────────────────────────────────────────────────────────────────────────────────────────────

    def accept(self, namespace: str) -> None:
        self._phase = NativePhase.JOINED

    def drop(self, namespace: str) -> None:
        self._phase = NativePhase.DROPPED

    @property
    def waiting(self) -> bool:
        return self._phase in (NativePhase.NEW, NativePhase.ASKED)

    @property
    def max_message_bytes(self) -> int:
        return ANY if self._phase is NativePhase.JOINED else self._limits.max_connect_bytes
