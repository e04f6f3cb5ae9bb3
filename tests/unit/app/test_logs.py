"""A log entry is one line, whatever a client sent, and contains no secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.app import logs as observe
from tests.support.aio import aio
from tests.support.certificates import contexts
from tests.support.door import door
from tests.support.tokens import token

# C0, DEL, C1, bidi and line separators: characters that a line must not contain
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def line(style: str, message: str = "client closed", node: str = "", **extra: Any) -> str:
    """Log this, and return the written text without its newline."""
    record = logging.LogRecord("insightdesk_rt.engine.transport.client", logging.INFO, __file__, 1, message, (), None)
    record.created, record.msecs = 1_795_397_242.677, 677.0
    record.__dict__.update(extra)
    return observe.Lines(style, node).format(record)


@pytest.fixture
def restored() -> Iterator[None]:
    """Restore the loggers of pytest."""
    loggers = [logging.getLogger(name) for name in (None, "tornado.access", "tornado.general", "asyncio")]
    before = [(list(one.handlers), list(one.filters), one.level) for one in loggers]
    yield
    for one, (handlers, filters, level) in zip(loggers, before, strict=True):
        one.handlers[:], one.filters[:] = handlers, filters
        one.setLevel(level)


def test_a_line_has_time_level_logger_and_message() -> None:
    assert line("kv", sid="Xa3", why="ping timeout", sent=7, recovered=True, left=None, took=0.25) == (
        "time=2026-11-23T01:27:22.677Z level=info logger=engine.transport.client "
        'msg="client closed" sid=Xa3 why="ping timeout" sent=7 recovered=true left=null took=0.25'
    )


def test_json_has_the_same_fields_with_their_types() -> None:
    assert json.loads(
        line("json", node="n1", sid="Xa3", sent=7, recovered=True, left=None, took=0.25, big=1 << 80)
    ) == {
        "time": "2026-11-23T01:27:22.677Z",
        "level": "info",
        "logger": "engine.transport.client",
        "node": "n1",
        "msg": "client closed",
        "sid": "Xa3",
        "sent": 7,
        "recovered": True,
        "left": None,
        "took": 0.25,
        "big": str(1 << 80),
    }


@pytest.mark.parametrize("style", ["kv", "json"])
@pytest.mark.parametrize(
    "value",
    [
        "a\r\nlevel=error msg=forged",
        'a" level=error msg="forged',
        'a\\" level=error',
        "\\",
        "\x1b[2J\x1b[31mred",
        "a\u2028b\u2029c\x85d",
        "\u202egnp.exe",
        "lone \ud800 surrogate",
        "%n%s%d",
        "",
        "=",
        "a b=c",
    ],
)
def test_a_client_cannot_forge_a_line_or_a_field(style: str, value: str) -> None:
    text = line(style, "connected", agent=value)
    assert not UNSAFE.search(text)
    if style == "json":
        assert json.loads(text)["agent"] == value.replace("\ud800", "\ufffd")
    else:
        fields = shlex.split(text)  # a reader that knows quotes and backslashes
        assert len(fields) == 5 and fields[4].startswith("agent=")


@given(st.text(), st.text())
def test_any_text_is_logged_as_one_line(one: str, two: str) -> None:
    text = line("json", one, agent=two)
    assert not UNSAFE.search(text)
    assert {"msg", "agent"} <= json.loads(text).keys()
    assert not UNSAFE.search(line("kv", one, agent=two))


SECRET_TEXTS = [
    token(),
    f"Authorization: Bearer {token()}",
    "authorization=Basic c2VjcmV0LXZhbHVl",
    "GET /socket.io/?EIO=4&token=c2VjcmV0LXZhbHVl&transport=polling",
    "GET /socket.io/?EIO=4&sid=c2VjcmV0LXZhbHVl",
    '{"auth":{"token":"c2VjcmV0LXZhbHVl"}}',
    "{'password': 'c2VjcmV0LXZhbHVl'}",
    "Cookie: a=1; session=c2VjcmV0LXZhbHVl",
    "valkey://user:c2VjcmV0LXZhbHVl@host:6379",
    "valkey://:p@ss/c2VjcmV0LXZhbHVl#x@host:6379",
    "unix:///run/valkey.sock?db=0&password=c2VjcmV0LXZhbHVl",
    "jwt_secret = c2VjcmV0LXZhbHVl",
    "x" * 290 + token(),
    "y" * 100_000 + token(),
]


@pytest.mark.parametrize("style", ["kv", "json"])
@pytest.mark.parametrize("text", SECRET_TEXTS, ids=range(len(SECRET_TEXTS)))
def test_texts_that_look_like_secrets_are_hidden(style: str, text: str) -> None:
    for shown in (line(style, text), line(style, value=text), line(style, value={"a": [text]})):
        assert "c2VjcmV0LXZhbHVl" not in shown
        assert "eyJ" not in shown


@pytest.mark.parametrize("name", ["token", "jwt_secret", "password", "Authorization", "cookie", "pid", "refresh_token"])
def test_fields_named_like_secrets_are_hidden(name: str) -> None:
    assert f"{name}=[hidden]" in line("kv", **{name: "open sesame"})
    assert f"{name}=17" in line("kv", **{name: 17}), "a number is a process id or a count"


def test_other_texts_are_shown() -> None:
    for text in ("no token was given", "the bearer is tired", "http://host:80/path?x=1", "keys", "2 tokens refused"):
        assert text in line("kv", value=text)


def test_long_values_are_cut() -> None:
    shown = line("kv", agent="x" * 10_000_000)
    assert len(shown) < 500 and "xxx…" in shown


def test_a_traceback_is_one_line_and_keeps_its_end(restored: None) -> None:
    for style in ("kv", "json"):
        out = io.StringIO()
        observe.setup_logging("info", style, stream=out)
        try:
            raise ValueError("bad\nthing " + token())
        except ValueError:
            logging.getLogger("insightdesk_rt.x").exception("handler failed", extra={"event": "a:b"})
        text = out.getvalue()
        assert text.count("\n") == 1
        assert "ValueError: bad\\nthing [token]" in text and "event" in text


def test_a_second_setup_replaces_the_first_and_the_level_applies(restored: None) -> None:
    first, second = io.StringIO(), io.StringIO()
    observe.setup_logging("debug", "kv", stream=first)
    observe.setup_logging("warning", "json", node="n1", stream=second)
    log = logging.getLogger("insightdesk_rt.test")
    log.info("quiet")
    log.warning("loud %s", "enough", extra={"n": 1})
    assert first.getvalue() == ""
    assert [json.loads(text)["msg"] for text in second.getvalue().splitlines()] == ["loud enough"]
    assert json.loads(second.getvalue())["node"] == "n1"


def test_requests_are_not_logged_by_tornado(restored: None) -> None:
    """Tornado's line would contain the URL with the session's id."""
    out = io.StringIO()
    observe.setup_logging("info", "kv", stream=out)
    logging.getLogger("tornado.access").warning("404 GET /x?sid=y")
    assert out.getvalue() == ""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_peer_that_speaks_neither_tls_nor_http_writes_no_line(restored: None, level: str) -> None:
    out = io.StringIO()
    observe.setup_logging(level, "kv", stream=out)
    context, _ = contexts()

    @aio
    async def story() -> None:
        for tls, nonsense in ((context, b"GET / HTTP/1.1\r\n\r\n"), (None, b"\x16\x03\x01\r\n\r\n")):
            async with door(tls=tls) as d:
                reader, writer = await asyncio.open_connection("127.0.0.1", d.number)
                writer.write(nonsense)
                with suppress(ConnectionResetError):
                    while await reader.read(1000):
                        pass
                writer.close()

    story()
    assert ("SSL Error" in out.getvalue() and "Malformed" in out.getvalue()) is (level == "debug"), out.getvalue()
    assert level == "debug" or out.getvalue() == ""
    logging.getLogger("tornado.general").error("Uncaught exception")
    assert "Uncaught exception" in out.getvalue()
