"""The parts of Engine.IO 4 that need no session: the wire reference 2.1."""

from __future__ import annotations

import contextlib
import json as standard
import time
from base64 import b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.engine.errors import TooBig, WireError
from insightdesk_rt.engine.wire import engineio
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.engineio import (
    EngineParameters,
    EngineRefusal,
    check_query,
    decode_binary,
    decode_payload,
    encode_payload,
    engine_parameters,
)
from insightdesk_rt.engine.wire.frames import encoded, ping_frame

no_separator = st.text(st.characters(exclude_characters="\x1e", exclude_categories=["Cs"]), max_size=30)


# ── payloads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from("0123456"), no_separator, st.lists(st.binary(max_size=9), max_size=3)), min_size=1
    )
)
def test_a_payload_is_read_back_as_it_was_written(parts: list[tuple[str, str, list[bytes]]]) -> None:
    messages = [encoded(kind + text, attachments=tuple(attachments)) for kind, text, attachments in parts]
    flat = [packet for kind, text, attachments in parts for packet in (kind + text, *attachments)]
    assert [*decode_payload(encode_payload(messages), 10**6)] == flat


@settings(max_examples=300)
@given(st.text() | st.text(st.sampled_from("012346b\x1eAQ=é ")))
def test_any_payload_is_read_or_raises_wire_error(body: str) -> None:
    found = []
    with contextlib.suppress(WireError):
        for packet in decode_payload(body, 10**6):
            found.append(packet)
    assert len(found) <= body.count("\x1e") + 1


def test_binary_data_is_written_as_base64() -> None:
    assert encode_payload([encoded("451-x", attachments=(b"\1\2\3\4",)), encoded("2")]) == "451-x\x1ebAQIDBA==\x1e2"
    assert [*decode_payload("451-x\x1ebAQIDBA==\x1eb", 100)] == ["451-x", b"\1\2\3\4", b""]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 57, 200])
@pytest.mark.parametrize(
    "written_by",
    [
        pytest.param(lambda data: b64encode(data).decode(), id="the usual form"),
        pytest.param(lambda data: encodebytes(data).decode(), id="Java's: a newline after 76 characters"),
        pytest.param(lambda data: encodebytes(data).decode().replace("\n", "\r\n"), id="MIME: CR LF"),
        pytest.param(lambda data: b64encode(data).decode().rstrip("="), id="without padding"),
        pytest.param(lambda data: urlsafe_b64encode(data).decode(), id="the URL-safe alphabet"),
        pytest.param(lambda data: urlsafe_b64encode(data).decode().rstrip("="), id="JWT's: URL-safe, no padding"),
        pytest.param(lambda data: " ".join(b64encode(data).decode()) + "\t", id="blanks"),
    ],
)
def test_base64_of_all_client_libraries_is_decoded(written_by: Callable[[bytes], str], size: int) -> None:
    """engine.io-client-java writes newlines, and Node's server accepts all of these. A strict decoder ends sessions."""
    data = bytes(range(256))[-size:] if size else b""
    assert decode_binary("b" + written_by(data)) == data


def test_a_control_frame_is_left_out_of_a_payload() -> None:
    assert encode_payload([Encoded("", ping_frame()), encoded("6")]) == "6"


@pytest.mark.parametrize(
    ("body", "before"),
    [
        ("", []),
        ("4a\x1e", ["4a"]),
        ("\x1e4a", []),
        ("4a\x1e\x1e4b", ["4a"]),
        ("4a\x1e7x\x1e4b", ["4a"]),
        ("4a\x1ex", ["4a"]),
        ("bA\x1e4a", []),
        ("4a\x1ebA!Q=", ["4a"]),
        ("bAQ==AQ==", []),
        ("b\u0660\u0661==", []),
        ("²a", []),
    ],
)
def test_a_bad_packet_ends_the_payload_after_the_packets_before_it(body: str, before: list[str]) -> None:
    """Wire reference 2.1: an empty body and a trailing separator are parse errors, too."""
    found = []
    with pytest.raises(WireError) as wrong:
        for packet in decode_payload(body, 1000):
            found.append(packet)
    assert found == before
    assert not isinstance(wrong.value, TooBig)


