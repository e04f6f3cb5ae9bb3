r"""The kinds of ids and names: one rule for each, whoever sends it and wherever it stands.

    class Watch(Payload):
        userId: UserIdText                  # a field: msgspec holds it to the rule

    ids.USER.check(claims["sub"])           # anything else: raises ValueError in words

Ids that others make (users, teams, sessions) may be any visible text, because identity providers make `auth0|5f7c`,
`ann@example.com` and `CORP\ann`, and teams have spaces in their names. None holds a control or format character: such a
character breaks a log line, or shows a text that it is not (U+202E turns the rest of a line round).
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
# Names of people may hold the two joiners: Persian, Indic scripts and emoji are not written right without them.
NAME_FORMATS = FORMATS.replace("\u200b-\u200f", "\u200b\u200e\u200f")


class IdKind:
    """One kind of id: `pattern` for msgspec, `words` for people."""

    def __init__(self, pattern: str, words: str) -> None:
        self.pattern = pattern
        self.words = words
        # "" says that a filter is not used; only there
        self.or_empty = rf"^(?:{pattern.removeprefix('^').removesuffix(Z)})?{Z}"
        WORDS[self.pattern] = WORDS[self.or_empty] = words
        self._matches = re.compile(pattern).match

    def fits(self, text: object) -> bool:
        return isinstance(text, str) and self._matches(text) is not None

    def check(self, text: object) -> str:
        """Return the text. Raises ValueError that says in words what is expected."""
        if isinstance(text, str) and self._matches(text) is not None:
            return text
        raise ValueError(f"expected text {self.words}" if isinstance(text, str) else "expected text")


Z = r"\Z"  # and not $: that would let a newline through at the end


def _visible(most: int) -> IdKind:
    return IdKind(
        f"^[^{CONTROLS}{FORMATS}]{{1,{most}}}{Z}",
        f"of 1 to {most} characters, without control and format characters",
    )


USER = _visible(128)  # the token's `sub`; a customer or an agent
TEAM = USER  # the token's `teamId`; the same text as a ticket's, and as helpdesks name teams
SESSION = USER  # the token's `sessionId`
CLIENT = _visible(64)  # what a client calls its own message or chat, to send it again
ROOM = IdKind(f"^[^{CONTROLS}]{{1,200}}{Z}", "of 1 to 200 characters, without control characters")
# Tickets' ids stand in addresses of pages, and in room names before nothing else. A conversation's id is ours.
TICKET = IdKind(
    rf"^[A-Za-z0-9][A-Za-z0-9_.\-]{{0,63}}{Z}",
    "of 1 to 64 letters, digits or any of _.-, the first a letter or digit",
)
CONVERSATION = TICKET
# The back end's ids of notifications and comments, by which it may send one again.
PUSH = IdKind(rf"^[A-Za-z0-9_.:\-]{{1,64}}{Z}", "of 1 to 64 letters, digits or any of _.:-")
EVENT = _visible(128)  # the back end's id of an event of its own
EVENT_NAME = IdKind(f"^[^{CONTROLS}]{{1,128}}{Z}", "of 1 to 128 characters, without control characters")
# socket.io-parser 4.2: events that client libraries emit by themselves. One from a peer is a forgery: a stock client
# ends its connection, comes back, is sent the same from the log, and so on for ever.
RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
SOCKET = IdKind(rf"^[A-Za-z0-9_\-]{{20}}{Z}", "of 20 letters, digits or any of _-")
RULE = IdKind(rf"^[0-9a-f]{{20}}{Z}", "of 20 hexadecimal digits")


class Refused(Struct, gc=False):
    """One item of a list that could not be served: its place, from 0, and what is wrong with it. The others were."""

    index: int
    message: str


def sift(items: Sequence[object], kind: IdKind, field: str) -> tuple[list[str], list[Refused]]:
    """Return the items that are of the kind, each once, and the others with what is wrong with them.

    Raises RtError BAD_REQUEST naming the first if there are items and none of them is of the kind.
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

_NAME_REFUSED = re.compile(f"[{CONTROLS}{NAME_FORMATS}]")


def is_name(text: str) -> bool:
    """May this be a person's name? It is shown to others, and must not turn or hide what stands beside it."""
    return _NAME_REFUSED.search(text) is None
