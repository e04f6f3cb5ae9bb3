"""Many pushes in one request: `POST /api/v1/batch`, and `PUT /api/v1/tickets` for an import.

    {"operations": [{"op": "ticket.put", "ticketId": "42", "status": "open"}, {"op": "emit", …}, …]}
    {"results": [{"ticketId": "42", "version": 3, "offset": "…"}, {"error": {"code": …}}, …]}

Each operation is checked, allowed and carried out by itself, and has its own result: a wrong one does not touch the
others. Operations are carried out AT_ONCE at a time, in their order. Each kind of them needs two pipelines to Valkey:
one stores the changes, one logs their events, so that members receive them together. Between these parts the loop
serves others. A batch that arrived whole is carried out to its end, also if its sender is gone.

If Valkey becomes unreachable, the operations that it did not confirm are answered UNAVAILABLE, and later ones are not
tried: the same batch again does what is left, in the order that it has. Nothing is done twice, as far as operations
have ids (`id`, `clientId`, or a ticket's id and fields).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal
from insightdesk_rt.api.operation import Answer, wrong
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.backend.push.emit import EmitBody, Emits, emits_of
from insightdesk_rt.backend.push.notifications import NotificationBody, NotificationPushes
from insightdesk_rt.backend.push.tickets import CommentBody, TicketPushes, guard_of
from insightdesk_rt.engine.dispatch.namespace import Route
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import ConversationId, PushId, TicketIdText
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.chat.pushes import BeginChatBody, ChatPushes, SpeakBody
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from insightdesk_rt.helpdesk.tickets.store import At, TicketChange, Version

MAX_OPERATIONS = 1_000
# 1,000 tickets with all their fields have some 0.5 MB, 1,000 chat messages in another script than Latin's 12 MB.
MAX_BATCH_BYTES = 4_000_000
AT_ONCE = 100  # some 15 ms of this node, and as much of Valkey
# Of all operations of a batch together: each costs as much as an operation.
MAX_NOTIFIED = 1_000
MAX_ROOMS_OF_BATCH = 5_000


class TicketPut(TicketChange, tag_field="op", tag="ticket.put", kw_only=True, forbid_unknown_fields=True):
    ticketId: TicketIdText


class TicketRow(TicketChange, kw_only=True, forbid_unknown_fields=True):
    ticketId: TicketIdText


class TicketDelete(Struct, tag_field="op", tag="ticket.delete", kw_only=True, forbid_unknown_fields=True):
    ticketId: TicketIdText
    at: At | None = None
    ifVersion: Version | None = None
    id: PushId | UnsetType = UNSET


class TicketComment(CommentBody, tag_field="op", tag="ticket.comment", kw_only=True, forbid_unknown_fields=True):
    ticketId: TicketIdText


class Notify(NotificationBody, tag_field="op", tag="notification", kw_only=True, forbid_unknown_fields=True):
    pass


class EmitOne(EmitBody, tag_field="op", tag="emit", kw_only=True, forbid_unknown_fields=True):
    pass


class ChatStart(BeginChatBody, tag_field="op", tag="chat.start", kw_only=True, forbid_unknown_fields=True):
    pass


class ChatSpeak(SpeakBody, tag_field="op", tag="chat.message", kw_only=True, forbid_unknown_fields=True):
    conversationId: ConversationId


AnyOperation = TicketPut | TicketDelete | TicketComment | Notify | EmitOne | ChatStart | ChatSpeak
_operation: msgspec.json.Decoder[AnyOperation] = msgspec.json.Decoder(AnyOperation)
_row: msgspec.json.Decoder[TicketRow] = msgspec.json.Decoder(TicketRow)


class BatchBody(Struct, forbid_unknown_fields=True):
    operations: Annotated[
        list[Raw],
        Meta(min_length=1, max_length=MAX_OPERATIONS, description="objects with `op`; docs/backend.md lists them"),
    ]


class ImportBody(Struct, forbid_unknown_fields=True):
    tickets: Annotated[
        list[Raw],
        Meta(
            min_length=1,
            max_length=MAX_OPERATIONS,
            description="objects with `ticketId` and the fields of PUT /api/v1/tickets/{ticketId}",
        ),
    ]


class BatchAnswer(Struct):
    """In the order of the operations: the body that the single call answers, or `{"error": …}`."""

    results: list[Any]


CarryOut = Callable[[Sequence[Any]], Awaitable[list[Struct | RtError]]]


class Batches:
    """Carries out batches. Kinds of operations run side by side; the operations of one kind stay in their order."""

    def __init__(
        self, tickets: TicketPushes, notifications: NotificationPushes, emits: Emits, chats: ChatPushes
    ) -> None:
        self._tickets = tickets
        self._notifications = notifications
        self._emits = emits
        self._chats = chats
        self._kinds: dict[str, CarryOut] = {
            "ticket": tickets.carry_out_all,
            "notification": notifications.push_all,
            "emit": emits.publish_all,
            "chat": chats.carry_out_all,
        }

    async def carry_out(
        self, who: Principal, texts: Sequence[Raw], read: Callable[[Raw], AnyOperation | TicketRow]
    ) -> list[Struct | RtError]:
        """Carry out operations in order; return the answer to each, or why it was refused."""
        budget = _Budget()
        results: list[Struct | RtError] = []
        for start in range(0, len(texts), AT_ONCE):
            some = [self._request(who, text, read, budget) for text in texts[start : start + AT_ONCE]]
            results += await self._carry_out(some)
            if lost := next((one for one in results[start:] if _is_unavailable(one)), None):
                return results + [lost] * (len(texts) - len(results))
            await asyncio.sleep(0)  # a part that was refused as a whole has not waited for anything
        return results

    async def _carry_out(self, requests: Sequence[tuple[str, Any] | RtError]) -> list[Struct | RtError]:
        results: list[Any] = list(requests)
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            if not isinstance(request, RtError):
                kinds.setdefault(request[0], []).append(number)
        answers = await asyncio.gather(
            *(self._kinds[kind]([results[number][1] for number in numbers]) for kind, numbers in kinds.items())
        )
        for numbers, those in zip(kinds.values(), answers, strict=True):
            for number, answer in zip(numbers, those, strict=True):
                results[number] = answer
        return results

    def _request(
        self, who: Principal, text: Raw, read: Callable[[Raw], AnyOperation | TicketRow], budget: _Budget
    ) -> tuple[str, Any] | RtError:
        """Return an operation's kind and its request, or why it is refused."""
        try:
            return self._checked(who, read(text), budget)
        except json.BadJson as bad:
            return wrong(bad)
        except RtError as refused:
            return refused

    def _checked(self, who: Principal, op: AnyOperation | TicketRow, budget: _Budget) -> tuple[str, Any]:
        if isinstance(op, TicketPut | TicketRow):
            return "ticket", self._tickets.put(who, op.ticketId, op)
        if isinstance(op, TicketComment):
            return "ticket", self._tickets.comment(who, op.ticketId, op)
        if isinstance(op, TicketDelete):
            guard = guard_of(op.at, op.ifVersion)
            return "ticket", self._tickets.delete(who, op.ticketId, guard, "" if op.id is UNSET else op.id)
        if isinstance(op, EmitOne):
            event = self._emits.event(who, op)
            budget.take_rooms(len(event.rooms))
            return "emit", event
        if isinstance(op, Notify):
            request = self._notifications.request(who, op)
            budget.take_notified(len(request.keys) + len(request.answer.refused))
            return "notification", request
        if isinstance(op, ChatStart):
            return "chat", self._chats.begin(who, op)
        return "chat", self._chats.speak(who, op.conversationId, op)