def test_a_payload_over_the_limit_is_refused() -> None:
    assert [*decode_payload("4" * 10, 10)] == ["4" * 10]
    with pytest.raises(TooBig):
        list(decode_payload("4" * 11, 10))


def test_the_number_of_packets_is_unlimited_and_takes_linear_time() -> None:
    """CVE-2020-36048; python-engineio's limit of 16 breaks stock clients."""
    start = time.process_time()
    assert sum(1 for _ in decode_payload("\x1e".join(["4"] * 500_000), 10**6)) == 500_000
    assert time.process_time() - start < 2


# ── the query ─────────────────────────────────────────────────────────────────────────────────────────────────────────

LIVE = {"n1.polling": "polling", "n1.websocket": "websocket"}


def check(
    query: str,
    method: str = "GET",
    *,
    upgrade: bool = False,
    origin: str = "",
    transports: tuple[str, ...] = ("polling", "websocket"),
) -> EngineParameters | int:
    values: dict[str, list[bytes]] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        values.setdefault(name, []).append(value.encode("latin-1"))
    asked = engine_parameters(values)
    session = LIVE.get(asked.sid)
    found = check_query(asked, method, transports, session, upgrade, origin)
    return asked if found is None else found.code


P, W = "EIO=4&transport=polling", "EIO=4&transport=websocket"


@pytest.mark.parametrize(
    ("query", "method", "upgrade", "code"),
    [
        # 0: transport, before anything else
        ("EIO=4", "GET", False, 0),
        ("EIO=4&transport=", "GET", False, 0),
        ("EIO=4&transport=tobi", "GET", False, 0),
        ("EIO=3&transport=tobi", "POST", False, 0),
        ("EIO=4&transport=constructor", "GET", True, 0),
        ("EIO=4&transport=__proto__", "GET", True, 0),
        ("EIO=4&transport=polling&transport=polling", "GET", False, 0),
        ("EIO=4&transport=p\xf6lling", "GET", False, 0),
        # 1: session
        (f"{P}&sid=tobi", "GET", False, 1),
        (f"{P}&sid=tobi", "POST", False, 1),
        (f"{P}&sid=__proto__", "GET", False, 1),
        (f"{W}&sid=__proto__", "GET", True, 1),
        (f"{P}&sid=n1.polling&sid=n1.polling", "GET", False, 1),
        (f"{P}&sid=\xff", "GET", False, 1),
        ("transport=polling&sid=tobi", "GET", False, 1),
        # 2: method of a handshake
        (P, "POST", False, 2),
        (P, "PUT", False, 2),
        (P, "HEAD", False, 2),
        (P, "DELETE", False, 2),
        ("EIO=3&transport=polling", "POST", False, 2),
        # 3: transport of the session, or of the request; its version
        (f"{P}&sid=n1.websocket", "GET", False, 3),
        (f"{P}&sid=n1.websocket", "POST", False, 3),
        (W, "GET", False, 3),
        (f"{W}&sid=n1.polling", "GET", False, 3),
        (f"{W}&sid=n1.websocket", "GET", False, 3),
        (P, "GET", True, 3),
        (f"{P}&sid=n1.polling", "GET", True, 3),
        ("EIO=3&transport=polling&sid=n1.polling", "GET", False, 3),
        ("transport=polling&sid=n1.polling", "GET", False, 3),
        ("transport=websocket&sid=n1.polling", "GET", True, 3),
        ("EIO=3&transport=websocket&sid=n1.polling", "GET", True, 3),
        # 5: version of a handshake, last
        ("transport=polling", "GET", False, 5),
        ("EIO=3&transport=polling", "GET", False, 5),
        ("EIO=5&transport=polling", "GET", False, 5),
        ("EIO=4&EIO=4&transport=polling", "GET", False, 5),
        ("EIO=04&transport=polling", "GET", False, 5),
        ("EIO=%B4&transport=websocket", "GET", True, 5),
    ],
)
def test_a_request_is_refused_with_nodes_code(query: str, method: str, upgrade: bool, code: int) -> None:
    """Wire reference 2.1; CVE-2023-31125, CVE-2026-59724, CVE-2026-102599."""
    assert check(query, method, upgrade=upgrade) == code


