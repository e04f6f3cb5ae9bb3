"""The nouns: who a user is, what one publication is, how ids, rooms and offsets are written.

Pure values. Room names are made here and nowhere else: a client never writes one, so nothing it sends can name a
room of somebody else. What stands before the first ':' says what kind of room it is, and all behind it is one id,
whatever is in that: so two names are never the same. What an id may be: ids.py.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, NewType

from msgspec import Struct

UserId = NewType("UserId", str)
UserKey = NewType("UserKey", str)  # what a user is told apart by inside the server; see UserKeys
TeamId = NewType("TeamId", str)
Sid = NewType("Sid", str)  # a socket: one client in one namespace; 20 characters, public
Room = NewType("Room", str)
Offset = NewType("Offset", str)  # position in a namespace's log: a stream id, "1795397242677-0"
NodeId = NewType("NodeId", str)

Role = Literal["customer", "agent", "admin"]
Status = Literal["online", "busy", "away", "offline"]
Severity = Literal["info", "warning", "critical"]  # of a notice

NO_OFFSET = Offset("0-0")


# In front of a customer's id in a UserKey. No id holds a control character, so no id is the key of another.
CUSTOMER_MARK = "customer\t"


# The refusal of a `customerId` where ids are shared.
ONE_KIND = 'Here one id is one person (user_ids = "shared"): name a customer as userId, too.'


class Named(NamedTuple):
    """A user as the API names one: with `customerId` instead of `userId` if `customer`."""

    id: str
    customer: bool = False

    @property
    def user_id(self) -> str:
        """What stands in `userId`; "" for a customer, whose id stands in `customer_id`."""
        return "" if self.customer else self.id

    @property
    def customer_id(self) -> str:
        return self.id if self.customer else ""


class UserKeys(NamedTuple):
    """How ids become the keys that rooms, stores, limits and rules go by: the only place that decides it.

    `user_ids = "shared"`: one id is one person, whatever the role, and the key is the id. "separate": customers and
    staff are numbered apart, so a customer's key has a mark. A key never leaves the server; `named`
    reads it.
    """

    separate: bool = False

    @property
    def mark(self) -> str:
        """What a customer's key has in front of the id."""
        return CUSTOMER_MARK if self.separate else ""

    def staff(self, id: str) -> UserKey:
        return UserKey(id)

    def customer(self, id: str) -> UserKey:
        return UserKey(self.mark + id)

    def of(self, id: str, role: str) -> UserKey:
        return self.customer(id) if role == "customer" else self.staff(id)


def named(key: str) -> Named:
    """Return whom a UserKey is of."""
    return Named(key.removeprefix(CUSTOMER_MARK), key.startswith(CUSTOMER_MARK))


class Person(Struct, frozen=True, gc=False, omit_defaults=True):
    """What others may know of a user. `role` is said of customers only, and only where ids are separate."""

    id: UserId
    name: str
    role: Literal["", "customer"] = ""

    @property
    def key(self) -> UserKey:
        return UserKeys(self.role == "customer").of(self.id, self.role)


class User(Struct, frozen=True, gc=False):
    """Who a verified token speaks for. `expires_s` and `issued_s` are Unix seconds; empty strings mean 'none'.

    `separate_ids`: the setting `user_ids` is "separate".
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

    @property
    def key(self) -> UserKey:
        """What rooms, stores, limits and rules tell the user apart by."""
        return UserKeys(self.separate_ids).of(self.id, self.role)

    @property
    def person(self) -> Person:
        return Person(self.id, self.name, "customer" if self.separate_ids and self.role == "customer" else "")

    @property
    def is_staff(self) -> bool:
        return self.role != "customer"


class Event(Struct, frozen=True, gc=False):
    """One publication: `name` with `payload` (JSON text, encoded once by its publisher) for members of `rooms`.

    `skip` names sids or rooms whose members are left out. A logged event has an `id` of its publisher and, once it is
    in the log, an `offset`; `was` is the offset it had before its log was lost and it was published again. An event
    whose id a caller chose has a `fingerprint`: the same id with another fingerprint is refused.
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
    """From where on somebody may be sent what a room was told, and the name of that right.

    `life` is another one each time the right was lost and given again; "" where the server does not know.
    """

    since: Offset = NO_OFFSET
    life: str = ""


def user_room(key: UserKey | str) -> Room:
    """All sockets of a user: `user:<id>`, of a customer where ids are separate `customer:<id>`."""
    if key.startswith(CUSTOMER_MARK):
        return Room("customer:" + key.removeprefix(CUSTOMER_MARK))
    return Room("user:" + key)


def role_room(role: str) -> Room:
    return Room("role:" + role)


def team_room(team_id: str) -> Room:
    return Room("team:" + team_id)


def ticket_room(ticket_id: str) -> Room:
    """Everybody who has the ticket open, the customer included."""
    return Room("ticket:" + ticket_id)


def ticket_staff_room(ticket_id: str) -> Room:
    """The agents and admins among them: internal notes go here and nowhere else."""
    return Room("ticket-staff:" + ticket_id)


def chat_room(conversation_id: str) -> Room:
    return Room("chat:" + conversation_id)


def chat_staff_room(conversation_id: str) -> Room:
    return Room("chat-staff:" + conversation_id)


def presence_room(key: UserKey | str) -> Room:
    """Whoever watches the user: `presence:<id>`, of a customer where ids are separate `presence-customer:<id>`."""
    if key.startswith(CUSTOMER_MARK):
        return Room("presence-customer:" + key.removeprefix(CUSTOMER_MARK))
    return Room("presence:" + key)


DASHBOARD_ROOM = Room("dashboard")


def new_sid() -> Sid:
    """20 characters from a 62-letter-plus alphabet, 120 bits, from the system's source (CVE-2017-16031)."""
    return Sid(secrets.token_urlsafe(15))


def new_id() -> str:
    """An id for something we make (an event, a message, a conversation): 16 characters, 96 bits."""
    return secrets.token_urlsafe(12)


def iso(at_ms: int) -> str:
    """Write Unix milliseconds as clients are told them: "2026-11-23T04:01:00.125Z"."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_ms(text: str) -> int:
    """Return the Unix milliseconds that `iso` was given."""
    return (datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def offset_key(offset: str) -> tuple[int, int]:
    """Return what offsets are compared by. Raises ValueError for anything that is not `<ms>-<seq>`, of 64 bits each."""
    ms, dash, seq = offset.partition("-")
    if not (dash and ms.isascii() and seq.isascii() and ms.isdigit() and seq.isdigit() and len(offset) <= 42):
        raise ValueError("not an offset")
    key = int(ms), int(seq)
    if max(key) >= 1 << 64:  # Valkey's streams know none
        raise ValueError("not an offset")
    return key
