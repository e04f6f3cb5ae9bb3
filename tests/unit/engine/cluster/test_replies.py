"""Replies of other nodes are decoded into their types; a node with an invalid reply is listed as missing."""

from __future__ import annotations

from msgspec import Raw, Struct

from insightdesk_rt.engine.cluster.node_calls import NodeReplies
from insightdesk_rt.engine.cluster.replies import decode_replies


class Told(Struct):
    count: int


def test_a_node_with_an_invalid_reply_is_listed_as_missing() -> None:
    """It may run another version. The other replies are returned."""
    nodes = {"n1.a": Raw(b'{"count":1}'), "n2.b": Raw(b'{"count":"many"}'), "n3.c": Raw(b'{"count":3,"more":1}')}
    found, missing = decode_replies(NodeReplies(nodes, ["n9.z"]), Told)
    assert found == {"n1.a": Told(1), "n3.c": Told(3)}
    assert missing == ["n2.b", "n9.z"]
