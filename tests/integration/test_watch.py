"""Live events of two nodes: each event once, filters, the view of each scope, slow readers, and expiring tokens."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from insightdesk_rt.api.keys_and_scopes import new_key
from insightdesk_rt.api.sse import ALIVE_S, MAX_OF_ONE, MAX_STREAMS
from insightdesk_rt.emitter import AsyncEmitter
from tests.support.aio import aio, until
from tests.support.native_client import NativeDoor
from tests.support.nodes import two_nodes
from tests.support.server import ServerProcess
from tests.support.sse import Events, watching

Pair = tuple[ServerProcess, ServerProcess]
DOOR = NativeDoor()
VIEWER = new_key("grafana", "viewer")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("watch")
    keys = folder / "keys"
    keys.write_text(VIEWER[1])
    keys.chmod(0o600)
    with two_nodes(folder, valkey_url, admin_keys_file=str(keys)) as pair:
        yield pair


async def emit(
    server: ServerProcess, namespace: str, room: str | list[str], event: str, data: object, **more: object
) -> None:
    rooms = [room] if isinstance(room, str) else room
    body = {"namespace": namespace, "rooms": rooms, "event": event, "data": data, **more}
    status, answer = await server.push("POST", "/api/v1/emit", body)
    assert status == 200, answer


async def until_marked(events: Events, server: ServerProcess, namespace: str, room: str) -> None:
    """Return when all earlier events have been seen, or never will be: a last event follows them."""
    await emit(server, namespace, room, "the:end", None)
    await events.expect("event", event="the:end")


@aio
async def test_each_event_of_every_node_is_shown_once_without_its_content(servers: Pair) -> None:
    one, two = servers
    room = "watched:" + secrets.token_hex(3)
    async with watching(one, "events?namespace=/tickets", VIEWER[0]) as events, watching(one, "events") as all_events:
        assert (events.status, events.headers["content-type"]) == (200, "text/event-stream")
        assert events.headers["cache-control"] == "no-store"
        await emit(two, "/tickets", [room, room + "-b", room + "-c"], "logged:there", {"secret": "s"})
        await emit(one, "/chat", room, "logged:here", {"secret": "s"})
        await emit(two, "/tickets", [room, room + "-b"], "volatile:there", {"secret": "s"}, volatile=True)
        emitter = AsyncEmitter(one.settings["valkey_url"], prefix=one.settings["valkey_prefix"])
        await emitter.of("/tickets").to(room).except_("role:customer").emit("logged:emitter", {"secret": "ü"})
        await emitter.close()
        await until_marked(events, one, "/tickets", room)
        await all_events.expect("event", event="logged:here")
    found = {data["event"]: data for name, data in events.seen if name == "event"}
    assert len(events.seen) == 4 == len(found)
    there = found["logged:there"]
    assert (there["namespace"], there["rooms"], there["volatile"], there["bytes"]) == (
        "/tickets",
        [room, room + "-b", room + "-c"],
        False,
        len('{"secret":"s"}'),
    )
    assert there["offset"] and there["at"].endswith("Z") and "payload" not in there and "except" not in there
    assert found["volatile:there"]["volatile"] and "offset" not in found["volatile:there"]
    assert found["logged:emitter"]["except"] == ["role:customer"] and found["logged:emitter"]["bytes"] == 15


@aio
async def test_the_content_of_events_needs_the_scope_admin(servers: Pair) -> None:
    one, _ = servers
    room = "watched:" + secrets.token_hex(3)
    async with watching(one, "events?payload=full", VIEWER[0]) as refused:
        assert refused.status == 403 and (await refused.body())["error"]["code"] == "FORBIDDEN"
    async with watching(one, f"events?payload=full&room={quote(room)}") as events:
        await emit(one, "/tickets", room, "said", {"text": "<b>ünï</b>\n\nevent: forged"})
        data = await events.expect("event", event="said")
        assert data["payload"] == {"text": "<b>ünï</b>\n\nevent: forged"}
        await emit(one, "/tickets", room, "said", {"text": "x" * 20_000})
        data = await events.expect("event", event="said")
        assert "payload" not in data and data["bytes"] > 20_000


@aio
async def test_filters(servers: Pair) -> None:
    one, two = servers
    tag = secrets.token_hex(3)
    room, other = f"watched:[{tag}]*?", f"watched:{tag}-other"  # characters that Valkey would treat as a pattern
    ann = f"ann-{tag}"
    peer = await DOOR.open(two.address, "/tickets", {"token": two.token(ann, "agent", f"team-{tag}")})
    cases: tuple[tuple[dict[str, str], list[str]], ...] = (
        ({"room": room}, ["a", "c", "end"]),
        ({"room": room, "namespace": "/tickets"}, ["a", "end"]),
        ({"namespace": "/chat"}, ["c", "d", "end"]),
        ({"event": "b", "namespace": "/tickets"}, ["b"]),
        ({"user": ann}, ["team", "user", "notes", "end"]),
        ({"user": ann, "namespace": "/tickets"}, ["team", "user", "end"]),
    )
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(watching(one, f"events?{urlencode(query)}")) for query, _ in cases]
        await asyncio.sleep(0.3)  # the user's rooms are read after the stream has opened
        await emit(one, "/tickets", room, "a", 1)
        await emit(one, "/tickets", other, "b", 1)
        await emit(one, "/chat", room, "c", 1)
        await emit(one, "/chat", other, "d", 1)
        await emit(one, "/tickets", f"team:team-{tag}", "team", 1)
        await emit(one, "/tickets", f"user:{ann}", "user", 1)
        await emit(one, "/tickets", [f"user:{ann}", other], "not-her", 1, **{"except": f"team:team-{tag}"})
        await emit(one, "/notifications", f"user:{ann}", "notes", 1)
        for namespace, rooms in (("/tickets", [room, f"user:{ann}"]), ("/chat", [room])):
            await emit(one, namespace, rooms, "end", 1)
        for stream, (query, expected) in zip(streams, cases, strict=True):
            names = []
            while names != expected:
                _, data = await stream.next()
                names.append(data["event"]) if data["event"] not in ("end",) or "end" not in names else None
                assert names == expected[: len(names)], query
    await peer.close()


@aio
async def test_live_shows_what_changes_and_only_that(servers: Pair) -> None:
    one, two = servers
    ann = "ann-" + secrets.token_hex(3)
    watched = [f"connections?user={ann}&limit=5", "metrics/queue", f"rooms/user%3A{ann}"]
    path = "live?" + urlencode({"watch": ",".join(quote(watch, safe="") for watch in watched)})
    async with watching(one, path, VIEWER[0]) as events:
        first = {data["watch"]: data for _, data in [await events.next() for _ in watched]}
        assert set(first) == set(watched) and all(data["status"] == 200 for data in first.values())
        assert first[watched[0]]["body"]["items"] == [] and first[watched[2]]["body"]["room"] == f"user:{ann}"
        peer = await DOOR.open(two.address, "/tickets", {"token": two.token(ann, "agent", "red")})
        data = await events.expect("state", watch=watched[0])
        assert [row["user"]["id"] for row in data["body"]["items"]] == [ann]
        await peer.close()


@aio
async def test_a_wrong_watched_path_gets_its_own_error_and_the_others_continue(servers: Pair) -> None:
    """Regression: a mistyped filter ended the whole stream, without a reason that a browser can read."""
    one, _ = servers
    wrong = {"nonsense": "watch", "connections?limit=0": "limit", "openapi.json": "watch", "live": "watch"}
    watched = [*wrong, "connections?sort=bogus", "audit?x=1", "metrics/queue"]
    path = "live?" + urlencode({"watch": ",".join(quote(watch, safe="") for watch in watched)})
    async with watching(one, path, VIEWER[0]) as events:
        said = {data["watch"]: data for _, data in [await events.next() for _ in watched]}
    assert said.pop("metrics/queue")["status"] == 200
    assert {data["status"] for data in said.values()} == {400}
    fields = {watch: data["body"]["error"]["field"] for watch, data in said.items()}
    assert fields == {**wrong, "connections?sort=bogus": "sort", "audit?x=1": "x"}
    async with watching(one, f"live?watch={'x' * 2_001}") as refused:
        assert (refused.status, (await refused.body())["error"]["field"]) == (400, "watch[0]")


@aio
async def test_a_reader_that_does_not_read_loses_events_and_costs_no_memory(servers: Pair) -> None:
    """The socket's buffers hold some events; the rest is dropped and counted, and no other reader waits."""
    one, _ = servers
    room = "watched:" + secrets.token_hex(3)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", one.admin_port))
    token = one.token("slow", "admin")
    ask = f"GET /api/v1/events?payload=full&room={quote(room)} HTTP/1.1\r\nHost: localhost\r\n"
    sock.sendall(f"{ask}Authorization: Bearer {token}\r\n\r\n".encode())
    await asyncio.sleep(0.3)
    async with watching(one, f"events?room={quote(room)}") as quick:
        for number in range(600):
            await emit(one, "/tickets", room, f"e{number}", "x" * 15_000, volatile=True)
            await quick.expect("event", event=f"e{number}")
        sock.settimeout(5)
        got = b""
        while b"event: dropped" not in got[-2_000:]:
            chunk = await asyncio.to_thread(sock.recv, 1_000_000)
            assert chunk, got[-500:]
            got += chunk
        seen = got.count(b"event: event\n")
        assert 20 < seen < 600
    sock.close()


