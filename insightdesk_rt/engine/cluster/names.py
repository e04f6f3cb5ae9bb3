"""Names of the engine's keys and channels in Valkey. Pure; nodes and emitters use the same."""

from __future__ import annotations


class Names:
    """All names begin with the prefix. Channels too, because Valkey's databases share their channels."""

    __slots__ = ("all_nodes", "floors", "prefix", "tops")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.tops = f"{prefix}:tops"  # hash: namespace → last id of its log; "@" → epoch
        self.floors = f"{prefix}:floors"  # hash: namespace → offset below which events may be lost for good
        self.all_nodes = f"{prefix}:nodes:all"  # channel

    def log(self, namespace: str) -> str:
        return f"{self.prefix}:log:{namespace}"

    def event(self, event_id: str) -> str:
        """The offset of an event, kept for two minutes so that a publisher may retry. String."""
        return f"{self.prefix}:id:{event_id}"

    def ids(self, namespace: str, room: str) -> str:
        """The offsets of a room's events: list, newest first, at most 1000, kept for an hour after the last."""
        return f"{self.prefix}:ids:{namespace}:{room}"

    def channel(self, namespace: str, room: str) -> str:
        return f"{self.prefix}:room:{namespace}:{room}"

    def session(self, pid: str) -> str:
        """The record of one session. Hash."""
        return f"{self.prefix}:session:{pid}"

    def sessions(self, incarnation: str) -> str:
        """The pids of all sessions that a node holds. Set."""
        return f"{self.prefix}:sessions:{incarnation}"

    def node(self, address: str) -> str:
        """The channel of one node."""
        return f"{self.prefix}:node:{address}"
