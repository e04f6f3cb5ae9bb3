"""Asks `connect_url` who a client without a token is, from the cookies and headers of its first request.

    → {"namespace": "/tickets", "address": "203.0.113.7", "headers": {"cookie": "session=…"}}
    ← {"user": {"id", "role", "teamId", "name", "email"}, "sessionId", "expiresAt": 1795401000, "rooms", "data"}

For back ends that cannot sign tokens. A refusal is 401 or 403, optionally with {"error": {"code", "message"}}. The
client receives the same codes as for a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.backend.hooks.client import HookAnswer, HookClient, HookFailed
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import SESSION, TEAM, USER, RoomName, is_name
from insightdesk_rt.engine.model import Role, Room, TeamId, User, UserId, is_of_back_end
from insightdesk_rt.engine.tokens import MAX_EMAIL, MAX_LIFE_S, MAX_NAME
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.wire import json

HOLDS_S = 3_600  # an answer without expiresAt: a session that ended meanwhile is noticed within an hour
MAX_ROOMS = 100
MAX_DATA_BYTES = 4_096  # kept for each socket of the user
REFUSALS = ("AUTH_TOKEN_MISSING", "AUTH_TOKEN_EXPIRED", "AUTH_TOKEN_INVALID", "AUTH_SESSION_REVOKED", "FORBIDDEN")
MAX_MESSAGE = 200

Text = Annotated[str, Meta(max_length=MAX_EMAIL)]


class ConnectUser(Struct):
    id: str
    role: Role
    teamId: str | None = None
    name: Text | None = None
    email: Text | None = None


class ConnectAnswer(Struct):
    """`expiresAt`: Unix seconds. `rooms`: of the back end's own kinds. `data`: passed on with the user's own events."""

    user: ConnectUser
    sessionId: str | None = None
    expiresAt: Annotated[float, Meta(gt=0)] | None = None
    rooms: Annotated[list[RoomName], Meta(max_length=MAX_ROOMS)] = []
    data: dict[str, Any] = {}


class ConnectHook:
    """`separate_ids`: customers and staff are numbered apart."""

    def __init__(self, client: HookClient, separate_ids: bool, now_s: Callable[[], float] = time.time) -> None:
        self.client = client
        self._separate_ids = separate_ids
        self._now_s = now_s

    async def identify(self, client: Client, namespace: str) -> User:
        """Return the user of a client. Raises RtError: a code of REFUSALS, or UNAVAILABLE without a usable answer."""
        question = {"namespace": namespace, "address": client.address, "headers": dict(client.forwarded)}
        try:
            return await self.client.ask(question, self._read)
        except HookFailed as failed:
            if failed.error is not None:
                raise failed.error from None
            raise RtError("UNAVAILABLE", "Who you are cannot be checked now; connect again.") from None

    def _read(self, answer: HookAnswer) -> User:
        if answer.status in (401, 403):
            raise HookFailed("refused", f"it answered {answer.status}", refusal(answer))
        if answer.status != 200:
            raise HookFailed("wrong_answer", f"it answered {answer.status}; expected 200, 401 or 403")
        try:
            return self._user(msgspec.convert(answer.body, ConnectAnswer))
        except ValueError as why:  # of msgspec, too
            raise HookFailed("wrong_answer", f"its answer is not as documented: {why}") from None

    def _user(self, answer: ConnectAnswer) -> User:
        """Raises ValueError for an id, name or room that no user can have; HookFailed if the session has expired."""
        user, now_s = answer.user, int(self._now_s())
        for text, longest in ((user.name, MAX_NAME), (user.email, MAX_EMAIL)):
            if text and not (len(text) <= longest and is_name(text)):
                raise ValueError("name or email is too long or has control characters")
        if wrong := [room for room in answer.rooms if not is_of_back_end(room)]:
            raise ValueError(f"rooms: this server decides who is in {wrong[0].partition(':')[0]}: rooms")
        data = json.dumps(answer.data) if answer.data else ""
        if len(data) > MAX_DATA_BYTES:
            raise ValueError(f"data has more than {MAX_DATA_BYTES} bytes")
        ends_s = now_s + HOLDS_S if answer.expiresAt is None else int(answer.expiresAt)
        if ends_s <= now_s:
            raise HookFailed("refused", "the session has expired", RtError("AUTH_TOKEN_EXPIRED"))
        return User(
            UserId(USER.check(user.id)),
            user.role,
            user.name or "",
            user.email or "",
            TeamId(TEAM.check(user.teamId) if user.teamId else ""),
            SESSION.check(answer.sessionId) if answer.sessionId else "",
            min(ends_s, now_s + MAX_LIFE_S),
            now_s,
            self._separate_ids,
            tuple(map(Room, dict.fromkeys(answer.rooms))),
            data,
        )


def refusal(answer: HookAnswer) -> RtError:
    """Return the error of a refused client: what the body says, or the usual one of the status."""
    said = answer.body.get("error") if isinstance(answer.body, Mapping) else None
    code, message = (said.get("code"), said.get("message")) if isinstance(said, Mapping) else (None, None)
    if code not in REFUSALS:
        code = "FORBIDDEN" if answer.status == 403 else "AUTH_TOKEN_INVALID"
    return RtError(code, message[:MAX_MESSAGE] if isinstance(message, str) and message else None)
