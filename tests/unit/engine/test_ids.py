"""Each kind of id has one rule, which applies in events, the admin API, tokens and the emitter."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

import insightdesk_rt
from insightdesk_rt.api.handler import Handler
from insightdesk_rt.api.openapi import METHODS
from insightdesk_rt.backend import parts as backend_parts  # noqa: F401
from insightdesk_rt.emitter import Target
from insightdesk_rt.engine import ids
from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.dispatch.namespace import Payload
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.chat import routes as chat_routes  # noqa: F401  features import theirs when they serve
from insightdesk_rt.helpdesk.features import FEATURES
from insightdesk_rt.helpdesk.presence import routes as presence_routes  # noqa: F401
from insightdesk_rt.operations import routes  # noqa: F401  all other routes of the admin port
from tests.support.tokens import KEYS, token

ODD_USERS = [
    "42",
    "auth0|5f7c",
    "ann@example.com",
    "CORP\\ann",
    "google-oauth2|1+2/3=",
    "cn=ann,ou=desk,dc=example",
    "urn:uuid:0:1",
    "a b",
    "ann?*[x]",
    "Ünal",
    "安娜",
    "анна",
    "{}'\"`$%",
    "customer:42",
    "x" * 128,
]
BAD_TEXTS = [
    "",
    "a\nb",
    "a\x00",
    "a\x7f",
    "a\x9f",
    "a\u2028b",
    "gnp\u202e.exe",
    "a\u200bb",
    "\ufeffa",
    "a\u00adb",
    "a\n",
]
ACCEPTED = {
    "user": ODD_USERS,
    "team": [*ODD_USERS, "Tier 2", "2. Stufe: Köln", "サポート　一課"],
    "session": ODD_USERS,
    "client": ["1", "0b7c-…", "a:b|c", "x y", "x" * 64],
    "ticket": ["42", "INC-2026.1_b", "x" * 64],
    "conversation": ["cAb-_9", "x" * 64],
    "push": ["n:1.2-3_4", "x" * 64],
    "event": ["job 7/3|é", "x" * 128],
    "room": ["ticket:42", "user:auth0|5f7c", "team:Tier 2: Köln", "x" * 200],
    "socket": ["A" * 18 + "-_"],
    "rule": ["0123456789abcdef0123"],
    "webhook": ["wh_0123456789abcdef"],
}
REFUSED = {
    "user": [*BAD_TEXTS, "x" * 129],
    "team": [*BAD_TEXTS, "x" * 129],
    "session": [*BAD_TEXTS, "x" * 129],
    "client": [*BAD_TEXTS, "x" * 65],
    "ticket": ["", "a b", "-a", "a:b", "a|b", "ä", "a\n", "x" * 65],
    "conversation": ["", "a b", "a:b", "a\n", "x" * 65],
    "push": ["", "a b", "a|b", "ä", "a\n", "x" * 65],
    "event": [*BAD_TEXTS, "x" * 129],
    "room": ["", "a\nb", "a\x00", "x" * 201],
    "socket": ["", "A" * 19, "A" * 21, "A" * 19 + "."],
    "rule": ["", "0" * 19, "g" * 20],
    "webhook": ["", "0123456789abcdef", "wh_" + "g" * 16, "wh_" + "0" * 17],
}
# The kind of id by the name of a field or path part, where the name alone does not say it: `ticketId` and `teamIds`
# need no row (`kind_at`). Add a name that says nothing.
KIND_OF = {
    "agentId": "user",
    "customerId": "user",
    "customerIds": "user",
    "customer": "user",
    "customerWatchers": "user",
    "requesterId": "user",
    "assigneeId": "user",
    "watchers": "user",
    "author.id": "user",
    "by.id": "user",
    "user": "user",
    "room": "room",
    "rooms": "room",
    "except": "room",
    "sid": "socket",
    "EmitBody.id": "event",
    "MarkRead.id": "push",
    "ListNotifications.before": "push",
}
# Filters: "" means that the filter is not used, and they contain texts of several kinds.
EMPTY_IS_FINE = {"Find", "FindClosed", "Filters", "WatchEvents"}
PER_ITEM = {
    ("WatchUsers", "userIds"),
    ("FindPresent", "userIds"),
    ("NotificationBody", "userIds"),
    ("SubscribeTicket", "ticketIds"),
}
PER_ITEM |= {(struct, "customerIds") for struct, _ in PER_ITEM}
NOT_IDS = {("Find", "sid"), ("Filters", "sid"), ("FindClosed", "sid")}  # of a connection, or a socket


def kind(name: str) -> ids.IdKind:
    found: ids.IdKind = getattr(ids, name.upper())
    return found


def fields_of(struct: type[Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(struct):
        yield prefix + field.encode_name, field.type
        inner = next((one for one in parts(field.type) if isinstance(one, type) and issubclass(one, Struct)), None)
        if inner is not None:
            yield from fields_of(inner, f"{prefix}{field.encode_name}.")


def parts(kind: Any) -> list[Any]:
    return [kind, *(inner for one in getattr(kind, "__args__", ()) for inner in parts(one))]


def everything(of: type) -> Iterator[type]:
    for each in of.__subclasses__():
        yield each
        yield from everything(each)


def places() -> Iterator[tuple[str, str, Any]]:
    """Yield the struct's or handler's name, the field's, and its type: all that clients and back ends send."""
    payloads = {spec.payload for namespace in FEATURES for spec in namespace.events.values()}
    structs = [each for each in payloads if issubclass(each, Payload)]
    for handler in set(everything(Handler)):
        if not handler.__module__.startswith("insightdesk_rt."):
            continue
        for method in METHODS:
            about = getattr(getattr(handler, method), "operation", None)
            if about is None:
                continue
            structs += [each for each in (about.query, about.body) if each is not None]
            for name, part in about.path.items():
                yield handler.__name__, name, part
    for struct in dict.fromkeys(structs):
        for name, type_ in fields_of(struct):
            yield struct.__name__, name, type_


