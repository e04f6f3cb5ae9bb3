"""The limits of one client's packets. Each is checked where it is read; the error's `limit_name` is the setting."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple


class _All:
    def __contains__(self, event: object) -> bool:
        return True


ALL = _All()

# A ping that leaves up to this late (the wheel's step) counts from when it was due, so that deadlines are exact. After
# a longer stall of this server it counts from when it left, so that our stall does not time out our peers.
LATE_MS = 250


class PacketLimits(NamedTuple):
    max_attachments: int = 10  # socket.io-parser 4.2.6
    max_attachments_bytes: int = 4_000_000  # all attachments of one packet; four messages of the usual 1 MB
    max_namespaces: int = 64  # requested and joined at a time; the server refuses CONNECTs far below
    max_namespace: int = 128  # characters; a refusal repeats the name
    max_event_name: int = 256  # characters
    max_depth: int = 64  # of JSON; hand-written payloads nest less than ten deep
    max_connect: int = 16_384  # bytes of a CONNECT and of all before the first is accepted; twice the longest token
    # (namespace, event) pairs that take attachments; the event of an ack is "". Attachments of any other packet are
    # thrown away as they arrive: kept until the last one, they would be megabytes for a call that is refused.
    binary: Container[tuple[str, str]] = ALL
