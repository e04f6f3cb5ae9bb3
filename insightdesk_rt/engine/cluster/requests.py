"""The messages of calls between nodes (node_calls.py): requests, replies, and how a long reply is split."""

from __future__ import annotations

from msgspec import Raw, Struct

from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Person, Role
from insightdesk_rt.engine.shared_limits import Use

SOCKETS_PER_REPLY = 200  # far below the size limit of a message between nodes
INFO_PER_REPLY = 100_000  # characters; the same


class SocketInfo(Struct, frozen=True, omit_defaults=True):
    """A socket as other nodes may see it: without its pid and its client's id, which are secrets."""

    sid: str
    namespace: str
    user: Person
    role: Role
    rooms: list[str]
    node: str
    teamId: str = ""
    address: str = ""
    agent: str = ""
    connectedAt: float = 0.0  # Unix seconds


class NodeRequest(Struct, frozen=True, omit_defaults=True, tag_field="t", tag="ask"):
    id: str
    to: str  # address of the requester
    verb: str
    namespace: str = ""
    rooms: tuple[str, ...] = ()  # members of any of these; if empty, all sockets
    skip: tuple[str, ...] = ()
    more: tuple[str, ...] = ()  # the other arguments of the verb


class NodeReply(Struct, frozen=True, omit_defaults=True, tag_field="t", tag="answer"):
    id: str
    node: str  # incarnation
    count: int = 0
    sockets: tuple[SocketInfo, ...] = ()
    info: Raw = Raw()
    part: str = ""  # a piece of an `info` that is too long for one message
    more: bool = False  # another message follows


class LimitReport(Struct, frozen=True, tag_field="t", tag="limits"):
    """What a node uses of limits that count once per cluster, by kind. `node` is its address."""

    node: str
    uses: dict[str, list[Use]]


class Replaced(Struct, frozen=True, tag_field="t", tag="replaced"):
    pid: str


def info_of(socket: Socket, node: str) -> SocketInfo:
    user, client = socket.user, socket.client
    return SocketInfo(
        socket.sid,
        socket.namespace,
        user.person,
        user.role,
        sorted(socket.rooms),
        node,
        user.team_id,
        client.address,
        client.agent,
        socket.connected_at_s,
    )


def in_parts(id: str, node: str, infos: list[SocketInfo]) -> list[NodeReply]:
    parts = [infos[start : start + SOCKETS_PER_REPLY] for start in range(0, len(infos), SOCKETS_PER_REPLY)] or [[]]
    return [NodeReply(id, node, len(part), tuple(part), more=part is not parts[-1]) for part in parts]


def in_pieces(id: str, node: str, text: str) -> list[NodeReply]:
    starts = range(0, len(text), INFO_PER_REPLY)
    more = starts[-1]
    return [NodeReply(id, node, part=text[at : at + INFO_PER_REPLY], more=at != more) for at in starts]