PLACES = sorted({(struct, name): type_ for struct, name, type_ in places()}.items(), key=lambda one: one[0])


def kind_at(struct: str, name: str) -> str | None:
    if (struct, name) in NOT_IDS:
        return None
    return KIND_OF.get(f"{struct}.{name}") or KIND_OF.get(name) or kind_by_name(struct, name)


def kind_by_name(struct: str, name: str) -> str | None:
    """`ticketId` and `ticketIds` are of the kind "ticket". An `id` is of a pushed body, or of a rule in a path."""
    if name == "id":
        return "push" if struct.endswith("Body") else "rule" if struct.endswith("Handler") else None
    kind = re.fullmatch("([a-z]+)Ids?", name)
    return kind[1] if kind and kind[1] in ACCEPTED else None


NAMED = [(struct, name, type_, found) for (struct, name), type_ in PLACES if (found := kind_at(struct, name))]


def is_list(type_: Any) -> bool:
    return any(getattr(one, "__origin__", None) is list for one in parts(type_))


def read(type_: Any, text: str) -> Any:
    value = [text] if is_list(type_) else text
    holder = msgspec.defstruct("Holder", [("it", type_)])
    return json.decode(msgspec.json.Decoder(holder), json.dumps({"it": value}))


def test_the_search_finds_known_places_of_ids() -> None:
    found = {(struct, name) for struct, name, _, _ in NAMED}
    assert {
        ("WatchUsers", "userIds"),
        ("TransferChat", "agentId"),
        ("StartChat", "teamId"),
        ("TicketChange", "watchers"),
        ("CommentBody", "author.id"),
        ("Revoke", "sessionId"),
        ("MakeBlock", "userId"),
        ("Assign", "agentId"),
        ("UserHandler", "userId"),
        ("Disconnect", "where.user"),
    } <= {*found, *((struct, name) for (struct, name), _ in PLACES)}
    assert len(found) > 40


def test_every_field_named_like_an_id_has_a_kind() -> None:
    named = [
        (struct, name)
        for (struct, name), _ in PLACES
        if name.rpartition(".")[2].endswith(("Id", "Ids")) or name in ("user", "room", "rooms", "sid")
    ]
    without = [one for one in named if one not in NOT_IDS and kind_at(*one) is None and "nodeId" not in one[1]]
    assert not without, f"add to KIND_OF, in this file, which kind of id these fields are: {without}"


@pytest.mark.parametrize(("struct", "name", "type_", "of"), NAMED, ids=lambda one: one if isinstance(one, str) else "")
def test_each_field_checks_ids_by_the_rule_of_its_kind(struct: str, name: str, type_: Any, of: str) -> None:
    """The refusal is readable, and the same for all fields of a kind."""
    for text in ACCEPTED[of]:
        read(type_, text)
    if (struct, name) in PER_ITEM:
        return  # each item has its own result: test_a_list_is_sifted…
    for text in REFUSED[of]:
        if text == "" and struct in EMPTY_IS_FINE:
            continue
        with pytest.raises(json.BadJson) as refused:
            read(type_, text)
        assert "regex" not in refused.value.why and kind(of).description in refused.value.why, refused.value.why


