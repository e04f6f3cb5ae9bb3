"""Frames and packets that no honest client sends: each affects only its sender, and the close code says why."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.hostile.kit import Caller, Target, descriptors, memory_mb
from tests.support.aio import aio, until
from tests.support.door import RawSocket, frame
from tests.support.server import ServerProcess


def text(packet: str) -> bytes:
    return frame(1, packet.encode())


# The input after a CONNECT to /tickets, and the code of the close frame that follows; None: the connection stays.
ENDS: dict[str, tuple[bytes, int]] = {
    "an argument 100,000 deep": (text(f'42/tickets,["ticket:subscribe",{"[" * 100_000}{"]" * 100_000}]'), 1005),
    "a namespace of a megabyte": (text("42/" + "a" * 900_000), 1005),
    "900,000 digits of attachments": (text("45" + "9" * 900_000), 1005),
    "900,000 digits of an ack id": (text("42/tickets," + "9" * 900_000), 1005),
    "a placeholder's num that is text": (text('451-/tickets,["x",{"_placeholder":true,"num":"splice"}]'), 1005),
    "too many attachments": (text('4599999-/tickets,["x"]'), 1005),
    "no attachments": (text('450-/tickets,["x"]'), 1005),
    "an empty attachment": (frame(2, b"x"), 1005),
    "a negative placeholder num": (text('451-/tickets,["x",{"_placeholder":true,"num":-1}]'), 1005),
    "one attachment too many": (
        text('451-/tickets,["x",{"_placeholder":true,"num":0}]') + frame(2, b"x") * 2,
        1005,
    ),
    "a packet where an attachment is due": (
        text('451-/tickets,["x",{"_placeholder":true,"num":0}]') + text('42/tickets,["x"]'),
        1005,
    ),
    "a negative ack id": (text('42/tickets,-1["x",{}]'), 1005),
    "a name that is an object": (text('42/tickets,[{"toString":"foo"}]'), 1005),
    "a reserved name: connect": (text('42/tickets,["connect",1]'), 1005),
    "a reserved name: disconnect": (text('42/tickets,["disconnect"]'), 1005),
    "a reserved name: disconnecting": (text('42/tickets,["disconnecting","x"]'), 1005),
    "a reserved name: newListener": (text('42/tickets,["newListener"]'), 1005),
    "NaN": (text('42/tickets,7["ticket:subscribe",{"ticketId":NaN}]'), 1005),
    "superscript digits as an ack id": (text('42/tickets,²["x",{}]'), 1005),
    "superscript digits as a count": (text('45²-/tickets,["x"]'), 1005),
    "a control character in a namespace": (text("40/tick\x00ets,{}"), 1005),
    "a CONNECT_ERROR": (text("44/tickets,{}"), 1005),
    "auth that is a list": (text("40/chat,[]"), 1005),
    "a ping": (text("2"), 1005),
    "a probe without an upgrade": (text("2probe"), 1005),
    "DISCONNECT twice": (text("41/tickets,") * 2, 1005),
    "RSV1": (frame(1, b"2", rsv=0x40), 1002),
    "RSV2": (frame(1, b"2", rsv=0x20), 1002),
    "RSV3": (frame(1, b"2", rsv=0x10), 1002),
    "no mask": (frame(1, b"3", mask=False), 1002),
    "a control frame of 126 bytes": (frame(9, b"x" * 126), 1002),
    "a ping in fragments": (frame(9, b"x", fin=False), 1002),
    "an unknown opcode": (frame(3, b"x"), 1002),
    "a length over 2^63": (b"\x81\xff" + b"\xff" * 8 + b"mask", 1002),
    "not UTF-8": (frame(1, b"4\xff\xfe"), 1007),
    "more than a megabyte": (frame(1, b"4" + b"x" * 1_000_000), 1009),
    "endless fragments of one byte": (frame(1, b"4", fin=False) + frame(0, b"x", fin=False) * 20_000, 1009),
    "endless empty fragments": (frame(1, b"4", fin=False) + frame(0, b"", fin=False) * 20_000, 1009),
    "a close code that may not be sent": (frame(8, b"\x03\xec"), 1002),
    "a close frame of one byte": (frame(8, b"x"), 1002),
    "a thousand unknown namespaces": (b"".join(text(f"40/n{n},{{}}") for n in range(1000)), 1005),
    "three thousand invalid tokens": (text('40/chat,{"token":"a.b.c"}') * 3000, 1005),
}
STAYS: dict[str, bytes] = {
    "an event called error": text('42/tickets,["error"]'),
    "an event called __proto__": text('42/tickets,["__proto__",{}]'),
    "unrequested pongs": text("3") * 20_000,
    "a number larger than any float": text('42/tickets,["ticket:subscribe",{"ticketId":1e400}]'),
    "half a surrogate pair": text('42/tickets,["ticket:subscribe",{"ticketId":"\\ud800"}]'),
    "a placeholder without attachments": text(
        '42/tickets,["ticket:subscribe",{"ticketId":{"_placeholder":true,"num":0}}]'
    ),
    "three thousand subscriptions": b"".join(
        text(f'42/tickets,["ticket:subscribe",{{"ticketId":"t{n}"}}]') for n in range(3000)
    ),
    "an ack without a request": text('43/tickets,99999["x"]'),
    "an ack id used again": text('42/tickets,7["ticket:unsubscribe",{"ticketId":"1"}]') * 5,
    "a hundred thousand more arguments": text(f'42/tickets,["ticket:subscribe",{{"ticketId":"t"}},{"1," * 100_000}1]'),
    "three thousand unknown events": text('42/tickets,["x"]') * 3000,
}


@pytest.fixture
def target(server: ServerProcess) -> Target:
    return Target(server.port)


async def joined(target: Target, server: ServerProcess) -> RawSocket:
    socket = await target.socket()
    await socket.text()
    socket.say(f"40/tickets,{json.dumps({'token': server.token('mallory', 'customer')})}")
    assert (await socket.text()).startswith("40/tickets,")
    return socket


@pytest.mark.parametrize("attack", ENDS)
def test_each_protocol_violation_closes_the_connection_with_its_code(
    target: Target, server: ServerProcess, attack: str
) -> None:
    @aio
    async def story() -> None:
        data, code = ENDS[attack]
        socket = await joined(target, server)
        socket.send(data)
        assert await socket.closed() == code

    story()


@pytest.mark.parametrize("attack", STAYS)
def test_well_formed_nonsense_is_refused_and_the_connection_stays(
    target: Target, server: ServerProcess, attack: str
) -> None:
    @aio
    async def story() -> None:
        socket = await joined(target, server)
        socket.send(STAYS[attack])
        socket.say('42/tickets,424242["session:refresh",{}]')
        while not (await socket.text()).startswith("43/tickets,424242["):
            pass
        await target.close()

    story()


def test_attackers_leave_nothing_behind_and_do_not_disturb_another_client(
    target: Target, server: ServerProcess
) -> None:
    @aio
    async def story() -> None:
        neighbour = await Caller.to(target, server.token("nell", "agent", "red"), "/tickets")
        connections, held_mb, lines = descriptors(server), memory_mb(server), server.log().count("\n")
        slowest_s = 0.0

        async def attack(data: bytes) -> None:
            socket = await joined(target, server)
            socket.send(data)
            await asyncio.sleep(0.2)
            socket.http.writer.transport.abort()

        attacks = [data for data, _ in ENDS.values()] + list(STAYS.values())
        for start in range(0, len(attacks), 8):
            at_work = asyncio.gather(*(attack(data) for data in attacks[start : start + 8]))
            while not at_work.done():
                before = time.monotonic()
                await neighbour.call("/tickets", "ticket:unsubscribe", {"ticketId": "1"})
                slowest_s = max(slowest_s, time.monotonic() - before)
                await asyncio.sleep(0.1)
            await at_work
        await until(lambda: descriptors(server) <= connections, "all connections are gone", 20)
        assert memory_mb(server) < held_mb + 25
        assert slowest_s < 5, f"the neighbour waited {slowest_s:.2f} s"
        assert neighbour.code is None
        assert server.log().count("\n") == lines, "nonsense causes no log line"
        await target.close()

    story()
