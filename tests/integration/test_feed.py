"""The feed of two real nodes: by long polling, as a stream, from Python and from the shell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.api.keys_and_scopes import PushLimits, new_key
from insightdesk_rt.api.sse import MAX_OF_ONE
from insightdesk_rt.feed import Feed, FeedEvent, FeedIncomplete, FeedRefused
from tests.support.aio import aio, until
from tests.support.nodes import two_nodes
from tests.support.server import ServerProcess, environment
from tests.support.sse import watching

Pair = tuple[ServerProcess, ServerProcess]
KEY, LINE = new_key("reporting", "viewer")
PUBLISHER_KEY, PUBLISHER_LINE = new_key("pusher", "publisher", PushLimits(("/tickets",), ("ticket:",)))
DOC = (Path(__file__).parents[2] / "docs" / "backend.md").read_text(encoding="utf-8")
ACCEPT = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("feed")
    keys = folder / "keys"
    keys.write_text(f"{LINE}\n{PUBLISHER_LINE}\n")
    keys.chmod(0o600)
    with two_nodes(folder, valkey_url, admin_keys_file=keys) as nodes:
        yield nodes


async def put(node: ServerProcess, ticket: str, **fields: Any) -> None:
    status, answer = await node.push("PUT", f"/api/v1/tickets/{ticket}", {"subject": "S", **fields})
    assert status in (200, 201), answer


async def feed(node: ServerProcess, **query: Any) -> Any:
    status, answer = await node.push("GET", "/api/v1/feed?" + "&".join(f"{k}={v}" for k, v in query.items()))
    assert status == 200, answer
    return answer


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [one["data"]["ticketId"] for one in events]


@aio
async def test_a_page_is_continued_on_the_other_node(pair: Pair) -> None:
    one, two = pair
    begin = (await feed(one))["next"]
    for number in range(3):
        await put((one, two)[number % 2], f"page{number}")
    first = await feed(one, after=begin, limit=2, types="ticket.created")
    rest = await feed(two, after=first["next"], types="ticket.created")
    assert ids(first["events"] + rest["events"]) == ["page0", "page1", "page2"] and rest["complete"]
    assert (await feed(two, after=rest["next"])) == {"events": [], "next": rest["next"], "complete": True}


@aio
async def test_a_long_poll_is_answered_as_soon_as_something_happens_on_any_node(pair: Pair) -> None:
    one, two = pair
    begin = (await feed(one))["next"]
    waiting = asyncio.create_task(feed(one, after=begin, wait=9, types="ticket.*"))
    await asyncio.sleep(0)
    began = time.monotonic()
    await put(two, "poll")
    answer = await waiting
    assert ids(answer["events"]) == ["poll"] and time.monotonic() - began < 5


@aio
async def test_without_an_offset_only_later_entries_are_returned(pair: Pair) -> None:
    one, _ = pair
    await put(one, "before")
    answer = await feed(one, types="ticket.*")
    assert answer["events"] == []
    await put(one, "after")
    assert ids((await feed(one, after=answer["next"], types="ticket.*"))["events"]) == ["after"]


@aio
async def test_an_offset_that_the_feed_never_had_is_incomplete(pair: Pair) -> None:
    answer = await feed(pair[0], after="99999999999999-0")
    assert answer["complete"] is False


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *[(f"after={offset}", "after") for offset in ("now", "00-00", f"{10**19}-0")],
        *[("wait=31", "wait"), ("limit=501", "limit"), ("types=chats.*", "types[0]"), ("x=1", "x")],
    ],
)
@aio
async def test_a_wrong_query_is_refused_by_its_field(pair: Pair, query: str, field: str) -> None:
    status, answer = await pair[0].push("GET", f"/api/v1/feed?{query}")
    assert status == 400 and answer["error"]["field"].startswith(field.partition("[")[0])


@aio
async def test_the_feed_is_read_by_admins_only(pair: Pair) -> None:
    """The feed holds chats and notes, which a key for charts must not read."""
    for key in (KEY, PUBLISHER_KEY):
        status, answer = await pair[0].push("GET", "/api/v1/feed", token=key)
        assert status == 403 and answer["error"]["code"] == "FORBIDDEN"
    assert (await pair[0].push("GET", "/api/v1/feed", token=None))[0] == 401


@aio
async def test_the_waiting_requests_of_a_caller_are_limited(pair: Pair) -> None:
    one, _ = pair
    async with contextlib.AsyncExitStack() as open_ones:
        for _ in range(MAX_OF_ONE):
            stream = await open_ones.enter_async_context(watching(one, "feed", headers=ACCEPT))
            assert stream.status == 200
        status, answer = await one.push("GET", "/api/v1/feed?wait=1", token=one.token("watcher", "admin"))
        assert status == 429 and "watcher has 12 streams open" in answer["error"]["message"]
        assert (await one.push("GET", "/api/v1/feed"))[0] == 200, "others are not concerned"


# ── server-sent events ──────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_a_stream_is_resumed_by_the_id_of_its_last_event_on_the_other_node(pair: Pair) -> None:
    one, two = pair
    begin = (await feed(one))["next"]
    async with watching(one, f"feed?after={begin}&types=ticket.*", headers=ACCEPT) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        await put(two, "sse1")
        assert (await stream.expect("entry", type="ticket.created"))["data"]["ticketId"] == "sse1"
        last = stream.last_id
    await put(one, "sse2")
    async with watching(two, "feed?types=ticket.*", headers={**ACCEPT, "Last-Event-ID": last}) as stream:
        assert (await stream.expect("entry"))["data"]["ticketId"] == "sse2"


@aio
async def test_a_stream_says_how_far_it_read_when_nothing_of_its_types_happens(pair: Pair) -> None:
    one, _ = pair
    begin = (await feed(one))["next"]
    async with watching(one, f"feed?after={begin}&types=chat.*", headers=ACCEPT) as stream:
        await put(one, "other")
        end = (await feed(one))["next"]
        reading = asyncio.create_task(stream.next(30))  # it skips keep-alives
        await until(lambda: stream.last_id == end, "the stream names the end of the log", 25)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@aio
async def test_a_slow_reader_of_a_stream_gets_everything(pair: Pair) -> None:
    """More entries than the stream's queue and the kernel's buffers hold, while the reader does not read."""
    one, _ = pair
    begin = (await feed(one))["next"]
    long = "x" * 400
    async with watching(one, f"feed?after={begin}&types=ticket.updated", headers=ACCEPT) as stream:
        for number in range(1500):
            await put(one, "slow", subject=f"{number} {long}")
        found = [(await stream.expect("entry"))["data"]["version"] for _ in range(1499)]
        assert found == list(range(2, 1501))
        assert not any(name == "dropped" for name, _ in stream.seen)


# ── Python ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def url(node: ServerProcess) -> str:
    return f"http://127.0.0.1:{node.admin_port}"


async def first(count: int, events: AsyncIterator[FeedEvent]) -> list[FeedEvent]:
    found = []
    async for event in events:
        found.append(event)
        if len(found) == count:
            break
    return found


@aio
async def test_a_python_program_reads_the_feed_with_await(pair: Pair) -> None:
    one, two = pair
    begin = (await feed(one))["next"]
    await put(one, "aio1")
    reader = Feed(url(two), one.token("reader", "admin"), types=["ticket.created"], after=begin)
    [event] = await first(1, aiter(reader))
    assert event.type == "ticket.created" and event.data["ticketId"] == "aio1" and event.id.startswith("evt_")
    await put(one, "aio2")
    [event] = await first(
        1, aiter(Feed(url(two), one.token("reader", "admin"), types=["ticket.*"], after=reader.offset))
    )
    assert event.data["ticketId"] == "aio2", "the offset is that of what was handed out"


@aio
async def test_a_python_program_reads_the_feed_with_for(pair: Pair) -> None:
    one, _ = pair
    begin = (await feed(one))["next"]
    for number in range(3):
        await put(one, f"for{number}")
    reader = Feed(url(one), one.token("reader", "admin"), types=["ticket.created"], after=begin, limit=2)
    found = await asyncio.to_thread(lambda: [event.data["ticketId"] for event in islice(reader, 3)])
    assert found == ["for0", "for1", "for2"]


@aio
async def test_the_example_of_the_docs_reads_the_feed(pair: Pair) -> None:
    one, _ = pair
    begin = (await feed(one))["next"]
    for number in range(3):
        await put(one, f"docs{number}")
    [example] = [code for code in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL) if "import Feed" in code]
    handled: list[str] = []
    saved: list[str] = []

    class Enough(Exception):
        pass

    def handle(event: FeedEvent) -> None:
        handled.append(event.data["ticketId"])

    def save(offset: str) -> None:
        saved.append(offset)
        if len(saved) == 3:
            raise Enough

    names = {"key": one.token("reader", "admin"), "saved_offset": begin, "handle": handle, "save": save}
    with pytest.raises(Enough):
        await asyncio.to_thread(exec, example.replace("http://localhost:3002", url(one)), names)
    assert handled == ["docs0", "docs1", "docs2"]
    assert (await feed(one, after=saved[-1], types="ticket.*"))["events"] == [], "it is behind the last event"


@aio
async def test_a_program_learns_that_events_are_missing_and_continues(pair: Pair) -> None:
    one, _ = pair
    await put(one, "there")
    reader = Feed(url(one), one.token("reader", "admin"), after="5-5")
    with pytest.raises(FeedIncomplete) as missing:
        await first(1, aiter(reader))
    assert missing.value.after == "5-5"
    [event] = await first(1, aiter(reader))
    assert event.type


@aio
async def test_a_refused_program_does_not_try_for_ever(pair: Pair) -> None:
    one, _ = pair
    with pytest.raises(FeedRefused) as refused:
        await asyncio.to_thread(next, iter(Feed(url(one), "irt_wrong")))
    assert refused.value.code == "AUTH_TOKEN_INVALID"
    with pytest.raises(FeedRefused):
        await first(1, aiter(Feed(url(one), KEY)))


@aio
async def test_a_program_continues_after_its_server_was_killed(tmp_path: Path, valkey_url: str) -> None:
    server = ServerProcess(tmp_path, valkey_url=valkey_url, valkey_prefix="feedkill")
    await asyncio.to_thread(server.start)
    token = server.token("reader", "admin", ttl_s=3600)
    found: list[str] = []
    try:
        reader = Feed(url(server), token, types=["ticket.created"], after=(await feed(server))["next"])

        def read() -> None:
            for event in islice(reader, 2):
                found.append(event.data["ticketId"])

        thread = threading.Thread(target=read)
        thread.start()
        await put(server, "kill1")
        await until(lambda: found == ["kill1"], "the first ticket")
        server.kill()
        await asyncio.to_thread(server.start)
        await put(server, "kill2")
        await until(lambda: found == ["kill1", "kill2"], "the second ticket, after the restart")
        await asyncio.to_thread(thread.join, 10)
    finally:
        server.stop()


# ── the shell ───────────────────────────────────────────────────────────────────────────────────────────────────────


@aio
async def test_the_command_prints_json_lines(pair: Pair) -> None:
    one, two = pair
    begin = (await feed(one))["next"]
    await put(one, "cli1")
    words = ["feed", "--types", "ticket.created", "--after", begin, "--admin-port", str(two.admin_port)]
    command = [sys.executable, "-m", "insightdesk_rt", *words, "--data-dir", str(two.data_dir)]
    shell = await asyncio.create_subprocess_exec(
        *command, env=environment(two.settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert shell.stdout is not None
        line = json.loads(await shell.stdout.readline())
        assert line["data"]["ticketId"] == "cli1" and set(line) == {"offset", "id", "type", "at", "data"}
        await put(two, "cli2")
        assert json.loads(await shell.stdout.readline())["data"]["ticketId"] == "cli2"
    finally:
        shell.kill()
        await shell.communicate()


@aio
async def test_the_command_reports_an_error_in_one_line(pair: Pair) -> None:
    one, _ = pair
    command = [
        sys.executable,
        "-m",
        "insightdesk_rt",
        "feed",
        "--types",
        "chats.*",
        "--admin-port",
        str(one.admin_port),
    ]
    shell = await asyncio.create_subprocess_exec(
        *command, env=environment(one.settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, said = await shell.communicate()
    assert shell.returncode == 1 and b"BAD_REQUEST: No type fits chats.*" in said and said.count(b"\n") == 1
