"""A running demo of two nodes on one Valkey, with keys of every scope and simulated users.

The users run on their own event loop in a thread, because the browser is driven from a thread without one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from insightdesk_rt.api.keys_and_scopes import new_key
from tests.support.native_client import NativePeer
from tests.support.server import ServerProcess

T = TypeVar("T")
SCOPES = ("viewer", "operator", "admin")  # of people who sign in
DEADLINE_S = 15.0
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Safari/604.1"

# id, name, role, address, user agent
PEOPLE = (
    ("nora", "Nora Lindqvist", "agent", "203.0.113.20", FIREFOX),  # the demo's robots are busy while she is connected
    ("ines", "Ines Duarte", "agent", "203.0.113.21", FIREFOX),
    ("filip", "Filip Zieliński", "agent", "203.0.113.22", SAFARI),
    ("aiko", "Aiko Tanaka", "agent", "2001:db8::52", FIREFOX),
    ("marta", "Marta Kovács", "customer", "198.51.100.4", SAFARI),
    ("jean", "Jean-Luc Moreau", "customer", "198.51.100.17", FIREFOX),
    ("sofia", "Sofía Herrera", "customer", "198.51.100.80", SAFARI),
    ("lars", "Lars Østergaard", "customer", "192.0.2.61", FIREFOX),
)
SUBJECTS = {"marta": "The glaze came out cracked", "jean": "Where is my refund?", "sofia": "Change my address"}


class Stage:
    """`n1` is the demo, `n2` another node on its Valkey. `keys` by scope."""

    def __init__(self, folder: Path) -> None:
        self.keys_file = folder / "keys"
        made = {scope: new_key(scope, scope) for scope in SCOPES}
        self.keys = {scope: key for scope, (key, _) in made.items()}
        self.lines = {scope: line for scope, (_, line) in made.items()}
        self.write_keys(*SCOPES)
        common = {"admin_keys_file": str(self.keys_file), "drain_seconds": 0, "trusted_proxies": "127.0.0.1"}
        common["webhook_allow_private"] = "true"
        self.n1 = ServerProcess(folder / "n1", node_id="n1", demo="true", **common)
        socket = self.n1.data_dir / "demo" / "valkey.sock"  # the demo has a folder of its own
        self.n2 = ServerProcess(folder / "n2", node_id="n2", valkey_url=f"unix://{socket}", **common)
        self.peers: dict[tuple[str, str], NativePeer] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="people")

    def start(self) -> None:
        self._thread.start()
        self.n1.start()
        self.n2.start()

    def stop(self) -> None:
        for peer in self.peers.values():
            self.do(peer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()
        for node in (self.n2, self.n1):
            if node.process is not None:
                node.stop()

    def write_keys(self, *scopes: str) -> None:
        """Make these the only valid keys."""
        self.keys_file.write_text("".join(self.lines[scope] + "\n" for scope in scopes))
        self.keys_file.chmod(0o600)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the users' loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    # ── people ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def come(
        self,
        id: str,
        namespace: str = "/presence",
        role: str = "agent",
        name: str = "",
        address: str = "203.0.113.5",
        agent: str = FIREFOX,
        node: ServerProcess | None = None,
    ) -> NativePeer:
        """Connect a user to one namespace; they stay until the end, or until they are disconnected."""
        node = node or self.n1
        token = node.token(id, role, "support" if role == "agent" else "", name=name or id, ttl_s=7200)

        async def connect() -> NativePeer:
            peer = NativePeer(namespace)
            headers = {"User-Agent": agent, "X-Forwarded-For": address}
            await peer.start(node.address, {"token": token}, headers)
            await peer.came_in()
            return peer

        peer = self.do(connect())
        old = self.peers.get((id, namespace))
        self.peers[id, namespace] = peer
        if old is not None:
            self.do(old.close())
        return peer

    def everybody(self) -> None:
        """Connect all PEOPLE: agents, and customers who wait for a chat."""
        for number, (id, name, role, address, agent) in enumerate(PEOPLE):
            node = (self.n1, self.n2)[number % 2]
            for namespace in ("/presence", "/tickets", "/chat") if role == "agent" else ("/chat",):
                self.come(id, namespace, role, name, address, agent, node)
        for id, subject in SUBJECTS.items():
            self.chat(id, subject)

    def chat(self, id: str, subject: str) -> str:
        """Let a connected customer wait for an agent; return the conversation's id."""
        started: dict[str, Any] = self.do(
            self.peers[id, "/chat"].ok("chat:start", {"clientId": f"{id}-{subject}"[:60], "subject": subject})
        )
        return str(started["conversationId"])

    def push(self, method: str, path: str, body: Any = None, scope: str = "admin") -> Any:
        """Call the admin API; return what it answers."""
        status, answer = self.do(self.n1.push(method, f"/api/v1/{path}", body, token=self.keys[scope]))
        assert status < 300, (method, path, answer)
        return answer


@contextmanager
def a_stage(folder: Path) -> Iterator[Stage]:
    stage = Stage(folder)
    try:
        stage.start()
        stage.everybody()
        yield stage
    finally:
        stage.stop()
