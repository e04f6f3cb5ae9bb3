"""Decodes the replies to a request (node_calls.py) into their types."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from insightdesk_rt.engine.cluster.node_calls import NodeReplies

T = TypeVar("T")


def decode_replies(replies: NodeReplies, kind: type[T]) -> tuple[dict[str, T], list[str]]:
    """Return the replies by incarnation, and the missing nodes.

    A node whose reply has another form, because it runs another version, counts as missing.
    """
    found: dict[str, T] = {}
    missing = list(replies.missing)
    for incarnation, text in replies.nodes.items():
        try:
            found[incarnation] = msgspec.json.decode(text, type=kind)
        except msgspec.ValidationError:
            missing.append(incarnation)
    return found, sorted(missing)
