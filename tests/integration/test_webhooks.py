"""Webhooks of two real nodes: over the API and the shell, and what the death of the leader or the receiver changes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from insightdesk_rt.api.keys_and_scopes import new_key
from tests.support.aio import aio, until
from tests.support.nodes import two_nodes
from tests.support.own_valkey import OwnValkey
from tests.support.receiver import Received, Receiver, a_receiver
from tests.support.scrape import scrape
from tests.support.server import ServerProcess, environment

Pair = tuple[ServerProcess, ServerProcess]
KEYS = {scope: new_key(scope, scope) for scope in ("viewer", "operator")}
FAILS = "a webhook"  # what the log says of webhooks that tests let fail
WHY = {"reason": "the test"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("webhooks")
    keys = folder / "keys"
    keys.write_text("".join(line + "\n" for _, line in KEYS.values()))
    keys.chmod(0o600)
    with two_nodes(folder, valkey_url, [FAILS], webhook_allow_private="true", admin_keys_file=keys) as nodes:
        yield nodes


async def call(node: ServerProcess, method: str, path: str, body: Any = None, scope: str = "admin") -> Any:
    token = KEYS[scope][0] if scope in KEYS else "admin"
    status, answer = await node.push(method, f"/api/v1/webhooks{path}", body, token=token)
    assert status in (200, 201), answer
    return answer


async def make(node: ServerProcess, receiver: Receiver, **fields: Any) -> Any:
    return await call(node, "POST", "", {"url": receiver.url, **WHY, **fields})


async def put(node: ServerProcess, ticket: str, subject: str = "S") -> None:
    status, answer = await node.push("PUT", f"/api/v1/tickets/{ticket}", {"subject": subject})
    assert status in (200, 201), answer


def tickets(receiver: Receiver) -> list[str]:
    return [one.event["data"]["ticketId"] for one in receiver.accepted if one.event["type"].startswith("ticket.")]


async def end(node: ServerProcess, id: str) -> None:
    await call(node, "DELETE", f"/{id}?reason=over")


@aio
async def test_a_webhook_gets_what_happens_signed_with_the_secret_of_its_answer(pair: Pair) -> None:
    one, two = pair
    async with a_receiver() as receiver:
        made = await make(one, receiver, types=["ticket.created"])
        assert made["secret"].startswith("whsec_") and made["webhook"]["state"] == "active"
        await put(two, "hook1")
        await put(one, "hook1", "T")
        await put(two, "hook2")
        await until(lambda: tickets(receiver) == ["hook1", "hook2"], "both new tickets")
        for got in receiver.accepted:
            assert Webhook(made["secret"]).verify(got.body, got.headers)["id"] == got.id
        await end(two, made["id"])
        assert made["id"] not in [one["id"] for one in (await call(one, "GET", ""))["items"]]


@aio
async def test_the_secret_is_not_to_be_had_again(pair: Pair) -> None:
    one, two = pair
    async with a_receiver() as receiver:
        secret = "whsec_" + "QUFB" * 11
        made = await make(one, receiver, secret=secret)
        for path in ("", f"/{made['id']}"):
            assert secret not in json.dumps(await call(two, "GET", path))
        _, audit = await one.push("GET", "/api/v1/audit?action=webhook")
        assert audit["items"][0]["action"] == "webhook.create" and made["id"] in audit["items"][0]["target"]
        assert secret not in json.dumps(audit) and secret not in one.log()
        assert receiver.url not in json.dumps(audit), "its path may be a secret, and any viewer reads the audit log"
        seen = await call(one, "GET", f"/{made['id']}", scope="viewer")
        assert seen["url"] == receiver.url.removesuffix("hook") + "…"
        await end(one, made["id"])


@aio
async def test_a_replaced_secret_and_the_old_one_both_verify(pair: Pair) -> None:
    one, two = pair
    async with a_receiver() as receiver:
        made = await make(one, receiver)
        new = await call(two, "POST", f"/{made['id']}/secret", WHY)
        tested = await call(one, "POST", f"/{made['id']}/test", WHY)
        assert tested["accepted"] and tested["error"] is None
        [got] = receiver.accepted
        for secret in (made["secret"], new["secret"]):
            assert Webhook(secret).verify(got.body, got.headers)["type"] == "webhook.ping"
        await end(one, made["id"])


@aio
async def test_pause_resume_and_replay(pair: Pair) -> None:
    one, two = pair
    async with a_receiver() as receiver:
        made = await make(one, receiver, types=["ticket.created"])
        path = f"/{made['id']}"
        await put(one, "p1")
        await until(lambda: tickets(receiver) == ["p1"], "the first")
        assert (await call(two, "POST", path + "/pause", WHY, scope="operator"))["state"] == "paused"
        await put(one, "p2")
        await asyncio.sleep(0)
        assert (await call(two, "POST", path + "/resume", WHY, scope="operator"))["state"] == "active"
        await until(lambda: tickets(receiver)[-1:] == ["p2"], "what happened during the pause")
        before = len(receiver.accepted)
        ids = list(receiver.ids)
        await call(two, "POST", path + "/replay", {**WHY, "after": made["webhook"]["cursor"]}, scope="operator")
        await until(lambda: len(receiver.accepted) >= before + 2, "both again")
        assert receiver.ids[before : before + 2] == list(dict.fromkeys(ids)), "a replay has the same ids"
        await end(one, made["id"])


@aio
async def test_a_failing_webhook_is_shown_with_its_reason_and_counted(pair: Pair) -> None:
    one, two = pair
    async with a_receiver() as receiver:
        receiver.answer = lambda received: 500
        made = await make(one, receiver, types=["ticket.created"])
        await put(one, "bad1")

        async def fails() -> Any:
            seen = await call(two, "GET", f"/{made['id']}")
            return seen if seen.get("failures", 0) >= 2 else None

        seen = await until(fails, "two attempts")
        assert seen["lastError"] == "HTTP 500 Internal Server Error" and seen["nextTry"] and seen["pendingSince"]

        async def counted() -> bool:
            pages = [await scrape(node) for node in pair]
            exporting = [page for page in pages if made["id"] in page.labels("webhook_lag_seconds", "webhook")]
            return len(exporting) == 1 and exporting[0].of("webhook_failures", webhook=made["id"]) > 0

        await until(counted, "the leader has its lag")
        receiver.answer = lambda received: 410

        async def parked() -> bool:
            return bool((await call(two, "GET", f"/{made['id']}"))["state"] == "parked")

        await call(two, "POST", f"/{made['id']}/resume", WHY)  # try now
        await until(parked, "it is parked")
        receiver.answer = lambda received: 200
        await call(two, "POST", f"/{made['id']}/resume", WHY)
        await until(lambda: tickets(receiver) == ["bad1"], "nothing is lost")
        await end(one, made["id"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "nonsense"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": "http://no-such-name.invalid/"}, "url"),
        ({"url": "http://127.0.0.1:1/", "types": ["chats.*"]}, "types[0]"),
        ({"url": "http://127.0.0.1:1/", "secret": "short"}, "secret"),
        ({"url": "http://127.0.0.1:1/", "after": "now"}, "after"),
    ],
)
@aio
async def test_a_wrong_webhook_is_refused_by_its_field(pair: Pair, body: Any, field: str) -> None:
    status, answer = await pair[0].push("POST", "/api/v1/webhooks", {**body, **WHY})
    assert status == 400 and answer["error"]["field"] == field, answer


@aio
async def test_only_admins_make_webhooks(pair: Pair) -> None:
    """A webhook carries every chat out of the house."""
    status, _ = await pair[0].push("POST", "/api/v1/webhooks", {"url": "x", **WHY}, token=KEYS["operator"][0])
    assert status == 403
    status, _ = await pair[0].push("POST", "/api/v1/webhooks/wh_0123456789abcdef/pause", WHY, token=KEYS["viewer"][0])
    assert status == 403
    status, _ = await pair[0].push("POST", "/api/v1/webhooks/wh_0123456789abcdef/pause", WHY)
    assert status == 404


@aio
async def test_this_machine_is_refused_without_the_setting(tmp_path: Path, valkey_url: str) -> None:
    server = ServerProcess(tmp_path, valkey_url=valkey_url, valkey_prefix="nohooks")
    await asyncio.to_thread(server.start)
    try:
        for url in ("https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://169.254.169.254/latest/"):
            status, answer = await server.push("POST", "/api/v1/webhooks", {"url": url, **WHY})
            assert status == 400 and "is not a public address" in answer["error"]["message"], answer
    finally:
        server.stop()
    server.assert_quiet()


# ── the shell ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def shell(node: ServerProcess, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "insightdesk_rt", "webhooks", *words, "--admin-port", str(node.admin_port)]
    ran = await asyncio.create_subprocess_exec(
        *command, env=environment(node.settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await ran.communicate()
    return ran.returncode or 0, said.decode()


@aio
async def test_a_webhook_is_made_tested_and_deleted_from_the_shell(pair: Pair) -> None:
    one, _ = pair
    async with a_receiver() as receiver:
        code, said = await shell(one, "create", receiver.url, "--types", "chat.*", "--reason", "the test")
        id, secret = said.split()[0], said.split()[3]
        assert code == 0 and id.startswith("wh_") and secret.startswith("whsec_")
        assert (await shell(one, "test", id, "--reason", "x"))[0] == 0
        receiver.answer = lambda received: 500
        code, said = await shell(one, "test", id, "--reason", "x")
        assert code == 1 and said.startswith("not accepted: HTTP 500")
        code, said = await shell(one)
        assert code == 0 and id in said and "chat.*" in said
        assert (await shell(one, "pause", id, "--reason", "x")) == (0, f"{id}  paused\n")
        assert (await shell(one, "delete", id, "--reason", "x")) == (0, f"{id}  deleted\n")
        assert (await shell(one, "pause", id))[0] == 2


# ── deaths ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def leader(pair: Pair) -> int:
    async def who() -> Any:
        for node in pair:
            if node.process is not None and node.process.poll() is None:
                _, answer = await node.push("GET", "/api/v1/nodes")
                return [one["node"] for one in answer["nodes"] if one["leads"]]
        return None

    [name] = await until(who, "one leads")
    return int(name[1:]) - 1


def each_once_by_id(receiver: Receiver) -> list[str]:
    """Return the tickets in the order of their first messages. A repeat is the same message under the same id."""
    first: dict[str, Received] = {}
    for got in receiver.accepted:
        assert first.setdefault(got.id, got).body == got.body
    return [one.event["data"]["ticketId"] for one in first.values()]


@aio
async def test_the_leader_is_killed_in_mid_delivery(tmp_path: Path) -> None:
    """Nothing is missing, the order holds, and doubles have the same webhook-id."""
    with OwnValkey("--appendonly", "yes", "--appendfsync", "everysec") as valkey:
        common = {"valkey_url": valkey.url, "webhook_allow_private": "true", "drain_seconds": 0}
        pair = tuple(ServerProcess(tmp_path / name, node_id=name, **common) for name in ("n1", "n2"))
        try:
            for node in pair:
                await asyncio.to_thread(node.start)
            async with a_receiver() as receiver:

                async def slowly(received: Received) -> int:
                    await asyncio.sleep(0.05)
                    return 200

                receiver.answer = slowly
                await make(pair[0], receiver, types=["ticket.created"])
                wanted = [f"kill{number}" for number in range(60)]
                at = await leader(pair)  # type: ignore[arg-type]
                for number, name in enumerate(wanted):
                    await put(pair[1 - at], name)
                    if number == 30:
                        await until(lambda: len(receiver.accepted) >= 5, "it is in the middle of delivering")
                        pair[at].kill()
                await until(lambda: set(tickets(receiver)) >= set(wanted), "all have arrived", 35)
                assert each_once_by_id(receiver) == wanted
        finally:
            for node in pair:
                if node.process is not None and node.process.poll() is None:
                    node.stop()


@aio
async def test_the_receiver_is_killed_in_mid_delivery_and_comes_back(pair: Pair) -> None:
    receiver = Receiver()
    await receiver.start()
    made = await make(pair[0], receiver, types=["ticket.created"])
    try:
        wanted = [f"back{number}" for number in range(30)]
        for number, name in enumerate(wanted):
            await put(pair[number % 2], name)
            if number == 10:
                await until(lambda: len(receiver.accepted) >= 3, "it receives")
                await receiver.stop()
        await receiver.start(receiver.port)
        await until(lambda: set(tickets(receiver)) >= set(wanted), "all have arrived", 35)
        assert each_once_by_id(receiver) == wanted
    finally:
        await end(pair[0], made["id"])
        await receiver.stop()
