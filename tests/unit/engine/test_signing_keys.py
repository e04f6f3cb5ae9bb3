"""Keys from settings, files and a real HTTP server: processes agree on one secret, and the last valid keys are kept."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.app.config import ConfigError
from insightdesk_rt.engine import published_keys as keys_module
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.signing_keys import KeyRing, configured_keys, fingerprints, signing_key
from insightdesk_rt.engine.tokens import TokenSettings, secret_key
from tests.support.aio import aio, until
from tests.support.tokens import SECRET, jwk, pem, private, private_key, token

ROUND = 0.05  # seconds; stands for the half minute between two fetches


def test_tokens_that_expire_in_milliseconds_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """They are accepted, because nothing forbids the year 58,000, but their issuer should know."""
    ring = KeyRing(TokenSettings(jwt_secret=SECRET.decode()))
    for number in range(5):
        text = token(exp=int(time.time() * 1000), sub=f"user{number}")
        assert ring.verify(text).id == f"user{number}"
        assert text not in caplog.text
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "milliseconds" in record.why  # type: ignore[attr-defined]


# ── the secret ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_is_created_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = TokenSettings(data_dir=str(tmp_path / "data"))
    one = signing_key(settings)
    file = tmp_path / "data" / "jwt_secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(file.read_text().strip()) == 64
    assert signing_key(settings) == one
    assert os.listdir(file.parent) == ["jwt_secret"]


def test_processes_that_start_together_use_the_same_secret(tmp_path: Path) -> None:
    code = (
        "import sys; from insightdesk_rt.engine.tokens import TokenSettings;"
        "from insightdesk_rt.engine.signing_keys import signing_key;"
        "sys.stdin.read(1); print(signing_key(TokenSettings(data_dir=sys.argv[1])).material.decode())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:  # all have imported, or soon will; then all create it at the same time
        assert process.stdin
        process.stdin.write("x")
        process.stdin.flush()
    secrets = {process.communicate(timeout=30)[0] for process in started}
    assert len(secrets) == 1 and len(secrets.pop().strip()) == 64
    assert os.listdir(tmp_path / "data") == ["jwt_secret"]


def test_the_first_of_two_created_secrets_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race itself: the other process finishes between our check and our link()."""
    file = tmp_path / "jwt_secret"
    link = os.link

    def second(draft: str, path: Path) -> None:
        file.write_text("the other one was first" * 3)
        link(draft, path)

    monkeypatch.setattr(os, "link", second)
    assert signing_key(TokenSettings(data_dir=str(tmp_path))).material == b"the other one was first" * 3


def test_a_secret_is_read_from_a_file_without_its_newline(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 40 + b"\r\n")
    file.chmod(0o600)
    assert signing_key(TokenSettings(jwt_secret_file=str(file))).material == b"x" * 40
    assert signing_key(TokenSettings(jwt_secret="y" * 40)).material == b"y" * 40


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 0), (0o400, 0), (0o644, 1), (0o660, 1), (0o666, 1)])
def test_a_secret_file_that_others_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: int
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 40)
    file.chmod(mode)
    signing_key(TokenSettings(jwt_secret_file=str(file)))
    assert len(caplog.records) == warned
    assert b"x" * 40 not in caplog.text.encode()


def test_an_invalid_key_is_reported_in_one_line_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short\n")
    (tmp_path / "key.pem").write_text("no key")
    (tmp_path / "file").write_text("")
    rs = {"jwt_algorithms": ("RS256",)}
    for settings, named in [
        (TokenSettings(jwt_secret_file=str(tmp_path / "short")), "jwt_secret_file: the secret is shorter"),
        (TokenSettings(jwt_secret_file=str(tmp_path / "gone")), f"jwt_secret_file = {tmp_path / 'gone'}: No such file"),
        (
            TokenSettings(data_dir=str(tmp_path / "file" / "x")),
            f"data_dir = {tmp_path / 'file' / 'x'}: cannot make a secret",
        ),
        (TokenSettings(jwt_public_key_file=str(tmp_path / "key.pem"), **rs), "jwt_public_key_file"),  # type: ignore[arg-type]
        (TokenSettings(jwt_public_key_file=str(tmp_path / "gone"), **rs), "jwt_public_key_file"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ConfigError, match=named.partition(" = ")[0]) as caught:
            configured_keys(settings)
        assert str(caught.value).startswith(named) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="jwt_algorithms: no HS algorithm"):
        signing_key(TokenSettings(data_dir=str(tmp_path), **rs))  # type: ignore[arg-type]