@aio
async def test_a_stream_ends_with_the_permission_it_was_opened_with(servers: Pair) -> None:
    one, _ = servers
    brief = one.token("brief", "admin", ttl_s=3)
    async with watching(one, "events?event=none", brief) as quiet, watching(one, "live?watch=nodes", brief) as busy:
        assert quiet.status == busy.status == 200
        name, data = await quiet.next(deadline_s=15)
        assert (name, data["code"]) == ("end", "AUTH_TOKEN_EXPIRED")
        assert await busy.expect("end", deadline_s=15) == {"code": "AUTH_TOKEN_EXPIRED"}
        for events in (quiet, busy):
            with pytest.raises(EOFError):
                await events.next()


@aio
async def test_a_stream_that_is_never_idle_ends_with_its_permission_too(servers: Pair) -> None:
    """Regression: the permission was only checked after ten seconds without an event, rare in a busy cluster."""
    one, two = servers
    token, room = one.token("brief", "admin", ttl_s=3), "watched:" + secrets.token_hex(3)

    async def feed() -> None:
        while True:
            await emit(two, "/tickets", room, "busy", None, volatile=True)
            await asyncio.sleep(0.5)

    async with (
        watching(one, f"events?room={quote(room)}", token) as events,
        watching(one, "live?watch=nodes", token) as live,
    ):
        feeding = asyncio.create_task(feed())
        for stream in (events, live):
            assert (await stream.expect("end", deadline_s=20))["code"] == "AUTH_TOKEN_EXPIRED"
        feeding.cancel()


