"""Signing in to the console over HTTP, as a browser does: the cookie, who may use it, and how it ends."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

import pytest

from insightdesk_rt.api.keys_and_scopes import MAX_FAILURES
from insightdesk_rt.operations.console.console import FOLDER, MAX_CREDENTIAL, POLICY, files
from tests.console.stage import Stage
from tests.support.server import ServerProcess

MAX_BYTES = 160_000
COOKIE = "insightdesk_console"
ADDRESS = iter(f"198.51.100.{number}" for number in range(100, 200))  # wrong keys are counted per address


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


def ask(server: ServerProcess, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    """Send one request; `X_Requested_With` in headers is X-Requested-With."""
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items() if value}
    text = json.dumps(body) if isinstance(body, dict) else body
    if isinstance(body, dict):
        named.setdefault("Content-Type", "application/json")
    connection.request(method, path, text, named)
    answer = connection.getresponse()
    reply = Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return reply


def own(server: ServerProcess, **headers: str) -> dict[str, str]:
    """Return the headers of a request by the console's own page."""
    origin = f"http://127.0.0.1:{server.admin_port}"
    return {"X_Requested_With": "console", "Origin": origin, "Sec_Fetch_Site": "same-origin", **headers}


def sign_in(server: ServerProcess, credential: str, **headers: str) -> Reply:
    return ask(server, "POST", "/api/v1/session", {"credential": credential}, **own(server, **headers))


def cookie_of(reply: Reply) -> str:
    assert reply.status == 200, reply
    return reply.headers["set-cookie"].partition(";")[0]


def test_signing_in_with_a_key_sets_a_cookie_that_scripts_and_other_sites_cannot_use(stage: Stage) -> None:
    reply = sign_in(stage.n1, stage.keys["operator"])
    assert reply.json == {"name": "operator", "scope": "operator", "via": "cookie"}
    value, *attributes = reply.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= set(attributes)
    assert "Secure" not in attributes, "over plain HTTP a browser would drop it"
    assert stage.keys["operator"] not in value and len(value) > 40
    session = ask(stage.n1, "GET", "/api/v1/session", Cookie=value)
    assert session.json == {"name": "operator", "scope": "operator", "via": "cookie"}
    assert ask(stage.n1, "GET", "/api/v1/nodes", Cookie=value).status == 200


def test_a_token_of_an_admin_signs_in_and_one_of_an_agent_does_not(stage: Stage) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.n1.token("ada", "admin")))
    assert ask(stage.n1, "GET", "/api/v1/session", Cookie=cookie).json["name"] == "ada"
    refused = sign_in(stage.n1, stage.n1.token("ines", "agent"))
    assert (refused.status, refused.code) == (403, "FORBIDDEN") and "set-cookie" not in refused.headers


def test_a_user_with_a_token_in_the_header_is_named_by_the_session_call(stage: Stage) -> None:
    by_key = ask(stage.n1, "GET", "/api/v1/session", Authorization=f"Bearer {stage.keys['viewer']}")
    assert by_key.json == {"name": "viewer", "scope": "viewer", "via": "key"}
    by_token = ask(stage.n1, "GET", "/api/v1/session", Authorization=f"Bearer {stage.n1.token('ada', 'admin')}")
    assert by_token.json == {"name": "ada", "scope": "admin", "via": "token"}


def test_behind_a_trusted_proxy_with_tls_the_cookie_is_for_tls_only(stage: Stage) -> None:
    reply = sign_in(stage.n1, stage.keys["viewer"], X_Forwarded_For="203.0.113.9", X_Forwarded_Proto="https")
    assert "Secure" in reply.headers["set-cookie"].split("; ")


def test_the_session_is_valid_on_every_node(stage: Stage) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.keys["operator"]))
    assert ask(stage.n2, "GET", "/api/v1/session", Cookie=cookie).json["name"] == "operator"


