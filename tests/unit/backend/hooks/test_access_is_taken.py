"""The tickets with the back end's answers, over a real Valkey: any order of opens, pushes, answers and revocations."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insightdesk_rt.backend.hooks import access as access_module
from insightdesk_rt.backend.hooks.access import AccessHook
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import ticket_room
from insightdesk_rt.helpdesk.tickets.access import AskedAccess
from insightdesk_rt.helpdesk.tickets.namespace import SubscribeTicket
from insightdesk_rt.helpdesk.tickets.store import TicketChange
from tests.support.ticketing import ANNA, CARL, a_cluster
from tests.unit.backend.hooks.test_access import Scripted

USERS = {"anna": ANNA, "carl": CARL}
PAIRS = [("anna", "1"), ("carl", "1"), ("carl", "2")]  # few, so that steps meet
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["open", "take", "give"]), st.sampled_from(PAIRS)),
        st.tuples(st.just("push"), st.sampled_from(["1", "2"])),
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("later"), st.integers(1, 6)),
    ),
    max_size=24,
)


@given(STEPS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_order_of_opens_pushes_answers_and_revocations_leaves_a_user_in_a_ticket(
    valkey_url: str, steps: list[tuple[str, Any]]
) -> None:
    """Once the revocation was done on a node, the user's socket is out of the room, and stays out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access_module, "BATCH_S", 0)
        asyncio.run(asyncio.wait_for(_play(valkey_url, steps), 60))


async def _play(url: str, steps: list[tuple[str, Any]]) -> None:
    truth, taken, now_s = (
        {(name, ticket): True for name in USERS for ticket in ("1", "2")},
        dict.fromkeys(PAIRS, False),
        0.0,
    )
    scripted = Scripted(truth)
    access = AskedAccess(None, "closed")  # type: ignore[arg-type]  # closed asks no rules
    hook = access.questions = AccessHook(scripted, now_s=lambda: now_s)  # type: ignore[arg-type]
    async with a_cluster(url, f"t{secrets.token_hex(4)}", access=access) as cluster:
        node = cluster.one
        for ticket in ("1", "2"):
            await node.put(ticket, subject="s")
        sockets = {name: await node.connect(user) for name, user in USERS.items()}
        turns = {name: asyncio.Lock() for name in USERS}
        running: set[asyncio.Task[None]] = set()

        def inside(pair: tuple[str, str]) -> bool:
            return ticket_room(pair[1]) in sockets[pair[0]].rooms

        def start(work: Awaitable[Any]) -> None:
            async def quietly() -> None:
                try:
                    await work
                except RtError:
                    pass  # refused, or unknown

            running.add(asyncio.ensure_future(quietly()))

        async def open_it(pair: tuple[str, str]) -> None:
            async with turns[pair[0]]:  # calls of one socket run one after the other
                await node.tickets.subscribe(sockets[pair[0]], SubscribeTicket(pair[1]))

        async def take(pair: tuple[str, str]) -> None:
            await node.tickets.recheck(USERS[pair[0]].key, pair[1])
            assert not (taken[pair] and inside(pair)), f"{pair} is inside after its access was taken"

        for what, value in steps:
            if what == "open":
                start(open_it(value))
            elif what in ("take", "give"):
                truth[value], taken[value] = what == "give", what == "take"
                start(take(value))
            elif what == "push":
                start(node.tickets.apply(value, TicketChange(subject=secrets.token_hex(4))))
            elif what == "answer" and scripted.open:
                scripted.open.pop(value % len(scripted.open))[0].set_result(None)
            elif what == "later":
                now_s += value
                start(node.tickets.recheck_ended())
            await asyncio.sleep(0.001)
        while any(not task.done() for task in running):
            for gate, _ in scripted.open:
                gate.set_result(None)
            scripted.open.clear()
            await asyncio.sleep(0.001)
        await asyncio.gather(*running)
        assert [pair for pair in PAIRS if taken[pair] and inside(pair)] == []
        await hook.close()
