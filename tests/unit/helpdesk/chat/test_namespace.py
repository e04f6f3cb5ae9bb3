"""The chat as its users see it: two nodes with a real Valkey, and every event of the protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from insightdesk_rt.engine.dispatch.namespace import Rate
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.typing_indicators import TYPING_MS
from tests.support import fakes
from tests.support.aio import aio, until
from tests.support.chatting import ANNA, BERT, CARL, DORA, ROOT, ZOE, Cluster, Person, a_cluster


async def begin(cluster: Cluster, **ask: Any) -> tuple[Person, Person, str]:
    """Return Carl on node one and Anna on node two, in an active conversation, with nothing unheard."""
    carl, anna = await cluster.one.enters(CARL), await cluster.two.enters(ANNA)
    c: str = (await carl.ask("chat:start", clientId="x1", **ask))["conversationId"]
    await anna.ask("chat:accept", conversationId=c)
    carl.heard(), anna.heard()
    return carl, anna, c


@aio
async def test_a_conversation_from_its_start_to_its_rating(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        anna, carl = await cluster.two.enters(ANNA), await cluster.one.enters(CARL)
        assert anna.heard() == [("chat:queue", {"waiting": []})]
        started = await carl.ask("chat:start", clientId="x1", subject="Printer", text="It smokes", teamId="t1")
        c = started["conversationId"]
        assert started == {"conversationId": c, "position": 1, "agentsHere": 1}
        ((name, queue),) = anna.heard()
        (entry,) = queue["added"]
        assert name == "chat:queue" and entry["conversationId"] == c
        assert (entry["customer"], entry["text"], entry["teamId"]) == (
            {"id": "carl", "name": "Carl"},
            "It smokes",
            "t1",
        )

        accepted = await anna.ask("chat:accept", conversationId=c)
        assert accepted["conversation"]["state"] == "active" and accepted["conversation"]["customer"]["online"]
        assert [m["text"] for m in accepted["messages"]] == ["It smokes"]
        assert anna.names() == ["chat:queue", "chat:accepted"]
        assert carl.heard()[-1][1]["agent"] == {"id": "anna", "name": "Anna"}

        said = await anna.ask("chat:message", conversationId=c, text="Pull the plug", clientId="m1")
        ((name, message),) = carl.heard()
        assert name == "chat:message" and said == {"id": 2, "at": message["at"]} and message["at"].endswith("Z")
        assert message == {
            "conversationId": c,
            "id": 2,
            "at": said["at"],
            "author": {"id": "anna", "name": "Anna", "role": "agent"},
            "text": "Pull the plug",
            "clientId": "m1",
        }
        await carl.ask("chat:read", conversationId=c, upTo=2)
        assert anna.heard()[-1] == ("chat:read", {"conversationId": c, "userId": "carl", "upTo": 2})

        await carl.ask("chat:close", conversationId=c)
        name, closed = anna.heard()[-1]
        assert name == "chat:closed" and (closed["reason"], closed["by"]["id"]) == ("customer", "carl")
        with pytest.raises(RtError) as refused:
            await anna.ask("chat:message", conversationId=c, text="Hello?", clientId="m2")
        assert refused.value.as_dict()["code"] == "CONFLICT" and refused.value.fields["state"] == "closed"
        await carl.ask("chat:rate", conversationId=c, score=5, comment="Thanks")
        assert anna.heard() == [("chat:rated", {"conversationId": c, "score": 5, "comment": "Thanks"})]


@aio
async def test_one_agent_gets_the_conversation_and_the_others_learn_who(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl = await cluster.one.enters(CARL)
        agents = [await node.enters(u) for node, u in ((cluster.one, ANNA), (cluster.two, BERT), (cluster.two, ROOT))]
        c = (await carl.ask("chat:start", clientId="x1"))["conversationId"]
        answers = await asyncio.gather(
            *(a.ask("chat:accept", conversationId=c) for a in agents), return_exceptions=True
        )
        (winner,) = [a.socket.user for a, answer in zip(agents, answers, strict=True) if isinstance(answer, dict)]
        lost = [answer for answer in answers if isinstance(answer, RtError)]
        assert [(e.code, e.fields["agent"]["id"]) for e in lost] == [("CONFLICT", winner.id)] * 2
        assert carl.names().count("chat:accepted") == 1


@aio
async def test_a_client_id_stores_a_message_once_even_from_another_node(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        phone = await cluster.two.enters(CARL)
        asks = [p.ask("chat:message", conversationId=c, text="once", clientId="m1") for p in (carl, carl, phone)]
        first, *others = await asyncio.gather(*asks)
        assert others == [first, first] and anna.names() == ["chat:message"]
        again = await carl.ask("chat:start", clientId="x1")
        assert again["conversationId"] == c and anna.names() == []


@aio
async def test_joining_again_brings_missed_events_and_the_newest_page(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        joined = await carl.ask("chat:join", conversationId=c)
        assert joined["messages"] == [] and joined["complete"]
        await carl.leave()
        for n in range(60):
            await anna.ask("chat:message", conversationId=c, text=f"no. {n}", clientId=f"m{n}")
        back = await cluster.two.enters(CARL)
        ((name, opened),) = back.heard()
        assert name == "chat:conversation" and opened["conversation"]["conversationId"] == c
        page = await back.ask("chat:join", conversationId=c, since=joined["offset"])
        missed = [data["id"] for name, data in back.heard() if name == "chat:message"]
        assert missed == list(range(1, 61)), "in order, before anything new"
        assert [m["id"] for m in page["messages"]] == list(range(11, 61))
        older = await back.ask("chat:history", conversationId=c, before=11, limit=4)
        assert [m["id"] for m in older["messages"]] == [7, 8, 9, 10] and older["more"]
        await anna.ask("chat:message", conversationId=c, text="live", clientId="last")
        assert back.names() == ["chat:message"]


@aio
async def test_strangers_are_refused_and_do_not_learn_whether_a_conversation_exists(
    valkey_url: str, prefix: str
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        _, _, c = await begin(cluster, teamId="t1")
        strangers = [await cluster.one.enters(user) for user in (DORA, ZOE)]
        for stranger in strangers:
            stranger.heard()
            for name, payload in [
                ("chat:join", {}),
                ("chat:accept", {}),
                ("chat:message", {"text": "hi", "clientId": "1"}),
                ("chat:typing", {}),
                ("chat:stopTyping", {}),
                ("chat:read", {"upTo": 1}),
                ("chat:history", {}),
                ("chat:transfer", {"teamId": "t2"}),
                ("chat:close", {}),
                ("chat:rate", {"score": 1}),
            ]:
                errors = []
                for conversation_id in (c, "nothing"):
                    with pytest.raises(RtError) as refused:
                        await stranger.ask(name, conversationId=conversation_id, **payload)
                    errors.append(refused.value.as_dict())
                assert errors[0] == errors[1] and errors[0]["code"] == "FORBIDDEN", name
            assert stranger.heard() == [] and not any(room.startswith("chat") for room in stranger.socket.rooms)


@aio
async def test_agents_cannot_start_and_customers_cannot_accept_a_conversation(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        for person, name, payload in [
            (anna, "chat:start", {"clientId": "x"}),
            (anna, "chat:rate", {"conversationId": c, "score": 5}),
            (carl, "chat:accept", {"conversationId": c}),
            (carl, "chat:transfer", {"conversationId": c, "teamId": "t1"}),
        ]:
            with pytest.raises(RtError) as refused:
                await person.ask(name, **payload)
            assert refused.value.code == "FORBIDDEN"


@pytest.mark.parametrize(
    ("name", "payload", "field"),
    [
        ("chat:start", {}, "clientId"),
        ("chat:start", {"clientId": ""}, "clientId"),
        ("chat:start", {"clientId": "x" * 65}, "clientId"),
        ("chat:start", {"clientId": "x", "subject": "s" * 201}, "subject"),
        ("chat:start", {"clientId": "x", "text": " \n "}, "text"),
        ("chat:start", {"clientId": "x", "teamId": "a\nb"}, "teamId"),
        ("chat:join", {}, "conversationId"),
        ("chat:join", {"conversationId": "c", "since": "now"}, "since"),
        ("chat:message", {"conversationId": "c", "text": "x" * 4001, "clientId": "1"}, "text"),
        ("chat:message", {"conversationId": "c", "text": "", "clientId": "1"}, "text"),
        ("chat:message", {"conversationId": "c", "text": "x"}, "clientId"),
        ("chat:message", {"conversationId": 7, "text": "x", "clientId": "1"}, "conversationId"),
        ("chat:read", {"conversationId": "c", "upTo": 0}, "upTo"),
        ("chat:read", {"conversationId": "c", "upTo": "1"}, "upTo"),
        ("chat:history", {"conversationId": "c", "limit": 101}, "limit"),
        ("chat:rate", {"conversationId": "c", "score": 6}, "score"),
        ("chat:rate", {"conversationId": "c", "score": 4.5}, "score"),
    ],
)
def test_an_invalid_payload_is_refused_with_the_name_of_the_field(
    valkey_url: str, prefix: str, name: str, payload: dict[str, Any], field: str
) -> None:
    @aio
    async def body() -> None:
        async with a_cluster(valkey_url, prefix) as cluster:
            carl = await cluster.one.enters(CARL)
            with pytest.raises(RtError) as refused:
                await carl.ask(name, **payload)
            assert (refused.value.code, refused.value.fields) == ("BAD_REQUEST", {"field": field})

    body()


@aio
async def test_a_transfer_needs_an_agent_or_a_team(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        _, anna, c = await begin(cluster)
        with pytest.raises(RtError) as refused:
            await anna.ask("chat:transfer", conversationId=c, note="whoever")
        assert (refused.value.code, refused.value.fields) == ("BAD_REQUEST", {"field": "agentId"})


def test_messages_are_limited_to_five_a_second_and_thirty_after_a_pause() -> None:
    assert Chat.events["chat:message"].rate == Rate(5, 1, burst=30)


@aio
async def test_a_node_that_counted_as_dead_rechecks_access(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        _, anna, c = await begin(cluster, teamId="t1")
        mate = await cluster.two.enters(BERT)
        await mate.ask("chat:join", conversationId=c)
        await cluster.one.enters(ZOE)
        for node in (cluster.one, cluster.two):
            node.recheck_on_all_nodes = cluster.one.chat.recheck_access  # the other does not answer any more
        await anna.ask("chat:transfer", conversationId=c, teamId="t2")
        await cluster.two.chat.re_register()
        assert any(room.startswith("chat") for room in mate.socket.rooms), "missing data in Valkey takes no access away"
        cluster.two.name = "n2, declared dead"
        await cluster.two.chat.re_register()
        assert not any(room.startswith("chat") for room in mate.socket.rooms)


@aio
async def test_the_note_of_a_transfer_is_for_staff_and_only_the_new_team_sees_the_conversation(
    valkey_url: str, prefix: str
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster, teamId="t1")
        mate = await cluster.one.enters(BERT)
        await mate.ask("chat:join", conversationId=c)
        zoe, phone = await cluster.one.enters(ZOE), await cluster.two.enters(CARL)
        for person in (mate, zoe, phone):
            person.heard()

        answer = await anna.ask("chat:transfer", conversationId=c, teamId="t2", note="he is angry")
        assert answer["conversation"]["state"] == "waiting" and answer["conversation"]["note"] == "he is angry"
        for customer in (carl, phone):
            ((name, told),) = customer.heard()
            assert name == "chat:transferred" and "note" not in told and told["previous"]["id"] == "anna"
        assert mate.heard() == [("resync", {"rooms": [f"chat-staff:{c}", f"chat:{c}"]})]
        assert anna.names() == ["resync", "chat:transferred"]
        assert not any(room.startswith("chat") for who in (anna, mate) for room in who.socket.rooms)
        assert zoe.names() == ["chat:queue"]

        taken = await zoe.ask("chat:accept", conversationId=c)
        assert taken["conversation"]["note"] == "he is angry"
        assert "note" not in (await carl.ask("chat:join", conversationId=c))["conversation"]
        assert "angry" not in str(carl.heard())
        await zoe.ask("chat:message", conversationId=c, text="for those who may", clientId="z1")
        assert "chat:message" in carl.names() and anna.heard() == mate.heard() == []
        with pytest.raises(RtError):
            await mate.ask("chat:history", conversationId=c)


class Desk:
    """Team t1 on both nodes, with a conversation of theirs open: Anna's on two devices; her tablet has it not open."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.people: dict[str, Person] = {}
        self.conversation_id = ""

    async def begin(self, held_by: str) -> None:
        one, two = self.cluster.one, self.cluster.two
        users = {"carl": (one, CARL), "phone": (two, CARL), "anna": (two, ANNA), "laptop": (one, ANNA)}
        users |= {"tablet": (one, ANNA), "bert": (one, BERT), "zoe": (one, ZOE), "root": (two, ROOT)}
        for name, (node, user) in users.items():
            self.people[name] = await node.enters(user)
        self.conversation_id = (await self.ask("carl", "chat:start", clientId="x1", teamId="t1", text="hi"))[
            "conversationId"
        ]
        if held_by:
            await self.ask("anna", "chat:accept")
        if held_by == "zoe":
            await self.ask("anna", "chat:transfer", agentId="zoe")
        for name in ("phone", "anna", "laptop", "bert", "root", *(["zoe"] if held_by == "zoe" else [])):
            await self.ask(name, "chat:join")
        for person in self.people.values():
            person.heard()

    async def ask(self, who: str, name: str, **payload: Any) -> Any:
        if name != "chat:start":
            payload["conversationId"] = self.conversation_id
        return await self.people[who].ask(name, **payload)

    async def by_admin(self, what: str, **to: str) -> None:
        """Make the change as the routes of the admin port do."""
        chat = self.cluster.two.chat
        work = getattr(chat.store, what)
        await chat.publish_change(await work(ROOT, self.conversation_id, **to))


