"""Clients that are disconnected and return: with the same session, and with each missed event once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.cluster.conftest import Torture
from tests.cluster.torture.publishers import EVENT, NAMESPACE
from tests.cluster.torture.rounds import Run
from tests.cluster.torture.subscribers import Native, Stock, Subscriber
from tests.support.aio import until

QUIET_S = 3.0
SAVED_S = 0.4  # a session is stored within a fifth of a second after its connect

Before = Callable[[Run, Subscriber], Awaitable[None]]


async def at_once(run: Run, client: Subscriber) -> None:
    """It has received nothing yet, so it has no offset."""
    await asyncio.sleep(SAVED_S)


async def after_volatile(run: Run, client: Subscriber) -> None:
    """Volatile events have no offset, and must not replace a stock client's offset."""
    await publish(run, client, 1)
    await until(lambda: client.record.heard, "a logged one")
    await publish(run, client, 2, volatile=True)
    await until(lambda: client.volatile, "a volatile one")


async def after_a_quiet_time(run: Run, client: Subscriber) -> None:
    """Other clients received many events in the meantime, this one none."""
    await publish(run, client, 1)
    await until(lambda: client.record.heard, "the last event before the cut")
    await run.play("none")
    await asyncio.sleep(QUIET_S)


async def publish(run: Run, client: Subscriber, number: int, volatile: bool = False) -> None:
    body = {
        "namespace": NAMESPACE,
        "event": EVENT,
        "room": f"user:{client.name}",
        "data": {"p": "alone", "n": number},
        "volatile": volatile,
    }
    node = client.node if volatile else run.cluster.nodes[number % 3]
    assert node is not None
    status, answer = await node.server.push("POST", "/api/v1/emit", body)
    assert status == 200, answer


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "before-the-server-noticed"])
@pytest.mark.parametrize("before", [at_once, after_volatile, after_a_quiet_time])
@pytest.mark.parametrize("kind", [Native, Stock])
def test_a_client_comes_back_with_its_session(
    torture: Torture, kind: type[Subscriber], before: Before, noticed: bool
) -> None:
    async def body() -> None:
        run = torture.run
        client = run.subscribers.new(kind, f"{kind.__name__}-{before.__name__}-{noticed}", "green")
        await client.open()
        try:
            await before(run, client)
            client.cable.hush()
            if noticed:
                client.cable.reset()
            else:
                client.cable.forsake()
            await until(lambda: not client.record.connected, "it has noticed the cut")
            for number in (11, 12, 13):
                await publish(run, client, number)
            client.cable.mend()
            await until(lambda: client.record.connected, "back", 15)
            await publish(run, client, 14)
            await until(lambda: ("alone", 14) in [heard.key for heard in client.record.heard], "live again")
            await asyncio.sleep(0.2)
            assert (client.record.recovered, client.record.new_sessions) == (1, 0)
            got = [number for (who, number), *_ in client.record.heard if who == "alone" and number > 10]
            assert got == [11, 12, 13, 14]
        finally:
            await client.close()

    torture.await_(body())


def test_clients_that_are_disconnected_again_and_again_miss_nothing(torture: Torture) -> None:
    row = torture.play("clients-cut", 1)
    assert row.verdict.recovered > 10


def test_clients_that_are_disconnected_while_they_catch_up_miss_nothing(torture: Torture) -> None:
    torture.play("clients-cut-in-replay", seed=1)