def test_a_check_of_the_settings_creates_no_secret(tmp_path: Path) -> None:
    assert configured_keys(TokenSettings(data_dir=str(tmp_path)), may_make=False) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_secret_and_a_public_key_can_be_used_together(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(private_key("RS256")))
    settings = TokenSettings(
        data_dir=str(tmp_path), jwt_algorithms=("RS256", "HS256"), jwt_public_key_file=str(tmp_path / "key.pem")
    )
    ring = KeyRing(settings)
    assert ring.verify(token(private("RS256"))).id == "anna"
    assert ring.verify(token(signing_key(settings))).id == "anna"


def secret_file(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return str(path)


def test_a_secret_is_replaced_while_tokens_of_both_are_accepted(tmp_path: Path) -> None:
    old, new = (secret_file(tmp_path / name, name * 16) for name in ("old", "new"))
    of_old = token(secret_key(b"old" * 16, ("HS256",)))
    of_new = token(secret_key(b"new" * 16, ("HS256",)))
    steps = [
        (TokenSettings(jwt_secret_file=old), {of_old}),
        (TokenSettings(jwt_secret_file=old, jwt_secret_files=(new,)), {of_old, of_new}),
        (TokenSettings(jwt_secret_file=new, jwt_secret_files=(old,)), {of_old, of_new}),
        (TokenSettings(jwt_secret_files=(new, old)), {of_old, of_new}),
        (TokenSettings(jwt_secret_files=(new,)), {of_new}),
    ]
    for settings, accepted in steps:
        ring = KeyRing(settings)
        assert {text for text in (of_old, of_new) if _accepts(ring, text)} == accepted
    assert signing_key(TokenSettings(jwt_secret_files=(new, old))).material == b"new" * 16, "the first one signs"


def test_nodes_with_a_cluster_secret_need_one_secret_of_tokens_in_common(tmp_path: Path) -> None:
    old, new = (secret_file(tmp_path / name, name * 16) for name in ("old", "new"))
    apart = {"cluster_secret": "c" * 32}
    before = fingerprints(TokenSettings(jwt_secret_file=old, **apart))["jwt_secret"].split()  # type: ignore[arg-type]
    both = fingerprints(TokenSettings(jwt_secret_file=new, jwt_secret_files=(old,), **apart))["jwt_secret"].split()  # type: ignore[arg-type]
    assert len(before) == 1 and len(both) == 2 and set(before) < set(both)
    alone = fingerprints(TokenSettings(jwt_secret_file=new, jwt_secret_files=(old,)))["jwt_secret"].split()
    assert alone == both[:1], "without it the first secret seals requests between nodes"


def test_a_reload_reads_the_files_again_and_keeps_the_old_keys_of_a_bad_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret"
    ring = KeyRing(TokenSettings(jwt_secret_file=secret_file(file, "old" * 16)))
    of_old, of_new = (token(secret_key(text * 16, ("HS256",))) for text in (b"old", b"new"))
    secret_file(file, "new" * 16)
    assert _accepts(ring, of_old) and not _accepts(ring, of_new)
    ring.reload()
    assert _accepts(ring, of_new) and not _accepts(ring, of_old)
    secret_file(file, "short")
    with caplog.at_level(logging.ERROR):
        ring.reload()
    assert _accepts(ring, of_new)
    (record,) = caplog.records
    assert record.message == "the keys were not reloaded; the old ones stay in use"


def _accepts(ring: KeyRing, text: str) -> bool:
    try:
        return ring.verify(text).id == "anna"
    except RtError:
        return False


def test_leeway_and_other_settings_reach_the_verifier(tmp_path: Path) -> None:
    settings = TokenSettings(jwt_secret="x" * 32, jwt_issuer="me", jwt_audience="desk", jwt_leeway_s=5)
    ring = KeyRing(settings, now_s=lambda: 1_800_000_004.0)
    key = signing_key(settings)
    good = {"iss": "me", "aud": "desk", "iat": ..., "exp": 1_800_000_000}
    assert ring.verify(token(key, **good)).expires_s == 1_800_000_005
    for wrong, code in [({"exp": 1_799_999_999}, "EXPIRED"), ({"iss": "you"}, "INVALID"), ({"aud": "x"}, "INVALID")]:
        with pytest.raises(RtError, match=f"AUTH_TOKEN_{code}"):
            ring.verify(token(key, **good | wrong))


# ── published keys ──────────────────────────────────────────────────────────────────────────────────────────────────


class Issuer:
    """An HTTP server whose `answer` can be changed: bytes, a JSON value, (status, headers, body), None (never).

    Or a function that takes the path and returns one of these.
    """

    def __init__(self) -> None:
        self.answer: Any = {"keys": [jwk("RS256", kid="k1")]}
        self.paths: list[str] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/jwks"

    async def down(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._open:
            writer.close()
        await until(lambda: not self._open, "all connections are closed")

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            self.paths.append(path)
            answer = self.answer(path) if callable(self.answer) else self.answer
            if answer is not None:
                status, headers, body = answer if isinstance(answer, tuple) else (200, {}, answer)
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                headers = {"Content-Length": len(body), "Connection": "close"} | headers
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {status} OK\r\n{head}\r\n".encode() + body)
            await reader.read()  # until the client closes the connection
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


@asynccontextmanager
async def issuer() -> AsyncIterator[Issuer]:
    one = Issuer()
    await one.listen()
    try:
        yield one
    finally:
        await one.down()


@asynccontextmanager
async def ring(url: str, refresh_s: float = 60.0, retry_s: float = ROUND, **changed: Any) -> AsyncIterator[KeyRing]:
    settings = TokenSettings(jwks_url=url, **{"jwt_algorithms": ("RS256", "ES256")} | changed)
    one = KeyRing(settings, refresh_s=refresh_s, retry_s=retry_s)
    await one.start()
    try:
        yield one
    finally:
        await one.close()


def believes(ring: KeyRing, algorithm: str, kid: str) -> bool:
    try:
        ring.verify(token(private(algorithm), {"kid": kid}))
    except RtError as why:
        assert why.code == "AUTH_TOKEN_INVALID"
        return False
    return True


@aio
async def test_published_keys_are_used_from_the_start() -> None:
    async with issuer() as server, ring(server.url) as keys:
        assert believes(keys, "RS256", "k1")
        assert not believes(keys, "ES256", "k1")
        assert server.paths == ["/jwks"]


@aio
async def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    async with issuer() as server, ring(server.url) as keys:
        server.answer = {"keys": [jwk("RS256", kid="k1"), jwk("ES256", kid="k2")]}
        assert not believes(keys, "ES256", "k2"), "a token never waits for a fetch"
        await until(lambda: believes(keys, "ES256", "k2"), "the new key was fetched")
        assert believes(keys, "RS256", "k1")


@aio
async def test_a_withdrawn_key_is_refused_after_the_next_refresh() -> None:
    async with issuer() as server, ring(server.url, refresh_s=2 * ROUND) as keys:
        server.answer = {"keys": [jwk("ES256", kid="k2")]}
        await until(lambda: not believes(keys, "RS256", "k1"), "the old key is removed")


@aio
async def test_many_unknown_kids_cause_one_fetch() -> None:
    async with issuer() as server, ring(server.url, retry_s=0.5) as keys:
        text = [token(private("RS256"), {"kid": f"unknown-{n}"}) for n in range(20)]
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            for one in text:
                with pytest.raises(RtError):
                    keys.verify(one)
            await asyncio.sleep(0.01)
        assert len(server.paths) == 2, "one at the start, one for all of them"


@aio
async def test_keys_are_fetched_again_if_the_issuer_is_down_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    server = Issuer()
    await server.listen()
    await server.down()
    async with ring(server.url) as keys:
        assert keys.failures == 1 and not believes(keys, "RS256", "k1")
        await server.listen()
        await until(lambda: believes(keys, "RS256", "k1"), "the keys came once the issuer was up")
        await server.down()
    assert {record.message for record in caplog.records if record.levelno >= logging.WARNING} == {
        "fetching keys failed"
    }


BAD_ANSWERS: list[Any] = [
    (500, {}, b"oops"),
    (404, {}, b""),
    (204, {}, b""),
    b"",
    b"<html>sign in</html>",
    b"[]",
    b"{}",
    b'{"keys":{}}',
    b'{"keys":[]}',
    b'{"keys":[1,null,"x",{"kty":"RSA"}]}',
    {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]},
    b'{"keys":[' * 5000,
    b"\xff\xfe\x00",
    b" " * 10_000_000,
    (200, {"Content-Encoding": "gzip"}, b"not gzip"),
    (200, {"Content-Length": "99999999999"}, b"{}"),
    (301, {}, b""),
    (302, {"Location": "http://169.254.169.254/latest/meta-data"}, b""),
    (302, {"Location": "//localhost/jwks"}, b""),
    (302, {"Location": "https://127.0.0.1/jwks"}, b""),
    (302, {"Location": "file:///etc/passwd"}, b""),
    (302, {"Location": "/jwks"}, b""),
]


@pytest.mark.parametrize("answer", BAD_ANSWERS, ids=lambda one: str(one)[:60])
def test_the_last_valid_keys_stay_whatever_the_issuer_answers(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    @aio
    async def body() -> None:
        async with issuer() as server, ring(server.url) as keys:
            server.answer = answer
            believes(keys, "RS256", "unknown")
            await until(lambda: keys.failures, "it was fetched and refused")
            assert believes(keys, "RS256", "k1")
            assert all(path == "/jwks" for path in server.paths)
            server.answer = {"keys": [jwk("ES256", kid="k2")]}
            await until(lambda: believes(keys, "ES256", "k2"), "a valid answer is used again")

    body()
    assert all(
        record.message in ("fetching keys failed", "keys fetched")
        for record in caplog.records
        if record.name.startswith("insightdesk")
    )


@aio
async def test_a_redirect_on_the_same_host_is_followed() -> None:
    def answer(path: str) -> Any:
        return {"keys": [jwk("RS256", kid="k1")]} if path == "/v2/keys" else (302, {"Location": "/v2/keys"}, b"")

    async with issuer() as server:
        server.answer = answer
        async with ring(server.url) as keys:
            assert believes(keys, "RS256", "k1")
            assert server.paths == ["/jwks", "/v2/keys"]


@aio
async def test_a_fetch_from_a_silent_issuer_times_out_and_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "FETCH_TIMEOUT_S", 0.3)
    async with issuer() as server, ring(server.url) as keys:
        server.answer = None
        believes(keys, "RS256", "unknown")
        await until(lambda: len(server.paths) == 2, "the fetch began")
        assert believes(keys, "RS256", "k1") and not keys.failures, "nobody waits for it"
        await until(lambda: keys.failures, "the fetch timed out")


@aio
async def test_close_during_a_fetch_leaves_no_task() -> None:
    async with issuer() as server:
        async with ring(server.url) as keys:
            server.answer = None
            believes(keys, "RS256", "unknown")
            await until(lambda: len(server.paths) == 2, "the fetch began")
        assert [task for task in asyncio.all_tasks() if "_stay_fresh" in repr(task)] == []
        await keys.close()


@aio
async def test_without_a_url_nothing_is_fetched(tmp_path: Path) -> None:
    keys = KeyRing(TokenSettings(data_dir=str(tmp_path)))
    await keys.start()
    with pytest.raises(RtError, match="AUTH_TOKEN_MISSING"):
        keys.verify(None)
    await keys.close()
    assert keys.fetches == 0