STAFF_OF_T1 = ("anna", "laptop", "bert")


@pytest.mark.parametrize(
    ("held_by", "who", "what", "to", "lost"),
    [
        ("anna", "anna", "chat:transfer", {"teamId": "t2"}, STAFF_OF_T1),
        ("anna", "anna", "chat:transfer", {"teamId": "t2", "agentId": "zoe"}, STAFF_OF_T1),
        ("anna", "root", "chat:transfer", {"teamId": "t2"}, STAFF_OF_T1),
        ("", "bert", "chat:transfer", {"teamId": "t2"}, STAFF_OF_T1),
        ("zoe", "zoe", "chat:transfer", {"agentId": "bert"}, ("zoe",)),
        ("zoe", "zoe", "chat:transfer", {"teamId": "t1"}, ("zoe",)),
        ("anna", "anna", "chat:transfer", {"agentId": "zoe"}, ()),
        ("anna", "", "transfer", {"team_id": "t2"}, STAFF_OF_T1),  # requeue
        ("zoe", "", "transfer", {}, ("zoe",)),
        ("zoe", "", "transfer", {"agent_id": "anna"}, ("zoe",)),  # assign
        ("anna", "", "transfer", {"agent_id": "bert"}, ()),
        ("zoe", "", "close", {}, ()),
        ("zoe", "zoe", "chat:close", {}, ()),
        ("zoe", "carl", "chat:close", {}, ()),
        ("", "bert", "chat:accept", {}, ()),
    ],
)
@aio
async def test_users_who_lose_a_conversation_are_removed_before_its_change_is_published(
    valkey_url: str, prefix: str, held_by: str, who: str, what: str, to: dict[str, str], lost: tuple[str, ...]
) -> None:
    """Deny first, on both nodes: they are told by `resync`, and the old agent by the event without its note."""
    async with a_cluster(valkey_url, prefix) as cluster:
        desk = Desk(cluster)
        await desk.begin(held_by)
        c, people = desk.conversation_id, desk.people
        note = {"note": "secret"} if what.endswith("transfer") else {}
        await (desk.ask(who, what, **to, **note) if who else desk.by_admin(what, **to, **note))
        heard = {name: person.heard() for name, person in people.items()}
        moved = {"transfer": "chat:transferred", "close": "chat:closed", "accept": "chat:accepted"}[
            what.removeprefix("chat:")
        ]
        for name in lost:
            told = [one for one in heard[name] if one[0] != "chat:queue"]
            assert told[0] == ("resync", {"rooms": [f"chat-staff:{c}", f"chat:{c}"]}), name
            assert [one[0] for one in told[1:]] == [moved] * (people[name].socket.user.id == held_by), name
            assert not any(c in room for room in people[name].socket.rooms), name
        for name in {"carl", "phone", "root", *STAFF_OF_T1, *(["zoe"] if held_by == "zoe" else [])} - {*lost}:
            (told_of,) = [data for one, data in heard[name] if one == moved]
            assert told_of.get("note") == (note.get("note") if people[name].socket.user.is_staff else None), name
            assert any(c in room for room in people[name].socket.rooms), name
        heard_by_the_lost = [heard[name] for name in (*lost, *(["tablet"] if "anna" in lost else []))]
        assert "secret" not in str(heard_by_the_lost)
        if moved == "chat:transferred":
            await desk.ask("carl", "chat:message", text="not for them", clientId="m1")
            assert [name for name in lost if people[name].heard()] == []


