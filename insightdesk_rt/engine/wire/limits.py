"""What one client's packets may have, each checked where it is read: `over` names the setting that was exceeded."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple


class _All:
    def __contains__(self, event: object) -> bool:
        return True


ALL = _All()

# A ping that leaves up to this late (the wheel's step) counts from when it was due, so that deadlines are exact; after
# a longer stall of this server it counts from when it left, so that our stall does not kill our peers.
LATE_MS = 250


class PacketLimits(NamedTuple):
    max_attachments: int = 10  # socket.io-parser 4.2.6
    max_attachments_bytes: int = 4_000_000  # of one packet's attachments together; four messages of the usual 1 MB
    max_namespaces: int = 64  # asked and joined at a time; the server refuses politely far below
    max_namespace: int = 128  # characters; a name is sent back in a refusal
    max_event_name: int = 256  # characters
    max_depth: int = 64  # of JSON: nobody nests by hand deeper than ten
    max_connect: int = 16_384  # bytes of a CONNECT, and of what comes before one was accepted; twice the longest token
    # (namespace, event) of those that take attachments; the event of an ack is "". What comes with any other packet is
    # thrown away as it comes: kept until the last of them, it would be megabytes for a call that is refused.
    binary: Container[tuple[str, str]] = ALL
