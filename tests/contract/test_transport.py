"""One suite for every kind of connection: polling, websocket, websocket over TLS, with deflate, native.

The guarantees to receiver and client do not depend on the transport: order, a single end, bounded memory. Add a Peer
below for a new transport.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.intake import Intake
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.wire.codec import Call
from tests.support.aio import aio, until
from tests.support.certificates import contexts
from tests.support.door import Door, Http, RawSocket, door, frame

OPEN = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"

Heard = tuple[str | int, Any]  # name of an event or id of an ack, and its data


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def heard(text: str) -> Heard | None:
    """Decode a Socket.IO packet in /tickets."""
    if text.startswith("42/tickets,"):
        name, data = json.loads(text[11:])
        return name, data
    if text.startswith("43/tickets,"):
        ack_id, _, rest = text[11:].partition("[")
        return int(ack_id), json.loads("[" + rest)[0]
    return None


class Peer:
    """A client in /tickets."""

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    closes: ClassVar[dict[CloseReason, int]] = {}  # close codes it receives; {}: none

    def __init__(self, door: Door) -> None:
        self.door = door
        self.answers_pings = True

    async def open(self) -> None: ...

    async def call(self, name: str, data: Any, ack_id: int | None = None) -> None: ...

    async def next(self) -> Heard:
        """Return the next event or ack. Raises EOFError when the server has ended the connection."""
        raise NotImplementedError

    async def vanish(self) -> None:
        """End without a close frame or packet."""

    async def leave(self) -> None:
        """End with a close frame or packet."""


class PollingPeer(Peer):
    name = "polling"

    async def open(self) -> None:
        self.gets, self.posts = await Http.to(self.door), await Http.to(self.door)
        opened = await self.gets.ask("GET", OPEN)
        self.target = f"{OPEN}&sid={json.loads(opened.body[1:])['sid']}"
        self.waiting: list[str] = []
        await self.post("40/tickets,")
        assert (await self.gets.ask("GET", self.target)).body.startswith("40/tickets,")

    async def post(self, packet: str) -> int:
        return (await self.posts.ask("POST", self.target, packet.encode())).status

    async def call(self, name: str, data: Any, ack_id: int | None = None) -> None:
        await self.post(f"42/tickets,{'' if ack_id is None else ack_id}{json.dumps([name, data])}")

    async def next(self) -> Heard:
        while True:
            while self.waiting:
                packet = self.waiting.pop(0)
                if packet == "2" and self.answers_pings:
                    await self.post("3")
                if packet == "1":
                    raise EOFError
                if (said := heard(packet)) is not None:
                    return said
            answer = await self.gets.ask("GET", self.target)
            if answer.status != 200:
                raise EOFError
            self.waiting = answer.body.split("\x1e")

    async def vanish(self) -> None:
        self.gets.send("GET", self.target)
        await until(lambda: self.door.client().transport.writable, "the GET is parked")  # type: ignore[union-attr]
        self.gets.writer.transport.abort()

    async def leave(self) -> None:
        await self.post("1")


class SocketPeer(Peer):
    name = "websocket"
    target: ClassVar[str] = WEBSOCKET

    async def open(self) -> None:
        self.socket = await RawSocket.to(self.door, self.target, **self.how())
        await self.join()

    def how(self) -> dict[str, Any]:
        return {}

    async def join(self) -> None:
        assert (await self.socket.text())[0] == "0"
        self.socket.say("40/tickets,")
        assert (await self.socket.text()).startswith("40/tickets,")

    async def call(self, name: str, data: Any, ack_id: int | None = None) -> None:
        self.socket.say(f"42/tickets,{'' if ack_id is None else ack_id}{json.dumps([name, data])}")

    async def next(self) -> Heard:
        while True:
            try:
                opcode, payload = await self.socket.receive()
            except (asyncio.IncompleteReadError, ConnectionError):
                raise EOFError from None
            if opcode == 8:
                self.closed_with = int.from_bytes(payload[:2], "big") if payload else 1005
                self.socket.send(frame(8, payload))
                await self.socket.close()
                raise EOFError
            if opcode == 9 and self.answers_pings:
                self.socket.send(frame(10, payload))
            if opcode == 1 and (said := self.read(payload.decode())) is not None:
                return said

    def read(self, text: str) -> Heard | None:
        if text == "2" and self.answers_pings:
            self.socket.say("3")
        return heard(text)

    async def vanish(self) -> None:
        self.socket.http.writer.transport.abort()

    async def leave(self) -> None:
        self.socket.send(frame(8, b"\x03\xe8"))


class TlsPeer(SocketPeer):
    name = "tls"

    def how(self) -> dict[str, Any]:
        return {"ssl": contexts()[1]}


class NativePeer(SocketPeer):
    name = "native"
    target = "/rt/tickets"
    closes = {CloseReason.SHUTDOWN: 1012, CloseReason.SLOW_CONSUMER: 4301, CloseReason.PING_TIMEOUT: 4300}

    async def join(self) -> None:
        self.socket.say('{"event":"connect","data":{"token":"t"}}')
        assert json.loads(await self.socket.text())["event"] == "connect"

    async def call(self, name: str, data: Any, ack_id: int | None = None) -> None:
        ask = {"event": name, "data": data}
        self.socket.say(json.dumps(ask if ack_id is None else {**ask, "id": ack_id}))

    def read(self, text: str) -> Heard | None:
        said = json.loads(text)
        return (said["ack"] if "ack" in said else said["event"], said.get("data"))


class NativeTlsPeer(NativePeer):
    name = "native-tls"

    def how(self) -> dict[str, Any]:
        return {"ssl": contexts()[1]}


class DeflatePeer(Peer):
    name = "deflate"
    settings = {"websocket_deflate": True}

    async def open(self) -> None:
        url = f"ws://127.0.0.1:{self.door.number}{WEBSOCKET}"
        self.ws: ClientConnection = await connect(
            url, compression="deflate", max_queue=1, ping_interval=None, proxy=None
        )
        assert any("deflate" in type(extension).__module__ for extension in self.ws.protocol.extensions)
        assert str(await self.ws.recv())[0] == "0"
        await self.ws.send("40/tickets,")
        assert str(await self.ws.recv()).startswith("40/tickets,")

    async def call(self, name: str, data: Any, ack_id: int | None = None) -> None:
        await self.ws.send(f"42/tickets,{'' if ack_id is None else ack_id}{json.dumps([name, data])}")

    async def next(self) -> Heard:
        while True:
            try:
                text = str(await self.ws.recv())
            except ConnectionClosed as closed:
                self.closed_with = closed.rcvd.code if closed.rcvd is not None else 1006
                raise EOFError from None
            if text == "2" and self.answers_pings:
                await self.ws.send("3")
            if (said := heard(text)) is not None:
                return said

    async def vanish(self) -> None:
        self.ws.transport.abort()

    async def leave(self) -> None:
        await self.ws.close()


PEERS = [PollingPeer, SocketPeer, TlsPeer, DeflatePeer, NativePeer, NativeTlsPeer]
SOCKETS = PEERS[1:]
each = pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
FRAMED = [kind for kind in SOCKETS if kind is not DeflatePeer]  # those whose frames the tests write by hand
each_socket = pytest.mark.parametrize("kind", SOCKETS, ids=lambda kind: kind.name)
each_framed = pytest.mark.parametrize("kind", FRAMED, ids=lambda kind: kind.name)


def open_door(kind: type[Peer], **settings: Any) -> AbstractAsyncContextManager[Door]:
    context = contexts()[0] if "tls" in kind.name else None
    return door(tls=context, **{**kind.settings, **settings})


async def joined(kind: type[Peer], d: Door) -> Any:
    peer = kind(d)
    await peer.open()
    return peer


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@each
@aio
async def test_events_arrive_in_order(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        d.emit(*range(100))
        for number in range(100, 110):
            await asyncio.sleep(0.001)
            d.emit(number)
        assert [(await peer.next())[1] for _ in range(110)] == [str(number) for number in range(110)]


@each
@aio
async def test_calls_arrive_in_order_and_are_answered_in_order(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        for number in range(30):
            await peer.call("n", number, number)
        assert [await peer.next() for _ in range(30)] == [(number, number) for number in range(30)]
        assert d.recorder.payloads() == [str(number) for number in range(30)]


@each
@aio
async def test_large_messages_pass_both_ways(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        for size in (125, 126, 65_535, 65_536, 300_000):
            await peer.call("big", "€" * (size // 3), 1)
            assert await peer.next() == (1, "€" * (size // 3))


@each
@aio
async def test_messages_queued_before_the_end_are_sent_before_it(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        client = d.client()
        d.emit(1, 2)
        client.close(CloseReason.SHUTDOWN)
        d.emit_to(client, 3)
        assert [(await peer.next())[1] for _ in range(2)] == ["1", "2"]
        with pytest.raises(EOFError):
            await peer.next()
        assert d.recorder.ends == [CloseReason.SHUTDOWN]


# ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@each
@aio
async def test_an_end_by_the_server_is_reported_to_the_receiver_once(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        client = d.client()
        client.close(CloseReason.SHUTDOWN)
        client.close(CloseReason.KICKED)
        with pytest.raises(EOFError):
            await peer.next()
        if not isinstance(peer, PollingPeer):
            assert peer.closed_with == kind.closes.get(CloseReason.SHUTDOWN, 1005)
        assert d.recorder.ends == [CloseReason.SHUTDOWN]
        assert d.registry.clients == {} and client.gone and d.registry.closed == {CloseReason.SHUTDOWN: 1}
        await until(lambda: not d.registry._lingering, "no transport lingers once the peer has answered")
        if not isinstance(peer, PollingPeer):
            assert len(d.wheel) == 0


@each
@aio
async def test_a_lost_connection_ends_its_client_at_once(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        await peer.vanish()
        await until(lambda: d.recorder.ends, "the receiver is told")
        assert d.recorder.ends[0] in (CloseReason.TRANSPORT_ERROR, CloseReason.TRANSPORT_CLOSE)
        kept = isinstance(peer, PollingPeer)  # the connection that its POSTs came on
        assert d.registry.clients == {} and len(d.wheel) == kept


@each
@aio
async def test_a_closing_client_ends_and_its_close_is_answered(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        await peer.leave()
        await until(lambda: d.recorder.ends, "the receiver is told")
        if isinstance(peer, SocketPeer):
            assert await peer.socket.closed() == 1000
        elif isinstance(peer, DeflatePeer):
            assert peer.ws.close_code == 1000
        expected = CloseReason.CLIENT_CLOSE if kind is PollingPeer else CloseReason.TRANSPORT_CLOSE
        assert d.recorder.ends == [expected]


@each
@aio
async def test_nothing_is_received_after_the_end(kind: type[Peer]) -> None:
    """A handler that closes its client gets none of its later calls."""
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        d.recorder.on_call = lambda client, call: client.close(CloseReason.KICKED)
        if isinstance(peer, PollingPeer):
            await peer.post('42/tickets,["a",1]\x1e42/tickets,["b",2]')
        else:
            await peer.call("a", 1)
            await peer.call("b", 2)
        with pytest.raises(EOFError):
            await peer.next()
        assert d.recorder.ends == [CloseReason.KICKED]
        assert [call.event for call in d.recorder.calls] == ["a"]


@each
@aio
async def test_closing_all_clients_is_quick_and_complete(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peers = [await joined(kind, d) for _ in range(5)]

        async def ends(peer: Any) -> None:
            with pytest.raises(EOFError):
                await peer.next()

        waiting = [asyncio.create_task(ends(peer)) for peer in peers]
        await asyncio.sleep(0.01)
        await d.registry.close(CloseReason.SHUTDOWN, 5)
        await asyncio.gather(*waiting)
        assert d.recorder.ends == [CloseReason.SHUTDOWN] * 5
        assert d.registry.clients == {} and not d.registry._lingering


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pass_ms(d: Door, ms: int) -> None:
    """Advance the test's clock, which does not depend on the machine's speed."""
    d.skew_ms += ms
    d.wheel.turn()


@each
@aio
async def test_a_client_that_does_not_answer_pings_is_closed(kind: type[Peer]) -> None:
    async with open_door(kind, turning=False) as d:
        peer = await joined(kind, d)
        client = d.client()

        async def listen() -> None:
            with pytest.raises(EOFError):
                await peer.next()

        listening = asyncio.create_task(listen())
        for _ in range(4):
            before = client.heard_ms
            pass_ms(d, 25_100)
            await until(lambda before=before: client.heard_ms > before, "the ping is answered")  # type: ignore[misc]
            await until(lambda: not client.session.dead(d.wheel.now_ms() + 30_000), "the answer is counted")
        assert d.recorder.ends == []
        peer.answers_pings = False
        pass_ms(d, 25_100)
        pass_ms(d, 29_000)
        assert d.recorder.ends == []
        pass_ms(d, 1_100)
        assert d.recorder.ends == [CloseReason.PING_TIMEOUT]
        await listening
        if not isinstance(peer, PollingPeer):
            assert peer.closed_with == kind.closes.get(CloseReason.PING_TIMEOUT, 1005)


@each_framed
@aio
async def test_bytes_of_an_unfinished_message_keep_a_client_alive(kind: type[Peer]) -> None:
    async with open_door(kind, turning=False, message_timeout_ms=0) as d:
        peer = await joined(kind, d)
        client = d.client()
        text = b'42/tickets,["slow",1]' if "native" not in kind.name else b'{"event":"slow","data":1}'
        for byte in frame(1, text):
            before = client.heard_ms
            pass_ms(d, 20_000)
            peer.socket.send(bytes([byte]))
            await until(lambda before=before: client.heard_ms > before, "the byte arrived")  # type: ignore[misc]
        await until(lambda: d.recorder.calls, "the message")
        assert d.recorder.ends == []


@pytest.mark.parametrize("kind", [SocketPeer, NativePeer], ids=lambda kind: kind.name)
@aio
async def test_unfinished_bytes_of_all_connections_of_a_user_are_limited(kind: type[Peer]) -> None:
    """Otherwise each of a user's hundreds of connections could hold a megabyte of an unfinished message."""
    async with open_door(kind) as d:
        d.registry.intake = Intake(100_000, 1_000_000)
        one, two = [await joined(kind, d) for _ in range(2)]
        half = frame(1, b"x" * 70_000)[:60_000]
        one.socket.send(half)
        await until(lambda: d.registry.intake.total > 55_000, "the first half")
        two.socket.send(half)
        assert await one.socket.closed() == (1008 if kind is NativePeer else 1005)
        await until(lambda: len(d.registry.clients) == 1, "the connection that held most is closed")
        assert d.registry.over_limit["max_unfinished_bytes_per_user"] == 1
        two.socket.send(frame(1, b"x" * 70_000)[60_000:])
        await until(lambda: d.registry.intake.total == 0, "nothing is held after the end of messages and connections")


