"""Checks the keys in Valkey against docs/security.md, which lists each family with its size limit and its end.

Clients send each event as often as a minute allows, at most two hundred times, with the largest payload; the back end
pushes too. Then each existing key is compared with its row.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from insightdesk_rt.engine.dispatch.namespace import EventSpec
from insightdesk_rt.helpdesk.features import FEATURES
from tests.support.aio import aio
from tests.support.clients import Peer
from tests.support.native_client import NativeDoor
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
LETTER = "\U0001f525"  # four bytes
UNITS = {"B": 1, "KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000, "s": 1, "min": 60, "h": 3600, "d": 86_400}
AT_MOST = 200
PLAYED = 20  # fewer of these two: 200 of them are 3 MB, and the limit in bytes has its own tests
FEW = {"chat:message", "chat:start"}


class Family(NamedTuple):
    """A row of the table: `stays` and `within_s` say whether its keys may have no TTL, and how long one may be."""

    pattern: re.Pattern[str]
    text: str
    limit_bytes: int
    stays: bool
    within_s: int


def families() -> list[Family]:
    table = DOC.split("## What is stored in Valkey")[1].split("\n## ")[0]
    found = []
    for names, _, most, ends in re.findall(r"^\| (`.*?`) \| (.*?) \| (.*?) \| (.*?) \|$", table, re.MULTILINE):
        number, unit = re.match(r"([\d.,]+) (B|KB|MB|GB)", most).groups()  # type: ignore[union-attr]
        within = re.search(r"within (\d+) (s|min|h|d)\b", ends)
        for name in re.findall(r"`([^`]+)`", names):
            pattern = "".join(".+" if part.startswith("<") else re.escape(part) for part in re.split(r"(<\w+>)", name))
            within_s = int(within[1]) * UNITS[within[2]] if within else 0
            limit = int(float(number.replace(",", "")) * UNITS[unit])
            found.append(Family(re.compile(pattern), name, limit, "stay" in ends, within_s))
    return found


def family_of(key: str) -> Family | None:
    """Return the row of a key: the one with the longest name, as `chat:<id>` may fit another's key, too."""
    fitting = [one for one in families() if one.pattern.fullmatch(key)]
    return max(fitting, key=lambda one: len(re.sub(r"<\w+>", "", one.text)), default=None)


# ── every family in the code ──────────────────────────────────────────────────────────────────────────────────────────


def named_in_code() -> Iterator[str]:
    """Yield the parts of key names in the code: `partition.key("name")`, `own('-suffix')` of scripts, Partition."""
    for path in sorted((ROOT / "insightdesk_rt").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r"\.key\(\s*f?\"([a-z-]+)\"", text)
        yield from re.findall(r"f\"\{(?:self\.base|(?:self\._)?name)\}(-[a-z]+)", text)
        yield from (f"-{name}" for name in re.findall(r"\._own\(\"([a-z]+)\"", text))
    for path in sorted((ROOT / "insightdesk_rt").rglob("*.lua")):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r"(?:own\(|base \.\. |present \.\. )'(-[a-z]+)", text)
    names = (ROOT / "insightdesk_rt" / "engine" / "cluster" / "names.py").read_text(encoding="utf-8")
    yield from re.findall(r"return Key\(f\"\{self\._start\}([a-z]+):", names)


@pytest.mark.parametrize("name", sorted(set(named_in_code()) - {"room", "node", "chat", "ticket"}))
def test_every_family_of_keys_in_the_code_is_in_the_table(name: str) -> None:
    """A new family needs a row that says what makes it grow, how large it may get, and when it ends."""
    texts = [one.text.split(":")[0] for one in families()]
    assert any(text.endswith(name) if name.startswith("-") else text.startswith(name) for text in texts), name


# ── every event at its rate ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def valkey() -> Iterator[OwnValkey]:
    with OwnValkey() as own:
        yield own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, valkey: OwnValkey) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("weights"), valkey_url=valkey.url, drain_seconds=0)
    server.start()
    yield server
    server.stop()