@pytest.mark.parametrize("of", ACCEPTED)
def test_a_kind_has_the_same_rule_outside_of_messages(of: str) -> None:
    for text in ACCEPTED[of]:
        assert kind(of).check(text) == text and kind(of).fits(text)
    for text in [*REFUSED[of], 7, None, ["a"]]:
        assert not kind(of).fits(text)
        with pytest.raises(ValueError, match="expected text"):
            kind(of).check(text)


@pytest.mark.parametrize(("claim", "of"), [("sub", "user"), ("teamId", "team"), ("sessionId", "session")])
def test_a_token_may_contain_all_ids_that_events_may_contain(claim: str, of: str) -> None:
    for text in ACCEPTED[of]:
        auth.verify(token(**{claim: text}), KEYS, time.time())
    for text in REFUSED[of]:
        if text == "" and claim != "sub":
            continue
        with pytest.raises(auth.BadToken) as refused:
            auth.verify(token(**{claim: text}), KEYS, time.time())
        assert kind(of).description in refused.value.why


@pytest.mark.parametrize(
    "name", ["Ann \u202egnp", "a\u2066b", "a\ufeff", "a\u200eb", "a\nb", "soft\u00adhyphen", "a\u200bb"]
)
def test_a_name_that_reverses_or_hides_adjacent_text_is_refused(name: str) -> None:
    with pytest.raises(auth.BadToken):
        auth.verify(token(name=name), KEYS, time.time())


@pytest.mark.parametrize("name", ["علی\u200cرضا", "👩\u200d💻 Ann", "Zoë O'Neil", "株式会社　安娜"])
def test_a_name_may_contain_the_joiners_of_its_script(name: str) -> None:
    assert auth.verify(token(name=name), KEYS, time.time()).name == name


def test_an_emitter_accepts_any_valid_room_and_refuses_others() -> None:
    target: Target[Any] = Target(None, "/tickets")
    for room in ACCEPTED["room"]:
        assert target.to(room).except_(room).rooms == (room,)
    for room in REFUSED["room"]:
        for name in (target.to, target.except_):
            with pytest.raises(ValueError, match="of 1 to 200 characters"):
                name(room)


def test_a_list_is_sifted_item_by_item() -> None:
    """An invalid id does not affect the others, and is reported with its index."""
    good = [f"u{n}" for n in range(499)]
    kept, refused = ids.sift([*good[:100], "a\nb", *good[100:], "u0"], ids.USER, "userIds")
    assert kept == good
    assert [(one.index, "control" in one.message) for one in refused] == [(100, True)]
    assert ids.sift([], ids.USER, "userIds") == ([], [])
    with pytest.raises(RtError) as none:
        ids.sift([7, ""], ids.USER, "userIds")
    assert (none.value.code, none.value.fields) == ("BAD_REQUEST", {"field": "userIds[0]"})


def test_control_and_format_characters_are_those_of_unicode() -> None:
    """Compared with Python's tables, so that a missing character is found."""
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert not ids.USER.fits(chr(code)), hex(code)
            assert ids.is_name(chr(code)) is (code in (0x200C, 0x200D)), hex(code)


# Places where a user's id without the key is right: texts for display, and facts where the role decides the side.
BY_ID = {
    "engine/model.py": "makes the key, and the Person who is shown",
    "engine/hub/socket.py": "a line of the log, which has the role's rooms beside it",
    "helpdesk/tickets/access.py": "requester and watchers of a ticket: of customers only",
    "helpdesk/chat/store.py": "who.id and who.role go to the scripts, which make the key; authors of messages",
    "helpdesk/chat/conversation.py": "customer_id or agent_id, by the role",
    "helpdesk/tickets/audience.py": "assignees, among staff only",
    "api/keys_and_scopes.py": "an admin of the port",
    "operations/views/clients.py": "the order of a list",
    "operations/views/connections.py": "a line of the audit log",
    "app/cli/explain.py": "what a token says, with the role",
    "engine/cluster/requests.py": "what a node tells of a socket",
    "backend/hooks/connect.py": "the id that the host gave, with its role",
    "backend/hooks/access.py": "what the host is asked about, with the role; answers are kept by key",
}


def test_users_are_identified_by_their_key() -> None:
    """A room, store, limit or rule that uses `user.id` would be shared by a customer and an agent with that id."""
    package = Path(insightdesk_rt.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\buser\.id\b|\bself\.user\.id\b", path.read_text("utf-8"))
    }
    more = sorted(found - {"demo/helpdesk.py"} - set(BY_ID))
    assert not more, f"use user.key in these files, or say in BY_ID why the id is right: {more}"
