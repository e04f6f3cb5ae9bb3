"""The command line: what it prints, its exit codes, and that every failure is one clear line."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from insightdesk_rt import __version__
from insightdesk_rt.api.keys_and_scopes import PushLimits, parse_keys
from insightdesk_rt.app import config, process
from insightdesk_rt.app.cli import main as cli
from insightdesk_rt.app.cli import operate
from insightdesk_rt.app.config import LoadedSettings
from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.signing_keys import KeyRing, signing_key
from insightdesk_rt.engine.tokens import TokenSettings
from tests.support.answering import Answering, answering

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder, no settings in the environment, logging as it was."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("INSIGHTDESK_RT_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.fixture
def secret() -> None:
    """The secret that a server made in ./data when it first started."""
    signing_key(TokenSettings())


class Said:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> Said:
        try:
            code = cli.main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


# ── key ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_key_prints_the_line_of_a_publisher_with_its_limits(run: Any) -> None:
    words = ["--name", "shop", "--scope", "publisher", "--namespaces", "/tickets", "--rooms", "ticket:,team:"]
    said = run("key", *words)
    assert said.code == 0
    key, line = (row.split(maxsplit=1)[1] for row in said.out.splitlines()[:2])
    (found,) = parse_keys(line)
    assert key.startswith("irt_") and line.endswith(" namespaces=/tickets rooms=ticket:,team:")
    assert found.principal.limits == PushLimits(("/tickets",), ("ticket:", "team:"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--scope", "publisher"], "needs --namespaces and --rooms"),
        (["--scope", "publisher", "--namespaces", "/tickets"], "needs --namespaces and --rooms"),
        (["--scope", "publisher", "--namespaces", "/none", "--rooms", "a"], "There is no such namespace"),
        (["--scope", "publisher", "--namespaces", "/tickets", "--rooms", "a,,b"], "--rooms: expected one or several"),
        (["--scope", "viewer", "--rooms", "a"], "are for --scope publisher"),
    ],
)
def test_key_refuses_limits_that_do_not_fit(run: Any, words: list[str], why: str) -> None:
    said = run("key", "--name", "shop", *words)
    assert said.code == 2 and why in said.err and not said.out


# ── token ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_token_prints_a_token_that_a_server_with_the_same_data_dir_accepts(run: Any, secret: None) -> None:
    words = [
        "--sub",
        "anna",
        "--role",
        "agent",
        "--team",
        "t1",
        "--name",
        "Anna Ö",
        "--email",
        "a@x",
        "--session",
        "s1",
    ]
    said = run("token", *words, "--ttl", "60")
    assert (said.code, said.err) == (0, "")
    user = KeyRing(TokenSettings()).verify(said.out.strip())
    assert (user.id, user.role, user.team_id, user.name, user.email, user.session_id) == (
        "anna", "agent", "t1", "Anna Ö", "a@x", "s1"
    )  # fmt: skip
    assert 55 < user.expires_s - time.time() <= 60
    assert said.out.count("\n") == 1


def test_token_uses_the_configured_issuer_and_audience(run: Any, secret: None) -> None:
    said = run("token", "--sub", "a", "--role", "admin", "--jwt-issuer", "me", "--jwt-audience", "desk")
    assert KeyRing(TokenSettings(jwt_issuer="me", jwt_audience="desk")).verify(said.out.strip()).role == "admin"


def test_token_refuses_claims_that_the_server_would_refuse(run: Any, secret: None) -> None:
    for words in (["--sub", "a\nb"], ["--sub", ""], ["--sub", "a" * 129], ["--sub", "a", "--name", "n" * 300]):
        said = run("token", "--role", "agent", *words)
        assert said.code == 2 and said.out == "" and len(said.err.splitlines()) == 1
        assert said.err.startswith("insightdesk-rt: the server would refuse this token: ")


def test_token_needs_a_secret(run: Any) -> None:
    said = run("token", "--sub", "a", "--role", "agent", "--jwt-algorithms", "RS256", "--jwks-url", "https://x/jwks")
    assert (said.code, said.err) == (2, "insightdesk-rt: jwt_algorithms: no HS algorithm is allowed\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"aud": "desk"}, "it is for another audience"),
        ({"role": "supervisor"}, "role is none of admin, agent, customer"),
        ({"sub": 17}, 'sub is a number; it must be text, as in "17"'),
        ({"exp": 1}, "(AUTH_TOKEN_EXPIRED)"),
        ({"exp": None}, "exp is not a time in seconds"),
        ({"iat": time.time() + 3600}, "in the future"),
    ],
)
def test_explain_says_why_a_token_is_refused(run: Any, change: dict[str, Any], words: str) -> None:
    key = signing_key(TokenSettings())
    text = auth.sign({"sub": "ann", "role": "agent", "exp": int(time.time()) + 60, **change}, key)
    said = run("token", "--explain", text)
    assert said.code == 1 and words in said.err and len(said.err.splitlines()) == 1
    assert '"ann"' in said.out or "17" in said.out, "the claims are shown"
    assert text.split(".")[2] not in said.out + said.err, "the signature is not"


def test_explain_shows_the_user_of_an_accepted_token(secret: None, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("token", "--sub", "ann", "--role", "agent", "--team", "red").out
    said = run("token", "--explain", text)
    assert (said.code, said.err) == (0, "")
    assert "The server accepts this token: user ann, role agent of team red" in said.out
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Bearer {text}"))
    assert run("token", "--explain", "-").code == 0


def test_explain_uses_the_servers_settings(secret: None, run: Any) -> None:
    text = run("token", "--sub", "ann", "--role", "agent", "--jwt-audience", "desk").out.strip()
    assert run("token", "--explain", text, "--jwt-audience", "desk").code == 0
    assert "another audience" in run("token", "--explain", text).err
    assert "the signature is wrong" in run("token", "--explain", text, "--jwt-secret", "x" * 40).err


def test_explain_creates_no_secret(run: Any, tmp_path: Path) -> None:
    """With a new secret, every token would be invalid."""
    said = run("token", "--explain", "a.b.c", "--data-dir", str(tmp_path / "elsewhere"))
    assert said.code == 2 and "no secret in data_dir" in said.err
    assert not (tmp_path / "elsewhere").exists()


def test_explain_warns_of_an_exp_in_milliseconds(run: Any) -> None:
    text = auth.sign({"sub": "ann", "role": "agent", "exp": int(time.time() * 1000)}, signing_key(TokenSettings()))
    said = run("token", "--explain", text)
    assert said.code == 0 and "milliseconds" in said.err


# ── emit and status, against a real HTTP server ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def admin() -> Iterator[Answering]:
    with answering() as port:
        yield port


def test_emit_publishes_with_a_short_admin_token_and_prints_the_offset(
    secret: None, run: Any, admin: Answering
) -> None:
    admin.answer = b'{"offset":"17-0"}'
    said = run("emit", "/tickets", "ticket:42", "ticket:updated", '{"a": ["ö", 1]}', "--admin-port", admin.port)
    assert (said.code, said.out, said.err) == (0, "17-0\n", "")
    [(method, path, body, bearer)] = admin.asked
    assert (method, path) == ("POST", "/api/v1/emit")
    assert body is not None and len(body.pop("id")) == 16
    assert body == {"namespace": "/tickets", "room": "ticket:42", "event": "ticket:updated", "data": {"a": ["ö", 1]}}
    user = auth.verify(
        bearer.removeprefix("Bearer "), auth.VerificationKeys((signing_key(TokenSettings()),)), time.time()
    )
    assert user.role == "admin" and user.expires_s <= time.time() + 60


def test_emit_takes_json_from_standard_input_and_an_id_and_a_key(
    run: Any, admin: Answering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("[1]"))
    (tmp_path / "key").write_text("k3y\n")
    words = ["/tickets", "r", "e", "-", "--id", "mine", "--key-file", "key", "--url", f"http://127.0.0.1:{admin.port}/"]
    assert run("emit", *words).code == 0
    body, bearer = admin.asked[0][2:]
    assert body is not None and (body["data"], body["id"], bearer) == ([1], "mine", "Bearer k3y")
    assert not (tmp_path / "data").exists(), "no secret was created"


def test_emit_can_be_volatile(secret: None, run: Any, admin: Answering) -> None:
    said = run("emit", "/tickets", "r", "e", "1", "--volatile", "--admin-port", admin.port)
    assert (said.code, said.out) == (0, "sent\n")
    body = admin.asked[0][2]
    assert body is not None and body["volatile"] is True and "id" not in body


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (403, b'{"error":{"code":"FORBIDDEN","message":"You may not."}}', "FORBIDDEN: You may not."),
        (400, b'{"error":{"code":"BAD_REQUEST","message":"No.","field":"room"}}', "BAD_REQUEST: No. (room)"),
        (502, b"<html>", "HTTP 502"),
        (500, b'{"error":"x"}', "HTTP 500"),
    ],
)
def test_a_refusal_is_printed_in_one_line(
    secret: None, run: Any, admin: Answering, status: int, answer: bytes, expected: str
) -> None:
    admin.status, admin.answer = status, answer
    said = run("emit", "/t", "r", "e", "1", "--admin-port", admin.port)
    assert (said.code, said.out, said.err) == (1, "", f"insightdesk-rt: the server refused: {expected}\n")


def test_an_unreachable_port_is_reported_in_one_line(secret: None, run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = str(gone.getsockname()[1])
    for words in (["status"], ["emit", "/t", "r", "e", "1"]):
        said = run(*words, "--admin-port", port)
        assert said.code == 1
        assert said.err.startswith(f"insightdesk-rt: no server answers at http://127.0.0.1:{port}/")
        assert said.err.endswith("Connection refused\n") and said.err.count("\n") == 1


def test_status_prints_a_table_and_sets_the_exit_code(run: Any, admin: Answering) -> None:
    admin.answer = (
        b'{"ready":true,"node":{"id":"n1"},"checks":[{"name":"valkey","ok":true},{"name":"disk","ok":false}]}'
    )
    said = run("status", "--admin-port", admin.port)
    assert said.code == 0
    assert [line.split(maxsplit=1) for line in said.out.splitlines()] == [
        ["server", f"http://127.0.0.1:{admin.port}"],
        ["ready", "yes"],
        ["node.id", "n1"],
        ["valkey", "ok"],
        ["disk", "failed"],
        [],
        [
            "The",
            "nodes are not shown, because there is no secret in ./data. "
            "Give the server's --config or --data-dir, or a --key-file.",
        ],
    ]
    admin.status, admin.answer = 503, b'{"ready":false,"checks":[{"name":"valkey","ok":false,"why":"away"}]}'
    said = run("status", "--admin-port", admin.port)
    assert said.code == 1 and "no (HTTP 503)" in said.out and "valkey  away" in said.out
    assert admin.asked[0][:2] == ("GET", "/readyz")


def test_status_shows_the_nodes_if_there_is_a_key(run: Any, admin: Answering, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k3y")
    notes = ["does", "not", "receive", "the", "others'", "events,", "draining:", "3", "left"]
    one = {"node": "n1", "version": "1.0", "uptimeSeconds": 93_784.5, "connections": {"polling": 1, "websocket": 41}}
    one |= {"rooms": 7, "leads": True, "hears": True, "drain": None}
    two = one | {"node": "n2", "uptimeSeconds": 61, "leads": False, "hears": False, "drain": {"done": False, "left": 3}}
    two["version"] = "1.1\x1b[2J"
    answer = {"nodes": [one, two, one | {"node": "n3", "drain": {"done": True}}], "missing": ["n4.ab"]}
    admin.answers["/api/v1/nodes"] = json.dumps(answer).encode()
    said = run("status", "--admin-port", admin.port, "--key-file", "key")
    assert said.code == 0 and admin.asked[-1][3] == "Bearer k3y"
    assert [line.split() for line in said.out.splitlines()[-6:]] == [
        [],
        ["node", "version", "up", "connections", "rooms"],
        ["n1", "1.0", "1", "d", "2", "h", "42", "7", "leader"],
        [
            "n2",
            "1.1\\x1b[2J",
            "1",
            "min",
            "1",
            "s",
            "42",
            "7",
            *notes,
        ],
        ["n3", "1.0", "1", "d", "2", "h", "42", "7", "leader,", "drained"],
        ["n4.ab", "did", "not", "answer"],
    ]
    assert "\x1b" not in said.out


def test_the_address_of_the_admin_port_is_read_from_the_settings(run: Any, admin: Answering) -> None:
    assert run("status", "--admin-address", "0.0.0.0", "--admin-allow-plaintext", "--admin-port", admin.port).code == 0
    said = run("status", "--admin-port", "0")
    assert said.code == 2 and "--admin-port" in said.err
    said = run("status", "--admin-address", "::1", "--admin-port", admin.port)
    assert said.code == 1 and "http://[::1]:" in said.err


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_check_shows_settings_and_their_origin_and_creates_nothing(run: Any, tmp_path: Path) -> None:
    (tmp_path / "rt.toml").write_text("\nnode_id = 'n7'\n")
    said = run("check", "--config", "rt.toml", "--jwt-secret", "s" * 32, "--allowed-origins", "*")
    assert said.code == 0
    rows = [line.split(maxsplit=2) for line in said.out.splitlines()]
    assert ["node_id", "n7", "rt.toml:2"] in rows
    assert ["jwt_secret", "[hidden]", "command line"] in rows
    assert said.out.splitlines()[-1] == "The configuration is valid."
    assert said.err.startswith("warning: allowed_origins")
    assert os.listdir(tmp_path) == ["rt.toml"]


def test_check_reports_every_problem(run: Any, tmp_path: Path) -> None:
    (tmp_path / "rt.toml").write_text("port = 'x'\nadres = '::'\n")
    said = run("check", "--config", "rt.toml")
    assert said.code == 2 and said.out == ""
    assert said.err.splitlines() == [
        'insightdesk-rt: port = "x" (rt.toml:1): expected a whole number from 0 to 65535',
        "insightdesk-rt: unknown setting adres; did you mean address? (rt.toml:2)",
    ]
    said = run("check", "--jwt-secret-file", "gone", "--tls-cert-file", "gone", "--tls-key-file", "gone", "--offline")
    assert said.code == 2
    assert [line.split()[1] for line in said.err.splitlines()] == ["jwt_secret_file", "tls_cert_file"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--access", "nope:x"], "access: cannot import nope: No module named 'nope'"),
        (["--access", "json:nope"], "access: json has no nope"),
        (["--valkey-url", "unix:///no/such"], "valkey_url = unix:///no/such: there is no such socket"),
        (["--data-dir", "/proc/x/y"], "data_dir = /proc/x/y: /proc cannot be written to: No such file or directory"),
        (["--data-dir", "file/y"], "data_dir = file/y: {}/file cannot be written to: Not a directory"),
        (["--tls-cert-file", "file", "--tls-key-file", "file"], "tls_cert_file = file: it holds no certificate in PEM"),
        (["--tls-cert-file", "no", "--tls-key-file", "file"], "tls_cert_file = no: No such file or directory"),
        (["--admin-keys-file", "file"], "admin_keys_file = file: line 1: expected name, scope and hash"),
    ],
)
def test_check_finds_what_serve_refuses(run: Any, tmp_path: Path, words: list[str], said: str) -> None:
    """`serve` prints the same and ends. `check` leaves no files behind."""
    (tmp_path / "file").write_text("nothing\n", encoding="utf-8")
    found = run("check", *words)
    assert (found.code, found.out, found.err) == (2, "", f"insightdesk-rt: {said.format(tmp_path)}\n")
    assert os.listdir(tmp_path) == ["file"]
    command = [sys.executable, "-m", "insightdesk_rt", "serve", "--port", "0", "--admin-port", "0", *words]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=30, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode != 0 and "Traceback" not in ended.stderr
    assert last.startswith("insightdesk-rt: ") and (last == f"insightdesk-rt: {said}" or "data" in last), last


@pytest.mark.parametrize("setting", ["address", "admin_address", "relay_address"])
@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.7", "Cannot assign requested address"), ("no.such.host.invalid", "Name or service not known")],
)
def test_check_tries_to_listen_on_each_address(run: Any, setting: str, address: str, why: str) -> None:
    """It uses a free port, because the configured one may be in use by the running server."""
    options = ["--jwt-secret", "s" * 32, "--admin-allow-plaintext", "yes", "--offline"]
    found = run("check", *options, f"--{setting.replace('_', '-')}", address)
    line = f"insightdesk-rt: {setting}: cannot listen on {address}: {why}\n"
    assert (found.code, found.out, found.err) == (2, "", line)


def test_check_does_not_connect_if_it_is_told_not_to(run: Any) -> None:
    assert run("check", "--valkey-url", "unix:///no/such", "--offline").code == 0


@pytest.mark.parametrize(
    "words",
    [["token", "--sub", "x", "--role", "admin"], ["emit", "/tickets", "r", "e", "1"], ["connections"]],
)
def test_only_serve_creates_a_secret(run: Any, tmp_path: Path, words: list[str]) -> None:
    """Another command that created one would sign tokens that no server accepts."""
    said = run(*words, "--data-dir", "elsewhere")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "insightdesk-rt: there is no secret in elsewhere, where a server makes one at its first start; "
        "name the server's --config or --data-dir\n"
    )
    assert os.listdir(tmp_path) == []


def test_check_prints_every_setting(run: Any) -> None:
    assert run("check", "--print", "toml").out == config.as_toml()
    assert run("check", "--print", "markdown").out == config.as_markdown()
    assert len(run("check", "--all").out.splitlines()) == len(config.table()) + 1


# ── serve ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_serve_passes_the_settings_to_the_server_and_returns_its_exit_code(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server itself is tested as a process; here it is replaced by a recorder."""
    given: list[LoadedSettings] = []

    def run_process(loaded: LoadedSettings) -> int:
        given.append(loaded)
        return 7

    fake = SimpleNamespace(run=run_process)
    monkeypatch.setitem(sys.modules, "insightdesk_rt.app.process", fake)  # type: ignore[arg-type]
    monkeypatch.setattr("insightdesk_rt.app.process", fake, raising=False)
    said = run("serve", "--port", "0", "--demo", "--allowed-origins", "*")
    assert said.code == 7
    assert (given[0].settings.client_port.port, given[0].settings.process.demo) == (0, True)
    assert "level=warning" in said.err and "allowed_origins has *" in said.err and said.err.count("\n") == 1


