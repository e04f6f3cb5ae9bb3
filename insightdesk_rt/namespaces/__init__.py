"""Floor 4: what InsightDesk does. A namespace is a door to the outside; it is opened by a line here."""

from insightdesk_rt.namespaces.base import Namespace
from insightdesk_rt.namespaces.chat import Chat
from insightdesk_rt.namespaces.dashboard import Dashboard
from insightdesk_rt.namespaces.notifications import Notifications
from insightdesk_rt.namespaces.presence import Presence
from insightdesk_rt.namespaces.tickets import Tickets

NAMESPACES: tuple[type[Namespace], ...] = (Tickets, Chat, Notifications, Presence, Dashboard)
PATHS: tuple[str, ...] = tuple(namespace.path for namespace in NAMESPACES)
