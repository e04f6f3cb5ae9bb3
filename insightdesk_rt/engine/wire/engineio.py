"""The parts of Engine.IO 4 that need no session: packet types, polling payloads, the query, refusals, JSONP.

The order of the checks and the texts of the refusals are those of Node's engine.io 6.6.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import Encoded

EIO = "4"
SEPARATOR = "\x1e"


class PacketType:
    """The first character of every packet."""

    OPEN = "0"
    CLOSE = "1"
    PING = "2"
    PONG = "3"
    MESSAGE = "4"
    UPGRADE = "5"
    NOOP = "6"
    BINARY = "b"  # a MESSAGE with bytes, in base64, where only text can pass


_TYPES = frozenset("0123456")


# ── payloads of polling ───────────────────────────────────────────────────────────────────────────────────────────────


def decode_payload(body: str, limit: int) -> Iterator[str | bytes]:
    """Yield the packets of a POST's body: text packets with their type digit, binary ones decoded.

    `limit` is in characters; a body of too many bytes was refused before. The number of packets is not limited, because
    a stock client fills a payload by bytes, so each packet is searched for when the caller asks for it. Raises TooBig,
    and WireError at the first invalid packet.
    """
    if len(body) > limit:
        raise TooBig(f"payload over {limit} bytes", limit_name="max_payload_bytes")
    start, end = 0, 0
    while end >= 0:
        end = body.find(SEPARATOR, start)
        packet = body[start:] if end < 0 else body[start:end]
        start = end + 1
        yield packet if packet[:1] in _TYPES else decode_binary(packet)


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"


def decode_binary(packet: str) -> bytes:
    """Return the bytes of a `b<base64>` packet. Raises WireError for other packets (empty, or of an unknown type).

    Like Node, this accepts base64 with line breaks (Java's Base64.DEFAULT adds one at the end and after each 76
    characters), with spaces, without padding, and in the URL-safe alphabet (RFC 4648 5).
    """
    if packet[:1] != PacketType.BINARY:
        raise WireError("unknown packet type")
    try:
        text = packet[1:].encode("ascii")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:  # the usual form first; only other makers' forms cost a second look
            bare = text.translate(_URL_SAFE, _BLANKS).rstrip(b"=")
            return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are
        raise WireError("bad base64") from None


def encode_payload(messages: Iterable[Encoded]) -> str:
    """Return the body of a poll's answer. Messages without text (websocket control frames) are left out."""
    records: list[str] = []
    for message in messages:
        if message.text:
            records.append(message.text)
            records.extend(map(encode_binary, message.attachments))
    return SEPARATOR.join(records)


def encode_binary(data: bytes) -> str:
    return PacketType.BINARY + b64encode(data).decode()


# ── the query of a request ────────────────────────────────────────────────────────────────────────────────────────────


class AsksEngine(Protocol):
    """A request to /socket.io/ with the query parameters that decide what it is; "" for one that is absent."""

    @property
    def transport(self) -> str: ...

    @property
    def sid(self) -> str: ...

    @property
    def version(self) -> str: ...


class EngineParameters(NamedTuple):
    """The query parameters of a request to /socket.io/ that decide what it is; "" for one that is absent."""

    transport: str
    sid: str  # "" for a handshake
    version: str  # EIO


class EngineRefusal(NamedTuple):
    """Why a request is refused, in Engine.IO's codes. A websocket request gets `message` alone, and always 400."""

    code: int
    message: str

    @property
    def status(self) -> int:
        return 403 if self.code == 4 else 400

    @property
    def body(self) -> str:
        return json.dumps({"code": self.code, "message": self.message})


UNKNOWN_TRANSPORT = EngineRefusal(0, "Transport unknown")
UNKNOWN_SID = EngineRefusal(1, "Session ID unknown")
BAD_METHOD = EngineRefusal(2, "Bad handshake method")
BAD_REQUEST = EngineRefusal(3, "Bad request")
FORBIDDEN = EngineRefusal(4, "Forbidden")
BAD_VERSION = EngineRefusal(5, "Unsupported protocol version")