@aio
async def test_a_quiet_stream_sends_keep_alives(servers: Pair) -> None:
    one, _ = servers
    async with watching(one, "events?event=none") as events:
        with pytest.raises(TimeoutError):
            await events.next(deadline_s=ALIVE_S + 2)
        assert events.signs == 1 and events.seen == []


@aio
async def test_streams_are_limited_per_key_and_released(servers: Pair) -> None:
    """A reader at its limit does not block others, and a further request costs no connection to Valkey."""
    _, two = servers
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_OF_ONE):
            assert (await stack.enter_async_context(watching(two, "events?event=none", VIEWER[0]))).status == 200
        for path in ("events", "live?watch=nodes"):
            async with watching(two, path, VIEWER[0]) as refused:
                error = (await refused.body())["error"]
                assert (refused.status, error["code"]) == (429, "RATE_LIMITED") and "grafana has 12" in error["message"]
        for number in range(MAX_STREAMS - MAX_OF_ONE):
            token = two.token(f"admin{number // MAX_OF_ONE}", "admin")
            assert (await stack.enter_async_context(watching(two, "live?watch=nodes", token))).status == 200
        async with watching(two, "events") as refused:
            assert (refused.status, (await refused.body())["error"]["code"]) == (503, "UNAVAILABLE")
        assert (await two.push("GET", "/api/v1/nodes"))[0] == 200

    async def free() -> bool:
        async with watching(two, "events", VIEWER[0]) as again:
            return again.status == 200

    await until(free, "room for another stream")


@aio
async def test_reading_the_content_of_events_is_recorded_in_the_audit_log(servers: Pair) -> None:
    one, two = servers
    async with watching(one, "events?payload=full&namespace=/chat", one.token("eve", "admin")) as events:
        assert events.status == 200
    async with watching(one, "events", one.token("eve", "admin")) as events:
        assert events.status == 200
    status, page = await two.push("GET", "/api/v1/audit?who=eve")
    (entry,) = page["items"]
    assert (status, entry["action"], entry["target"]) == (200, "events.read", "namespace=/chat")
    assert (page["dropped"], page["droppedEarly"]) == (0, 0)
