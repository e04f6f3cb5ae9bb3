"""The connection channels are heard on, against a real server and against bytes made up."""

from __future__ import annotations

import asyncio

import pytest

from insightdesk_rt.engine.cluster.subscription import Subscription, dial
from insightdesk_rt.engine.cluster.valkey_url import endpoint
from tests.support.aio import aio, until
from tests.support.own_valkey import OwnValkey


class Heard:
    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.lost: list[str] = []

    def received(self, channel: bytes, message: bytes) -> None:
        self.messages.append((channel, message))


@aio
async def test_thousands_of_channels_are_confirmed_together_and_then_heard() -> None:
    with OwnValkey() as server:
        heard = Heard()
        connection = await dial(endpoint(server.url), "test", heard.received, heard.lost.append, 1)
        channels = [b"c%d" % n for n in range(2000)]
        assert await connection.subscribe(channels)
        assert await connection.subscribe([])
        server("PUBLISH", "c1999", b"\xff\x00\r\n")
        server("PUBLISH", "other", "x")
        await until(lambda: heard.messages, "heard")
        assert heard.messages == [(b"c1999", b"\xff\x00\r\n")]
        connection.unsubscribe(channels)
        await until(lambda: server("PUBLISH", "c5", "x") == 0, "left")
        connection.abort("done")
        assert heard.lost == ["done"]


@aio
async def test_its_end_is_told_once_and_nobody_waits_for_ever() -> None:
    with OwnValkey() as server:
        heard = Heard()
        connection = await dial(endpoint(server.url), "test", heard.received, heard.lost.append, 1)
        server.freeze()
        waiting = connection.subscribe([b"a"])
        await asyncio.sleep(0.05)
        assert not waiting.done()
        connection.abort("no patience")
        assert await waiting is False
        connection.abort("again")
        assert await connection.subscribe([b"b"]) is False
        connection.unsubscribe([b"b"])
        await asyncio.sleep(0.05)
        assert heard.lost == ["no patience"]


@aio
async def test_a_server_that_ends_it_is_noticed() -> None:
    with OwnValkey() as server:
        heard = Heard()
        connection = await dial(endpoint(server.url), "test", heard.received, heard.lost.append, 1)
        await connection.subscribe([b"a"])
        server("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: heard.lost, "told")
        assert heard.lost == ["closed by the server"]


@aio
async def test_a_login_that_is_refused_and_a_channel_that_is_not_allowed_end_it() -> None:
    with OwnValkey() as server:
        server("ACL", "SETUSER", "rt", "on", ">pw", "+@all", "resetchannels", "&ok*")
        heard = Heard()
        url = f"unix://rt:%s@{server.socket}"
        connection = await dial(endpoint(url % "pw"), "test", heard.received, heard.lost.append, 1)
        assert await connection.subscribe([b"ok1"])
        assert await connection.subscribe([b"no"]) is False
        assert "NOPERM" in heard.lost[0]
        with pytest.raises(OSError):
            await dial(endpoint(url % "wrong"), "test", heard.received, heard.lost.append, 1)
        assert "WRONGPASS" in heard.lost[1]


@aio
async def test_nobody_there_is_an_error_within_the_deadline() -> None:
    heard = Heard()
    with pytest.raises(OSError):
        await dial(endpoint("unix:///nowhere"), "test", heard.received, heard.lost.append, 1)
    with OwnValkey() as server:
        server.freeze()
        with pytest.raises(TimeoutError):
            await dial(endpoint(server.url), "test", heard.received, heard.lost.append, 0.1)


@aio
async def test_any_split_of_the_bytes_gives_the_same_messages_and_nonsense_ends_it() -> None:
    data = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n" * 3
    for step in (1, 2, 7, 200):
        heard = Heard()
        connection = Subscription(heard.received, heard.lost.append)
        for start in range(0, len(data), step):
            connection.data_received(data[start : start + step])
        assert heard.messages == [(b"a", b"hello")] * 3
    connection.data_received(b"what?\r\n")
    assert len(heard.lost) == 1 and heard.lost[0].startswith("not RESP")