@aio
async def test_bodies_of_posts_count_as_unfinished_bytes() -> None:
    async with door() as d:
        d.registry.intake = Intake(100_000, 1_000_000)
        peers = [await joined(PollingPeer, d) for _ in range(2)]
        for peer in peers:
            head = f"POST {peer.target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n"
            peer.posts.writer.write(head.encode() + b"4" * 60_000)
        await until(lambda: len(d.registry.clients) == 1, "one is closed")
        assert d.registry.over_limit["max_unfinished_bytes_per_user"] == 1
        assert d.registry.intake.total <= 60_000


# ── the reader stops reading ──────────────────────────────────────────────────────────────────────────────────────────


@each
@aio
async def test_a_client_that_stops_reading_is_closed_and_takes_at_most_its_outbox(kind: type[Peer]) -> None:
    limits = OutboxLimits(max_outbox_bytes=200_000, max_outbox_events=10_000, volatile_outbox_bytes=50_000)
    async with open_door(kind, limits=limits, send_buffer=4_096) as d:
        peer = await joined(kind, d)
        client = d.client()
        volatile = client.codec.event("/tickets", "v", '"' + "x" * 1_000 + '"', volatile=True)
        most = sent = 0
        while not client.gone:
            assert sent < 20_000, "it was not closed"
            client.send(volatile)
            d.emit_to(client, sent, size=1_000)
            most = max(most, 0 if client.gone else client.outbox.bytes)
            sent += 1
            await asyncio.sleep(0)
        assert d.recorder.ends == [CloseReason.SLOW_CONSUMER]
        assert 150_000 < most <= 200_000
        assert client.outbox.dropped > 0
        numbers = []
        with pytest.raises(EOFError):  # it reads again: messages are in order, without a gap
            while True:
                name, data = await peer.next()
                if name == "n":
                    numbers.append(int(data.rstrip(".")))
        assert numbers == list(range(len(numbers))) and len(numbers) < sent