def test_an_accepted_request_has_its_transport_and_session() -> None:
    assert check(P) == EngineParameters("polling", "", "4")
    assert check(f"{P}&sid=") == EngineParameters("polling", "", "4")
    assert check(W, upgrade=True) == EngineParameters("websocket", "", "4")
    assert check(f"{P}&sid=n1.polling&t=abc&b64=1") == EngineParameters("polling", "n1.polling", "4")
    assert check(f"{P}&sid=n1.polling", "POST") == EngineParameters("polling", "n1.polling", "4")
    assert check(f"{W}&sid=n1.polling", upgrade=True) == EngineParameters("websocket", "n1.polling", "4")


def test_a_second_websocket_is_accepted_to_be_closed_at_once() -> None:
    """Wire reference 2.2.3: it is accepted, and the first is unaffected."""
    assert check(f"{W}&sid=n1.websocket", upgrade=True) == EngineParameters("websocket", "n1.websocket", "4")


def test_a_transport_that_is_switched_off_is_unknown() -> None:
    assert check(P, transports=("websocket",)) == 0
    assert check(W, upgrade=True, transports=("polling",)) == 0


@pytest.mark.parametrize("origin", ["http://a\x00b", "http://\u20ac", "a\nb", "\x7f"])
def test_an_invalid_origin_is_a_bad_request(origin: str) -> None:
    assert check(P, origin=origin) == 3
    assert check("transport=tobi", origin=origin) == 0


def test_refusals_are_json_with_400_or_403() -> None:
    assert standard.loads(engineio.UNKNOWN_SID.body) == {"code": 1, "message": "Session ID unknown"}
    assert engineio.BAD_VERSION.body == '{"code":5,"message":"Unsupported protocol version"}'
    assert (engineio.BAD_REQUEST.status, engineio.FORBIDDEN.status) == (400, 403)


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["EIO", "transport", "sid", "j"]), st.lists(st.binary(max_size=5) | st.text(), max_size=3)
    ),
    st.text(max_size=5),
    st.booleans(),
    st.text(max_size=5),
)
def test_any_query_gets_an_answer(query: dict[str, list[bytes | str]], method: str, upgrade: bool, origin: str) -> None:
    asked = engine_parameters(query)
    session = LIVE.get(asked.sid)
    found = check_query(asked, method, ("polling",), session, upgrade, origin)
    assert found is None or isinstance(found, EngineRefusal)
    index = engineio.jsonp_index(query)
    assert index is None or index == "" or (index.isascii() and index.isdigit())


# ── JSONP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_jsonp_answer_is_a_call_with_only_digits_and_a_string() -> None:
    assert engineio.jsonp_index({"j": [b"1);alert(2"]}) == "12"
    assert engineio.jsonp_index({}) is None
    assert engineio.jsonp_answer("7", '4"\u2028\u2029é\x1e') == '___eio[7]("4\\"\\u2028\\u2029é\\u001e");'


def test_a_jsonp_form_is_unescaped() -> None:
    assert engineio.jsonp_payload("d=4%22a%5Cnb%22%1E4c") == '4"a\nb"\x1e4c'
    assert engineio.jsonp_payload("d=4%5B%22a%5C%5Cnb%22%5D") == '4["a\\nb"]'
    for escaped, meant in ((r"\\\n", r"\\n"), (r"\\\\n", r"\\\n"), (r"\n\\n", "\n\\n"), (r"\\a", r"\\a")):
        assert engineio.jsonp_payload(f"d={escaped}") == meant


@settings(max_examples=300)
@given(st.text(st.sampled_from("a=+%&\\n3D \r\n\x1eé😀") | st.characters(codec="utf-8")))
def test_a_form_is_decoded_as_browsers_encode_it(text: str) -> None:
    read = text.replace("\\\\n", "\udfff").replace("\\n", "\n").replace("\udfff", "\\n")
    assert engineio.jsonp_payload(f"d={quote_plus(text)}") == read
    assert engineio.jsonp_payload("d=" + quote(text, safe="=+ \r\n").replace("+", "%2B")) == read


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x=1",
        "d=1&d=2",
        "4hello",
        "d=%ff",
        "d=%",
        "d=%4",
        "d=%4g",
        "d=%%41",
        "d=1&x",
        "d=\ud800",
        "&".join(["a=1"] * 100),
    ],
)
def test_a_bad_jsonp_form_is_refused(body: str) -> None:
    with pytest.raises(WireError):
        engineio.jsonp_payload(body)
