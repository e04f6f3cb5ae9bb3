"""EngineSession: one client's Engine.IO 4 state around its Socket.IO session: heartbeat, upgrade, close.

    phase      "2probe"          "5"                anything else     lost
    OPEN       PROBING, PONG     UPGRADED, UPGRADE  OPEN, REFUSE      OPEN
    PROBING    PROBING, PONG     UPGRADED, UPGRADE  OPEN, REFUSE      OPEN
    UPGRADED   REFUSE, always: it is on a websocket already
    CLOSING    REFUSE, always; other input is ignored

The table is about the messages of a second transport, the websocket that wants to replace polling. A refusal ends only
that websocket; the session continues on its old transport.

Heartbeat: the server pings `ping_interval_ms` after the open or after the previous ping was due, and the peer is dead
`ping_timeout_ms` after the ping or its last byte, whichever was later. Other traffic does not delay pings: a stock
client closes when no ping came for interval and timeout together. The interval counts from when the previous ping was
due, so that neither a late timer nor a slow pong adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from insightdesk_rt.engine.errors import WireError
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import Codec, Encoded, Inbound
from insightdesk_rt.engine.wire.engineio import PacketType, decode_binary
from insightdesk_rt.engine.wire.frames import encoded
from insightdesk_rt.engine.wire.limits import LATE_MS
from insightdesk_rt.engine.wire.socketio import SocketIOSession

PING = encoded(PacketType.PING)
NOOP = encoded(PacketType.NOOP)  # for polls only: a stock client's websocket never gets one
CLOSE = encoded(PacketType.CLOSE)  # for polls only: a websocket is closed by a close frame
PROBE_PONG = encoded(PacketType.PONG + "probe")


class EngineSettings(NamedTuple):
    ping_interval_ms: int = 25_000
    ping_timeout_ms: int = 30_000
    max_payload_bytes: int = 1_000_000
    upgrades: tuple[str, ...] = ("websocket",)


class Goodbye(Exception):
    """The client sent Engine.IO's close packet, which is not a violation. Close its connection as CLIENT_CLOSE."""


class EnginePhase(Enum):
    OPEN = "open"
    PROBING = "probing"
    UPGRADED = "upgraded"
    CLOSING = "closing"


class ProbeStep(Enum):
    """What is to be done about one message on the websocket that probes."""

    PONG = "pong"  # answer PROBE_PONG; answer the pending poll and every later one with NOOP
    UPGRADE = "upgrade"  # take over: end polling, send the queued messages in order
    REFUSE = "refuse"  # close only the probing websocket


_STEPS: dict[tuple[EnginePhase, str], tuple[EnginePhase, ProbeStep]] = {
    (EnginePhase.OPEN, "2probe"): (EnginePhase.PROBING, ProbeStep.PONG),
    (EnginePhase.OPEN, "5"): (EnginePhase.UPGRADED, ProbeStep.UPGRADE),  # Node takes it without a probe, too
    (EnginePhase.PROBING, "2probe"): (EnginePhase.PROBING, ProbeStep.PONG),
    (EnginePhase.PROBING, "5"): (EnginePhase.UPGRADED, ProbeStep.UPGRADE),
}


class EngineSession:
    """`on_websocket`: the client began on a websocket and has nothing to upgrade to."""

    __slots__ = ("_due_ms", "_heard_ms", "_inner", "_pinged_ms", "_settings", "codec", "phase", "sid")

    def __init__(
        self, sid: str, inner: SocketIOSession, settings: EngineSettings = EngineSettings(), on_websocket: bool = False
    ) -> None:
        self.sid = sid  # a secret of this client, unlike its Socket.IO sids
        self.codec: Codec = inner.codec
        self.phase = EnginePhase.UPGRADED if on_websocket else EnginePhase.OPEN
        self._inner = inner
        self._settings = settings
        self._due_ms = 0  # when the next ping leaves
        self._pinged_ms: int | None = None  # when the ping left that has no pong yet
        self._heard_ms = 0

    def opened(self, now_ms: int) -> Sequence[Encoded]:
        self._due_ms = now_ms + self._settings.ping_interval_ms
        hello = {
            "sid": self.sid,
            "upgrades": () if self.phase is EnginePhase.UPGRADED else self._settings.upgrades,
            "pingInterval": self._settings.ping_interval_ms,
            "pingTimeout": self._settings.ping_timeout_ms,
            "maxPayload": self._settings.max_payload_bytes,
        }
        return (encoded(PacketType.OPEN + json.dumps(hello)),)

    # ── what comes in ──────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, message: str | bytes, now_ms: int) -> Sequence[Inbound]:
        """Decode one message or packet: text with its type digit, or bytes.

        hot: once per message. Raises WireError; Goodbye for the close packet.
        """
        if self.phase is EnginePhase.CLOSING:
            return ()
        if isinstance(message, bytes):
            return self._inner.receive_binary(message)
        kind = message[:1]
        if kind == "4":
            return self._inner.receive_text(message[1:])
        if kind == "3":
            self._pinged_ms = None  # an unsolicited pong has no effect (CVE-2026-48802)
            return ()
        if kind == "b":
            return self._inner.receive_binary(decode_binary(message))
        if kind == "1":
            self.phase = EnginePhase.CLOSING
            raise Goodbye
        if kind == "2":
            raise WireError("invalid heartbeat direction")  # "2probe" too, where nothing is being upgraded
        if kind in ("0", "5", "6"):
            return ()  # as Node does
        raise WireError("unknown packet type")

    # ── heartbeat ──────────────────────────────────────────────────────────────────────────────────────────────────

    def heard(self, now_ms: int) -> None:
        self._heard_ms = now_ms

    def heartbeat(self, now_ms: int) -> Encoded | None:
        if self._pinged_ms is not None or now_ms < self._due_ms or self.phase is EnginePhase.CLOSING:
            return None
        self._pinged_ms = self._due_ms if now_ms - self._due_ms <= LATE_MS else now_ms
        self._due_ms = self._pinged_ms + self._settings.ping_interval_ms
        return PING

    def due_ms(self) -> int:
        return self._due_ms

    def deadline_ms(self) -> int:
        if self._pinged_ms is None:
            return self._due_ms
        return max(self._pinged_ms, self._heard_ms) + self._settings.ping_timeout_ms

    def dead(self, now_ms: int) -> bool:
        return self._pinged_ms is not None and now_ms >= self.deadline_ms()

    # ── upgrade and end ────────────────────────────────────────────────────────────────────────────────────────────

    def probe(self, message: str | bytes) -> ProbeStep:
        """Return what to do about a message of the probing websocket. See the table above."""
        step = _STEPS.get((self.phase, message)) if isinstance(message, str) else None
        if step is None:
            self.probe_lost()
            return ProbeStep.REFUSE
        self.phase = step[0]
        return step[1]

    def probe_lost(self) -> None:
        """The probing websocket closed or exceeded the upgrade timeout: polling goes on."""
        if self.phase is EnginePhase.PROBING:
            self.phase = EnginePhase.OPEN

    # ── namespaces ─────────────────────────────────────────────────────────────────────────────────────────────────

    def accept(self, namespace: str) -> None:
        self._inner.accept(namespace)

    def drop(self, namespace: str) -> None:
        self._inner.drop(namespace)

    @property
    def waiting(self) -> bool:
        return self._inner.waiting

    @property
    def unfinished(self) -> int:
        return self._inner.unfinished

    @property
    def max_message_bytes(self) -> int:
        return self._inner.max_message_bytes

    @property
    def skips_binary(self) -> bool:
        return self._inner.skips_binary
