"""Two real nodes on a primary that three real Sentinels watch: nothing acknowledged is lost, doubled or reordered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec import structs

from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import Event, Room, new_id
from tests.cluster.flow import check_says, emitters, features_work, flowing, in_thread, resumes, two_nodes, watched
from tests.support.aio import aio, until
from tests.support.own_sentinel import OwnSentinel
from tests.support.server import ServerProcess, free_port

PREFIX = "insightdesk"


class Desk(NamedTuple):
    sentinel: OwnSentinel
    nodes: list[ServerProcess]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("sentinel")
    with OwnSentinel() as sentinel, two_nodes(folder, valkey_url=sentinel.url) as nodes:
        yield Desk(sentinel, nodes)


@pytest.fixture(autouse=True)
def whole(desk: Desk) -> None:
    """Start every test with a primary and two replicas in step."""
    for server in (*desk.sentinel.servers, *desk.sentinel.sentinels):
        if server.process is not None and server.process.poll() is not None:
            server.start()
    desk.sentinel.until_in_step()


@aio
async def test_events_reach_clients_on_both_nodes_in_every_namespace(desk: Desk) -> None:
    async with flowing(desk.nodes) as flow:
        await flow.more(20)
    assert not any(publisher.refusals for publisher in flow.publishers.values())


@aio
async def test_a_returning_client_receives_what_it_missed_on_the_other_node(desk: Desk) -> None:
    await resumes(desk.nodes)


@aio
async def test_a_failover_by_hand_is_followed_at_once(desk: Desk) -> None:
    """Sentinel makes the former primary a replica only later; nodes that stayed there would write into the void."""
    async with flowing(desk.nodes, across_nodes=False) as flow:
        await in_thread(desk.sentinel.fail_over)
        await flow.more(20)
    assert max(publisher.longest_s for publisher in flow.publishers.values()) < 5.0


@aio
async def test_a_killed_primary_is_replaced_and_loses_nothing(desk: Desk) -> None:
    async with flowing(desk.nodes, across_nodes=False) as flow:
        primary = desk.sentinel.primary
        await in_thread(primary.kill)
        await in_thread(desk.sentinel.until_primary_changes, primary.port)
        await flow.more(20)
    assert any(publisher.refusals for publisher in flow.publishers.values())


@aio
async def test_one_dead_sentinel_does_not_matter(desk: Desk) -> None:
    await in_thread(desk.sentinel.sentinels[0].kill)
    async with flowing(desk.nodes, ("/tickets", "/chat"), across_nodes=False) as flow:
        primary = desk.sentinel.primary
        await in_thread(primary.kill)
        await flow.more(20)


@aio
async def test_emitters_publish_and_survive_a_failover(desk: Desk) -> None:
    """They go on once the former primary is a replica. What it took until then is lost, as docs/reliability.md says."""

    def fail_over() -> None:
        desk.sentinel.fail_over()
        desk.sentinel.until_in_step()

    await emitters(desk.nodes, desk.sentinel.url, PREFIX, fail_over)


@aio
async def test_chats_tickets_notifications_and_node_calls_survive_a_failover(desk: Desk) -> None:
    await features_work(desk.nodes, desk.sentinel, desk.sentinel.fail_over)


@aio
async def test_an_admin_sees_logged_and_volatile_events_live(desk: Desk) -> None:
    await watched(desk.nodes)


@aio
async def test_check_names_the_primary_its_replicas_and_the_sentinels(desk: Desk, tmp_path: Path) -> None:
    said = await check_says(tmp_path, desk.sentinel.url)
    assert f"primary   {desk.sentinel.primary.address}\n" in said
    for replica in desk.sentinel.replicas:
        assert f"{replica.address} (online)" in said
    for sentinel in desk.sentinel.sentinels:
        assert f"Sentinel  {sentinel.address}: answers" in said
    assert "2 of 3 Sentinels must agree" in said and "The configuration is valid." in said


@aio
async def test_a_wrong_url_gets_one_line_that_says_what_to_change(desk: Desk, tmp_path: Path) -> None:
    sentinel, primary = desk.sentinel.sentinels[0].address, desk.sentinel.primary.address
    nobody = f"127.0.0.1:{free_port()}"
    table = {
        f"valkey://{sentinel}": "it is a Sentinel; write valkey+sentinel://host:26379/NAME",
        f"valkey+sentinel://{primary}/desk": "it is not a Sentinel; name the Sentinels' port",
        f"valkey+sentinel://{sentinel}/nope": "the Sentinels do not know a primary named nope; they watch desk",
        f"valkey+sentinel://{nobody}/desk": f"no Sentinel answers ({nobody}: nothing listens there)",
        f"valkey+cluster://{primary}": "it is one server and no cluster; write valkey:// instead of valkey+cluster://",
        f"valkey+cluster://{sentinel}": "it is a Sentinel; write valkey+sentinel://host:26379/NAME",
        f"valkey+cluster://{nobody}": "nothing listens there",
        f"valkey://{desk.sentinel.replicas[0].address}": "it is a read-only replica; name the primary",
    }
    for url, words in table.items():
        said = (await check_says(tmp_path, url)).strip()
        assert said.startswith(f"insightdesk-rt: valkey_url = {url}: ") and words in said, said
        assert "\n" not in said


@aio
async def test_without_a_quorum_a_dead_primary_is_named_with_what_is_missing(desk: Desk, tmp_path: Path) -> None:
    primary = desk.sentinel.primary
    for sentinel in desk.sentinel.sentinels[1:]:
        await in_thread(sentinel.kill)
    await in_thread(primary.kill)
    words = f"the primary {primary.address} does not answer, and 1 of 3 Sentinels do; 2 must agree"

    async def says() -> bool:
        return words in await check_says(tmp_path, desk.sentinel.url)

    await until(says, words)


@aio
async def test_sentinels_with_a_password_of_their_own_need_it(tmp_path: Path) -> None:
    file = tmp_path / "sentinel-password"
    file.write_text("s3cret of the sentinels\n", encoding="utf-8")
    with OwnSentinel(password=file.read_text(encoding="utf-8").strip().replace(" ", "-")) as own:
        said = await check_says(tmp_path, own.url)
        assert "it wants a password; Sentinels have their own: set sentinel_password_file" in said
        file.write_text("s3cret-of-the-sentinels\n", encoding="utf-8")
        said = await check_says(tmp_path, own.url, sentinel_password_file=str(file))
        assert "The configuration is valid." in said, said
        said = await check_says(tmp_path, f"{own.url}?sentinel_password=s3cret-of-the-sentinels")
        assert "The configuration is valid." in said and "s3cret" not in said


@aio
async def test_an_event_is_acknowledged_only_when_enough_replicas_have_it(desk: Desk) -> None:
    """`min_replicas_to_ack`: a retry with the same id is acknowledged, and the log has the event once."""
    store = Valkey(desk.sentinel.url, "acks", min_replicas=2)
    bus = ValkeyBackplane(store, ["/tickets"], "n1")
    event = Event("/tickets", "test:number", "{}", (Room("user:x"),), (), new_id())
    await store.start()
    await bus.start()
    replica = desk.sentinel.replicas[0]
    try:
        before = await bus.append(structs.replace(event, id=new_id()))
        replica.freeze()
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await bus.append(event)
        replica.thaw()
        await until(lambda: store.available, "the connection is used again")
        after = await bus.append(event)
        found = await bus.logs.recent("/tickets", Room("user:x"), 10)
        assert [one.offset for one in found] == [after, before]
    finally:
        replica.thaw()
        await bus.close()
        await store.close()


@aio
async def test_readiness_names_replicas_that_are_missing_for_acknowledgements(desk: Desk) -> None:
    store = Valkey(desk.sentinel.url, "acks", min_replicas=3)
    await store.start()
    try:
        assert "min_replicas_to_ack = 3, and it has 2 replicas" in await store.fitness()
    finally:
        await store.close()
