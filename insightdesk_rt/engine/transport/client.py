"""Client: one connected peer, across its transports. Combines a session (which knows what bytes mean), an outbox (what
is still to be sent) and the current transport. Closes the peer when it times out, and ends exactly once.

    polling ──probe()──▶ polling + probing websocket ──"5"──▶ websocket

While a websocket probes, polling stays the transport: queued messages leave by it, its POSTs are processed, and every
GET is answered at once, because stock clients wait for their last GET before they send "5". Unwritten messages stay in
the outbox, so the switch is one assignment and the order is kept. A probe that fails ends alone; the client goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from insightdesk_rt.engine.errors import ERRORS, CloseReason, TooBig, WireError
from insightdesk_rt.engine.rate_limits import counted_as
from insightdesk_rt.engine.transport.base import Transport
from insightdesk_rt.engine.transport.outbox import Outbox
from insightdesk_rt.engine.transport.polling import PollingTransport
from insightdesk_rt.engine.transport.registry import Registry
from insightdesk_rt.engine.wire.codec import Ack, Call, Codec, Connect, Encoded, Leave, WireSession
from insightdesk_rt.engine.wire.engine import PROBE_PONG, EngineSession, Goodbye, ProbeStep
from insightdesk_rt.engine.wire.native import NativeSession

RECHECK_MS = 1_000  # between checks of a peer whose pong is later than the next ping was due


NOTHING_FORWARDED: Mapping[str, str] = MappingProxyType({})  # one object for all clients


class Receiver(Protocol):
    """Receives what clients send; engine/dispatch implements it.

    No method may block or raise, and none is called for a client after `client_ended`.
    """

    def connect_received(self, client: Client, ask: Connect) -> None: ...

    def call_received(self, client: Client, call: Call) -> None: ...

    def ack_received(self, client: Client, ack: Ack) -> None: ...

    def leave_received(self, client: Client, namespace: str) -> None: ...

    def client_ended(self, client: Client, why: CloseReason) -> None: ...


class Client:
    __slots__ = (
        "_connects_from_ms",
        "_probe",
        "_receiver",
        "_registry",
        "_unfinished",
        "_unfinished_ms",
        "address",
        "agent",
        "bearer",
        "connected_at_s",
        "connects",
        "forwarded",
        "gone",
        "heard_ms",
        "id",
        "outbox",
        "recovers",
        "session",
        "sockets",
        "transport",
    )

    def __init__(
        self,
        session: WireSession,
        receiver: Receiver,
        registry: Registry[Client],
        *,
        id: str = "",
        address: str = "",
        agent: str = "",
        bearer: str = "",
    ) -> None:
        self.id = id or registry.new_id()
        self.address = address
        self.agent = agent
        self.bearer = bearer  # token of the upgrade request's Authorization header; native protocol only
        self.forwarded = NOTHING_FORWARDED  # headers of its first request that `connect_url` is sent
        self.session = session
        self.outbox = Outbox(registry.limits, registry.flusher)
        self.transport: Transport | None = None
        self.sockets: dict[str, Any] = {}  # namespace → hub Socket; owned by dispatch
        self.connected_at_s = 0.0  # Unix seconds, for people
        self.heard_ms = 0  # monotonic
        self.connects = 0  # CONNECTs, refused ones too, since _connects_from_ms
        self.gone = False
        self.recovers = True  # it is sent a pid and offsets, unless its CONNECT declines them
        self._receiver = receiver
        self._registry = registry
        self._probe: Transport | None = None
        self._connects_from_ms = 0
        self._unfinished = 0  # the unfinished message at the last check, and since when
        self._unfinished_ms = 0

    @property
    def codec(self) -> Codec:
        return self.session.codec

    @property
    def native(self) -> bool:
        """Does the client use the native protocol: one namespace per connection, with close codes?"""
        return isinstance(self.session, NativeSession)

    @property
    def last_seen(self) -> float:
        """Unix seconds of the last byte the client sent; never before it connected, as the two clocks differ."""
        return max(self.connected_at_s, time.time() - (self._registry.now_ms() - self.heard_ms) / 1000)

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, transport: Transport) -> None:
        """Register the client and queue its session's first messages. The transport starts reading afterwards."""
        registry = self._registry
        now_ms = self.heard_ms = registry.now_ms()
        self.connected_at_s = time.time()
        self.transport = self.outbox.transport = transport
        registry.clients[self.id] = self
        registry.addresses.enter(counted_as(self.address))
        registry.opened[transport.name] += 1
        for message in self.session.opened(now_ms):
            self.outbox.put(message)
        self._arm(now_ms)
        if registry.connect_timeout_ms:
            registry.wheel.later(("connect", self), registry.connect_timeout_ms, self._connect_late)

    def close(self, why: CloseReason, code: int = 0) -> None:
        """End the client: send what is queued, close the transport, notify the receiver. Idempotent."""
        if self.gone:
            return
        transport = self.transport
        last = [] if why is CloseReason.SLOW_CONSUMER else self.outbox.take()
        self._end(why)
        if transport is not None:
            if last:
                transport.write(last)
            transport.close(why, code)
        self._receiver.client_ended(self, why)

    def lost(self, transport: Transport, why: CloseReason) -> None:
        """The peer ended the transport. A probing transport ends alone; the current one ends the client."""
        if transport is self._probe:
            self._end_probe()
        elif transport is self.transport and not self.gone:
            self._end(why)
            self._receiver.client_ended(self, why)

    def _end(self, why: CloseReason) -> None:
        self.gone = True
        registry = self._registry
        if registry.clients.pop(self.id, None) is not None:
            registry.addresses.leave(counted_as(self.address))
        registry.closed[why] += 1
        for listener in registry.on_end:
            listener(self, why)
        registry.intake.forget(self)
        registry.wheel.cancel(self)
        registry.wheel.cancel(("connect", self))
        if self._probe is not None:
            probe = self._probe
            self._end_probe()
            probe.close(why)
        self.outbox.close()

    # ── input ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def heard(self) -> None:
        """Note that bytes came, complete messages or not. hot: once per wake-up of a transport."""
        now_ms = self.heard_ms = self._registry.now_ms()
        self.session.heard(now_ms)

    def received(self, transport: Transport, message: str | bytes) -> None:
        """Take one message of a transport, after `heard`. hot: once per message."""
        if transport is not self.transport:
            self._probed(transport, message)
            return
        try:
            inbound = self.session.receive(message, self.heard_ms)
        except Goodbye:
            self.close(CloseReason.CLIENT_CLOSE)
            return
        except WireError as wrong:
            self.violated(transport, wrong, spoken=self.native or isinstance(wrong, TooBig))
            return
        for each in inbound:
            if self.gone:
                return
            kind = type(each)
            if kind is Call:
                self._receiver.call_received(self, each)  # type: ignore[arg-type]
            elif kind is Ack:
                self._receiver.ack_received(self, each)  # type: ignore[arg-type]
            elif kind is Connect:
                if not self._floods():
                    self._receiver.connect_received(self, each)  # type: ignore[arg-type]
            elif kind is Leave:
                self._receiver.leave_received(self, each.namespace)

    def _floods(self) -> bool:
        """Count a CONNECT. If there were too many within a minute, close the client and return True."""
        limit, now_ms = self._registry.max_connects_per_minute, self._registry.now_ms()
        if now_ms - self._connects_from_ms >= 60_000:
            self._connects_from_ms, self.connects = now_ms, 0
        self.connects += 1
        if not limit or self.connects <= limit:
            return False
        self.close(CloseReason.CONNECT_FLOOD)
        return True

    def holds(self, held_bytes: int) -> None:
        """Set how many bytes of an unfinished message this client holds. Too many close it, or another client."""
        excess = self._registry.intake.hold(self, held_bytes)
        if excess is not None:
            excess.client.holds_too_much(excess.limit_name)

    def holds_too_much(self, limit_name: str) -> None:
        """Close the client: its unfinished message exceeds a limit of its user or of the node."""
        if self.transport is not None:
            wrong = WireError("unfinished messages take too many bytes", 1008, limit_name=limit_name)
            self.violated(self.transport, wrong, spoken=self.native)

    def violated(self, transport: Transport, wrong: WireError, *, spoken: bool = True) -> None:
        """Close the transport because the peer broke the protocol. `spoken`: send the error's close code."""
        if wrong.limit_name:
            self._registry.over_limit[wrong.limit_name] += 1
        why = CloseReason.TOO_BIG if isinstance(wrong, TooBig) else CloseReason.PARSE_ERROR
        if why is CloseReason.PARSE_ERROR and self.session.waiting and transport is self.transport:
            self._registry.log_not_understood(wrong.why, self.address, self.agent)
        code = wrong.close if spoken else 0
        if transport is self._probe:
            self._end_probe()
            transport.close(why, code)
        elif transport is self.transport:
            self.close(why, code)

    # ── output ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, message: Encoded) -> None:
        """Queue a message. A client that is too far behind is closed instead."""
        why = self.outbox.put(message)
        if why is not None:
            self.close(why)

    def leave(self, namespace: str) -> None:
        """Disconnect the client from the namespace. On the native protocol that ends its connection."""
        if self.gone:
            return
        self.session.drop(namespace)
        self.send(self.session.codec.left(namespace))
        if self.native:
            self.close(CloseReason.SERVER_LEFT)

    def dismiss(self, why: CloseReason) -> None:
        """End the client in such a way that a stock client does not reconnect by itself."""
        if not self.native:
            for namespace in tuple(self.sockets):
                self.leave(namespace)
        self.close(why)

    def refused(self, namespace: str, code: str) -> None:
        """The client was refused in the namespace and has been sent this error code ("" if there is none)."""
        if self.gone:
            return
        self.session.drop(namespace)
        if self.native:
            self.close(CloseReason.SERVER_LEFT, ERRORS[code].close if code in ERRORS else 0)

    # ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def overdue(self) -> bool:
        """Close the client if it is past its ping timeout, without waiting for its timer. Returns whether it ended."""
        if not self.gone and self.session.dead(self._registry.now_ms()):
            self.close(CloseReason.PING_TIMEOUT)
        return self.gone

    def _arm(self, now_ms: int) -> None:
        # While a ping is unanswered the deadline is far, but after the pong the next ping is due earlier. Looking again
        # then is cheaper than computing the deadline whenever something comes.
        next_ms = self.session.due_ms() - now_ms
        wait_ms = min(self.session.deadline_ms() - now_ms, next_ms if next_ms > 0 else RECHECK_MS)
        if self._unfinished:
            wait_ms = min(wait_ms, self._unfinished_ms + self._registry.message_timeout_ms - now_ms)
        self._registry.wheel.later(self, max(wait_ms, 0), self._tick)

    def _tick(self) -> None:
        if self.overdue():
            return
        now_ms = self._registry.now_ms()
        self._look_at_unfinished(now_ms)
        if self.gone:
            return
        ping = self.session.heartbeat(now_ms)
        if ping is not None:
            self.send(ping)
        if not self.gone:
            self._arm(now_ms)

    def _look_at_unfinished(self, now_ms: int) -> None:
        """Close the client if its incoming message is unfinished for too long.

        Checked with the heartbeat. That needs no timer per message, but may give it up to an interval more.
        """
        transport = self.transport
        if transport is None or not self._registry.message_timeout_ms:
            return
        unfinished = self.session.unfinished or transport.unfinished
        if not unfinished or unfinished != self._unfinished:
            self._unfinished, self._unfinished_ms = unfinished, now_ms
        elif now_ms - self._unfinished_ms >= self._registry.message_timeout_ms:
            wrong = WireError("a message was not finished in time", 1008, limit_name="message_timeout_s")
            self.violated(transport, wrong, spoken=self.native)

    def _connect_late(self) -> None:
        if self.session.waiting:
            self.close(CloseReason.CONNECT_TIMEOUT)

    # ── upgrade ────────────────────────────────────────────────────────────────────────────────────────────────────

    def probe(self, transport: Transport) -> bool:
        """Let a second transport try to take over. False: another one has or is trying; close the new one."""
        if self.gone or self._probe is not None or not isinstance(self.transport, PollingTransport):
            return False
        self._probe = transport
        if self._registry.upgrade_timeout_ms:
            self._registry.wheel.later(("probe", self), self._registry.upgrade_timeout_ms, self._probe_late)
        return True

    def _probed(self, transport: Transport, message: str | bytes) -> None:
        polling, session = self.transport, self.session
        if transport is not self._probe or not isinstance(polling, PollingTransport):
            return  # from a transport that has been replaced
        assert isinstance(session, EngineSession)
        match session.probe(message):
            case ProbeStep.PONG:
                transport.write([PROBE_PONG])
                polling.hurry(True)
            case ProbeStep.UPGRADE:
                self._end_probe()
                self._registry.upgraded += 1
                self.transport = self.outbox.transport = transport
                polling.retire()
                self.outbox.drained()
            case ProbeStep.REFUSE:
                self._end_probe()
                transport.close(CloseReason.PARSE_ERROR)

    def _probe_late(self) -> None:
        probe = self._probe
        self._end_probe()
        if probe is not None:
            self._registry.over_limit["upgrade_timeout_s"] += 1
            probe.close(CloseReason.TRANSPORT_ERROR)

    def _end_probe(self) -> None:
        self._probe = None
        self._registry.wheel.cancel(("probe", self))
        if isinstance(self.session, EngineSession):
            self.session.probe_lost()
        if isinstance(self.transport, PollingTransport):
            self.transport.hurry(False)
