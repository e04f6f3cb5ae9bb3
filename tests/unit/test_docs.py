"""docs/protocol.md matches the code: events, errors, close codes and limits have rows, and the examples are valid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from insightdesk_rt.engine.dispatch.expiry import REFRESH
from insightdesk_rt.engine.dispatch.namespace import EventSpec, Outbound
from insightdesk_rt.engine.errors import CLOSE_CODES, ERRORS
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession
from insightdesk_rt.helpdesk.features import FEATURES, PATHS
from insightdesk_rt.operations.moderation import notices  # noqa: F401  its events are documented, too

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "protocol.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

# Events without an Outbound struct: plain payloads, and those of every namespace.
PLAIN = {
    "error",
    "resync",
    "session:expiring",
    "notification",
    "presence:list",
    "metrics:tickets",
    "metrics:queue",
    "metrics:agents",
}


def requests() -> dict[str, tuple[str, EventSpec]]:
    found = {spec.name: (space.path, spec) for space in FEATURES for spec in space.events.values()}
    return {**found, REFRESH.name: ("", REFRESH)}


def outbounds(base: type[Outbound] = Outbound) -> Iterator[type[Outbound]]:
    for each in base.__subclasses__():
        if each.__module__.startswith("insightdesk_rt."):
            yield each
        yield from outbounds(each)


def section(name: str, direction: str) -> str:
    """Return the text under an event's heading."""
    found = re.search(rf"^#### `{re.escape(name)}` to the {direction}\n(.*?)(?=^##)", DOC, re.MULTILINE | re.DOTALL)
    assert found, f"docs/protocol.md has no heading #### `{name}` to the {direction}"
    return found[1]


def documented(direction: str) -> set[str]:
    return set(re.findall(rf"^#### `([^`]+)` to the {direction}$", DOC, re.MULTILINE))


def field_names(text: str) -> set[str]:
    table = text.split("| field | type | |\n|---|---|---|\n")
    rows = table[1].split("\n\n")[0] if len(table) > 1 else ""
    return {name.strip("`… ") for row in rows.splitlines() for name in row.split("|")[1].split(",")} - {""}


def frames(text: str) -> list[str]:
    block = re.search(r"```\n(.*?)\n```", text, re.DOTALL)
    assert block, "no example"
    return block[1].splitlines()


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_exactly_the_declared_events_are_documented() -> None:
    assert documented("server") == set(requests())
    assert documented("client") == {out.event for out in outbounds() if out.event} | PLAIN


@pytest.mark.parametrize("name", sorted(requests()))
def test_the_documentation_of_a_request_matches_its_struct(name: str) -> None:
    path, spec = requests()[name]
    text = section(name, "server")
    assert field_names(text) == {field.encode_name for field in msgspec.structs.fields(spec.payload)}
    socketio, socketio_ack, native, native_ack = frames(text)

    space = path or "/tickets"
    session = SocketIOSession(SocketIOCodec())
    session.receive_text(f"0{space},{{}}")
    session.accept(space)
    (call,) = session.receive_text(socketio[1:])  # Engine.IO's 4, a message, is taken off below it
    plain = NativeSession(space, NativeCodec(), 25_000, 30_000)
    plain.receive('{"event":"connect"}', 0)
    (same,) = plain.receive(native, 0)
    for said in (call, same):
        assert (said.namespace, said.event, said.ack_id) == (space, name, 7)  # type: ignore[union-attr]
        msgspec.json.decode(bytes(said.payload) or b"{}", type=spec.payload)  # type: ignore[union-attr]

    answer = json.loads(native_ack)
    assert answer["ack"] == 7 and answer["data"]["ok"] is True
    assert native_ack == NativeCodec().ack_text(space, 7, json_text(answer["data"])).text, "there is no further member"
    assert json.loads(socketio_ack.removeprefix(f"43{space},7")) == [answer["data"]]


@pytest.mark.parametrize("name", sorted(documented("client")))
def test_the_documentation_of_an_event_matches_its_struct(name: str) -> None:
    text = section(name, "client")
    socketio, native = frames(text)
    frame = json.loads(native)
    assert frame["event"] == name
    space, _, packet = socketio.removeprefix("42").partition(",")
    assert space in PATHS
    offset = [frame["offset"]] if "offset" in frame else []
    assert json.loads(packet) == [name, frame["data"], *offset]
    assert bool(offset) is ("Logged." in text or "Has an offset." in text)
    shown = field_names(text)
    if isinstance(frame["data"], dict):
        assert set(frame["data"]) <= shown, "the example has a field that is not in the table"
    for out in outbounds():
        if out.event == name:
            declared = {field.encode_name for field in msgspec.structs.fields(out)}
            assert declared - shown == set(), "a field is missing"
            assert shown - declared - ({"ticketId"} if name == "resync" else set()) == set(), "unknown field"
            assert ("Logged." in text) is out.logged
            msgspec.convert(frame["data"], out)


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_has_a_row(code: str) -> None:
    kind = ERRORS[code]
    row = f"| `{code}` | {kind.http} | {kind.close} | {'yes' if kind.retry else 'no'} | {kind.text} |"
    assert row in DOC


def test_no_other_errors_are_documented() -> None:
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", DOC, re.MULTILINE)) == set(ERRORS)


def test_every_close_code_has_a_row() -> None:
    table = DOC.split("## Close codes")[1].split("\n## ")[0]
    rows = {int(code) for code in re.findall(r"^\| (\d{4}) \|", table, re.MULTILINE)}
    assert set(CLOSE_CODES.values()) <= rows


def test_every_limit_has_a_row() -> None:
    for name, (_, spec) in requests().items():
        said = f"{spec.rate.max} in {spec.rate.per_s} s" if spec.rate else "100 in 60 s"
        if spec.rate and spec.rate.burst:
            said += f", {spec.rate.burst} at once after a pause"
        assert f"Limit: {said}." in section(name, "server"), name
        assert (f"| `{name}` | {said} |" in DOC) is (spec.rate is not None), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_existing_targets(page: Path) -> None:
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else page.parent / name
        assert file.exists(), f"{page.name}: [{text}]({target})"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{page.name}: [{text}]({target})"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as common renderers generate them."""
    headings: list[Any] = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_tests_named_in_the_docs_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert f"def {name}(" in sources, f"{page.name} names {name}"


def test_log_lines_in_the_docs_are_messages_of_the_code() -> None:
    """The module named in `logger=` of an example line logs the text in its `msg=`."""
    shown = [
        (logger, message or word)
        for page in PAGES
        for logger, message, word in re.findall(
            r'logger=(\S+)(?: node=\S+)? msg=(?:"([^"]+)"|(\S+))', page.read_text(encoding="utf-8")
        )
    ]
    assert shown
    for logger, message in shown:
        module = ROOT / "insightdesk_rt" / f"{logger.replace('.', '/')}.py"
        assert f'"{message}"' in module.read_text(encoding="utf-8"), f"{logger} does not say {message!r}"
