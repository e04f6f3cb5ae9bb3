"""The table of the interfaces to the back end. A part is one file or folder, and one line here."""

from insightdesk_rt.backend.feed.routes import BackendFeed
from insightdesk_rt.backend.hooks.part import Hooks
from insightdesk_rt.backend.part import BackendPart
from insightdesk_rt.backend.push.access import AccessRecheck
from insightdesk_rt.backend.push.batch import BatchPush
from insightdesk_rt.backend.push.emit import EmitPush
from insightdesk_rt.backend.push.notifications import NotificationPush
from insightdesk_rt.backend.push.rooms import RoomChanges
from insightdesk_rt.backend.push.tickets import TicketPush
from insightdesk_rt.backend.push.user_data import UserData
from insightdesk_rt.backend.webhooks.webhooks import Webhooks

PARTS: tuple[type[BackendPart], ...] = (
    AccessRecheck,
    BatchPush,
    TicketPush,
    NotificationPush,
    EmitPush,
    RoomChanges,
    UserData,
    BackendFeed,
    Webhooks,
    Hooks,
)
