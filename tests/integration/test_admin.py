"""The admin API on a real process: keys of every scope, and refusals as each operation declares them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.api.keys_and_scopes import SCOPES, Principal, new_key, push_limits
from insightdesk_rt.api.paging import make_cursor
from tests.console.test_sessions import sign_in
from tests.support.aio import aio
from tests.support.server import ServerProcess
from tests.support.wrong import Schemas

EVERYWHERE = push_limits(["/", "/tickets", "/chat", "/notifications", "/presence", "/dashboard"], ["*"])
KEYS = {scope: new_key(scope, scope, EVERYWHERE if scope == "publisher" else None) for scope in SCOPES}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("admin")
    keys = folder / "keys"
    keys.write_text("\n".join(line for _, line in KEYS.values()))
    keys.chmod(0o600)
    server = ServerProcess(folder, node_id="n1", drain_seconds=0, admin_keys_file=str(keys))
    server.start()
    yield server
    server.stop()
    server.assert_quiet("not all nodes replied")


async def described(server: ServerProcess) -> list[tuple[str, str, dict[str, Any]]]:
    status, document = await server.push("GET", "/api/v1/openapi.json", token=None)
    assert status == 200
    return [
        (method.upper(), path, about)
        for path, methods in document["paths"].items()
        for method, about in methods.items()
        if "x-scope" in about
    ]


def taken_by(about: dict[str, Any], schemas: Schemas) -> set[str]:
    """Return the names of what an operation takes: in the path, the query and the body."""
    content = about.get("requestBody", {}).get("content", {})
    fields = {name for one in content.values() for name in schemas.fields(one["schema"])}
    return fields | {one["name"] for one in about.get("parameters", ())}


def at(path: str) -> str:
    """Return a value for a path parameter that exists nowhere: its own name."""
    path = path.replace("{webhookId}", "wh_" + "0" * 16)
    return path.replace("{sid}", "s" * 20).replace("{id}", "0" * 20).replace("{", "").replace("}", "")


@aio
async def test_every_operation_is_refused_without_a_key_and_to_a_lesser_scope(server: ServerProcess) -> None:
    found = await described(server)
    assert len(found) >= 10
    for method, path, about in found:
        body = {} if "requestBody" in about else None
        assert (await server.push(method, at(path), body, token=None))[0] == 401, (method, path)
        for scope in SCOPES:
            if Principal("any", scope).may(about["x-scope"]):  # type: ignore[arg-type]
                continue
            status, answer = await server.push(method, at(path), body, token=KEYS[scope][0])
            assert (status, answer["error"]["code"]) == (403, "FORBIDDEN"), (method, path, scope)


@aio
async def test_a_leaked_publisher_key_reads_nothing_and_administrates_nothing(server: ServerProcess) -> None:
    """Although it may push to every room of every namespace.

    Its operations are pushes: they change something and take no `reason`, which all changes of admins take.
    """
    may = {f"{method} {path}" for method, path, about in await described(server) if about["x-scope"] == "publisher"}
    assert {"PUT /api/v1/tickets/{ticketId}", "POST /api/v1/emit", "POST /api/v1/chats"} <= may
    _, document = await server.push("GET", "/api/v1/openapi.json", token=None)
    pushes = {
        f"{method} {path}"
        for method, path, about in await described(server)
        if method != "GET" and "reason" not in taken_by(about, Schemas(document))
    }
    assert may <= pushes, f"no pushes, so a publisher's key must not be enough: {sorted(may - pushes)}"
    key = KEYS["publisher"][0]
    for method, path, about in await described(server):
        body = {} if "requestBody" in about else None
        status, answer = await server.push(method, at(path), body, token=key)
        if f"{method} {path}" in may:
            assert status not in (401, 403), (method, path, answer)
        else:
            assert (status, answer["error"]["code"]) == (403, "FORBIDDEN"), (method, path)
    signed_in = sign_in(server, key)
    assert (signed_in.status, signed_in.code) == (403, "FORBIDDEN") and "set-cookie" not in signed_in.headers


@aio
async def test_every_operation_refuses_what_is_not_declared_and_names_it(server: ServerProcess) -> None:
    for method, path, about in await described(server):
        key, body = KEYS[about["x-scope"]][0], {} if "requestBody" in about else None
        status, answer = await server.push(method, at(path) + "?nonsense=1", body, token=key)
        assert (status, answer["error"]["field"]) == (400, "nonsense"), (method, path)
        if body is not None:
            status, answer = await server.push(method, at(path), {"nonsense": 1}, token=key)
            assert status == 400 and answer["error"]["field"], (method, path)


@aio
async def test_every_change_is_in_the_audit_log(server: ServerProcess) -> None:
    key = KEYS["operator"][0]
    for over_s in (0, 1, 2):
        order = {"overSeconds": over_s, "reason": f"kernel {over_s}"}
        assert (await server.push("POST", "/api/v1/nodes/n1/drain", order, token=key))[0] == 200
    assert (await server.push("POST", "/api/v1/nodes/n1/undrain", {"reason": "done"}, token=key))[0] == 200
    assert (await server.push("POST", "/api/v1/nodes/n9/undrain", {"reason": "typo"}, token=key))[0] == 404
    status, page = await server.push("GET", "/api/v1/audit?limit=2", token=KEYS["viewer"][0])
    assert status == 200 and page["next"]
    typo, done = page["items"]
    assert (typo["outcome"], typo["target"], done["outcome"], done["who"]) == ("NOT_FOUND", "n9", "ok", "key:operator")
    assert (done["reason"], done["action"], done["address"], done["node"]) == (
        "done",
        "node.undrain",
        "127.0.0.1",
        "n1",
    )
    seen = page["items"]
    while page["next"]:
        _, page = await server.push("GET", f"/api/v1/audit?limit=2&cursor={page['next']}", token=KEYS["viewer"][0])
        seen += page["items"]
    assert len(seen) == len({entry["id"] for entry in seen}) == 5
    _, page = await server.push("GET", "/api/v1/audit?action=node.drain&who=key:operator", token=KEYS["viewer"][0])
    assert [entry["what"] for entry in page["items"]] == [f'{{"overSeconds":{over_s}.0}}' for over_s in (2, 1, 0)]
    assert (await server.push("GET", "/api/v1/audit?who=nobody", token=KEYS["viewer"][0]))[1]["items"] == []
    wrong = await server.push("GET", "/api/v1/audit?cursor=nonsense", token=KEYS["viewer"][0])
    assert (wrong[0], wrong[1]["error"]["field"]) == (400, "cursor")
    far = make_cursor("9" * 30 + "-0")
    wrong = await server.push("GET", f"/api/v1/audit?cursor={far}", token=KEYS["viewer"][0])
    assert (wrong[0], wrong[1]["error"]["field"]) == (400, "cursor")


@aio
async def test_every_operation_has_its_row_in_the_docs(server: ServerProcess) -> None:
    _, document = await server.push("GET", "/api/v1/openapi.json", token=None)
    declared = {
        (f"{method.upper()} {path.removeprefix('/api/v1')}", about.get("x-scope", "none"), about["summary"].rstrip("."))
        for path, methods in document["paths"].items()
        for method, about in methods.items()
    }
    page = (Path(__file__).parents[2] / "docs" / "admin.md").read_text()
    rows = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \| (\w+) \| (.*) \|$", page, re.MULTILINE))
    assert rows == declared