@each
@aio
async def test_a_slow_reader_that_catches_up_misses_nothing_and_delays_nobody(kind: type[Peer]) -> None:
    async with open_door(kind, send_buffer=4_096) as d:
        slow = await joined(kind, d)
        client = d.client()
        fast = await joined(kind, d)
        other = next(each for each in d.registry.clients.values() if each is not client)
        d.emit_to(client, *range(300), size=2_000)
        await asyncio.sleep(0.05)
        d.emit_to(client, *range(300, 400), size=10)
        d.emit_to(other, 1)
        assert (await fast.next())[1] == "1"
        numbers = [int((await slow.next())[1].rstrip(".")) for _ in range(400)]
        assert numbers == list(range(400))
        await until(lambda: client.outbox.bytes == 0, "nothing is left")
        assert d.recorder.ends == []


@each_framed
@aio
async def test_a_ping_flood_from_a_peer_that_never_reads_does_not_grow_memory(kind: type[Peer]) -> None:
    """The queue of automatic pongs of ws 8.23 was unlimited. RFC 6455 5.5.3 allows to answer only the last ping."""
    async with open_door(kind, send_buffer=4_096) as d:
        peer = await joined(kind, d)
        client = d.client()
        d.emit_to(client, *range(40), size=25_000)  # asyncio's TLS accepts half of it before it pauses
        await until(lambda: not client.transport.writable, "writing is blocked")  # type: ignore[union-attr]
        kept = len(client.transport._unsent)  # type: ignore[union-attr]
        for number in range(20_000):
            peer.socket.send(frame(9, b"%d" % number))
        await peer.socket.http.writer.drain()
        await until(lambda: client.transport._pong, "the pings were read")  # type: ignore[union-attr]
        assert len(client.transport._unsent) <= kept  # type: ignore[union-attr]
        for number in range(40):
            assert (await peer.next())[1].rstrip(".") == str(number)
        pongs = []
        while not pongs or pongs[-1] != b"19999":
            opcode, payload = await peer.socket.receive()
            if opcode == 10:
                pongs.append(payload)
        assert len(pongs) < 1_000


