"""The values of the engine: users, events, and how ids, rooms and offsets are written.

Pure values. Room names are made only here. A client never sends one, so nothing it sends can name another user's room.
The part before the first ':' is the kind of room, and everything behind it is one id, so that different rooms never
have the same name. The rules for ids are in ids.py.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, NewType

from msgspec import Struct

UserId = NewType("UserId", str)
UserKey = NewType("UserKey", str)  # identifies a user inside the server; see UserKeys
TeamId = NewType("TeamId", str)
Sid = NewType("Sid", str)  # a socket: one client in one namespace; 20 characters, public
Room = NewType("Room", str)
Offset = NewType("Offset", str)  # position in a namespace's log: a stream id, "1795397242677-0"
NodeId = NewType("NodeId", str)

Role = Literal["customer", "agent", "admin"]
Status = Literal["online", "busy", "away", "offline"]
Severity = Literal["info", "warning", "critical"]  # of a notice

NO_OFFSET = Offset("0-0")


# The prefix of a customer's id in a UserKey. Ids have no control characters, so no id equals another user's key.
CUSTOMER_MARK = "customer\t"


# Refuses a `customerId` where ids are shared.
ONE_KIND = 'Here one id is one person (user_ids = "shared"): name a customer as userId, too.'


class Named(NamedTuple):
    """A user as the API names one: with `customerId` instead of `userId` if `customer`."""

    id: str
    customer: bool = False

    @property
    def user_id(self) -> str:
        """The value of `userId`; "" for a customer, whose id is in `customer_id`."""
        return "" if self.customer else self.id

    @property
    def customer_id(self) -> str:
        return self.id if self.customer else ""


class UserKeys(NamedTuple):
    """Turns ids into the keys that rooms, stores, limits and rules use. Only this class decides it.

    `user_ids = "shared"`: one id is one person, whatever the role, and the key is the id. "separate": customers and
    staff have ids of their own, so a customer's key has a mark. A key never leaves the server; `named` decodes it.
    """

    separate: bool = False

    @property
    def mark(self) -> str:
        """The prefix of a customer's key."""
        return CUSTOMER_MARK if self.separate else ""

    def staff(self, id: str) -> UserKey:
        return UserKey(id)

    def customer(self, id: str) -> UserKey:
        return UserKey(self.mark + id)

    def of(self, id: str, role: str) -> UserKey:
        return self.customer(id) if role == "customer" else self.staff(id)


def named(key: str) -> Named:
    """Decode a UserKey."""
    return Named(key.removeprefix(CUSTOMER_MARK), key.startswith(CUSTOMER_MARK))


class Person(Struct, frozen=True, gc=False, omit_defaults=True):
    """The part of a user that others may see. `role` is set only for customers, and only where ids are separate."""

    id: UserId
    name: str
    role: Literal["", "customer"] = ""

    @property
    def key(self) -> UserKey:
        return UserKeys(self.role == "customer").of(self.id, self.role)


class User(Struct, frozen=True, gc=False):
    """The user of a verified token. `expires_s` and `issued_s` are Unix seconds; empty strings mean 'none'.

    `separate_ids`: the setting `user_ids` is "separate". A user whom the back end identified (`connect_url`) has
    `rooms`, those of the back end's own that it named, and `data`, JSON text of the back end's own.
    """

    id: UserId
    role: Role
    name: str = ""
    email: str = ""
    team_id: TeamId = TeamId("")
    session_id: str = ""
    expires_s: int = 0
    issued_s: int = 0
    separate_ids: bool = False
    rooms: tuple[Room, ...] | None = None  # None: a token identified the user
    data: str = ""

    @property
    def key(self) -> UserKey:
        """The key by which rooms, stores, limits and rules identify the user."""
        return UserKeys(self.separate_ids).of(self.id, self.role)

    @property
    def person(self) -> Person:
        return Person(self.id, self.name, "customer" if self.separate_ids and self.role == "customer" else "")

    @property
    def is_staff(self) -> bool:
        return self.role != "customer"


