"""engine/transport/poller.py: one epoll for all connections."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator

import pytest

from insightdesk_rt.engine.transport import poller as poller_module
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.poller import NOTHING, READ, WRITE, Poller
from insightdesk_rt.engine.wire.codec import Call
from tests.support.aio import aio, until
from tests.support.door import RawSocket, door


class Reader:
    """Reads what has arrived, then runs its function."""

    def __init__(self, ours: socket.socket) -> None:
        self.ours = ours
        self.read: list[bytes] = []
        self.writable = 0
        self.failures = 0
        self.then = lambda: None

    def readable(self) -> None:
        self.read.append(self.ours.recv(100))
        self.then()

    def writable_again(self) -> None:
        self.writable += 1

    def failed(self) -> None:
        self.failures += 1


@pytest.fixture
def pairs() -> Iterator[list[tuple[Reader, socket.socket]]]:
    made = []
    for _ in range(3):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        made.append((Reader(ours), theirs))
    yield made
    for reader, theirs in made:
        reader.ours.close()
        theirs.close()


@aio
async def test_each_socket_is_reported_to_its_own_callbacks_until_it_is_forgotten(
    pairs: list[tuple[Reader, socket.socket]],
) -> None:
    ready = Poller()
    for reader, _ in pairs:
        ready.watch(reader.ours.fileno(), reader)
    for number, (_, theirs) in enumerate(pairs):
        theirs.send(b"%d" % number)
    await until(lambda: all(reader.read for reader, _ in pairs), "each read its own")
    assert [reader.read for reader, _ in pairs] == [[b"0"], [b"1"], [b"2"]]
    first, theirs = pairs[0]
    for _ in range(2):  # idempotent
        ready.forget(first.ours.fileno())
    theirs.send(b"late")
    pairs[1][1].send(b"more")
    await until(lambda: pairs[1][0].read == [b"1", b"more"], "the others are still watched")
    assert first.read == [b"0"] and len(ready) == 2


@aio
async def test_a_socket_that_is_forgotten_in_the_same_turn_is_not_reported(
    pairs: list[tuple[Reader, socket.socket]],
) -> None:
    ready = Poller()
    readers = [reader for reader, _ in pairs]

    def end_the_others(me: Reader) -> None:
        for other in readers:
            if other is not me:
                ready.forget(other.ours.fileno())

    for reader, theirs in pairs:
        reader.then = lambda me=reader: end_the_others(me)  # type: ignore[misc]
        ready.watch(reader.ours.fileno(), reader)
        theirs.send(b"x")
    await until(lambda: any(reader.read for reader in readers), "one was called")
    await asyncio.sleep(0.05)
    assert sum(len(reader.read) for reader in readers) == 1 and len(ready) == 1


@aio
async def test_writability_is_reported_while_it_is_awaited(pairs: list[tuple[Reader, socket.socket]]) -> None:
    ready, (reader, theirs) = Poller(), pairs[0]
    ready.watch(reader.ours.fileno(), reader)
    await asyncio.sleep(0.02)
    assert reader.writable == 0
    ready.wait_for(reader.ours.fileno(), READ | WRITE)
    await until(lambda: reader.writable > 0, "it is reported as writable")
    ready.wait_for(reader.ours.fileno(), READ)
    told = reader.writable
    theirs.send(b"x")
    await until(lambda: reader.read == [b"x"], "still watched for reading")
    assert reader.writable == told


@aio
async def test_a_sockets_end_is_reported_even_if_nothing_is_awaited(pairs: list[tuple[Reader, socket.socket]]) -> None:
    ready, (reader, theirs) = Poller(), pairs[0]
    ready.watch(reader.ours.fileno(), reader)
    ready.wait_for(reader.ours.fileno(), NOTHING)
    theirs.send(b"x")
    await asyncio.sleep(0.02)
    assert reader.failures == 0
    theirs.close()
    await until(lambda: reader.failures > 0, "its end is reported")
    assert reader.read == []


@aio
async def test_a_failing_callback_is_logged_and_the_others_are_called(
    pairs: list[tuple[Reader, socket.socket]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    ready, readers = Poller(), [reader for reader, _ in pairs]
    readers[0].then = fail
    for reader, theirs in pairs:
        ready.watch(reader.ours.fileno(), reader)
        theirs.send(b"x")
    with caplog.at_level(logging.ERROR):
        await until(lambda: all(reader.read for reader in readers), "all were called")
    assert "serving a connection failed" in caplog.text


@aio
async def test_sockets_beyond_a_turns_time_are_served_in_the_next_turn(
    pairs: list[tuple[Reader, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other work of the loop runs in between, so that many clients at once do not delay it."""
    monkeypatch.setattr(poller_module, "TURN_NS", 0)
    ready, order = Poller(), []

    def note(number: int) -> None:
        order.append(number)
        asyncio.get_running_loop().call_soon(order.append, "other")

    for number, (reader, theirs) in enumerate(pairs):
        reader.then = lambda number=number: note(number)  # type: ignore[misc]
        ready.watch(reader.ours.fileno(), reader)
        theirs.send(b"x")
    await until(lambda: len(order) == 6, "three turns")
    assert order[1::2] == ["other"] * 3


