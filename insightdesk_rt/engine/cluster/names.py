"""Names of keys and channels in Valkey. Each belongs to one partition. Pure; nodes and emitters use the same.

    {insightdesk/tickets}:log                 one partition per namespace: its log, and the facts of its feature
    {insightdesk}:nodes                       the cluster's own: leases, places, rules, audit, console
    {insightdesk:sessions-7}:session:n1.x     sessions, divided among 16 partitions by their pid
    {insightdesk:feed}:feed-log               what the helpdesk's back end is told, of all namespaces

The text in braces is a hash tag: a Valkey Cluster keeps all keys with one tag in one slot, on one primary. So a script
or transaction may use keys of one partition only. Work on two partitions is two steps. The first stores the fact, with
a record of what is still to be done; the second is idempotent. On a single server the braces mean nothing.
"""

from __future__ import annotations

import zlib
from typing import NewType

Key = NewType("Key", str)

SESSION_PARTITIONS = 16  # enough to divide sessions evenly among a handful of primaries; constant, or records get lost


class Partition:
    """The keys and channels with one hash tag. Only `key` and the properties here make names."""

    __slots__ = ("_ids", "_rooms", "_start", "log", "log_bytes", "log_marks", "log_state", "monitor", "tag")

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self._start = f"{{{tag}}}:"
        self._ids = f"{self._start}ids:"
        self._rooms = f"{self._start}room:"
        self.log = self.key("log")  # stream
        # hash: top, the last id of the log; floor, the offset below which events may be lost for good; epoch, lost
        # with all other data; fork, when all clients of the namespace were last told to reload
        self.log_state = self.key("log-state")
        self.log_bytes = self.key("log-bytes")  # bytes since the last mark
        self.log_marks = self.key("log-marks")  # list: ids that divide the log into parts of equal size

        # channel: in a cluster, what admins who watch events subscribe to; lua/append.lua builds the same name
        self.monitor = self.log + ":monitor"

    def __repr__(self) -> str:
        return f"Partition({self.tag!r})"

    def key(self, *parts: str) -> Key:
        return Key(self._start + ":".join(parts))

    def event(self, event_id: str) -> Key:
        """The offset of an event, kept for two minutes so that a publisher may retry. String."""
        return Key(f"{self._start}id:{event_id}")

    def ids(self, room: str) -> Key:
        """The offsets of a room's events: list, newest first, at most 1000, kept for an hour after the last."""
        return Key(self._ids + room)

    def channel(self, room: str) -> str:
        """The channel of a room."""
        return self._rooms + room

    def node(self, address: str) -> str:
        """A channel of one node, on the server that has this partition."""
        return f"{self._start}node:{address}"

    def session(self, pid: str) -> Key:
        """The record of one session. Hash."""
        return Key(f"{self._start}session:{pid}")

    def sessions(self, incarnation: str) -> Key:
        """The pids of the sessions in this partition that a node holds. Set."""
        return Key(f"{self._start}sessions:{incarnation}")


class Names:
    """The partitions of one environment. All tags begin with its prefix, which has no braces, slashes or colons."""

    __slots__ = ("_namespaces", "all_nodes", "cluster", "feed", "prefix", "sessions")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.cluster = Partition(prefix)
        self.feed = Partition(f"{prefix}:feed")
        self.all_nodes = self.cluster.key("nodes", "all")  # channel
        self.sessions = tuple(Partition(f"{prefix}:sessions-{number}") for number in range(SESSION_PARTITIONS))
        self._namespaces: dict[str, Partition] = {}

    def namespace(self, path: str) -> Partition:
        """The partition of a namespace: its log, and the facts of its feature. hot: once per appended event."""
        partition = self._namespaces.get(path)
        if partition is None:
            partition = self._namespaces[path] = Partition(self.prefix + path)
        return partition

    def session(self, pid: str) -> Partition:
        """The partition of one session. The hash is stable: all nodes and versions must agree."""
        return self.sessions[zlib.crc32(pid.encode("utf-8", "replace")) % SESSION_PARTITIONS]
