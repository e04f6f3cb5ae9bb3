"""The feed entries about notifications."""

from __future__ import annotations

from typing import ClassVar

from msgspec import UNSET, Raw, UnsetType

from insightdesk_rt.engine.dispatch.namespace import FeedEntry, Report, Tell
from insightdesk_rt.engine.model import named
from insightdesk_rt.helpdesk.notifications.store import UNSEEN, read_notification, read_read
from insightdesk_rt.helpdesk.pending_events import PendingEvent


class NotificationReadReport(Report, kw_only=True):
    """A user read these. A customer is named by `customerId` where ids are separate."""

    type: ClassVar[str] = "notification.read"
    userId: str = ""
    customerId: str = ""
    ids: list[str]


class NotificationUnseenReport(Report, kw_only=True):
    """A notification is unread for `notification_unseen_s`. `kind` is what the back end pushed as its `type`."""

    type: ClassVar[str] = "notification.unseen"
    userId: str = ""
    customerId: str = ""
    id: str
    kind: str
    title: str
    createdAt: str
    body: str = ""
    url: str = ""
    data: Raw | UnsetType = UNSET


NOTIFICATION_REPORTS: tuple[type[Report], ...] = (NotificationReadReport, NotificationUnseenReport)


class NotificationReports:
    """Appends feed entries about notifications that were read, or were not read in time."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    async def tell(self, *records: PendingEvent) -> None:
        """Append the feed entries of these changes in one step. Raises RtError UNAVAILABLE."""
        reports = [(record, report_of_notification(record)) for record in records]
        # A seq is the time of its change.
        await self._tell([FeedEntry(record.id, record.seq, report) for record, report in reports if report is not None])


def report_of_notification(record: PendingEvent) -> Report | None:
    """Return the feed entry of a change; None for a push, which the back end made itself."""
    who = named(record.subject)
    if record.kind == "read":
        return NotificationReadReport(userId=who.user_id, customerId=who.customer_id, ids=read_read(record).ids)
    if record.kind != UNSEEN:
        return None
    one = read_notification(record)
    return NotificationUnseenReport(
        userId=who.user_id,
        customerId=who.customer_id,
        id=one.id,
        kind=one.type,
        title=one.title,
        createdAt=one.createdAt,
        body=one.body,
        url=one.url,
        data=one.data,
    )