@each_socket
@aio
async def test_all_pings_of_a_reading_peer_are_answered(kind: type[Peer]) -> None:
    async with open_door(kind) as d:
        peer = await joined(kind, d)
        if isinstance(peer, DeflatePeer):
            await (await peer.ws.ping(b"are you there"))
            return
        for number in range(10):
            peer.socket.send(frame(9, b"%d" % number))
        assert [await peer.socket.receive() for _ in range(10)] == [(10, b"%d" % number) for number in range(10)]


@each_socket
@aio
async def test_a_message_over_the_limit_is_closed_with_1009(kind: type[Peer]) -> None:
    async with open_door(kind, max_payload_bytes=10_000) as d:
        peer = await joined(kind, d)
        try:
            await peer.call("big", "x" * 20_000)
        except ConnectionClosed:
            pass
        with pytest.raises(EOFError):
            await peer.next()
        assert peer.closed_with == 1009
        await until(lambda: d.recorder.ends, "the receiver is told")
        assert d.recorder.ends == [CloseReason.TOO_BIG]


# ── namespaces of the native protocol ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("code", "close"), [("AUTH_TOKEN_EXPIRED", 4401), ("FORBIDDEN", 4403)])
@aio
async def test_a_refused_native_client_gets_the_error_and_its_close_code(code: str, close: int) -> None:
    async with door() as d:
        d.recorder.refuse = (code, "no")
        socket = await RawSocket.to(d, "/rt/tickets", headers={"Authorization": "Bearer t.o.k"})
        socket.say('{"event":"connect","data":{}}')
        assert json.loads(await socket.text()) == {"event": "connect_error", "data": {"code": code, "message": "no"}}
        assert await socket.closed() == close
        assert d.recorder.clients[0].bearer == "t.o.k"