def test_signing_out_ends_it_on_every_node(stage: Stage) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.keys["operator"]))
    assert ask(stage.n2, "GET", "/api/v1/nodes", Cookie=cookie).status == 200
    gone = ask(stage.n1, "DELETE", "/api/v1/session", **own(stage.n1, Cookie=cookie))
    assert gone.status == 200 and "expires=" in gone.headers["set-cookie"]
    for node in (stage.n1, stage.n2):
        over = ask(node, "GET", "/api/v1/nodes", Cookie=cookie)
        assert (over.status, over.code) == (401, "AUTH_TOKEN_MISSING")
    again = ask(stage.n1, "DELETE", "/api/v1/session", **own(stage.n1, Cookie=cookie))
    assert again.status == 401


def test_removing_a_key_ends_its_sessions_and_streams(stage: Stage) -> None:
    here = {"X_Forwarded_For": next(ADDRESS)}
    cookie = cookie_of(sign_in(stage.n1, stage.keys["viewer"], **here))
    stage.write_keys("operator", "admin")
    try:
        over = ask(stage.n1, "GET", "/api/v1/nodes", Cookie=cookie, **here)
        assert (over.status, over.code) == (401, "AUTH_TOKEN_INVALID")
        for _ in range(MAX_FAILURES + 2):  # a page that repeats its request does not count as guessing
            assert ask(stage.n2, "GET", "/api/v1/nodes", Cookie=cookie, **here).status == 401
    finally:
        stage.write_keys("viewer", "operator", "admin")
    assert ask(stage.n1, "GET", "/api/v1/nodes", Cookie=cookie, **here).status == 401, "it has ended permanently"


def test_scopes_are_those_of_the_key(stage: Stage) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.keys["viewer"]))
    drain = ask(stage.n1, "POST", "/api/v1/nodes/n9/undrain", {"reason": "no"}, **own(stage.n1, Cookie=cookie))
    assert (drain.status, drain.code) == (403, "FORBIDDEN")


def test_wrong_keys_are_limited_and_a_right_one_from_the_same_address_signs_in(stage: Stage) -> None:
    here = {"X_Forwarded_For": next(ADDRESS)}
    for _ in range(MAX_FAILURES):
        assert sign_in(stage.n1, "irt_" + "x" * 43, **here).status == 401
    waits = sign_in(stage.n1, "irt_" + "x" * 43, **here)
    assert (waits.status, waits.code) == (429, "RATE_LIMITED")
    assert 0 < int(waits.headers["retry-after"]) <= 60
    assert sign_in(stage.n1, stage.keys["admin"], **here).status == 200


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param({"X_Requested_With": ""}, id="without our header"),
        pytest.param({"X_Requested_With": "XMLHttpRequest"}, id="another value of it"),
        pytest.param({"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}, id="another site"),
        pytest.param({"Origin": "http://127.0.0.1:9", "Sec_Fetch_Site": "same-site"}, id="another port of this host"),
        pytest.param({"Origin": "http://127.0.0.1:9", "Sec_Fetch_Site": ""}, id="another origin, an old browser"),
        pytest.param({"Origin": "null", "Sec_Fetch_Site": ""}, id="a sandboxed page"),
        pytest.param({"Origin": "", "Sec_Fetch_Site": ""}, id="without any header about its origin"),
    ],
)
def test_requests_of_other_pages_are_refused(stage: Stage, foreign: dict[str, str]) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.keys["admin"]))
    sent = own(stage.n1, Cookie=cookie) | foreign
    forged = ask(stage.n1, "POST", "/api/v1/nodes/n9/undrain", {"reason": "forged"}, **sent)
    assert (forged.status, forged.code) == (403, "FORBIDDEN")
    signed = ask(stage.n1, "POST", "/api/v1/session", {"credential": stage.keys["admin"]}, **sent)
    assert signed.status == 403 and "set-cookie" not in signed.headers
    out = ask(stage.n1, "DELETE", "/api/v1/session", **sent)
    assert out.status == 403
    assert ask(stage.n1, "GET", "/api/v1/session", Cookie=cookie).status == 200, "and it did not sign out"