class _Budget:
    """What the operations of one batch may cost together."""

    def __init__(self) -> None:
        self._notified, self._rooms = MAX_NOTIFIED, MAX_ROOMS_OF_BATCH

    def take_notified(self, count: int) -> None:
        """Raise RtError BAD_REQUEST if that is more than is left."""
        if count > self._notified:
            raise RtError(
                "BAD_REQUEST", f"The notifications of a batch may have {MAX_NOTIFIED} users together", field="userIds"
            )
        self._notified -= count

    def take_rooms(self, count: int) -> None:
        """Raise RtError BAD_REQUEST if that is more than is left."""
        if count > self._rooms:
            raise RtError(
                "BAD_REQUEST", f"The events of a batch may have {MAX_ROOMS_OF_BATCH} rooms together", field="rooms"
            )
        self._rooms -= count


def _is_unavailable(result: Struct | RtError) -> bool:
    return isinstance(result, RtError) and result.code == "UNAVAILABLE"


class _BatchHandler(Handler):
    max_body_bytes: ClassVar[int] = MAX_BATCH_BYTES
    batches: Batches

    async def carry_out(self, texts: Sequence[Raw], read: Callable[[Raw], AnyOperation | TicketRow]) -> Answer:
        results = await self.batches.carry_out(self.asker, texts, read)
        shown = [{"error": one.as_dict()} if isinstance(one, RtError) else one for one in results]
        return Answer(BatchAnswer(shown))


class BatchHandler(_BatchHandler):
    @operation("publisher", body=BatchBody, answer=BatchAnswer, items=AnyOperation)
    async def post(self, body: BatchBody) -> Answer:
        """Carry out up to 1,000 pushes in order, each with its own result. The same batch again does what is left."""
        return await self.carry_out(body.operations, lambda text: json.decode(_operation, text))


class ImportHandler(_BatchHandler):
    @operation("publisher", body=ImportBody, answer=BatchAnswer, items=TicketRow)
    async def put(self, body: ImportBody) -> Answer:
        """Create or change up to 1,000 tickets, each with its own result. The same import again does what is left."""
        return await self.carry_out(body.tickets, lambda text: json.decode(_row, text))


class BatchPush(BackendPart):
    def routes(self, api: Admin) -> Iterable[Route]:
        features, keys = self.context.features, self.context.settings.user_keys
        batches = Batches(
            TicketPushes(features.of(Tickets), keys),
            NotificationPushes(features.of(Notifications), keys),
            emits_of(self.context),
            ChatPushes(features.of(Chat).carry_out_all, keys),
        )
        parts = {"admin": api, "batches": batches}
        return [(r"/api/v1/batch", BatchHandler, parts), (r"/api/v1/tickets", ImportHandler, parts)]
