"""Logs: one line per event, `key=value` or JSON. Clients cannot forge lines, and lines hold no secrets.

The convention: the message is a constant phrase, and what varies is in `extra`, under names that one would search for.

    log = logging.getLogger(__name__)
    log.info("connect refused", extra={"code": code, "why": why, "namespace": namespace})

    time=2026-11-23T04:05:06.789Z level=info logger=namespaces.dispatch msg="connect refused" code=FORBIDDEN why="…"

An `extra` may not be called like an attribute of LogRecord (`name`, `args`, `message`, `module` …): logging raises.
Every value is made safe here and nowhere else: tokens and passwords are removed, long values cut, control characters
escaped. So callers may log what a client sent, but must not log tokens or the texts of messages on purpose.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TextIO

from insightdesk_rt.engine.settings import Help, SettingsPart
from insightdesk_rt.engine.wire import json

MAX_VALUE = 300  # characters; a user agent of a phone has 200
MAX_TRACE = 8000  # of the end of a traceback: the innermost frames and the error
PACKAGE = "insightdesk_rt."

# Fields that logging itself puts into a record; all others come from `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# A text under such a name is always hidden. `pid` is the id that resumes a session.
_HIDDEN = re.compile(r"^(?:.*_)?(?:token|secret|password|authorization|cookie|pid|bearer)$", re.IGNORECASE)
_SUSPECT = re.compile(r"eyJ|token|secret|passw|authorization|cookie|bearer|://|[?&]sid=", re.IGNORECASE)
_SECRETS = (
    # A JWT, or its beginning: base64 of '{"' begins with eyJ.
    (re.compile(r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)*"), "[token]"),
    (re.compile(r"""(?i)((?:authorization|cookie)["']?\s*[=:]\s*["']?)[^"'\r\n]+"""), r"\1[hidden]"),
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]{8,}"), r"\1 [hidden]"),
    # token=… in a query, "password": "…" in JSON or a Python dict
    (re.compile(r"""(?i)((?:token|secret|passw(?:or)?d)["']?\s*[=:]\s*["']?)[^\s"'&;,}\[]+"""), r"\1[hidden]"),
    (re.compile(r"([?&]sid=)[^&\s]+"), r"\1[hidden]"),  # whoever has a polling session's id has the session
    # A password that was not percent-encoded may contain @ or /: everything up to the last @ is hidden.
    (re.compile(r"://\S*@"), "://[hidden]@"),
)
# C0, DEL, C1, bidi marks and other invisible characters, BOM, line and paragraph separators, lone surrogates
_UNSAFE = "\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
_UNSAFE_JSON = re.compile(f"[{_UNSAFE}]")
_UNSAFE_KV = re.compile(rf'[{_UNSAFE}"\\]')
_BARE = re.compile(rf"""[^\s"'=\\{_UNSAFE}]+""")  # what needs no quotes in key=value


class LogSettings(SettingsPart, frozen=True):
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Help("lowest level that is logged")] = "info"
    log_format: Annotated[Literal["kv", "json"], Help("key=value or JSON, one line per event")] = "kv"


def setup_logging(level: str, style: str, node: str = "", stream: TextIO | None = None) -> None:
    """Send all logs to one stream (stderr) in the `style` "kv" or "json". A second call replaces the first.

    `node` goes into every line, so that lines of several processes on one terminal can be told apart.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines(style, node))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, Lines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Tornado logs each request with its whole URL; the code of the client port logs what matters.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    logging.getLogger("tornado.general").addFilter(_is_ours_to_see)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


# Tornado 6.6's messages about a peer that sends no HTTP or no TLS, or disconnects. Any peer could fill the log with
# them.
_PEERS_DOING = (
    "SSL Error on",
    "error on read",
    "Write error on",
    "Malformed HTTP message",
    "Unsatisfiable read",
    "Timeout reading",
)


def _is_ours_to_see(record: logging.LogRecord) -> bool:
    """Return whether a line of Tornado says more than what one peer did. At the level debug all lines are shown."""
    return not str(record.msg).startswith(_PEERS_DOING) or logging.getLogger().isEnabledFor(logging.DEBUG)


def clean(text: str, longest: int = MAX_VALUE) -> str:
    """Return the text without secrets, at most `longest` characters and an ellipsis.

    Six of these are in the line of a connect: 0.5 µs for a short one that looks like no secret.
    """
    if len(text) <= longest and not _SUSPECT.search(text):
        return text
    cut = text[: 4 * longest]  # secrets are looked for in what may be shown, not in 10 MB
    for pattern, instead in _SECRETS:
        cut = pattern.sub(instead, cut)
    return cut if len(cut) <= longest and len(text) <= 4 * longest else cut[:longest] + "…"


class Lines(logging.Formatter):
    """Formats a record as one line."""

    def __init__(self, style: str, node: str = "") -> None:
        super().__init__()
        self._json = style == "json"
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields(record)
        if self._json:  # what is unsafe stands inside of a string, so a JSON escape may take its place
            return _UNSAFE_JSON.sub(_escaped, json.dumps(fields))
        return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix(PACKAGE),
        }
        if self._node:
            fields["node"] = self._node
        fields["msg"] = clean(record.getMessage())
        fields |= {name: _harmless(name, value) for name, value in _extras(record).items()}
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            fields["trace"] = clean(trace[-MAX_TRACE:], MAX_TRACE)
        return fields


def _extras(record: logging.LogRecord) -> Mapping[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _harmless(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, int) and value.bit_length() < 64):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return round(value, 6)
    if _HIDDEN.match(name):
        return "[hidden]"
    return clean(value if isinstance(value, str) else str(value))


def _quoted(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = str(value)
    return text if _BARE.fullmatch(text) else f'"{_UNSAFE_KV.sub(_escaped, text)}"'


def _escaped(found: re.Match[str]) -> str:
    char = found.group()
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}.get(char) or f"\\u{ord(char):04x}"
