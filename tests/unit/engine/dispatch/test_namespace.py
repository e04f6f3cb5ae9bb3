"""The declarations of a namespace are read once, when its class is created."""

import logging
from typing import Any, ClassVar

import pytest
from msgspec import Struct

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
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Room
from tests.support import fakes
from tests.support.aio import aio, until


class Ask(Payload):
    x: int


class Sum(Struct):
    total: int


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
        """A docstring."""

    @event("waiting")
    async def waiting(self, socket: Socket) -> None: ...

    @every(ms=5_000, on="leader")
    async def tick(self) -> None: ...


def test_events_and_periodic_methods_are_found_by_their_decorators() -> None:
    plain, waiting = Sample.events["plain"], Sample.events["waiting"]
    assert (plain.method, plain.payload, plain.rate, plain.allow) == ("plain", Ask, Rate(1, 2), EVERYBODY)
    assert plain.doc == "A docstring." and not plain.waits
    assert waiting.payload is Nothing and waiting.waits
    assert Sample.tickers == (Ticker("tick", 5_000, True),)
    assert Namespace.events == {}


def handler(returns: Any, waits: bool) -> Any:
    """Return a handler whose return annotation is `returns`."""

    def plain(self: Any, socket: Socket, ask: Ask) -> Any: ...
    async def waiting(self: Any, socket: Socket, ask: Ask) -> Any: ...

    method = waiting if waits else plain
    method.__annotations__["return"] = returns
    return event("e")(method)


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("returns", [None, Sum, Logged, Sum | Logged, Sum | None, dict[str, int], dict], ids=str)
def test_a_handler_may_return_a_struct_a_dict_or_none(returns: Any, waits: bool) -> None:
    made = type("Right", (Namespace,), {"work": handler(returns, waits)})
    assert made.events["e"].waits == waits  # type: ignore[attr-defined]


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("returns", [str, int, list[int], Sum | str, Any, object, bytes], ids=str)
def test_any_other_return_type_fails_when_the_class_is_created_and_names_the_method(returns: Any, waits: bool) -> None:
    with pytest.raises(TypeError, match=r"(plain|waiting) must return a Struct, a dict or None"):
        type("Wrong", (Namespace,), {"work": handler(returns, waits)})


def test_a_handler_without_a_return_annotation_fails_when_the_class_is_created() -> None:
    def silent(self, socket, ask): ...  # type: ignore[no-untyped-def]

    with pytest.raises(TypeError, match="silent must return"):
        type("Silent", (Namespace,), {"work": event("e")(silent)})


@aio
async def test_every_hook_of_the_server_does_nothing_by_default() -> None:
    plain = Namespace(Hub(fakes.OneNode(), ["/sample"]), fakes.Clock())
    socket, rooms = fakes.socket("/sample"), [Room("user:u1")]

    async def living() -> set[str]:
        return {"n1.a"}

    await plain.coming(socket.user)
    assert await plain.still_allowed(socket.user, rooms) == rooms
    plain.notify_lost_rooms(socket, rooms)
    await plain.joined(socket)
    await plain.left(socket, CloseReason.CLIENT_LEFT)
    await plain.node_lost("n2.b")
    await plain.reap_all_except(living)
    await plain.re_register()
    assert await plain.recheck_access("42") == 0
    await plain.put_down_again([])


@aio
async def test_the_outbound_type_decides_whether_an_event_is_logged() -> None:
    node = fakes.OneNode()
    hub = Hub(node, ["/sample"])
    sample = Sample(hub, fakes.Clock())
    sample.publish(Volatile(1), Room("r"))
    await sample.emit(Logged(), Room("r"), id="same")
    await sample.emit(Logged(), Room("r"), id="same")
    assert [e.payload for e in node.published] == ['{"a":1}'] and [e.id for e in node.log] == ["same"]
    with pytest.raises(AssertionError):
        sample.publish(Logged(), Room("r"))


def test_a_socket_may_not_act_on_a_room_it_is_not_in() -> None:
    with pytest.raises(RtError, match="FORBIDDEN"):
        Namespace.require_joined(fakes.socket("/sample"), Room("ticket:1"))


@aio
async def test_spawned_work_ends_with_its_namespace_and_its_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
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
