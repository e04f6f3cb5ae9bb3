"""Floor 4: what InsightDesk does. A namespace is a door to the outside; it is opened by a line here."""

from collections.abc import Collection, Iterator

from insightdesk_rt.engine.dispatch.expiry import EXPIRING
from insightdesk_rt.engine.dispatch.namespace import Namespace, Outbound
from insightdesk_rt.engine.ids import EVENT_NAME, RESERVED_EVENTS
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.dashboard.namespace import Dashboard
from insightdesk_rt.helpdesk.main.namespace import Main
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.helpdesk.tickets.namespace import Tickets

NAMESPACES: tuple[type[Namespace], ...] = (Tickets, Chat, Notifications, Presence, Dashboard, Main)
PATHS: tuple[str, ...] = tuple(namespace.path for namespace in NAMESPACES)


def refuse_namespace(namespace: str, paths: Collection[str] = PATHS) -> str:
    """Return why nobody may publish into a namespace, or "". One answer for `POST /emit` and the emitter."""
    return "" if namespace in paths else "There is no such namespace"


def refuse_event(name: str) -> str:
    """Return why nobody may publish an event of this name, or ""."""
    if name in RESERVED_EVENTS:
        return "Clients keep this name for themselves"
    return "" if EVENT_NAME.fits(name) else f"Expected text {EVENT_NAME.words}"


def sent_events() -> frozenset[str]:
    """Return the name of every event that the server itself sends, in any namespace: what metrics may name."""
    plain = {name for namespace in NAMESPACES for name in namespace.plain}
    return frozenset({"error", "resync", EXPIRING, *plain, *(each.event for each in _outbounds(Outbound))} - {""})


def _outbounds(base: type[Outbound]) -> Iterator[type[Outbound]]:
    for each in base.__subclasses__():
        yield each
        yield from _outbounds(each)
