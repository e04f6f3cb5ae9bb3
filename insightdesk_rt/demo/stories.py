"""The robots of the demo. Each story is a loop: answer the visitor, work on tickets, chat, connect and disconnect.

While nobody watches (the visitor's agent is offline) each loop takes a step once a minute. A visitor who arrives or
writes is answered within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from insightdesk_rt.demo.cast import (
    ANSWERS,
    BOB,
    CUSTOMERS,
    FRESH_IDS,
    HELLO,
    JONAS,
    MIA,
    MINE,
    NORA,
    PRIYA,
    REPLIES,
    ROBOTS,
    SMALL_TALK,
    SUBJECTS,
    TALKS,
    Opening,
    Who,
)
from insightdesk_rt.demo.helpdesk import VISITOR, Helpdesk, Sign
from insightdesk_rt.demo.in_process_client import Hear, InProcessClient
from insightdesk_rt.demo.thread import Thread
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import new_id
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.transport.client import Receiver
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.tickets.namespace import Tickets

log = logging.getLogger(__name__)

IDLE_S = 60.0
VISITOR_MAY_ACCEPT_S = 14.0  # how long a chat waits for the visitor's agent before a robot takes it
VISITOR_MAY_ANSWER_S = 90.0


class Demo:
    """`registry` and `receiver` are those of the client port's handlers; `sign` makes a token of claims."""

    def __init__(
        self, registry: ClientRegistry, receiver: Receiver, tickets: Tickets, notifications: Notifications, sign: Sign
    ) -> None:
        self._registry = registry
        self._receiver = receiver
        self._desk = Helpdesk(tickets, notifications, sign)
        self._tasks = OwnedTasks(log)
        self._clients: dict[tuple[str, str], InProcessClient] = {}
        self._watched = asyncio.Event()  # the visitor is here
        self._called = asyncio.Event()  # the visitor has just come, or written to Bob
        self._wrote = False  # as the customer, since Bob last answered
        self._thread = Thread()
        self._fresh = deque(FRESH_IDS)
        self._talking: set[str] = set()  # robot customers in a chat
        self._mine: dict[str, int] = {}  # Mia's conversations that Priya has → number of Priya's answers

    async def start(self) -> None:
        """Start the robots. While Valkey is unreachable they try again."""
        self._own(self._run())

    async def close(self) -> None:
        await self._tasks.close()
        for client in self._clients.values():
            client.hang_up()

    # ── what the page calls ──────────────────────────────────────────────────────────────────────────────────────────

    def desk(self) -> dict[str, Any]:
        self._called.set()
        if self._thread.over and not self._watched.is_set():
            self._desk.cut(MINE)
            self._thread.begin_again()
        return self._desk.as_seen()

    async def comment(self, actor: str, ticket_id: str, text: str, *, note: bool) -> None:
        """Raises RtError FORBIDDEN if the actor may not do it, NOT_FOUND."""
        who = self._visitor(actor)
        if who is MIA and (note or ticket_id != MINE):
            raise RtError("FORBIDDEN")
        await self._desk.comment(who, ticket_id, text, note)
        if who is MIA:
            self._wrote = True
            self._called.set()

    async def change(self, actor: str, ticket_id: str, *, status: str, priority: str) -> None:
        """Raises RtError FORBIDDEN, NOT_FOUND, BAD_REQUEST."""
        if self._visitor(actor) is not NORA:
            raise RtError("FORBIDDEN")
        await self._desk.change(NORA, ticket_id, status, priority)

    @staticmethod
    def _visitor(actor: str) -> Who:
        if actor not in VISITOR:
            raise RtError("FORBIDDEN")
        return VISITOR[actor]

    # ── the loops ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        while True:
            try:
                await self._desk.seed()
                break
            except RtError:
                await asyncio.sleep(1)
        for robot in ROBOTS:
            self._client(robot, "/presence", self._watch if robot is BOB else None)
        self._client(PRIYA, "/chat", self._hear_mia)
        self._client(JONAS, "/tickets", self._hear_pushed)
        for step in (self._answer_mia, self._work, self._answer, self._arrive, self._change_status, self._chat):
            self._own(self._keep(step))

    async def _keep(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except RtError as refused:  # a race with the visitor, or Valkey is unreachable: go on with the next step
                log.debug("demo step refused", extra={"why": refused.code})
                await asyncio.sleep(2)
            except Exception:
                log.exception("demo step failed")
                await asyncio.sleep(IDLE_S)

    async def _rest(self, least_s: float, most_s: float) -> None:
        """Wait a while. If nobody watches, first wait until somebody does, at most a minute."""
        if not self._watched.is_set():
            await _within(self._watched.wait(), IDLE_S)
        await asyncio.sleep(random.uniform(least_s, most_s))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.spawn(work, "a story of the demo")

    def _client(self, who: Who, namespace: str, hear: Hear | None = None) -> InProcessClient:
        key = (who.id, namespace)
        if key not in self._clients:
            made = InProcessClient(self._registry, self._receiver, namespace, lambda: self._desk.token(who), hear)
            self._clients[key] = made
        return self._clients[key]

    # ── presence ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self, event: str, data: Any) -> None:
        """Bob notices whether the visitor's agent is online."""
        if event == "connect":
            self._own(
                self._ignoring_refusals(self._client(BOB, "/presence").ask("presence:subscribe", userIds=[NORA.id]))
            )
        updates = data if event == "presence:list" else [data] if event == "presence:update" else []
        for update in updates:
            if update["userId"] == NORA.id:
                (self._watched.clear if update["status"] == "offline" else self._watched.set)()

    async def _change_status(self) -> None:
        await self._rest(6, 12)
        robot, status = random.choice((PRIYA, JONAS)), random.choice(("online", "online", "busy", "away"))
        await self._client(robot, "/presence").ask("presence:status", status=status)

    # ── tickets ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _answer_mia(self) -> None:
        """Staff write on the visitor's own ticket, at once if the visitor arrived or wrote.

        Each text comes once. After the last one they are silent until the visitor writes.
        """
        await _within(self._called.wait(), random.uniform(14, 24) if self._watched.is_set() else IDLE_S)
        self._called.clear()
        await asyncio.sleep(1.5)
        wrote, self._wrote = self._wrote, False
        saying = self._thread.answer() if wrote else self._thread.next()
        if saying is None:
            return
        await self._write(saying.who, MINE, saying.text, saying.note)
        if "@Nora" in saying.text:
            await self._desk.notify(NORA.id, "mention", f"{saying.who.name} mentioned you", saying.text, MINE)

    async def _work(self) -> None:
        """An agent answers a ticket and changes its status or priority."""
        await self._rest(2, 5)
        robot, ticket_id = random.choice((PRIYA, JONAS)), self._some_ticket()
        if random.random() < 0.6:
            await self._write(robot, ticket_id, random.choice(REPLIES))
        if random.random() < 0.3:
            await self._desk.change(robot, ticket_id, priority=random.choice(("low", "normal", "high", "urgent")))
        else:
            await self._desk.change(robot, ticket_id, status=random.choice(("open", "pending", "on_hold", "solved")))

    async def _answer(self) -> None:
        """A customer answers a ticket, which opens it again."""
        await self._rest(7, 12)
        ticket_id = self._some_ticket()
        row = self._desk.rows[ticket_id]
        requester = next(who for who in CUSTOMERS if who.id == row["requesterId"])
        text = random.choice(ANSWERS)
        await self._desk.comment(requester, ticket_id, text)
        await self._desk.change(requester, ticket_id, status="open")
        if self._watched.is_set() and row["assigneeId"] == NORA.id:
            await self._desk.notify(NORA.id, "reply", f"{requester.name} replied", text, ticket_id)

    async def _arrive(self) -> None:
        """A new ticket arrives, and the oldest of the changing ones is deleted."""
        await self._rest(10, 18)
        ticket_id = self._fresh[0]
        self._fresh.rotate(-1)
        await self._desk.remove(ticket_id)
        subject = random.choice(SUBJECTS)
        text = "Could somebody help me with this?"
        opening = Opening(ticket_id, random.choice(CUSTOMERS), subject, "new", "normal", None, text)
        await self._desk.open(opening)

    async def _write(self, who: Who, ticket_id: str, text: str, note: bool = False) -> None:
        """Open the ticket, type, send, and leave it."""
        client = self._client(who, "/tickets")
        await client.ask("ticket:subscribe", ticketId=ticket_id)
        await client.ask("ticket:view", ticketId=ticket_id, state="replying")
        if not note:
            await client.ask("ticket:typing", ticketId=ticket_id)
        await asyncio.sleep(random.uniform(2.5, 4))
        await self._desk.comment(who, ticket_id, text, note)
        await client.ask("ticket:stopTyping", ticketId=ticket_id)
        await client.ask("ticket:view", ticketId=ticket_id, state="viewing")
        await asyncio.sleep(random.uniform(1, 2))
        await client.ask("ticket:unsubscribe", ticketId=ticket_id)

    def _hear_pushed(self, event: str, data: Any) -> None:
        """Somebody pushed a ticket through the admin port: keep it, so that the page shows it after a reload too."""
        if event == "ticket:created" and self._desk.pushed(data["ticket"]):
            created = self._client(JONAS, "/tickets").offset
            self._own(self._ignoring_refusals(self._follow(data["ticketId"], created)))
        elif event == "ticket:updated":
            self._desk.changed(data["ticketId"], data["changes"], data["updatedAt"])
        elif event == "ticket:commented":
            self._desk.commented(data["ticketId"], data["comment"])
        elif event == "ticket:deleted":
            self._desk.gone(data["ticketId"])

    async def _follow(self, ticket_id: str, created: str | None) -> None:
        """Get the events of a pushed ticket without showing as an active viewer.

        `created` is the offset of its creation: the back end may have changed it again before this subscribes.
        """
        client = self._client(JONAS, "/tickets")
        await client.ask("ticket:subscribe", ticketId=ticket_id, **({"since": created} if created else {}))
        await client.ask("ticket:view", ticketId=ticket_id, state="away")

    def _some_ticket(self) -> str:
        return random.choice([ticket_id for ticket_id in self._desk.rows if ticket_id != MINE])

    # ── chats ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _chat(self) -> None:
        """Begin another chat, if fewer than three are going on."""
        await self._rest(3, 8)
        idle = [who for who in CUSTOMERS if who.id not in self._talking]
        if len(self._talking) < 3:
            self._own(self._ignoring_refusals(self._talk(random.choice(idle), random.choice((PRIYA, JONAS)))))

    async def _talk(self, customer: Who, robot: Who) -> None:
        """One chat from start to end, with the visitor's agent or, if that one does not accept it, with a robot."""
        self._talking.add(customer.id)
        talk = random.choice(TALKS)
        client = self._client(customer, "/chat")
        try:
            started = await client.ask("chat:start", clientId=new_id(), subject=talk.subject, text=talk.lines[0])
            conversation_id = started["conversationId"]
            taken = await client.heard("chat:accepted", random.uniform(0.6, 1.4) * VISITOR_MAY_ACCEPT_S)
            if taken is None:
                agent = self._client(robot, "/chat")
                await agent.ask("chat:accept", conversationId=conversation_id)
                for number, text in enumerate(talk.lines[1:], 1):
                    await self._write_message(agent if number % 2 else client, conversation_id, text)
                await asyncio.sleep(random.uniform(2, 5))
                await agent.ask("chat:close", conversationId=conversation_id)
            else:
                await self._talk_with_visitor(client, conversation_id, talk.lines[2::2])
            await client.ask("chat:rate", conversationId=conversation_id, score=random.choice((4, 5)))
        finally:
            self._talking.discard(customer.id)
            self._clients.pop((customer.id, "/chat")).hang_up()

    async def _talk_with_visitor(self, client: InProcessClient, conversation_id: str, lines: tuple[str, ...]) -> None:
        """Answer the visitor's agent for a while."""
        for text in (*lines, "That was all, thank you."):
            while True:
                message = await client.heard("chat:message", VISITOR_MAY_ANSWER_S)
                if message is None or message["author"]["role"] != "customer":
                    break
            if message is None:
                break
            await self._write_message(client, conversation_id, text)
        await asyncio.sleep(3)
        await client.ask("chat:close", conversationId=conversation_id)

    def _hear_mia(self, event: str, data: Any) -> None:
        """Priya takes the visitor's chat if the visitor's agent does not, and answers in it."""
        if event == "chat:queue":
            waiting = (data.get("waiting") or []) + (data.get("added") or [])
            for entry in waiting:
                if entry["customer"]["id"] == MIA.id:
                    self._own(self._ignoring_refusals(self._take_mine(entry["conversationId"])))
        elif event == "chat:message" and data["conversationId"] in self._mine and data["author"]["id"] == MIA.id:
            self._own(self._ignoring_refusals(self._answer_mine(data["conversationId"])))
        elif event in ("chat:closed", "chat:transferred"):
            self._mine.pop(data["conversationId"], None)

    async def _take_mine(self, conversation_id: str) -> None:
        await asyncio.sleep(VISITOR_MAY_ACCEPT_S)
        client = self._client(PRIYA, "/chat")
        await client.ask("chat:accept", conversationId=conversation_id)
        self._mine[conversation_id] = 0
        await self._write_message(client, conversation_id, HELLO.format(name=PRIYA.name))

    async def _answer_mine(self, conversation_id: str) -> None:
        answers = self._mine[conversation_id]
        self._mine[conversation_id] = answers + 1
        await asyncio.sleep(0.8)
        await self._write_message(self._client(PRIYA, "/chat"), conversation_id, SMALL_TALK[answers % len(SMALL_TALK)])

    @staticmethod
    async def _write_message(client: InProcessClient, conversation_id: str, text: str) -> None:
        await asyncio.sleep(random.uniform(0.8, 1.8))
        await client.ask("chat:typing", conversationId=conversation_id)
        await asyncio.sleep(random.uniform(1.5, 3))
        await client.ask("chat:message", conversationId=conversation_id, text=text, clientId=new_id())

    @staticmethod
    async def _ignoring_refusals(work: Awaitable[Any]) -> None:
        """Ignore refusals: somebody else was first, or Valkey is unreachable."""
        try:
            await work
        except RtError as refused:
            log.debug("demo step refused", extra={"why": refused.code})


async def _within(work: Awaitable[Any], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        pass
