r"""The rules for ids and names. There is one rule per kind, wherever the id comes from.

    class Watch(Payload):
        userId: UserIdText                  # a field: msgspec checks the rule

    ids.USER.check(claims["sub"])           # elsewhere: raises ValueError with a readable text

Ids from other systems (users, teams, sessions) may be any visible text, because identity providers use `auth0|5f7c`,
`ann@example.com` and `CORP\ann`, and teams have spaces in their names. Control and format characters are refused: they
break log lines or make a text look like another one (U+202E reverses the rest of a line).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.wire.texts import WORDS

# C0, DEL, C1, line and paragraph separator, lone surrogates; then Unicode's category Cf: soft hyphen, zero-width
# characters, bidi marks, overrides and isolates, byte order mark, tags. Written out, so that nodes with another
# version of Python, and the OpenAPI description, have the same rule.
CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
FORMATS = (
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001\U000e0020-\U000e007f"
)
# Names of people may have the two joiners, which Persian, Indic scripts and emoji need.
NAME_FORMATS = FORMATS.replace("\u200b-\u200f", "\u200b\u200e\u200f")


class IdKind:
    """One kind of id: `pattern` for msgspec, and `description` for error texts."""

    def __init__(self, pattern: str, description: str) -> None:
        self.pattern = pattern
        self.description = description
        # "" means that a filter is not used; only allowed there
        self.or_empty = rf"^(?:{pattern.removeprefix('^').removesuffix(Z)})?{Z}"
        WORDS[self.pattern] = WORDS[self.or_empty] = description
        self._matches = re.compile(pattern).match

    def fits(self, text: object) -> bool:
        return isinstance(text, str) and self._matches(text) is not None

    def check(self, text: object) -> str:
        """Return the text. Raises ValueError that says what is expected."""
        if isinstance(text, str) and self._matches(text) is not None:
            return text
        raise ValueError(f"expected text {self.description}" if isinstance(text, str) else "expected text")


Z = r"\Z"  # not $, which would allow a newline at the end


def _visible(max_chars: int) -> IdKind:
    return IdKind(
        f"^[^{CONTROLS}{FORMATS}]{{1,{max_chars}}}{Z}",
        f"of 1 to {max_chars} characters, without control and format characters",
    )


USER = _visible(128)  # the token's `sub`; a customer or an agent
TEAM = USER  # the token's `teamId`; the same text as a ticket's, and as helpdesks name teams
SESSION = USER  # the token's `sessionId`
CLIENT = _visible(64)  # a client's own id of a message or chat, by which it may send it again
ROOM = IdKind(f"^[^{CONTROLS}]{{1,200}}{Z}", "of 1 to 200 characters, without control characters")
# Ticket ids are part of page addresses, and the last part of room names. Conversation ids are made by the server.
TICKET = IdKind(
    rf"^[A-Za-z0-9][A-Za-z0-9_.\-]{{0,63}}{Z}",
    "of 1 to 64 letters, digits or any of _.-, the first a letter or digit",
)
CONVERSATION = TICKET
# The back end's ids of notifications and comments, by which it may send one again.
PUSH = IdKind(rf"^[A-Za-z0-9_.:\-]{{1,64}}{Z}", "of 1 to 64 letters, digits or any of _.:-")
EVENT = _visible(128)  # the back end's id of an event of its own
EVENT_NAME = IdKind(f"^[^{CONTROLS}]{{1,128}}{Z}", "of 1 to 128 characters, without control characters")
SOCKET = IdKind(rf"^[A-Za-z0-9_\-]{{20}}{Z}", "of 20 letters, digits or any of _-")
RULE = IdKind(rf"^[0-9a-f]{{20}}{Z}", "of 20 hexadecimal digits")
WEBHOOK = IdKind(rf"^wh_[0-9a-f]{{16}}{Z}", "of wh_ and 16 hexadecimal digits")


class Refused(Struct, gc=False):
    """A refused item of a list: its index, and what is wrong with it. The other items were accepted."""

    index: int
    message: str


def sift(items: Sequence[object], kind: IdKind, field: str) -> tuple[list[str], list[Refused]]:
    """Return the valid items, each once, and the invalid ones with what is wrong with them.

    Raises RtError BAD_REQUEST about the first item if there are items and none is valid.
    """
    good: dict[str, None] = {}
    bad: list[Refused] = []
    for index, item in enumerate(items):
        try:
            good[kind.check(item)] = None
        except ValueError as why:
            bad.append(Refused(index, str(why)))
    if bad and not good:
        raise RtError("BAD_REQUEST", bad[0].message, field=f"{field}[{bad[0].index}]")
    return list(good), bad


UserIdText = Annotated[str, Meta(pattern=USER.pattern)]
UserIdOrEmpty = Annotated[str, Meta(pattern=USER.or_empty)]
TeamIdText = Annotated[str, Meta(pattern=TEAM.pattern)]
SessionIdText = Annotated[str, Meta(pattern=SESSION.pattern)]
ClientId = Annotated[str, Meta(pattern=CLIENT.pattern)]
RoomName = Annotated[str, Meta(pattern=ROOM.pattern)]
RoomOrEmpty = Annotated[str, Meta(pattern=ROOM.or_empty)]
TicketIdText = Annotated[str, Meta(pattern=TICKET.pattern)]
ConversationId = Annotated[str, Meta(pattern=CONVERSATION.pattern)]
PushId = Annotated[str, Meta(pattern=PUSH.pattern)]
EventId = Annotated[str, Meta(pattern=EVENT.pattern)]
SocketId = Annotated[str, Meta(pattern=SOCKET.pattern)]
RuleId = Annotated[str, Meta(pattern=RULE.pattern)]
WebhookId = Annotated[str, Meta(pattern=WEBHOOK.pattern)]

_NAME_REFUSED = re.compile(f"[{CONTROLS}{NAME_FORMATS}]")


def is_name(text: str) -> bool:
    """May this be a person's name? It is shown to others and must not reverse or hide the text beside it."""
    return _NAME_REFUSED.search(text) is None
