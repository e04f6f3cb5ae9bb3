"""Events of the back end's own that a client sends and the back end answers, over `rpc_url`.

    → {"id", "namespace": "/tickets", "event": "macro:run", "data": …, "user": {"id", "role", …, "data"}, "sid"}
    ← 200 {…}   the client's ack, with "ok": true

An event is never sent twice by this server. `id` lets the back end recognise a client's own repeat: it is the payload's
`clientId`, if there is one, and otherwise new. It is the client's choice, so it identifies an event together with the
user only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from insightdesk_rt.backend.hooks.access import described
from insightdesk_rt.backend.hooks.client import HookAnswer, HookClient, HookFailed
from insightdesk_rt.engine.dispatch.calls import Declared, OwnEvents
from insightdesk_rt.engine.dispatch.namespace import EVERYBODY, EventSpec
from insightdesk_rt.engine.errors import ERRORS, RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.ids import EVENT_NAME
from insightdesk_rt.engine.model import new_id
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import RESERVED_EVENTS

MAX_QUESTION_BYTES = 16_384  # of a client's data: a form, not a file
MAX_ACK_BYTES = 65_536
MAX_CLIENT_ID = 64
MAX_MESSAGE = 200
OF_STATUS = {
    400: "BAD_REQUEST",
    401: "FORBIDDEN",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    422: "BAD_REQUEST",
    429: "RATE_LIMITED",
}
# What a back end may answer with {"error": {"code"}}: not that the client's session is over, nor that we failed.
CODES = (
    frozenset(ERRORS)
    - {"INTERNAL", "DRAINING", "TOO_MANY_CONNECTIONS", "TOO_MANY_ROOMS"}
    - {code for code in ERRORS if code.startswith("AUTH_")}
)


def parse_events(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the events of the setting `rpc_events` by namespace. Raises ValueError, in one line."""
    found: dict[str, list[str]] = {}
    for text in names:
        path, _, event = text.strip().partition(" ")
        if not path.startswith("/") or not EVENT_NAME.fits(event) or event in RESERVED_EVENTS:
            raise ValueError(
                f'{text[:100]!r}: expected a namespace and the name of an event, as in "/tickets macro:run"'
            )
        found.setdefault(path, []).append(event)
    return found


class RpcHook:
    """`events`: names by namespace."""

    def __init__(self, client: HookClient, events: Mapping[str, Iterable[str]]) -> None:
        self.client = client
        self.events: OwnEvents = {
            path: {name: self._declared(path, name) for name in names} for path, names in events.items()
        }

    def _declared(self, path: str, name: str) -> Declared:
        async def answer(socket: Socket, data: Any) -> dict[str, Any]:
            return await self._ask(socket, name, data)

        anything = cast("type[msgspec.Struct]", Any)  # the back end knows the form of its own events
        doc = "An event of the back end's own."
        return EventSpec(name, "", anything, None, EVERYBODY, waits=True, binary=False, weigh=None, doc=doc), answer

    async def _ask(self, socket: Socket, name: str, data: Any) -> dict[str, Any]:
        """Return the back end's answer, which becomes the ack. Raises RtError."""
        if len(json.dumps(data)) > MAX_QUESTION_BYTES:
            raise RtError("PAYLOAD_TOO_LARGE", f"This event may have {MAX_QUESTION_BYTES} bytes.")
        id = _client_id(data) or new_id()
        user = {**described(socket.user), "data": json.loads(socket.user.data) if socket.user.data else {}}
        question = {
            "id": id,
            "namespace": socket.namespace,
            "event": name,
            "data": data,
            "user": user,
            "sid": socket.sid,
        }
        try:
            return await self.client.ask(question, _read, id=id)
        except HookFailed as failed:
            raise failed.error or RtError("UNAVAILABLE", "The back end does not answer; try again.") from None


def _client_id(data: Any) -> str:
    """Return the payload's `clientId` if it can stand in a header, "" otherwise."""
    id = data.get("clientId") if isinstance(data, Mapping) else None
    return id if isinstance(id, str) and len(id) <= MAX_CLIENT_ID and id.isascii() and id.isprintable() else ""


def _read(answer: HookAnswer) -> dict[str, Any]:
    if answer.status >= 400:
        raise HookFailed("refused", f"it answered {answer.status}", _error(answer))
    if not (answer.body is None or isinstance(answer.body, dict)):
        raise HookFailed("wrong_answer", "its answer is not a JSON object")
    if len(json.dumps(answer.body)) > MAX_ACK_BYTES:
        raise HookFailed("too_big", f"its answer is longer than {MAX_ACK_BYTES} bytes")
    return {name: value for name, value in (answer.body or {}).items() if name != "ok"}


def _error(answer: HookAnswer) -> RtError:
    """Return the error of a refused event: the body's code and message, or the usual ones of the status."""
    body = answer.body if isinstance(answer.body, Mapping) else {}
    said = body.get("error")
    said = said if isinstance(said, Mapping) else {}
    code, message = said.get("code"), said.get("message")
    if code not in CODES:
        code = OF_STATUS.get(answer.status, "BAD_REQUEST")
    fields = {"field": said["field"][:100]} if isinstance(said.get("field"), str) else {}
    return RtError(code, message[:MAX_MESSAGE] if isinstance(message, str) and message else None, **fields)