@aio
async def test_nothing_is_left_in_the_loop_after_close(
    pairs: list[tuple[Reader, socket.socket]],
) -> None:
    ready = Poller()
    for number, (reader, theirs) in enumerate(pairs):
        ready.watch(reader.ours.fileno(), reader)
        if number == 1:
            ready.close()
            assert ready._epoll is not None
        theirs.send(b"x")
        await until(lambda reader=reader: reader.read == [b"x"], "watched")  # type: ignore[misc]
        ready.forget(reader.ours.fileno())
        assert (ready._epoll is None) == (number > 0) and len(ready) == 0


@aio
async def test_an_event_of_a_closed_socket_is_not_given_to_the_next_with_its_number(
    pairs: list[tuple[Reader, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sockets were reported. The first took a whole turn; the second ended before its own turn or meanwhile."""
    monkeypatch.setattr(poller_module, "TURN_NS", 0)
    ready, (first, second) = Poller(), pairs[:2]
    number, newcomer = second[0].ours.fileno(), pairs[2][0]
    original = newcomer.ours

    def end() -> None:
        ready.forget(number)
        second[0].ours.close()

    def replace() -> None:
        """The next socket gets the free number."""
        spare = newcomer.ours.dup()
        assert spare.fileno() == number
        newcomer.ours = spare
        ready.watch(number, newcomer)

    ready.watch(first[0].ours.fileno(), first[0])
    ready.watch(number, second[0])
    ready.wait_for(number, NOTHING)  # one that only waits for its end
    first[1].send(b"x")
    second[1].close()
    first[0].then = lambda: asyncio.get_running_loop().call_soon(lambda: (end(), replace()))  # type: ignore[assignment]
    await until(lambda: bool(first[0].read), "the first was served")
    await asyncio.sleep(0.05)
    assert (newcomer.failures, newcomer.read) == (0, [])
    ready.forget(number)
    newcomer.ours.close()
    newcomer.ours = original


class Clock:
    """Advances only by the time that callbacks take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr(poller_module, "monotonic_ns", lambda: self.now_ns)

    def busy(self, ready: Poller, costs_ns: list[int], pairs: list[tuple[Reader, socket.socket]]) -> list[int]:
        """Watch readers that are always ready and take this long. Returns the growing list of calls."""
        order: list[int] = []

        def again(number: int, cost_ns: int, theirs: socket.socket) -> None:
            order.append(number)
            self.now_ns += cost_ns
            theirs.send(b"x")

        for number, ((reader, theirs), cost_ns) in enumerate(zip(pairs, costs_ns, strict=True)):
            reader.then = lambda number=number, cost_ns=cost_ns, theirs=theirs: again(  # type: ignore[misc]
                number, cost_ns, theirs
            )
            ready.watch(reader.ours.fileno(), reader)
            theirs.send(b"x")
        return order


@pytest.mark.parametrize("cost_ns", [poller_module.TURN_NS * 3 // 4, poller_module.TURN_NS * 2])
@aio
async def test_sockets_that_are_always_ready_are_all_served(
    pairs: list[tuple[Reader, socket.socket]], monkeypatch: pytest.MonkeyPatch, cost_ns: int
) -> None:
    """The kernel reports them in the same order each time, and a turn ends before the last one."""
    order = Clock(monkeypatch).busy(Poller(), [cost_ns] * 3, pairs)
    await until(lambda: len(order) >= 30, "ten turns each")
    assert min(order[:30].count(number) for number in range(3)) >= 7


@aio
async def test_slow_sockets_are_served_last_and_one_per_turn(
    pairs: list[tuple[Reader, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ns = poller_module.TURN_NS * 10
    order = Clock(monkeypatch).busy(Poller(), [long_ns, long_ns, poller_module.TURN_NS // 10], pairs)
    await until(lambda: len(order) >= 30, "some turns")
    assert order[6:12] in ([2, 0, 2, 1, 2, 0], [2, 1, 2, 0, 2, 1], [0, 2, 1, 2, 0, 2], [1, 2, 0, 2, 1, 2]), order


@aio
async def test_a_slow_socket_is_served_normally_again_after_a_short_turn(
    pairs: list[tuple[Reader, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, clock = Poller(), Clock(monkeypatch)
    reader, theirs = pairs[0]
    for cost_ns, long in ((poller_module.TURN_NS * 2, 1), (0, 0)):
        reader.then = lambda cost_ns=cost_ns: setattr(clock, "now_ns", clock.now_ns + cost_ns)  # type: ignore[misc]
        ready.watch(reader.ours.fileno(), reader)
        theirs.send(b"x")
        called = len(reader.read) + 1
        await until(lambda called=called: len(reader.read) == called, "called")  # type: ignore[misc]
        assert len(ready._long) == long


class Odd(BaseException):
    """Not an Exception."""


@aio
async def test_a_base_exception_of_a_callback_does_not_affect_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async with door() as d:
        clients = [await RawSocket.to(d, "/rt/tickets") for _ in range(2)]
        for client in clients:
            client.say('{"event":"connect"}')
            assert "connect" in await client.text()

        def fail(client: Client, call: Call) -> None:
            d.recorder.on_call = None
            raise Odd

        d.recorder.on_call = fail
        clients[0].say('{"event":"x","data":1,"id":1}')
        await until(lambda: d.recorder.on_call is None, "it was raised")
        for number, client in enumerate(clients):
            client.say(f'{{"event":"x","data":2,"id":{number}}}')
            assert await client.text() == f'{{"ack":{number},"data":2}}'
        assert caplog.text.count("Odd") >= 1