def test_the_printed_command_works_in_another_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    script = tmp_path / "a b" / "insightdesk-rt"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    loaded = config.load(["--data-dir", "a b/data"], {})
    monkeypatch.setattr(sys, "argv", [str(script), "serve"])
    line = process.command_line(loaded, "token", "--sub", "agent 1")
    assert line == f"'{script}' token --sub 'agent 1' --data-dir '{tmp_path}/a b/data'"
    monkeypatch.setattr(sys, "argv", [str(ROOT / "insightdesk_rt" / "__main__.py"), "serve"])
    signing_key(loaded.settings.tokens)
    line = process.command_line(loaded, "token", "--sub", "a", "--role", "agent")
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, timeout=30, cwd="/", env={"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert KeyRing(loaded.settings.tokens).verify(done.stdout.strip()).id == "a"


# ── usage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "the following arguments are required: COMMAND; see insightdesk-rt --help"),
        (["serv"], "argument COMMAND: invalid choice: 'serv'"),
        (["serve", "--prot", "1"], "unknown setting --prot; did you mean --port? (command line)"),
        (["serve", "--por", "1"], "unknown setting --por; did you mean --port? (command line)"),
        (["serve", "now"], "unrecognized arguments: now; see insightdesk-rt --help"),
        (["serve", "--port"], "--port (command line): expected a value behind it"),
        (["token", "--sbu", "a", "--role", "agent"], "unknown setting --sbu; did you mean --sub? (command line)"),
        (["token", "--sub", "a"], "the following arguments are required: --role; see insightdesk-rt token --help"),
        (["token", "--sub", "a", "--role", "root"], "argument --role: invalid choice: 'root'"),
        (
            ["token", "--sub", "a", "--role", "agent", "--ttl", "0"],
            "argument --ttl: expected a number of seconds, not '0'",
        ),
        (["token", "--sub", "a", "--role", "agent", "--ttl", "1e9"], "argument --ttl: expected a number of seconds"),
        (["emit", "/t"], "the following arguments are required: ROOM, EVENT, JSON; see insightdesk-rt emit --help"),
        (["emit", "/t", "r", "e", "{a:1}"], "JSON: "),
        (["emit", "/t", "r", "e", "1", "--key-file", "gone"], "--key-file gone: No such file or directory"),
        (["check", "--port", "x"], "port = x (command line): expected a whole number from 0 to 65535"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Any, words: list[str], expected: str) -> None:
    said = run(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"insightdesk-rt: {expected}") and said.err.count("\n") == 1


def test_help_lists_every_command_and_every_setting(run: Any) -> None:
    said = run("--help")
    assert said.code == 0 and said.err == ""
    assert all(f"  {name} " in said.out for name in ("serve", "token", "emit", "status", "check"))
    assert run("--version").out == f"insightdesk-rt {__version__}\n"
    text = run("serve", "--help").out
    assert all(setting.flag in text for setting in config.table().values())
    for name in ("token", "emit", "status", "check"):
        assert "--config FILE" in run(name, "--help").out


def test_ctrl_c_prints_no_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(operate, "signing_key", interrupted)
    said = run("token", "--sub", "a", "--role", "agent")
    assert (said.code, said.err) == (130, "")


def test_a_closed_output_pipe_prints_no_traceback() -> None:
    line = f"'{sys.executable}' -m insightdesk_rt check --print toml | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.stdout.startswith("# The settings") and done.stderr == ""


def test_a_full_disk_is_reported_in_one_line() -> None:
    line = [sys.executable, "-m", "insightdesk_rt", "check", "--print", "toml"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        said = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=20)
    assert (said.returncode, said.stderr) == (1, "insightdesk-rt: cannot write: No space left on device\n")


def test_a_token_refused_because_of_its_time_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*words: object) -> None:
        raise RtError("AUTH_TOKEN_EXPIRED")

    monkeypatch.setattr(auth, "verify", late)
    with pytest.raises(config.ConfigError, match="has expired"):
        operate.make_token(TokenSettings(jwt_secret="s" * 32), {"user": "a", "role": "agent"}, 1)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_commands_work_with_any_encoding_of_the_terminal(encoding: str) -> None:
    """Characters that the terminal lacks are escaped. The printed settings file is always UTF-8."""
    command = [sys.executable, "-m", "insightdesk_rt", "check"]
    surroundings = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([*command, "--node-id", "x", "--data-dir", "ö…ß"], capture_output=True, env=surroundings)
    assert (said.returncode, said.stderr) == (0, b"")
    assert "ö…ß".encode(encoding, "backslashreplace") in said.stdout
    said = subprocess.run([*command, "--print", "toml"], capture_output=True, env=surroundings)
    assert said.stdout.decode("utf-8") == config.as_toml()
