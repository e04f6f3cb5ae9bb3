"""Every script and command of the package, on a real Valkey Cluster of three primaries.

The stores' own tests run once more on the cluster. Each script runs behind a guard that compares the keys of every
command in it with the declared ones. The cluster itself refuses a script or a command over two slots.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from functools import cache, partial
from typing import Any

import pytest

from insightdesk_rt.backend.webhooks.store import Webhook, WebhookSecret, WebhookStore
from insightdesk_rt.engine.cluster.logs import Logs
from insightdesk_rt.engine.cluster.names import Key, Names
from insightdesk_rt.engine.cluster.publisher import EventLogSettings, Publisher
from insightdesk_rt.engine.cluster.resp import Arg, Script
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.model import NO_OFFSET, Event, Room, new_id
from insightdesk_rt.helpdesk.chat.store import ChatStore
from insightdesk_rt.helpdesk.features import PATHS
from insightdesk_rt.helpdesk.notifications.store import Content, NotificationStore
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.tickets.readers import ReaderStore
from tests.house.test_lua import composed
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.own_cluster import OwnCluster
from tests.unit.engine.cluster.test_sessions import Node

GUARD = """
local declared_keys, real_call = {}, redis.call
for _, name in ipairs(KEYS) do declared_keys[name] = true end
local redis = setmetatable({ call = function(...)
  local found = redis.pcall('COMMAND', 'GETKEYS', ...)
  for _, name in ipairs(found.err and {} or found) do
    if not declared_keys[name] then error('not declared: ' .. name) end
  end
  return real_call(...)
end }, { __index = redis })
"""
# The tests of each store, which only call the store and read what it has stored.
MODULES = (
    "tests.unit.api.test_audit_store",
    "tests.unit.backend.feed.test_log",
    "tests.unit.engine.cluster.test_directory",
    "tests.unit.engine.cluster.test_leases",
    "tests.unit.engine.cluster.test_rivals",
    "tests.unit.engine.cluster.test_sessions",
    "tests.unit.helpdesk.chat.test_store",
    "tests.unit.helpdesk.notifications.test_store",
    "tests.unit.helpdesk.presence.test_store",
    "tests.unit.helpdesk.test_pending_events",
    "tests.unit.helpdesk.test_viewer_store",
    "tests.unit.helpdesk.tickets.test_store",
    "tests.unit.operations.console.test_sessions",
    "tests.unit.operations.moderation.test_rules",
)
# Tests that look at the connection itself.
NOT_HERE = {
    "test_valkey_is_read_at_most_once_a_second_and_known_nodes_are_found_without_it",  # counts its commands
    "test_queue_deadlines_and_numbers_agree_whatever_people_do",  # copies all keys through one of its own
}
NOWHERE = "valkey://127.0.0.1:1"  # what a test names


class OverCluster(Valkey):
    """A connection to the cluster, whatever URL a test names, that notes each script and runs it behind the guard."""

    cluster: OwnCluster
    ran: Counter[str] = Counter()  # scripts by name

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        super().__init__(self.cluster.url, prefix, namespaces=PATHS, deadline_ms=5_000)

    async def command(self, *args: Arg, **options: Any) -> Any:
        if args[0] == "KEYS":  # a test looks at what is stored
            asked = (super(OverCluster, self).command(*args, near=key) for key in self._one_key_each())
            return list(itertools.chain.from_iterable(await asyncio.gather(*asked)))
        if args[0] == "DEL" and len(args) > 2:  # a test loses what is stored
            return sum(await asyncio.gather(*(self.command("DEL", key) for key in args[1:])))
        return await super().command(*args, **options)

    def _one_key_each(self) -> Iterator[str]:
        """Yield one key of each primary."""
        keys = {self.cluster.owner(part.key("x")).port: part.key("x") for part in self.names.sessions}
        assert len(keys) == 3
        yield from keys.values()

    async def call(self, script: Script, keys: Sequence[Key], args: Sequence[Arg], **options: Any) -> Any:
        return await super().call(self._noted(script), keys, args, **options)

    def begin(
        self, script: Script, keys: Sequence[Key], args: Sequence[Arg], durable: bool = False
    ) -> asyncio.Future[Any]:
        return super().begin(self._noted(script), keys, args)

    def _noted(self, script: Script) -> Script:
        self.ran[script.name] += 1
        return guarded(script)


@cache
def guarded(script: Script) -> Script:
    return Script(script.name, GUARD + script.source)


@pytest.fixture(scope="module")
def cluster() -> Iterator[OwnCluster]:
    with OwnCluster() as own:
        yield own


@pytest.fixture
def over_cluster(cluster: OwnCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[OverCluster]]:
    """Let everything that a test module makes of Valkey be a connection to the cluster."""
    OverCluster.cluster = cluster
    OverCluster.ran.clear()
    composed()  # now: it finds every script that there is, and must not find guarded ones
    for name in MODULES:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if name.startswith("tests.") and getattr(module, "Valkey", None) is Valkey and name != __name__:
            monkeypatch.setattr(module, "Valkey", OverCluster)
    yield OverCluster


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield name and call of every test of the modules that needs only what is given here."""
    for module in map(importlib.import_module, MODULES):
        for name, test in vars(module).items():
            wanted = inspect.signature(test).parameters.keys() if name.startswith("test_") else set()
            fits = {"valkey_url", "prefix"} <= wanted <= {"valkey_url", "prefix", "monkeypatch", "seed"}
            if fits and name not in NOT_HERE:
                yield f"{module.__name__}.{name}", partial(run_test, test, wanted)


