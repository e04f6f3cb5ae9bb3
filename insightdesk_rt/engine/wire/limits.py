"""The limits of one client's packets. Each is checked where it is read; the error's `limit_name` is the setting."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated

from msgspec.structs import force_setattr

from insightdesk_rt.engine.rate_limits import or_any
from insightdesk_rt.engine.settings import BytesLimit, Count, CountLimit, Help, SettingsPart


class _All:
    def __contains__(self, event: object) -> bool:
        return True


ALL = _All()

# A ping that is sent up to this late (the wheel's step) counts from when it was due, so that deadlines are exact. After
# a longer stall of this server it counts from when it was sent, so that our stall does not time out our peers.
LATE_MS = 250


MIN_NAMESPACES = 64  # requested and joined at a time; the server refuses CONNECTs far below


class PacketLimits(SettingsPart, frozen=True):
    """The limits on the messages of one client."""

    max_payload_bytes: Annotated[BytesLimit, Help("size of one message or POST of a client; 0: no limit")] = 1_000_000
    # twice the longest token
    max_connect_bytes: Annotated[
        BytesLimit, Help("size of a CONNECT and of messages before it; 0: as max_payload_bytes")
    ] = 16_384
    max_attachments_per_packet: Annotated[CountLimit, Help("binary attachments of one packet; 0: no limit")] = (
        10  # socket.io-parser 4.2.6
    )
    # hand-written payloads nest less than ten deep
    max_json_depth: Annotated[CountLimit, Help("nesting depth of JSON; 0: as deep as Python can read")] = 64
    max_event_name_chars: Annotated[CountLimit, Help("length of an event's name; 0: no limit")] = 256
    # a refusal repeats the name
    max_namespace_chars: Annotated[CountLimit, Help("length of a namespace's name; 0: no limit")] = 128
    max_namespaces_per_connection: Annotated[Count, Help("namespaces a client may join; 0: no limit")] = 10
    # bytes of all attachments of one packet; 0: four times max_payload_bytes
    max_attachments_bytes: int = 0
    # namespaces asked for and joined at a time; 0: follows from max_namespaces_per_connection
    max_namespaces: int = 0
    # (namespace, event) pairs that take attachments; the event of an ack is "". Attachments of any other packet are
    # thrown away as they arrive: kept until the last one, they would be megabytes for a call that is refused.
    binary: Container[tuple[str, str]] = ALL

    def __post_init__(self) -> None:
        SettingsPart.__post_init__(self)
        if not self.max_attachments_bytes:
            force_setattr(self, "max_attachments_bytes", 4 * self.max_payload_bytes)
        if not self.max_namespaces:
            force_setattr(self, "max_namespaces", max(MIN_NAMESPACES, or_any(self.max_namespaces_per_connection)))