@aio
async def test_a_refused_socketio_client_keeps_its_connection() -> None:
    async with door() as d:
        d.recorder.refuse = ("FORBIDDEN", "no")
        socket = await RawSocket.to(d, WEBSOCKET)
        await socket.text()
        socket.say("40/tickets,")
        assert (await socket.text()).startswith("44/tickets,")
        d.recorder.refuse = None
        socket.say("40/tickets,")
        assert (await socket.text()).startswith("40/tickets,")


@aio
async def test_a_disconnect_from_a_namespace_ends_only_a_native_connection() -> None:
    async with door() as d:
        peer = await joined(SocketPeer, d)
        d.client().leave("/tickets")
        assert await peer.socket.text() == "41/tickets,"
        assert d.recorder.ends == []
        await peer.vanish()
        await until(lambda: d.recorder.ends, "the receiver is told")
        native = await joined(NativePeer, d)
        d.client().leave("/tickets")
        assert await native.next() == ("disconnect", None)
        with pytest.raises(EOFError):
            await native.next()
        assert native.closed_with == 1000


@aio
async def test_a_binary_frame_on_the_native_protocol_is_closed_with_1003() -> None:
    async with door() as d:
        socket = await RawSocket.to(d, "/rt/tickets")
        socket.send(frame(2, b"x"))
        assert await socket.closed() == 1003


@aio
async def test_a_client_closed_by_its_own_answer_is_closed_once() -> None:
    """An ack that does not fit into the outbox closes the client during its own call."""
    async with door(limits=OutboxLimits(max_outbox_bytes=500, volatile_outbox_bytes=500)) as d:
        peer = await joined(SocketPeer, d)

        def answer(client: Client, call: Call) -> None:
            for _ in range(2):  # an empty outbox takes one message of any size
                client.send(client.codec.event("/tickets", "big", '"' + "x" * 600 + '"'))

        d.recorder.on_call = answer
        await peer.call("a", 1)
        await peer.call("b", 1)
        assert await peer.socket.closed() == 1005
        assert d.recorder.ends == [CloseReason.SLOW_CONSUMER]
