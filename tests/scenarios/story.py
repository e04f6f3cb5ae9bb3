"""The tools of a story: people with new names, their connections through one door, and the back end's pushes.

Ids are new in every story, so that stories share a server without seeing each other.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from tests.support.clients import Door, Peer, Refused
from tests.support.server import ServerProcess


class Who(NamedTuple):
    """A user of the helpdesk."""

    id: str
    role: str
    team: str
    name: str

    @property
    def person(self) -> dict[str, str]:
        return {"id": self.id, "name": self.name}


class Story:
    def __init__(self, door: Door, server: ServerProcess) -> None:
        self.door = door
        self.server = server
        self.tag = secrets.token_hex(3)
        self.team = self.id("Tier 2: Köln")
        self.chats: list[str] = []  # conversations that are to be closed at the end: they count on the dashboard
        self._peers: list[Peer] = []

    # ── people ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def id(self, kind: str) -> str:
        return f"{kind}-{self.tag}"

    def user_id(self, name: str) -> str:
        """Return a user id as identity providers generate them; all stories use such ids."""
        return f"CORP\\auth0|{name}: ü+{self.tag}@example.com"

    def agent(self, name: str = "Ada", team: str | None = None) -> Who:
        return Who(self.user_id(name.lower()), "agent", self.team if team is None else team, name)

    def customer(self, name: str = "Carl") -> Who:
        return Who(self.user_id(name.lower()), "customer", "", name)

    def admin(self, name: str = "Root") -> Who:
        return Who(self.user_id(name.lower()), "admin", "", name)

    def token(self, who: Who, ttl_s: int = 600, **claims: object) -> str:
        return self.server.token(who.id, who.role, who.team, name=who.name, ttl_s=ttl_s, **claims)

    # ── connections ────────────────────────────────────────────────────────────────────────────────────────────────

    async def join(self, who: Who, namespace: str, *, ttl_s: int = 600, **options: bool) -> Peer:
        """Return a connection of this person. The options are those of `Door.open_all`."""
        (peer,) = await self.join_all(who, [namespace], ttl_s=ttl_s, **options)
        return peer

    async def join_all(self, who: Who, namespaces: list[str], *, ttl_s: int = 600, **options: bool) -> list[Peer]:
        """Return one Peer for each namespace, over one connection where the door can."""
        auth = {"token": self.token(who, ttl_s)}
        peers = await self.door.open_all(self.server.address, namespaces, auth, **options)
        self._peers += peers
        return peers

    async def refused(self, namespace: str, auth: Any) -> Refused:
        """Connect with this auth, which must be refused, and return the refusal."""
        try:
            peer = await self.door.open(self.server.address, namespace, auth)
        except Refused as refused:
            return refused
        self._peers.append(peer)
        raise AssertionError(f"{auth} was let into {namespace}")

    # ── the back end ───────────────────────────────────────────────────────────────────────────────────────────────

    async def push(
        self, method: str, path: str, body: Any = None, status: int | tuple[int, ...] = (200, 201, 204)
    ) -> Any:
        """Return the answer to a request on the admin port, which must have one of these statuses."""
        got, answer = await self.server.push(method, "/api/v1" + path, body)
        wanted = (status,) if isinstance(status, int) else status
        assert got in wanted, f"{method} {path}: {got} {answer}"
        return answer

    async def ticket(self, name: str = "ticket", **fields: Any) -> str:
        """Push a ticket of the story's team and return its id."""
        ticket_id = self.id(name)
        ticket = {"subject": "Printer on fire", "status": "open", "priority": "normal", "teamId": self.team, **fields}
        await self.push("PUT", f"/tickets/{ticket_id}", ticket)
        return ticket_id

    async def end(self) -> None:
        try:
            if self.chats:
                root = await self.join(self.admin("Janitor"), "/chat")
                for chat in self.chats:
                    await root.ok("chat:close", {"conversationId": chat})
        finally:
            await self._close()

    async def _close(self) -> None:
        for peer in self._peers:
            await peer.close()


async def at_once(tell: Callable[[Story], Awaitable[None]], stories: list[Story]) -> None:
    """Run one story through several doors at the same time. A failure names the door."""

    async def through(story: Story) -> None:
        try:
            await tell(story)
        except Exception as failure:
            failure.add_note(f"through the door {story.door.name}")
            raise

    done = await asyncio.gather(*(through(story) for story in stories), return_exceptions=True)
    for failure in done:
        if failure is not None:
            raise failure
