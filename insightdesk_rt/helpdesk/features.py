"""The table of the helpdesk's features. A feature is one folder beside this file and one line in `FEATURES`.

Each feature opens a namespace to clients, so the line that adds one is reviewed.
"""

from collections.abc import Collection, Iterator

from insightdesk_rt.engine.dispatch.expiry import EXPIRING
from insightdesk_rt.engine.dispatch.namespace import Namespace, Outbound
from insightdesk_rt.engine.ids import EVENT_NAME
from insightdesk_rt.engine.wire.codec import RESERVED_EVENT, RESERVED_EVENTS
from insightdesk_rt.helpdesk.chat.namespace import Chat
from insightdesk_rt.helpdesk.dashboard.namespace import Dashboard
from insightdesk_rt.helpdesk.main.namespace import Main
from insightdesk_rt.helpdesk.notifications.namespace import Notifications
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.helpdesk.tickets.namespace import Tickets

FEATURES: tuple[type[Namespace], ...] = (Tickets, Chat, Notifications, Presence, Dashboard, Main)
PATHS: tuple[str, ...] = tuple(feature.path for feature in FEATURES)
# Names of the logged events that carry facts which only this server stores: for `put_down_again`.
FACTS: frozenset[str] = frozenset().union(*(feature.facts for feature in FEATURES))


def refuse_namespace(namespace: str, paths: Collection[str] = PATHS) -> str:
    """Return why a namespace cannot be published into, or "". Used by `POST /emit` and by the emitter."""
    return "" if namespace in paths else "There is no such namespace"


def refuse_event(name: str) -> str:
    """Return why an event of this name cannot be published, or ""."""
    if name in RESERVED_EVENTS:
        return RESERVED_EVENT
    return "" if EVENT_NAME.fits(name) else f"Expected text {EVENT_NAME.description}"


def sent_events() -> frozenset[str]:
    """Return the names of all events that the server itself sends: metrics may use these as labels."""
    plain = {name for feature in FEATURES for name in feature.plain}
    return frozenset({"error", "resync", EXPIRING, *plain, *(each.event for each in _outbounds(Outbound))} - {""})


def binary_events() -> frozenset[tuple[str, str]]:
    """Return namespace and name of the events that take attachments."""
    return frozenset((one.path, spec.name) for one in FEATURES for spec in one.events.values() if spec.binary)


def _outbounds(base: type[Outbound]) -> Iterator[type[Outbound]]:
    for each in base.__subclasses__():
        yield each
        yield from _outbounds(each)