class Play:
    """One customer and one agent with the longest names, each in every namespace, and the events they send."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.chats: list[str] = []
        self.peers: dict[tuple[str, str], Peer] = {}

    async def come(self) -> None:
        for role, team in (("customer", ""), ("agent", "t" * 64)):
            token = self.server.token(role[0] * 64, role, team, name=LETTER * 256)
            for space in FEATURES:
                if role in space.allow:
                    self.peers[role, space.path] = await NativeDoor().open(
                        self.server.address, space.path, {"token": token}
                    )

    def payload(self, event: str, number: int) -> dict[str, Any]:
        chat = self.chats[number % len(self.chats)] if self.chats else "c"
        ticket, text = f"t{number % 20}", LETTER * 4_000
        if event.startswith("ticket:"):
            return {"ticketId": ticket, "state": ("viewing", "replying")[number % 2]}
        return {
            "chat:start": {"clientId": f"{number}", "subject": LETTER * 200, "text": text},
            "chat:message": {"conversationId": chat, "text": text, "clientId": f"{number}".rjust(64, "i")},
            "chat:transfer": {"conversationId": chat, "teamId": "t" * 64, "note": LETTER * 1_000},
            "chat:rate": {"conversationId": chat, "score": 5, "comment": LETTER * 1_000},
            "chat:read": {"conversationId": chat, "upTo": number + 1},
            "notification:markRead": {"id": f"n{number}"},
            "presence:status": {"status": ("busy", "away")[number % 2]},
            "presence:subscribe": {"userIds": ["a" * 64]},
            "presence:unsubscribe": {"userIds": ["a" * 64]},
        }.get(event, {"conversationId": chat})

    async def play(self, role: str, path: str, spec: EventSpec) -> None:
        """Send the event as often as its rate allows, without pauses. Some are refused."""
        peer = self.peers[role, path]
        rate = spec.rate.max if spec.rate else 100
        times = PLAYED if spec.name in FEW else min(rate, AT_MOST)
        asks = [self.payload(spec.name, number) for number in range(times)]
        answers = await asyncio.gather(*(peer.call(spec.name, ask, deadline_s=60) for ask in asks))
        codes = {answer["error"]["code"] for answer in answers if not answer["ok"]}
        assert not codes & {"INTERNAL", "BAD_REQUEST", "UNKNOWN_EVENT"}, (spec.name, answers)
        if spec.name == "chat:start":
            self.chats = [answer["conversationId"] for answer in answers if answer["ok"]]


@asynccontextmanager
async def playing(server: ServerProcess) -> AsyncIterator[Play]:
    play = Play(server)
    await play.come()
    try:
        yield play
    finally:
        for peer in play.peers.values():
            await peer.close()


async def push(server: ServerProcess, path: str, body: Any, method: str = "POST") -> None:
    status, answer = await server.push(method, f"/api/v1{path}", body)
    assert status in (200, 201), answer


def wrong_with(valkey: OwnValkey, key: str) -> str:
    """Return how a key violates its row, or ""."""
    family = family_of(re.sub(r"^\{insightdesk[^}]*\}:", "", key))
    if family is None:
        return f"{key} is of no family in the table"
    used, ttl_ms = valkey("MEMORY", "USAGE", key, "SAMPLES", 0), valkey("PTTL", key)
    if used is None or ttl_ms == -2:  # it has ended
        return ""
    if used > family.limit_bytes:
        return f"{key} has {used} bytes, and `{family.text}` may have {family.limit_bytes}"
    if ttl_ms == -1 and not family.stays:
        return f"{key} never ends, and `{family.text}` should"
    if ttl_ms > family.within_s * 1000 and ttl_ms != -1:
        return f"{key} ends in {ttl_ms} ms, and `{family.text}` should within {family.within_s} s"
    return ""


@aio
async def test_each_event_at_its_rate_keeps_within_the_table(server: ServerProcess, valkey: OwnValkey) -> None:
    for number in range(20):
        watchers = [f"{n}".rjust(120, "w") for n in range(200)]
        people = {"teamId": "t" * 64, "requesterId": "c" * 64, "watchers": watchers}
        await push(server, f"/tickets/t{number}", {"subject": LETTER * 500, **people}, "PUT")
        comment = {"kind": "note", "author": {"id": "a", "name": "A"}, "excerpt": LETTER * 280, "id": "1"}
        await push(server, f"/tickets/t{number}/comments", comment)
    for number in range(30):
        data = {"type": "t", "title": LETTER * 300, "body": LETTER * 4_000, "data": "d" * 16_000, "id": f"n{number}"}
        await push(server, "/notifications", {**data, "userIds": ["c" * 64, "a" * 64]})
    found: list[str] = []
    async with playing(server) as play:
        order = ("chat:start", "chat:accept", "chat:message", "ticket:subscribe")
        specs = [(space, spec) for space in FEATURES for spec in space.events.values()]
        specs.sort(key=lambda each: order.index(each[1].name) if each[1].name in order else len(order))
        last = {"chat:close", "chat:rate", "chat:leave", "ticket:unsubscribe"}
        for phase in (False, True):  # while conversations are open, and after they are closed
            for space, spec in specs:
                for role in ("customer", "agent"):
                    if (spec.name in last) is phase and role in space.allow and role in spec.allow:
                        await play.play(role, space.path, spec)
            found += [problem for key in valkey("KEYS", "*") if (problem := wrong_with(valkey, key))]
    assert found == []
