"""What nodes answered to one question (calls.py), read in its types."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from insightdesk_rt.engine.cluster.node_calls import NodeAnswers

T = TypeVar("T")


def understood(said: NodeAnswers, kind: type[T]) -> tuple[dict[str, T], list[str]]:
    """Return the answers by incarnation, and who is missing: also a node of another version that says it otherwise."""
    found: dict[str, T] = {}
    missing = list(said.missing)
    for incarnation, text in said.nodes.items():
        try:
            found[incarnation] = msgspec.json.decode(text, type=kind)
        except msgspec.ValidationError:
            missing.append(incarnation)
    return found, sorted(missing)