def run_test(test: Callable[..., object], wanted: Collection[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        given = {"valkey_url": NOWHERE, "prefix": "t" + new_id(), "monkeypatch": monkeypatch, "seed": 1}
        test(**{name: given[name] for name in wanted})


async def logs_and_events(valkey: Valkey) -> None:
    """What the backplane asks of the logs, but for the subscription."""
    logs, position = Logs(valkey, valkey.names, 4), {"/tickets": NO_OFFSET}
    publisher = Publisher(valkey, "n1.x", EventLogSettings(), position.__getitem__, ["/tickets"])
    a, b = Room("ticket:1"), Room("ticket:2")
    opened = await logs.open("/tickets", [(NO_OFFSET, "")])
    first = await publisher.append(Event("/tickets", "x", "1", (a, b), id=new_id()))
    many = [Event("/tickets", "x", str(number), (a,), id=new_id()) for number in range(150)]
    offsets = await publisher.append_all(many)
    publisher.publish(Event("/tickets", "x", "2", (a,)))
    found = await logs.read("/tickets", [a, b], opened.top)
    assert found.complete and len(found.events) == 151
    page = await logs.page("/tickets", opened.top)
    assert len(page.events) == 151 and page.done
    assert await logs.rooms_after("/tickets", [a, b], first) == [a]
    assert [event.offset for event in await logs.recent("/tickets", a, 1)] == [offsets[-1]]
    fork = await logs.record_fork("/tickets")
    own = valkey.names.namespace("/tickets")
    state, heard = await valkey.in_order(
        ("HMGET", own.log_state, "top", "epoch", "fork"), ("PUBLISH", own.node("n1.x"), "1P 1\n")
    )
    assert state == [offsets[-1], opened.epoch, fork] and heard == 0


async def lists_of_staff(valkey: Valkey) -> None:
    """Presence, as admins and dashboards read it."""
    store = PresenceStore(valkey, valkey.names.namespace("/presence"))
    anna = fakes.user("anna", team="t1")
    await store.join(anna, "n1")
    assert [row.key for row in await store.staff(["online", "away"], 10)] == [anna.key]
    assert (await store.known([anna.key]))[0].team_id == "t1"
    assert (await store.agent_counts()).online == 1 and await store.incarnations() == {"n1"}
    await store.forget("bert")


async def conversations_of_admins(valkey: Valkey) -> None:
    """Lists, and a conversation that is stored again after Valkey lost it."""
    own = valkey.names.namespace("/chat")
    store = ChatStore(valkey, own, PresenceStore(valkey, own, name="chatting"))
    chat = (await store.start(fakes.user("carl", "customer"), "1", "subject", "t1")).conversation.id
    assert [one.conversation.id for one in await store.listed("waiting", 10)] == [chat]
    await valkey.command("DEL", own.key("chat", chat))
    assert await store.listed("waiting", 10) == [] and await store.put_states_again() == 1
    assert [one.id for one in await store.queue(fakes.user("root", "admin"))] == [chat]


async def unread_notifications(valkey: Valkey) -> None:
    store = NotificationStore(valkey, valkey.names.namespace("/notifications"), unseen_ms=1)
    await store.push("anna", Content("1", "type", "title"))
    found = await until(store.unseen, "it was not read in time")
    assert [event.kind for event in found] == ["notification", "unseen"]
    assert await store.forget("anna") == 1 and await store.unread("anna") == 0


async def webhooks(valkey: Valkey) -> None:
    store, secrets = WebhookStore(valkey), [WebhookSecret("s")]
    await store.add(
        Webhook(id="w", url="https://a.example", types=["*"], reason="r", by="b", created_at_ms=1, secrets=secrets)
    )
    await store.change("w", state="paused")
    (found,) = await store.all()
    assert found.state == "paused" and await store.progress(found, "delivered")
    await store.remove("w")
    assert await store.all() == []


async def quiet_sessions(valkey: Valkey) -> None:
    """A record of a session in quiet rooms: the log is in another partition."""
    node = Node(valkey, "n1", 60)
    socket = await node.opened("ticket:1")
    node.sessions._sessions[socket.pid].touched_s = -10_000
    await valkey.command("HSET", valkey.names.namespace("/tickets").log_state, "top", "100-0")
    await node.sessions._touch()
    assert await valkey.command("HGET", valkey.names.session(socket.pid).session(socket.pid), "quiet") == "100-0"
    await node.sessions.close()


async def readers(valkey: Valkey) -> None:
    """The staff connected to /tickets, which only a host's own check needs."""
    store = ReaderStore(valkey, valkey.names.namespace("/tickets"))
    await store.note([fakes.user("anna")])
    assert [user.id for user in await store.all()] == ["anna"]


def test_every_script_and_command_of_the_package_works_on_a_cluster(over_cluster: type[OverCluster]) -> None:
    """Its keys are all declared, and lie in one slot."""
    failed = {}
    parts = (
        *(logs_and_events, lists_of_staff, conversations_of_admins),
        *(unread_notifications, webhooks, quiet_sessions, readers),
    )
    for name, run in [*cases(), *(in_loop(part, over_cluster) for part in parts)]:
        try:
            run()
        except Exception as why:
            failed[name] = f"{type(why).__name__}: {str(why)[:300]}"
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())
    assert sorted(set(composed()) - set(over_cluster.ran)) == [], "each script of the package ran"


def in_loop(
    part: Callable[[Valkey], Coroutine[Any, Any, None]], kind: type[OverCluster]
) -> tuple[str, Callable[[], None]]:
    @aio
    async def run() -> None:
        valkey = kind(NOWHERE, "t" + new_id())
        await valkey.start()
        await part(valkey)
        await valkey.close()

    return part.__name__, run


def test_the_guard_notices_a_key_that_was_not_declared(over_cluster: type[OverCluster]) -> None:
    """Otherwise the test above would prove nothing of keys in the same slot."""

    async def undeclared(valkey: Valkey) -> None:
        key = valkey.names.cluster.key("a")
        assert await valkey.call(Script("set", "return redis.call('SET', KEYS[1], 'x')"), [key], []) == "OK"
        with pytest.raises(Exception, match="INTERNAL"):
            await valkey.call(Script("other", "return redis.call('SET', KEYS[1] .. 'b', 'x')"), [key], [])

    in_loop(undeclared, over_cluster)[1]()


def test_partitions_of_sessions_and_namespaces_are_on_all_primaries(cluster: OwnCluster) -> None:
    """With the default prefix and three equal primaries."""
    names = Names("insightdesk")
    owners = {cluster.owner(part.key("x")).port for part in names.sessions}
    assert len(owners) == 3
    assert len({cluster.owner(names.namespace(path).log).port for path in PATHS}) >= 2