Values = Mapping[str, Sequence[bytes | str]]  # as tornado.httputil.HTTPServerRequest.query_arguments
_BAD_ORIGIN = re.compile("[^\t\x20-\x7e\x80-\xff]")  # what a header's value may not have (RFC 9110 5.5)


def engine_parameters(query: Values) -> EngineParameters:
    """Return the parameters of a parsed query. A parameter that occurs twice or is not ASCII gets an invalid value."""
    return EngineParameters(_one(query, "transport"), _one(query, "sid"), _one(query, "EIO"))


def check_query(
    asked: AsksEngine,
    method: str,
    transports: Container[str],
    session: str | None,
    upgrade: bool = False,
    origin: str = "",
) -> EngineRefusal | None:
    """Check a request to /socket.io/ in Node's order: transport, origin, then session or handshake.

    `session` is the transport of the session with this sid ("polling" also while it probes), None if there is no such
    session. `upgrade`: the request asks for a websocket. Returns None if the request is accepted.
    """
    transport = asked.transport
    if transport not in transports:
        return UNKNOWN_TRANSPORT
    if origin and _BAD_ORIGIN.search(origin):
        return BAD_REQUEST
    mismatch = upgrade is not (transport == "websocket")  # CVE-2023-31125 and its mirror image
    if asked.sid:
        if session is None:
            return UNKNOWN_SID
        if (
            mismatch or asked.version != EIO or not (upgrade or session == transport)
        ):  # CVE-2026-102599: the session's EIO
            return BAD_REQUEST
        return None
    if method != "GET":
        return BAD_METHOD
    if mismatch:
        return BAD_REQUEST
    return None if asked.version == EIO else BAD_VERSION


def _one(query: Values, name: str) -> str:
    """Return a parameter's value, "" if it is absent, and "\\0" if it is ambiguous or not ASCII."""
    values = query.get(name, ())
    if not values:
        return ""
    value = values[0]
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text if len(values) == 1 and text.isascii() else "\0"


# ── JSONP, for old browsers ───────────────────────────────────────────────────────────────────────────────────────────

MAX_FIELDS = 16
_NO_TEXT = "\udfff"  # what no text has that was UTF-8
_BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")


def jsonp_index(query: Values) -> str | None:
    """Return the digits of `j`, None if the request is not JSONP. Only digits can get into the script."""
    return "".join(c for c in _one(query, "j") if c in "0123456789") if "j" in query else None


def jsonp_answer(index: str, payload: str) -> str:
    """Return the script that passes the payload to the page."""
    # JSON allows U+2028 and U+2029 in strings, JavaScript before ES2019 did not.
    text = json.dumps(payload).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"___eio[{index}]({text});"


def jsonp_payload(body: str) -> str:
    """Return the payload of a POSTed form `d=…`. Raises WireError if there is none.

    Browsers turn newlines of a form into CR LF, so the client sends them as `\\n`, and `\\n` itself as `\\\\n`.
    """
    fields = [field.partition("=") for field in body.split("&", MAX_FIELDS)]
    values = [value for name, _, value in fields if name == "d"]
    if len(values) != 1 or not all(equals for _, equals, _ in fields) or _BAD_ESCAPE.search(values[0]):
        raise WireError("bad form")
    # urllib would take each escape in Python's hands; quoted-printable is the same with another sign, and C's.
    printable = values[0].replace("+", " ").replace("=", "=3D").replace("%", "=")
    try:
        text = binascii.a2b_qp(printable.encode()).decode()
    except UnicodeError:
        raise WireError("bad form") from None
    return text.replace("\\\\n", _NO_TEXT).replace("\\n", "\n").replace(_NO_TEXT, "\\n")
