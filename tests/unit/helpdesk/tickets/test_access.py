"""Who may read a ticket: the table of our own rules, and the host's check with all its failures."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.helpdesk.tickets import access
from insightdesk_rt.helpdesk.tickets.access import (
    AccessUnknown,
    AskedAccess,
    HostAccess,
    TicketAccess,
    allowed,
    load_access,
)
from insightdesk_rt.helpdesk.tickets.settings import TicketSettings
from insightdesk_rt.helpdesk.tickets.store import Facts, TicketChange, TicketStore
from tests.support import fakes
from tests.support.aio import aio

TICKET = Facts(teamId="t1", requesterId="carl", watchers=["wanda"])
NO_TEAM = Facts(teamId=None, requesterId=None, watchers=[])


@pytest.mark.parametrize(
    ("user", "ticket", "all_agents", "may"),
    [
        (fakes.user("root", "admin"), TICKET, False, True),
        (fakes.user("anna", "agent", "t1"), TICKET, False, True),
        (fakes.user("otto", "agent", "t2"), TICKET, False, False),
        (fakes.user("otto", "agent", "t2"), TICKET, True, True),
        (fakes.user("otto", "agent"), TICKET, False, False),
        (fakes.user("wanda", "agent", "t2"), TICKET, False, False),  # a watcher of another team
        (fakes.user("otto", "agent", "t2"), NO_TEAM, False, True),
        (fakes.user("otto", "agent"), NO_TEAM, False, True),
        (fakes.user("carl", "customer"), TICKET, False, True),
        (fakes.user("wanda", "customer"), TICKET, False, True),
        (fakes.user("mallory", "customer"), TICKET, True, False),
        (fakes.user("mallory", "customer", "t1"), TICKET, True, False),  # a customer's team opens nothing
        (fakes.user("mallory", "customer"), NO_TEAM, False, False),
        (fakes.user("carl", "robot"), TICKET, True, False),
    ],
)
def test_the_rules(user: User, ticket: Facts, all_agents: bool, may: bool) -> None:
    assert allowed(user, ticket, all_agents) is may


@aio
async def test_nobody_may_read_a_ticket_that_does_not_exist(valkey_url: str, prefix: str) -> None:
    valkey = Valkey(valkey_url, prefix)
    await valkey.start()
    store = TicketStore(valkey, valkey.names.namespace("/tickets"))
    check = TicketAccess(store, "all")
    assert not await check.may_read(fakes.user("root", "admin"), "42")
    await store.put("42", TicketChange())
    assert await check.may_read(fakes.user("root", "admin"), "42")
    await valkey.close()
    with pytest.raises(RtError) as refused:
        await check.may_read(fakes.user("root", "admin"), "42")
    assert refused.value.code == "UNAVAILABLE", "it is unknown whether the ticket exists"


@aio
async def test_only_true_from_the_hosts_check_allows() -> None:
    async def later(user: User, ticket_id: str) -> bool:
        return user.id == ticket_id

    assert await HostAccess(lambda user, ticket_id: True).may_read(fakes.user(), "42")
    assert await HostAccess(later).may_read(fakes.user("42"), "42")
    assert not await HostAccess(later).may_read(fakes.user("43"), "42")
    for answer in (1, "yes", None, object()):
        assert not await HostAccess(lambda user, ticket_id, answer=answer: answer).may_read(fakes.user(), "42")  # type: ignore[misc]


@aio
async def test_any_failure_of_the_hosts_check_denies_and_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "HOST_DEADLINE_S", 0.02)

    async def slow(user: User, ticket_id: str) -> bool:
        await asyncio.sleep(5)
        return True

    def broken(user: User, ticket_id: str) -> bool:
        raise LookupError("no such table")

    for check in (slow, broken):
        with pytest.raises(RtError) as refused:
            await HostAccess(check).may_read(fakes.user(), "42")
        assert refused.value.code == "INTERNAL"
    assert [record.message for record in caplog.records] == ["the host's access check failed"] * 2


@pytest.fixture
def host_module() -> Iterator[types.ModuleType]:
    module = types.ModuleType("host_of_the_tests")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


class Settings:
    agent_access = "all"


def load(spec: str) -> Any:
    return load_access(TicketSettings(access=spec), None, None)  # type: ignore[arg-type]


@aio
async def test_the_setting_replaces_our_rules_by_the_hosts_check(host_module: Any) -> None:
    class Check:
        def may_read(self, user: User, ticket_id: str) -> bool:
            return ticket_id == "7"

    host_module.factory = lambda tickets, settings: Check()
    check = load("host_of_the_tests:factory")
    assert await check.may_read(fakes.user(), "7") and not await check.may_read(fakes.user(), "8")
    assert isinstance(load(""), TicketAccess)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("nonsense", "'nonsense' is not of the form package.module:factory"),
        ("no_such_module_at_all:x", "cannot import no_such_module_at_all: No module named 'no_such_module_at_all'"),
        ("host_of_the_tests:nothing", "host_of_the_tests has no nothing"),
        ("host_of_the_tests:fails", "host_of_the_tests:fails failed: ZeroDivisionError: division by zero"),
        ("host_of_the_tests:dull", "what host_of_the_tests:dull returned has no may_read(user, ticket_id)"),
    ],
)
def test_a_wrong_setting_gives_a_one_line_error(host_module: Any, spec: str, why: str) -> None:
    host_module.fails = lambda tickets, settings: 1 / 0
    host_module.dull = lambda tickets, settings: object()
    with pytest.raises(ValueError) as wrong:
        load(spec)
    assert str(wrong.value) == f"access: {why}"


# ── the back end's answer ───────────────────────────────────────────────────────────────────────────────────────────


class Says:
    """A back end that always gives the same answer; None: it gives none."""

    def __init__(self, answer: bool | None) -> None:
        self.answer = answer
        self.asked = 0

    async def may_read(self, user: User, ticket_id: str) -> bool:
        self.asked += 1
        if self.answer is None:
            raise AccessUnknown
        return self.answer

    def forget(self, user_key: str = "", ticket_id: str = "") -> None: ...

    def ended(self) -> list[Any]:
        return []


class Rules(TicketAccess):
    """Our own rules with a fixed result."""

    def __init__(self, result: bool) -> None:
        self.result = result

    async def may_read(self, user: User, ticket_id: str) -> bool:
        return self.result


@pytest.mark.parametrize(
    ("plugin", "answer", "asked", "allowed"),
    [
        (None, True, 1, True),
        (None, False, 1, False),
        (True, True, 1, True),
        (True, False, 1, False),
        (False, True, 0, False),
        (False, None, 0, False),
    ],
)
@aio
async def test_the_hosts_check_and_the_back_end_must_both_allow_it(
    plugin: bool | None, answer: bool | None, asked: int, allowed: bool
) -> None:
    """The check in this process is asked first; its no costs the back end nothing."""
    check = None if plugin is None else HostAccess(lambda user, ticket_id: bool(plugin))
    access, says = AskedAccess(Rules(True), "closed", check), Says(answer)
    access.questions = says
    assert await access.may_read(fakes.user(), "42") is allowed and says.asked == asked


@pytest.mark.parametrize("rules", [True, False])
@pytest.mark.parametrize("down", ["closed", "rules", "open"])
@aio
async def test_without_an_answer_the_setting_decides(down: Any, rules: bool) -> None:
    access = AskedAccess(Rules(rules), down)
    for says in (Says(None), None):  # also before the node has built its hooks
        access.questions = says
        if down == "closed":
            with pytest.raises(RtError, match="INTERNAL"):
                await access.may_read(fakes.user(), "42")
        else:
            assert await access.may_read(fakes.user(), "42") is (rules or down == "open")