def test_a_form_of_another_page_is_refused(stage: Stage) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.keys["admin"]))
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
        form = ask(
            stage.n1, "POST", "/api/v1/nodes/n9/undrain", '{"reason":"x"}', Cookie=cookie, Content_Type=content_type
        )
        assert form.status == 403
        own_form = {**own(stage.n1, Cookie=cookie), "Content_Type": content_type}
        assert ask(stage.n1, "POST", "/api/v1/nodes/n9/undrain", '{"reason":"x"}', **own_form).status == 415


def test_another_port_of_this_host_may_not_read_with_the_cookie_either(stage: Stage) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.keys["viewer"]))
    for site, status in (("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)):
        assert ask(stage.n1, "GET", "/api/v1/nodes", Cookie=cookie, Sec_Fetch_Site=site).status == status


def test_an_invented_cookie_is_not_a_session(stage: Stage) -> None:
    here = {"X_Forwarded_For": next(ADDRESS)}
    for value in ("x", "irt_" + "x" * 43, "a" * 3000):
        assert ask(stage.n1, "GET", "/api/v1/nodes", Cookie=f"{COOKIE}={value}", **here).status == 401
    assert ask(stage.n1, "GET", "/", Cookie=f"{COOKIE}=x").status == 200, "signing in is possible"


def test_an_invalid_credential_is_refused_by_name(stage: Stage) -> None:
    for wrong in (
        {"credential": ""},
        {"credential": "a b"},
        {"credential": "x" * (MAX_CREDENTIAL + 1)},
        {},
        {"key": "x"},
    ):
        reply = ask(stage.n1, "POST", "/api/v1/session", wrong, **own(stage.n1))
        assert (reply.status, reply.code) == (400, "BAD_REQUEST")
        assert reply.json["error"]["field"] in ("credential", "key")
    assert ask(stage.n1, "POST", "/api/v1/session", {"credential": "x" * 2_000_000}, **own(stage.n1)).status == 413


def test_pages_and_files_have_the_security_policy_and_are_sent_once(stage: Stage) -> None:
    for path, kind in (("/", "text/html"), ("/console/main.js", "text/javascript"), ("/console/base.css", "text/css")):
        reply = ask(stage.n1, "GET", path)
        assert reply.status == 200 and reply.headers["content-type"].startswith(kind)
        assert reply.headers["content-security-policy"] == POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cache-control"] == "no-cache"
        again = ask(stage.n1, "GET", path, If_None_Match=reply.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        head = ask(stage.n1, "HEAD", path)
        assert (head.status, head.body) == (200, b"")
    assert "unsafe" not in POLICY and "default-src 'none'" in POLICY


def test_the_console_is_served_only_after_signing_in(stage: Stage) -> None:
    cookie = cookie_of(sign_in(stage.n1, stage.keys["viewer"]))
    assert b"Sign in" in ask(stage.n1, "GET", "/").body
    page = ask(stage.n1, "GET", "/", Cookie=cookie)
    assert b'id="nav"' in page.body and page.headers["vary"] == "Cookie"


def test_nothing_but_the_consoles_files_is_served(stage: Stage) -> None:
    for path in (
        "/console/",
        "/console/../console.py",
        "/console/%2e%2e/console.py",
        "/console/pages",
        "/console/x.js",
    ):
        assert ask(stage.n1, "GET", path).status == 404
    assert ask(stage.n1, "POST", "/console/main.js", {}).status == 405
    assert ask(stage.n1, "GET", "/", Host="console.evil.example").status == 403


def test_the_console_is_small_and_loads_nothing_from_elsewhere() -> None:
    size = sum(len(content) for content, _ in files().values())
    assert size < MAX_BYTES, f"{size} bytes"
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} == {".html", ".js", ".css", ".svg"}
    for name, (content, _) in files().items():
        text = content.decode()
        assert "innerHTML" not in text and "eval(" not in text and " style=" not in text, name
        for scheme in ("https://", "http://", "//cdn"):
            assert scheme not in text.replace("http://www.w3.org/2000/svg", ""), name