class Event(Struct, frozen=True, gc=False):
    """One publication: `name` with `payload` (JSON text, encoded once by its publisher) for members of `rooms`.

    `skip` has sids, and rooms whose members are left out. A logged event has an `id` from its publisher and, once it is
    in the log, an `offset`. `was` is the offset it had before its log was lost and it was published again. An event
    whose id the caller chose has a `fingerprint`: the same id with another fingerprint is refused.
    """

    namespace: str
    name: str
    payload: str
    rooms: tuple[Room, ...]
    skip: tuple[str, ...] = ()
    id: str = ""
    offset: Offset = Offset("")
    origin: str = ""
    was: Offset = Offset("")
    fingerprint: str = ""

    @property
    def logged(self) -> bool:
        return self.id != ""


class Right(NamedTuple):
    """The offset from which on a user may be sent a room's events, and the name of that right.

    `life` changes each time the right was lost and given again; "" if the server does not know it.
    """

    since: Offset = NO_OFFSET
    life: str = ""


def user_room(key: UserKey | str) -> Room:
    """All sockets of a user: `user:<id>`, or `customer:<id>` for a customer where ids are separate."""
    if key.startswith(CUSTOMER_MARK):
        return Room("customer:" + key.removeprefix(CUSTOMER_MARK))
    return Room("user:" + key)


def role_room(role: str) -> Room:
    return Room("role:" + role)


def team_room(team_id: str) -> Room:
    return Room("team:" + team_id)


def ticket_room(ticket_id: str) -> Room:
    """All users who have the ticket open, including the customer."""
    return Room("ticket:" + ticket_id)


def ticket_staff_room(ticket_id: str) -> Room:
    """The agents and admins who have the ticket open. Internal notes are sent only to this room."""
    return Room("ticket-staff:" + ticket_id)


def chat_room(conversation_id: str) -> Room:
    return Room("chat:" + conversation_id)


def chat_staff_room(conversation_id: str) -> Room:
    return Room("chat-staff:" + conversation_id)


def presence_room(key: UserKey | str) -> Room:
    """Users who watch this user: `presence:<id>`, or `presence-customer:<id>` for a customer where ids are separate."""
    if key.startswith(CUSTOMER_MARK):
        return Room("presence-customer:" + key.removeprefix(CUSTOMER_MARK))
    return Room("presence:" + key)


DASHBOARD_ROOM = Room("dashboard")

# The kinds of the rooms above. A back end may put users into rooms of any other kind.
SERVER_KINDS = frozenset(
    {
        "user", "customer", "role", "team", "ticket", "ticket-staff", "chat", "chat-staff", "presence",
        "presence-customer", "dashboard", "view",
    }
)  # fmt: skip


def is_of_back_end(room: str) -> bool:
    """Return whether a room is of the back end's own kind, and not one whose members this server decides."""
    return room.partition(":")[0] not in SERVER_KINDS


def new_sid() -> Sid:
    """Return a new sid: 20 characters, 120 bits from the system's random source (CVE-2017-16031)."""
    return Sid(secrets.token_urlsafe(15))


def new_id() -> str:
    """Return a new id for an event, message or conversation of the server: 16 characters, 96 bits."""
    return secrets.token_urlsafe(12)


def iso(at_ms: int) -> str:
    """Format Unix milliseconds as messages to clients do: "2026-11-23T04:01:00.125Z"."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_ms(text: str) -> int:
    """Parse a text of `iso` to Unix milliseconds."""
    return (datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def offset_key(offset: str) -> tuple[int, int]:
    """Return the sort key of an offset. Raises ValueError unless it is `<ms>-<seq>`, of 64 bits each."""
    ms, dash, seq = offset.partition("-")
    if not (dash and ms.isascii() and seq.isascii() and ms.isdigit() and seq.isdigit() and len(offset) <= 42):
        raise ValueError("not an offset")
    key = int(ms), int(seq)
    if max(key) >= 1 << 64:  # not possible in Valkey's streams
        raise ValueError("not an offset")
    return key
