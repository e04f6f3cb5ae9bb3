"""Features: built from a table, and called one after the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.dispatch.namespace import Context, Living, Namespace
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import NO_OFFSET, Event, Offset, Room
from tests.support import fakes
from tests.support.aio import aio

calls: list[str] = []


class Noting(Namespace):
    """Records its calls."""

    async def node_lost(self, incarnation: str) -> None:
        calls.append(f"{self.path} node_lost {incarnation}")

    async def reap_all_except(self, living: Living) -> None:
        calls.append(f"{self.path} reap_all_except {sorted(await living())}")

    async def re_register(self) -> None:
        calls.append(f"{self.path} re_register")

    async def recheck_access(self, subject: str, offset: Offset = NO_OFFSET) -> int:
        calls.append(f"{self.path} recheck_access {subject} {offset}")
        return 1

    async def put_down_again(self, events: Sequence[Event]) -> None:
        calls.append(f"{self.path} put_down_again {[event.name for event in events]}")


class One(Noting):
    path = "/one"


class Two(Noting):
    path = "/two"


class Three(Noting):
    path = "/three"


def features(*kinds: type[Namespace]) -> Features:
    calls.clear()
    rest: list[Any] = [None] * 7
    return Features(kinds, Context(Hub(fakes.OneNode(), ["/one", "/two"]), fakes.Clock(), *rest))


def test_each_feature_of_the_table_is_built_once_and_found_by_its_class() -> None:
    built = features(One, Two)
    assert [namespace.path for namespace in built] == ["/one", "/two"]
    assert isinstance(built.of(Two), Two) and built.of(Two) is built.of(Two)
    with pytest.raises(KeyError):
        built.of(Three)


@aio
async def test_calls_about_the_cluster_reach_every_feature_in_reverse_order() -> None:
    built = features(One, Two)

    async def living() -> Collection[str]:
        return {"n1.a", "n2.b"}

    await built.node_lost("n2.b")
    await built.reap_all_except(living)
    await built.re_register()
    assert calls == [
        "/two node_lost n2.b",
        "/one node_lost n2.b",
        "/two reap_all_except ['n1.a', 'n2.b']",
        "/one reap_all_except ['n1.a', 'n2.b']",
        "/two re_register",
        "/one re_register",
    ]


@aio
async def test_a_recheck_reaches_only_the_feature_of_its_namespace() -> None:
    built = features(One, Two)
    await built.recheck_access("/two", "42", Offset("5-0"))
    await built.recheck_access("/of-a-newer-version", "42", Offset("5-0"))
    assert calls == ["/two recheck_access 42 5-0"]


@aio
async def test_each_feature_gets_the_facts_of_its_own_namespace() -> None:
    built = features(One, Two)
    await built.put_down_again([Event(path, path[1:], "{}", (Room("r"),)) for path in ("/two", "/one", "/two")])
    assert calls == ["/one put_down_again ['one']", "/two put_down_again ['two', 'two']"]
