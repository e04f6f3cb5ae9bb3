"""The websocket on a plain socket: number of writes, and freed memory. The contract suite tests the rest."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections import Counter

from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.websocket import WebSocketTransport
from tests.support.aio import aio, until
from tests.support.door import Door, RawSocket, door, frame

WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"


async def on_packets(d: Door) -> tuple[socket.socket, WebSocketTransport]:
    """Put a client on a socket that keeps the boundaries of writes: one `recv` reads what one `send` wrote."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    transport = WebSocketTransport(ours, d.registry, 10_000, coded=True)
    client = Client(d.client_port.make_native_session("/tickets"), d.recorder, d.registry)
    client.start(transport)
    transport.start(client)
    theirs.send(frame(1, b'{"event":"connect","data":{}}'))
    await until(lambda: d.recorder.clients, "it is in")
    await asyncio.sleep(0)
    theirs.recv(65_536)
    return theirs, transport


@aio
async def test_messages_of_one_turn_are_one_write() -> None:
    async with door() as d:
        theirs, _ = await on_packets(d)
        d.emit(*range(50))
        await asyncio.sleep(0)
        data = theirs.recv(65_536)
        assert [part for number in range(50) if (part := b'"data":"%d"' % number) not in data] == []
        try:
            extra = theirs.recv(65_536)
        except BlockingIOError:
            extra = b""
        assert extra == b""
        theirs.close()
        await until(lambda: d.recorder.ends == [CloseReason.TRANSPORT_CLOSE], "the end")


@aio
async def test_answers_to_the_frames_of_one_read_are_one_write() -> None:
    async with door() as d:
        theirs, _ = await on_packets(d)
        theirs.send(b"".join(frame(1, b'{"event":"n","data":%d,"id":%d}' % (n, n)) for n in range(20)))
        await until(lambda: len(d.recorder.calls) == 20, "the calls")
        await asyncio.sleep(0)
        assert theirs.recv(65_536).count(b'"ack"') == 20
        theirs.close()
        await until(lambda: d.recorder.ends, "the end")


@aio
async def test_a_message_written_in_parts_arrives_complete() -> None:
    async with door(send_buffer=4_096) as d:
        peer = await RawSocket.to(d, "/rt/tickets", limit=1_024)
        peer.say('{"event":"connect","data":{}}')
        await peer.text()
        client = d.client()
        d.emit(1, size=900_000)
        await until(lambda: not client.transport.writable, "the kernel took a part")  # type: ignore[union-attr]
        d.emit(2)
        left = client.outbox.bytes
        assert 0 < left < 950_000
        assert '"1....' in await peer.text()
        assert '"data":"2"' in await peer.text()
        assert client.outbox.bytes == 0


@aio
async def test_writing_to_a_reset_connection_ends_it_once_without_an_error() -> None:
    async with door() as d:
        peer = await RawSocket.to(d, "/rt/tickets")
        peer.say('{"event":"connect","data":{}}')
        await peer.text()
        client = d.client()
        peer.http.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.http.writer.transport.abort()
        for number in range(10):
            d.emit_to(client, number)
            await asyncio.sleep(0.001)
        await until(lambda: d.recorder.ends, "the end")
        # the first call on the socket gets the reset; to the next one it looks like an orderly end
        assert len(d.recorder.ends) == 1
        assert d.recorder.ends[0] in (CloseReason.TRANSPORT_ERROR, CloseReason.TRANSPORT_CLOSE)


@aio
async def test_objects_of_the_http_request_are_freed_after_the_handshake() -> None:
    """An idle connection consists of its transport, its client and its session, without a Task."""

    def alive() -> Counter[str]:
        kinds = (type(thing) for thing in gc.get_objects())
        return Counter(
            kind.__name__
            for kind in kinds
            if str(kind.__module__).startswith(("tornado", "insightdesk_rt.engine.doors"))
        )

    async with door() as d:
        for target in (WEBSOCKET, "/rt/tickets"):
            await RawSocket.to(d, target)  # creates everything that is created once
        await until(lambda: len(d.registry.clients) == 2, "they are in")
        gc.collect()
        gc.disable()  # objects must be freed without the collector
        try:
            before, tasks = alive(), len(asyncio.all_tasks())
            for target in (WEBSOCKET, "/rt/tickets", "/rt/chat") * 5:
                await RawSocket.to(d, target)
            await until(lambda: len(d.registry.clients) == 17, "they are in")
            await asyncio.sleep(0.01)
            assert alive() - before == {}
            assert len(asyncio.all_tasks()) == tasks
        finally:
            gc.enable()


@aio
async def test_all_objects_of_a_client_are_freed_at_its_end() -> None:
    def alive() -> int:
        return sum(isinstance(thing, (Client, WebSocketTransport)) for thing in gc.get_objects())

    async with door() as d:
        gc.collect()
        before = alive()
        for round in range(30):
            peer = await RawSocket.to(d, (WEBSOCKET, "/rt/tickets")[round % 2])
            peer.say("40/tickets," if round % 2 == 0 else '{"event":"connect","data":{}}')
            await peer.receive()
            if round % 3:
                d.client().close(CloseReason.KICKED)
                await peer.closed()
            else:
                await peer.close()
            await until(lambda: not d.registry.clients and not d.registry._lingering, "the end")
        d.recorder.clients.clear()
        gc.collect()
        assert alive() == before
        assert len(d.wheel) == 0
