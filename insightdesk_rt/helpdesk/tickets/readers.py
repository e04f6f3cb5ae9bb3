"""The staff connected to /tickets on any node. The host's own check runs for each of them before events are published.

Only used with a host's check (`access`); our own rules need only the rooms that a user is in. A user who left counts
for as long as a session may be resumed, so that events in the meantime are replayed to them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from insightdesk_rt.engine.cluster.names import Partition
from insightdesk_rt.engine.cluster.valkey import Valkey, load_script
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.wire import json

PACKAGE = "insightdesk_rt.helpdesk.tickets"

NOTE_EVERY_MS = 60_000
NOTE, LIST = load_script(PACKAGE, "readers_note"), load_script(PACKAGE, "readers_list")

_read_user = msgspec.json.Decoder(User)


class ReaderStore:
    """`window_ms`: how long after its end a session may be resumed. All methods raise RtError UNAVAILABLE."""

    def __init__(self, valkey: Valkey, partition: Partition, window_ms: int = 120_000) -> None:
        self._valkey = valkey
        self._key = partition.key("ticket-readers")
        self._keep_ms = window_ms + 2 * NOTE_EVERY_MS  # the last note of a user may be one turn old, and one turn late

    async def note(self, users: Iterable[User]) -> None:
        """Store that these users are connected. Call it before a user is let in, and every NOTE_EVERY_MS for all."""
        texts = {json.encode_struct(_without_token(user)) for user in users if user.is_staff}
        if texts:
            await self._valkey.call(NOTE, [self._key], [self._keep_ms, *sorted(texts)])

    async def all(self) -> Collection[User]:
        """Return users who are connected or may resume a session. A user with different tokens occurs several times."""
        return [json.decode(_read_user, text) for text in await self._valkey.call(LIST, [self._key], [self._keep_ms])]

    async def forget(self, key: str) -> None:
        """Remove a user from those who are connected. Raises RtError UNAVAILABLE."""
        texts = [text for text in await self._valkey.command("ZRANGE", self._key, 0, -1) if _is_of(text, key)]
        if texts:
            await self._valkey.command("ZREM", self._key, *texts)


def _is_of(text: str, key: str) -> bool:
    return json.decode(_read_user, text).key == key


def _without_token(user: User) -> User:
    """Return the user without what differs per token, so that the check is asked once per user, not per token."""
    return msgspec.structs.replace(user, session_id="", expires_s=0, issued_s=0, rooms=None, data="")
