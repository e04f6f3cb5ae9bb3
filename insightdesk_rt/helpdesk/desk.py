"""The helpdesk of one node: its namespaces, each with the stores it needs. Only `server` builds one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from insightdesk_rt.app.config import Settings
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.dispatch.namespace import Living, Namespace, Timers
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import Event, Offset
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.chat.store import ChatSettings, ChatStore
from insightdesk_rt.helpdesk.dashboard.namespace import Dashboard
from insightdesk_rt.helpdesk.dashboard.stats import Stats
from insightdesk_rt.helpdesk.main.namespace import Main
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.notifications.store import NotificationStore
from insightdesk_rt.helpdesk.pending_events import Recovered, always
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.helpdesk.presence.store import PresenceStore
from insightdesk_rt.helpdesk.tickets.access import load_access
from insightdesk_rt.helpdesk.tickets.namespace import Tickets
from insightdesk_rt.helpdesk.tickets.readers import ReaderStore
from insightdesk_rt.helpdesk.tickets.store import TicketStore
from insightdesk_rt.helpdesk.viewer_store import ViewerStore


class Desk(NamedTuple):
    tickets: Tickets
    chat: Chat
    notifications: Notifications
    presence: Presence
    dashboard: Dashboard
    main: Main

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        return tuple(self)

    async def recheck_access(self, namespace: str, subject: str, offset: Offset) -> None:
        """Take out who on this node may not see the ticket or conversation any more. Raises RtError UNAVAILABLE."""
        if namespace == Tickets.path:
            await self.tickets.recheck_access(subject, offset)
        elif namespace == Chat.path:
            await self.chat.recheck_access(subject, offset)

    def recheck_on_all_nodes(self, recheck: Callable[[str, str, Offset], Awaitable[None]]) -> None:
        """From now on access is looked at again on all nodes, when it changes."""
        self.tickets.recheck_on_all_nodes = lambda ticket_id, offset: recheck(Tickets.path, ticket_id, offset)
        self.chat.recheck_on_all_nodes = lambda conversation_id, offset: recheck(Chat.path, conversation_id, offset)

    @property
    def facts(self) -> frozenset[str]:
        """The names of all events that `put_down_again` takes."""
        return frozenset().union(*(namespace.facts for namespace in self))

    async def put_down_again(self, events: Sequence[Event]) -> None:
        """Keep what these acknowledged events say, in the stores of a Valkey that may have lost it.

        Raises RtError UNAVAILABLE: call it again.
        """
        for namespace in self:
            await namespace.put_down_again([event for event in events if event.namespace == namespace.path])

    def on_fenced(self, call: Callable[[str], None]) -> None:
        """From now on `call` is told of an incarnation of this node that is taken for dead."""
        self.presence.connected_users.on_fenced = self.chat.connected_users.on_fenced = call

    async def node_lost(self, incarnation: str) -> None:
        """Clear what a dead node held. Raises RtError UNAVAILABLE: not finished, call it again."""
        await self.presence.node_lost(incarnation)
        await self.chat.node_lost(incarnation)
        await self.tickets.node_lost(incarnation)

    async def reap_all_except(self, living: Living) -> None:
        """Clear what all nodes but the living hold. Raises as `node_lost`."""
        await self.presence.reap_all_except(living)
        await self.chat.reap_all_except(living)

    async def re_register(self) -> None:
        """Put down again what this node holds: Valkey forgot it, or it is held under a new incarnation now."""
        await self.presence.re_register()
        await self.chat.re_register()
        await self.tickets.re_register()


def build_desk(
    settings: Settings,
    valkey: Valkey,
    hub: Hub,
    timers: Timers,
    incarnation: Callable[[], str],
    recovered: Recovered = always,
) -> Desk:
    """`incarnation` names this node's present life; `recovered` waits until Valkey has again what it may have lost.

    Raises ValueError if the setting `access` names no check.
    """
    tickets = TicketStore(valkey)
    viewers = ViewerStore(valkey, incarnation)
    presence = PresenceStore(valkey, settings.presence_grace_ms)
    # Who is connected to the chat is another fact than who shows as online: an agent may be one without the other.
    in_chat = PresenceStore(valkey, settings.presence_grace_ms, "chatting")
    idle_ms = settings.chat_idle_timeout_s * 1000
    chats = ChatStore(
        valkey,
        in_chat,
        ChatSettings(
            waiting_timeout_ms=settings.chat_waiting_timeout_s * 1000,
            idle_warning_ms=idle_ms * 13 // 15,
            idle_timeout_ms=idle_ms,
            customer_mark=settings.user_keys.mark,
        ),
        recovered,
    )
    access = load_access(settings.access, tickets, settings)
    return Desk(
        Tickets(
            hub,
            timers,
            tickets,
            viewers,
            access,
            ReaderStore(valkey, settings.recovery_window_s * 1000 if settings.connection_recovery else 0),
            agent_access=settings.agent_access,
            typing_ms=settings.typing_ms,
            incarnation=incarnation,
        ),
        Chat(
            hub,
            timers,
            chats,
            in_chat,
            ViewerStore(valkey, incarnation, "chat"),
            incarnation,
            typing_ms=settings.typing_ms,
            keys=settings.user_keys,
        ),
        Notifications(hub, timers, NotificationStore(valkey, recovered=recovered)),
        Presence(hub, timers, presence, incarnation, settings.user_keys),
        Dashboard(hub, timers, Stats(tickets, chats, presence), settings.dashboard_interval_ms),
        Main(hub, timers),
    )