@aio
async def test_the_old_agents_other_devices_are_told_of_a_transfer_without_its_note(
    valkey_url: str, prefix: str
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        desk = Desk(cluster)
        await desk.begin("anna")
        await desk.ask("anna", "chat:transfer", teamId="t2", note="secret")
        ((name, told),) = desk.people["tablet"].heard()
        assert (name, told["previous"]["id"], told["teamId"]) == ("chat:transferred", "anna", "t2")
        assert "note" not in told


@aio
async def test_a_transfer_is_not_published_while_a_node_cannot_take_access(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        desk = Desk(cluster)
        await desk.begin("anna")
        recheck = cluster.one.recheck_on_all_nodes

        async def unreachable(conversation_id: str, offset: Any) -> None:
            raise RtError("UNAVAILABLE")

        for node in (cluster.one, cluster.two):
            node.recheck_on_all_nodes = unreachable
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await desk.ask("anna", "chat:transfer", teamId="t2", note="secret")
        assert [name for name, person in desk.people.items() if "chat:transferred" in person.names()] == []
        for node in (cluster.one, cluster.two):
            node.recheck_on_all_nodes = recheck
        assert (await desk.ask("anna", "chat:transfer", teamId="t2", note="secret"))["conversation"]["teamId"] == "t2"
        assert [data.get("note") for name, data in desk.people["root"].heard() if name == "chat:transferred"] == [
            "secret"
        ]
        assert desk.people["bert"].names() == ["resync"]


@aio
async def test_a_note_that_is_published_late_is_not_sent_to_an_agent_who_has_lost_the_conversation_again(
    valkey_url: str, prefix: str
) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        desk = Desk(cluster)
        await desk.begin("anna")
        backplane: Any = cluster.two.hub._backplane
        append = backplane.append

        async def refuse(event: Any) -> Any:
            raise RtError("UNAVAILABLE")

        backplane.append = refuse
        with pytest.raises(RtError, match="UNAVAILABLE"):
            await desk.ask("anna", "chat:transfer", agentId="zoe", note="secret of zoe")
        backplane.append = append
        await desk.ask("root", "chat:transfer", agentId="bert", note="secret of bert")
        heard = desk.people["zoe"].heard()
        assert [name for name, _ in heard] == ["chat:transferred", "chat:transferred"] and "secret" not in str(heard)
        notes = [data.get("note") for name, data in desk.people["root"].heard() if name == "chat:transferred"]
        assert notes == ["secret of zoe", "secret of bert"]


@pytest.mark.parametrize("how", ["chat:join", "chat:accept"])
@aio
async def test_an_agent_who_opens_a_conversation_while_access_is_taken_is_sent_nothing_of_it(
    valkey_url: str, prefix: str, how: str
) -> None:
    """Access is checked, then taken and the transfer published, and only then comes the join."""
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, bert = await cluster.one.enters(CARL), await cluster.one.enters(BERT)
        root, _ = await cluster.two.enters(ROOT), await cluster.two.enters(ZOE)
        c = (await carl.ask("chat:start", clientId="x1", teamId="t1"))["conversationId"]
        bert.heard()
        backplane: Any = cluster.one.hub._backplane
        listen = backplane.listen

        async def slow(namespace: str, room: Any) -> Any:
            backplane.listen = listen
            await root.ask("chat:transfer", conversationId=c, teamId="t2", note="secret")
            return await listen(namespace, room)

        backplane.listen = slow
        with pytest.raises(RtError, match="FORBIDDEN"):
            await bert.ask(how, conversationId=c, **({"since": "0-0"} if how == "chat:join" else {}))
        assert "secret" not in str(heard := bert.heard()) and "chat:joined" not in [name for name, _ in heard]
        assert not any(c in room for room in bert.socket.rooms)


@aio
async def test_an_agent_who_gets_a_transfer_is_notified_on_all_devices(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        zoe = await cluster.one.enters(ZOE)
        zoe.heard()
        await anna.ask("chat:transfer", conversationId=c, agentId="zoe", note="yours")
        ((name, told),) = zoe.heard()
        assert name == "chat:transferred" and told["agent"]["id"] == "zoe" and told["note"] == "yours"
        await zoe.ask("chat:message", conversationId=c, text="hello", clientId="z1")
        assert carl.names() == ["chat:transferred", "chat:message"]


@aio
async def test_typing_is_shown_to_the_others_and_ends_by_itself(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        tablet = await cluster.one.enters(CARL)
        await tablet.ask("chat:join", conversationId=c)
        tablet.heard()
        shown = ("chat:typing", {"conversationId": c, "user": {"id": "carl", "name": "Carl"}})
        stopped = ("chat:stopTyping", {"conversationId": c, "userId": "carl"})

        await carl.ask("chat:typing", conversationId=c)
        await cluster.one.idle()
        cluster.one.clock.advance(TYPING_MS - 1)
        assert anna.heard() == [shown]
        await carl.ask("chat:typing", conversationId=c)
        cluster.one.clock.advance(TYPING_MS)
        assert anna.heard() == [shown, stopped]
        await carl.ask("chat:stopTyping", conversationId=c)
        assert anna.heard() == [], "a user who does not type cannot stop"

        for end in ("stop", "message", "leave", "lost"):
            await carl.ask("chat:join", conversationId=c)
            await carl.ask("chat:typing", conversationId=c)
            await cluster.one.idle()
            match end:
                case "stop":
                    await carl.ask("chat:stopTyping", conversationId=c)
                case "message":
                    await carl.ask("chat:message", conversationId=c, text="done", clientId="m1")
                case "leave":
                    await carl.ask("chat:leave", conversationId=c)
                case "lost":
                    await carl.leave()
            cluster.one.clock.advance(TYPING_MS)
            assert [told for told in anna.heard() if told[0] != "chat:message"] == [shown, stopped], end
        assert [name for name in tablet.names() if name != "chat:message"] == [], "never to oneself"


@aio
async def test_waiting_customers_get_their_new_place(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        first, second = await cluster.one.enters(CARL), await cluster.two.enters(DORA)
        anna = await cluster.one.enters(ANNA)
        c = (await first.ask("chat:start", clientId="x1"))["conversationId"]
        d = (await second.ask("chat:start", clientId="x1"))["conversationId"]
        await cluster.one.chat.clocks()
        second.heard()
        await first.ask("chat:close", conversationId=c)
        await cluster.one.chat.clocks()
        await cluster.two.chat.clocks()
        assert second.heard() == [("chat:queued", {"conversationId": d, "position": 1})]
        assert "chat:queued" not in first.names()
        names = [(name, sorted(data)) for name, data in anna.heard()]
        assert names == [("chat:queue", [w]) for w in ("waiting", "added", "added", "removed")]


@aio
async def test_the_queue_is_never_shown_to_a_customer_whatever_the_token_says(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        insider = await cluster.one.enters(fakes.user("eve", "customer", team="t1"))
        carl, admin = await cluster.one.enters(CARL), await cluster.two.enters(ROOT)
        await carl.ask("chat:start", clientId="x1", teamId="t1")
        await carl.ask("chat:start", clientId="x2")
        assert insider.heard() == [] and len(admin.names()) == 3
        assert "chat:queue" not in carl.names()


@aio
async def test_an_agent_who_connects_gets_the_current_queue(valkey_url: str, prefix: str) -> None:
    """A conversation that begins while the list is read is in the list that is sent last."""
    async with a_cluster(valkey_url, prefix) as cluster:
        carl = await cluster.one.enters(CARL)
        c = (await carl.ask("chat:start", clientId="x1"))["conversationId"]
        read = cluster.two.store.queue

        async def slow(*args: Any) -> Any:
            found = await read(*args)
            cluster.two.store.queue = read  # type: ignore[method-assign]
            await carl.ask("chat:start", clientId="x2")
            return found

        cluster.two.store.queue = slow  # type: ignore[method-assign]
        anna = await cluster.two.enters(ANNA)
        lists = [data["waiting"] for name, data in anna.heard() if "waiting" in data]
        assert [len(entries) for entries in lists] == [1, 2] and lists[1][0]["conversationId"] == c


@aio
async def test_others_see_a_member_leave_and_return(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        phone = await cluster.two.enters(CARL)
        await carl.leave()
        await cluster.two.chat.reconcile()
        assert anna.heard() == [], "another device is still there"
        await phone.leave()
        await cluster.two.chat.reconcile()
        assert ("chat:presence", {"conversationId": c, "userId": "carl", "online": False}) in anna.heard()
        await cluster.one.enters(CARL)
        assert anna.heard() == [("chat:presence", {"conversationId": c, "userId": "carl", "online": True})]


@aio
async def test_users_of_a_dead_node_and_their_typing_disappear(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        await carl.ask("chat:typing", conversationId=c)
        await cluster.one.idle()
        anna.heard()
        await cluster.two.chat.node_lost("n1")
        assert anna.heard() == [("chat:stopTyping", {"conversationId": c, "userId": "carl"})]
        await cluster.two.chat.node_lost("n1")
        await cluster.two.chat.reconcile()
        told = anna.heard()
        assert ("chat:stopTyping", {"conversationId": c, "userId": "carl"}) not in told, "once"
        assert ("chat:presence", {"conversationId": c, "userId": "carl", "online": False}) in told


@aio
async def test_a_user_who_typed_on_a_dead_node_has_stopped_typing_even_if_connected_to_another_node(
    valkey_url: str, prefix: str
) -> None:
    """Nobody was told that they were gone, as they were not: the others saw them type for ever."""
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        tablet = await cluster.two.enters(CARL)
        await tablet.ask("chat:join", conversationId=c)
        await carl.ask("chat:typing", conversationId=c)
        await cluster.one.idle()
        anna.heard(), tablet.heard()
        await cluster.two.chat.node_lost("n1")
        await cluster.two.chat.reconcile()
        assert anna.heard() == [("chat:stopTyping", {"conversationId": c, "userId": "carl"})]
        assert tablet.heard() == [], "never to oneself"


@aio
async def test_changes_by_deadlines_are_published_too(valkey_url: str, prefix: str) -> None:
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        key = cluster.valkey.names.namespace("/chat").key("chat", c)
        for ms, name in ((800_000, "chat:idleWarning"), (200_000, "chat:closed")):
            last = int(await cluster.valkey.command("HGET", key, "lastAt"))
            await cluster.valkey.command("HSET", key, "lastAt", last - ms)
            await cluster.ring("idle")
            assert carl.names() == anna.names() == [name]
        d = (await carl.ask("chat:start", clientId="x2"))["conversationId"]
        carl.heard()
        await cluster.ring("wait")
        ((name, closed),) = carl.heard()
        assert name == "chat:closed" and closed["reason"] == "timeout" and "by" not in closed
        assert closed["conversationId"] == d


@aio
async def test_a_message_whose_event_the_log_refused_is_published_later(valkey_url: str, prefix: str) -> None:
    """Its author is told UNAVAILABLE; a retry, whoever speaks next, or the node that leads logs it."""
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster)
        cluster.log.away = True
        with pytest.raises(RtError) as refused:
            await carl.ask("chat:message", conversationId=c, text="one", clientId="m1")
        assert refused.value.code == "UNAVAILABLE" and anna.heard() == []
        cluster.log.away = False
        # a retry tells it, and so does whoever speaks next; in order, and once
        await asyncio.gather(
            carl.ask("chat:message", conversationId=c, text="one", clientId="m1"),
            anna.ask("chat:message", conversationId=c, text="two", clientId="m1"),
        )
        assert [data["text"] for name, data in anna.heard()] == ["one", "two"]

        cluster.log.away = True
        with pytest.raises(RtError):
            await carl.ask("chat:message", conversationId=c, text="three", clientId="m3")
        cluster.log.away = False
        await until(lambda: not cluster.one.chat._tasks, "what was told is known to be")
        await asyncio.sleep(0.005)
        overdue = await cluster.two.store.pending.overdue(age_ms=1)
        await asyncio.gather(*(node.chat._relay.publish(overdue) for node in (cluster.two, cluster.one)))
        assert [data["text"] for name, data in anna.heard()] == ["three"]
        await until(lambda: not cluster.one.chat._tasks and not cluster.two.chat._tasks, "the same")
        assert await cluster.two.store.pending.overdue(age_ms=0) == []


@aio
async def test_an_agent_who_loses_access_right_after_accepting_is_not_left_in_the_room(
    valkey_url: str, prefix: str
) -> None:
    """An admin hands the conversation to another team between the accept and its answer."""
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna = await cluster.one.enters(CARL), await cluster.two.enters(ANNA)
        await cluster.two.enters(ZOE)
        c = (await carl.ask("chat:start", clientId="x1", teamId="t1"))["conversationId"]
        join_all = cluster.two.hub.join_all

        async def joined_and_handed_on(*args: Any) -> Any:
            joined = await join_all(*args)
            await cluster.one.store.transfer(ROOT, c, team_id="t2")
            return joined

        cluster.two.hub.join_all = joined_and_handed_on  # type: ignore[method-assign]
        with pytest.raises(RtError) as refused:
            await anna.ask("chat:accept", conversationId=c)
        assert refused.value.code == "FORBIDDEN"
        assert anna.socket.rooms == {"user:anna", "role:agent", "team:t1"}


@aio
async def test_a_conversation_cannot_be_transferred_to_a_team_without_connected_agents(
    valkey_url: str, prefix: str
) -> None:
    """A team that nobody is of, or a name that was mistyped: nobody would see it, and its agent was out of it."""
    async with a_cluster(valkey_url, prefix) as cluster:
        carl, anna, c = await begin(cluster, teamId="t1")
        zoe = await cluster.one.enters(ZOE)
        for team in ("biling", "T2"):
            with pytest.raises(RtError) as refused:
                await anna.ask("chat:transfer", conversationId=c, teamId=team)
            assert refused.value.code == "CONFLICT" and "Nobody of this team" in refused.value.message
        said = await anna.ask("chat:message", conversationId=c, text="still mine", clientId="m1")
        assert said["id"] == 1 and "chat:message" in carl.names()
        await zoe.leave()
        await until(lambda: swept(cluster), "Zoe is offline")
        with pytest.raises(RtError) as gone:
            await anna.ask("chat:transfer", conversationId=c, teamId="t2")
        assert gone.value.code == "CONFLICT"
        await cluster.two.enters(ZOE)
        assert (await anna.ask("chat:transfer", conversationId=c, teamId="t2"))["conversation"]["state"] == "waiting"


async def swept(cluster: Cluster) -> bool:
    await cluster.one.chat.reconcile()
    return [one.status for one in await cluster.one.people.statuses(["zoe"])] == ["offline"]


@aio
async def test_a_customer_learns_how_many_agents_are_connected(valkey_url: str, prefix: str) -> None:
    """So that a page can say that nobody is there instead of letting the customer wait for the timeout."""
    async with a_cluster(valkey_url, prefix) as cluster:
        carl = await cluster.one.enters(CARL)
        here = {}
        for number, team in enumerate(("suport", "t1", None)):
            ask = {"clientId": f"x{number}"} | ({"teamId": team} if team else {})
            here[team] = (await carl.ask("chat:start", **ask))["agentsHere"]
        assert here == {"suport": 0, "t1": 0, None: 0}
        for user in (ANNA, BERT, ZOE):
            await cluster.two.enters(user)
        for number, team in enumerate(("suport", "t1", "t2", None)):
            ask = {"clientId": f"y{number}"} | ({"teamId": team} if team else {})
            here[team] = (await carl.ask("chat:start", **ask))["agentsHere"]
        assert here == {"suport": 0, "t1": 2, "t2": 1, None: 3}


@aio
async def test_a_customer_who_leaves_a_long_queue_adds_only_a_few_log_entries(valkey_url: str, prefix: str) -> None:
    """The places of all behind were entries: 200 who wait and one who leaves were 198 of them."""
    async with a_cluster(valkey_url, prefix) as cluster:
        people = [await cluster.one.enters(fakes.user(f"k{n}", "customer")) for n in range(60)]
        chats = [(await one.ask("chat:start", clientId="x"))["conversationId"] for one in people]
        await cluster.two.chat.clocks()
        for one in people:
            one.heard()
        before = len(cluster.log.log)
        await people[0].ask("chat:close", conversationId=chats[0])
        await cluster.two.chat.clocks()
        assert len(cluster.log.log) - before <= 3
        told = [one.heard()[-1] for one in people[1:]]
        assert told == [
            ("chat:queued", {"conversationId": chat, "position": place}) for place, chat in enumerate(chats[1:], 1)
        ]


@aio
async def test_a_resumed_socket_is_only_in_rooms_it_may_still_be_in(valkey_url: str, prefix: str) -> None:
    """Its session kept its rooms; meanwhile the conversation went to another team."""
    async with a_cluster(valkey_url, prefix) as cluster:
        _, anna, c = await begin(cluster, teamId="t1")
        await anna.leave()
        await cluster.one.enters(ZOE)
        await cluster.two.store.transfer(ROOT, c, team_id="t2")
        resumed = fakes.socket("/chat", ANNA)
        cluster.two.hub.add(resumed)
        await cluster.two.hub.enter(resumed, anna.socket.rooms)
        await cluster.two.chat.joined(resumed)
        assert resumed.rooms == {"user:anna", "role:agent", "team:t1"}
