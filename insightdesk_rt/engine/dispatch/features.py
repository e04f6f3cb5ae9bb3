"""Features: all features of one node, built from the table, and the calls that the server makes to each of them.

The features are called in the reverse order of the table. A failure ends the call; the caller repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from insightdesk_rt.engine.dispatch.namespace import Context, Living, Namespace
from insightdesk_rt.engine.model import Event, Offset

N = TypeVar("N", bound=Namespace)


class Features:
    """`kinds` is the table of features. Raises ValueError, in one line, for a setting that a feature cannot use."""

    def __init__(self, kinds: Iterable[type[Namespace]], context: Context) -> None:
        self._built = {kind: kind.build(context) for kind in kinds}
        self._by_path = {namespace.path: namespace for namespace in self}

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._built.values())

    def of(self, kind: type[N]) -> N:
        """Return this node's instance of a feature. Raises KeyError if it is not in the table."""
        found = self._built[kind]
        assert isinstance(found, kind)
        return found

    async def put_down_again(self, events: Sequence[Event]) -> None:
        """Store the facts of these acknowledged events again, in a Valkey that may have lost them.

        Raises RtError UNAVAILABLE: call it again.
        """
        for namespace in self:
            await namespace.put_down_again([event for event in events if event.namespace == namespace.path])

    async def recheck_access(self, path: str, subject: str, offset: Offset) -> None:
        """Remove this node's sockets that may not read the subject any more. Raises RtError UNAVAILABLE."""
        namespace = self._by_path.get(path)
        if namespace is not None:  # None if only another version of the server has the namespace
            await namespace.recheck_access(subject, offset)

    async def node_lost(self, incarnation: str) -> None:
        """Clear what a dead node held. Raises RtError UNAVAILABLE: not finished, call it again."""
        for namespace in self._last_first():
            await namespace.node_lost(incarnation)

    async def reap_all_except(self, living: Living) -> None:
        """Clear what all nodes but the living hold. Raises RtError UNAVAILABLE: not finished, call it again."""
        for namespace in self._last_first():
            await namespace.reap_all_except(living)

    async def re_register(self) -> None:
        """Store again what this node holds. Raises RtError UNAVAILABLE: not finished, call it again."""
        for namespace in self._last_first():
            await namespace.re_register()

    def _last_first(self) -> list[Namespace]:
        return list(self._built.values())[::-1]
