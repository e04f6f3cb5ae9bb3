"""The declarations a namespace is made of are read once, at class creation."""

import logging
from typing import ClassVar

import pytest

from insightdesk_rt.engine.dispatch.namespace import (
    EVERYBODY,
    Namespace,
    Nothing,
    Outbound,
    Payload,
    Rate,
    Ticker,
    event,
    every,
)
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Room
from tests.support import fakes
from tests.support.aio import aio, until


class Ask(Payload):
    x: int


class Volatile(Outbound):
    event: ClassVar[str] = "v"
    a: int
    b: str = ""


class Logged(Outbound):
    event: ClassVar[str] = "l"
    logged: ClassVar[bool] = True


class Sample(Namespace):
    path = "/sample"

    @event("plain", limit=Rate(1, 2))
    def plain(self, socket: Socket, ask: Ask) -> None:
        """What it is for."""

    @event("waiting")
    async def waiting(self, socket: Socket) -> None: ...

    @every(ms=5_000, on="leader")
    async def tick(self) -> None: ...


def test_events_and_clocks_are_found_by_their_decorators() -> None:
    plain, waiting = Sample.events["plain"], Sample.events["waiting"]
    assert (plain.method, plain.payload, plain.rate, plain.allow) == ("plain", Ask, Rate(1, 2), EVERYBODY)
    assert plain.doc == "What it is for." and not plain.waits
    assert waiting.payload is Nothing and waiting.waits
    assert Sample.tickers == (Ticker("tick", 5_000, True),)
    assert Namespace.events == {}


@aio
async def test_delivery_follows_the_outbound_type() -> None:
    node = fakes.OneNode()
    hub = Hub(node, ["/sample"])
    sample = Sample(hub, fakes.Clock())
    sample.publish(Volatile(1), Room("r"))
    await sample.emit(Logged(), Room("r"), id="same")
    await sample.emit(Logged(), Room("r"), id="same")
    assert [e.payload for e in node.published] == ['{"a":1}'] and [e.id for e in node.log] == ["same"]
    with pytest.raises(AssertionError):
        sample.publish(Logged(), Room("r"))


def test_what_a_socket_is_not_in_it_may_not_touch() -> None:
    with pytest.raises(RtError, match="FORBIDDEN"):
        Namespace.require_joined(fakes.socket("/sample"), Room("ticket:1"))


@aio
async def test_spawned_work_is_owned_and_its_failure_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "insightdesk_rt.engine.dispatch.namespace")
    sample = Sample(Hub(fakes.OneNode(), ["/sample"]), fakes.Clock())

    async def fails() -> None:
        raise ZeroDivisionError

    async def away() -> None:
        raise RtError("UNAVAILABLE")

    sample.spawn(fails(), "typing")
    sample.spawn(away(), "typing")
    await until(lambda: len(caplog.records) == 2, "both logged")
    assert not sample._tasks
    await sample.close()
