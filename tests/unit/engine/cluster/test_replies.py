"""Answers of other nodes: read in their types, and a node that says something else is missing."""

from __future__ import annotations

from msgspec import Raw, Struct

from insightdesk_rt.engine.cluster.node_calls import NodeReplies
from insightdesk_rt.engine.cluster.replies import decode_replies


class Told(Struct):
    count: int


def test_a_node_that_is_not_understood_is_missing() -> None:
    """It may be of another version: the others' answers are shown all the same."""
    nodes = {"n1.a": Raw(b'{"count":1}'), "n2.b": Raw(b'{"count":"many"}'), "n3.c": Raw(b'{"count":3,"more":1}')}
    found, missing = decode_replies(NodeReplies(nodes, ["n9.z"]), Told)
    assert found == {"n1.a": Told(1), "n3.c": Told(3)}
    assert missing == ["n2.b", "n9.z"]
