"""The whole helpdesk of one node over a real Valkey: all namespaces, a log in memory, and people who call events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import valkey

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.dispatch import first_rooms
from insightdesk_rt.engine.dispatch.features import Features
from insightdesk_rt.engine.dispatch.namespace import Context, EventSpec, FeedEntry, Namespace, Tell, tell_nobody
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, User
from insightdesk_rt.engine.settings import FeatureSettings
from insightdesk_rt.engine.wire.json import BadJson, decode
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.features import FEATURES, PATHS
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.pending_events import PendingEvents, always
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from tests.support import fakes

ANNA, BERT = fakes.user("anna", team="t1"), fakes.user("bert", team="t1")
CARL, ROOT = fakes.user("carl", "customer"), fakes.user("root", "admin")


def copied(store: Valkey) -> dict[bytes, bytes]:
    """Return what Valkey has now, to be put back by `lose`: as a replica that lags, or a file of a second ago."""
    with valkey.Valkey.from_url(store.url) as client:
        return {key: client.dump(key) for key in client.keys(f"{{{store.prefix}*")}  # type: ignore[misc]


def lose(store: Valkey, copy: dict[bytes, bytes]) -> None:
    """Have Valkey forget what it was told since the copy was made."""
    with valkey.Valkey.from_url(store.url) as client:
        for key in client.keys(f"{{{store.prefix}*"):  # type: ignore[union-attr]
            client.delete(key)
        for key, value in copy.items():
            client.restore(key, 0, value)


class Desk(Features):
    """The features of a node that is the only one."""

    def __init__(self, context: Context) -> None:
        super().__init__(FEATURES, context)
        self.tickets, self.chat = self.of(Tickets), self.of(Chat)
        self.notifications, self.presence = self.of(Notifications), self.of(Presence)


def a_desk(
    store: Valkey,
    hub: Hub,
    name: str,
    recovered: Callable[[str], Awaitable[None]] = lambda path: always(),
    tell: Tell = tell_nobody,
) -> Desk:
    class OwnCalls:
        async def recheck_on_all_nodes(self, namespace: str, subject: str, offset: Offset) -> None:
            await desk.recheck_access(namespace, subject, offset)

    context = Context(
        hub,
        fakes.Clock(),
        store,
        OwnCalls(),  # type: ignore[arg-type]
        lambda: name,
        lambda incarnation: None,
        recovered,
        lambda: int(time.time() * 1000),
        FeatureSettings(),
        tell,
    )
    desk = Desk(context)
    return desk


class WholeDesk:
    def __init__(self, store: Valkey) -> None:
        self.valkey = store
        self.log = fakes.OneNode()
        self.hub = Hub(self.log, PATHS)
        self.told: list[FeedEntry] = []  # what the back end was told
        self.desk = a_desk(store, self.hub, "n1", tell=self._tell)
        self.events: dict[str, tuple[Namespace, EventSpec]] = {
            spec.name: (namespace, spec) for namespace in self.desk for spec in namespace.events.values()
        }
        self._sockets: dict[tuple[str, str], Socket] = {}

    async def socket(self, path: str, user: User) -> Socket:
        """Return the user's socket in the namespace; the first time it connects."""
        socket = self._sockets.get((path, user.id))
        if socket is None:
            socket = self._sockets[path, user.id] = fakes.socket(path, user)
            self.hub.add(socket)
            await self.hub.enter(socket, first_rooms(user))
            namespace = next(one for one in self.desk if one.path == path)
            await namespace.joined(socket)
        return socket

    async def ask(self, user: User, name: str, **payload: Any) -> Any:
        """Call an event as dispatch would, rate limits apart. Returns plain values; raises RtError."""
        namespace, spec = self.events[name]
        socket = await self.socket(namespace.path, user)
        if user.role not in spec.allow:
            raise RtError("FORBIDDEN")
        try:
            wanted = decode(msgspec.json.Decoder(spec.payload), json.dumps(payload))
        except BadJson as bad:
            raise RtError("BAD_REQUEST", bad.why, field=bad.field) from None
        answer = getattr(namespace, spec.method)(socket, wanted)
        return msgspec.to_builtins(await answer if spec.waits else answer)

    async def _tell(self, entries: Sequence[FeedEntry]) -> None:
        """Keep each entry once, as the feed does."""
        known = {one.id for one in self.told}
        self.told += [one for one in entries if one.id not in known]

    def copy(self) -> dict[bytes, bytes]:
        return copied(self.valkey)

    def lose(self, copy: dict[bytes, bytes]) -> None:
        """Have Valkey forget what it was told since the copy was made. The log, which is in memory, keeps it."""
        lose(self.valkey, copy)

    async def idle(self) -> None:
        """Wait for what runs beside."""
        while running := [namespace._tasks for namespace in self.desk if namespace._tasks]:
            await asyncio.gather(*(tasks.wait() for tasks in running))

    async def owed(self) -> list[str]:
        """Return the kinds of all changes that are stored and not in the log yet."""
        await self.idle()
        found = []
        stores = {"ticket": "/tickets", "chat": "/chat", "notification": "/notifications", "presence": "/presence"}
        for name, path in {**stores, "chatting": "/chat"}.items():
            found += await PendingEvents(self.valkey, self.valkey.names.namespace(path), name).overdue(age_ms=-1_000)
        return [change.kind for change in found]


@asynccontextmanager
async def a_whole_desk(url: str, prefix: str) -> AsyncIterator[WholeDesk]:
    store = Valkey(url, prefix)
    await store.start()
    whole = WholeDesk(store)
    try:
        yield whole
        await whole.idle()
        whole.hub.check()
    finally:
        for namespace in whole.desk:
            await namespace.close()
        await store.close()
