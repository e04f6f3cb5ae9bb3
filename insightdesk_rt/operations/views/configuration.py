"""GET /api/v1/config: the settings a node runs with, and where each value comes from. Any node may be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer, Query
from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.replies import decode_replies
from insightdesk_rt.engine.errors import RtError

STATE = "config.state"


class OfNode(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: Annotated[str, Meta(max_length=64, description="default: the node that answers")] = ""


class SettingView(Struct):
    """`value` as it would be written in the file; secrets are hidden.

    `origin`: "default", "command line", a file and line, …
    """

    name: str
    value: str
    origin: str
    group: str
    help: str


class Config(Struct):
    node: str
    version: str
    settings: list[SettingView]


class ConfigHandler(Handler):
    node_id: str
    calls: NodeCalls

    @operation("viewer", query=OfNode, answer=Config, errors=("NOT_FOUND",))
    async def get(self, query: OfNode) -> Answer:
        """The settings a node runs with, and where each value comes from; secrets are hidden."""
        replies = await self.calls.request(STATE, query.node or self.node_id)
        answers, missing = decode_replies(replies, msgspec.Raw)
        found = [text for text in answers.values() if bytes(text) != b"null"]
        if not found:
            if missing:
                raise RtError("UNAVAILABLE", f"Not all nodes answered: {', '.join(missing)}.")
            raise RtError("NOT_FOUND", "There is no such node.")
        return Answer(msgspec.json.decode(found[0], type=Config))


def config_routes(
    admin: Admin, node_id: str, version: str, settings: Sequence[SettingView], calls: NodeCalls
) -> list[Route]:
    """Return the route of this file, and register this node's reply to its call."""

    async def state(arguments: tuple[str, ...]) -> Config | None:
        return Config(node_id, version, list(settings)) if arguments[0] == node_id else None

    calls.handle(STATE, state)
    return [(r"/api/v1/config", ConfigHandler, {"admin": admin, "node_id": node_id, "calls": calls})]
