"""The feed entries about presence."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from insightdesk_rt.engine.dispatch.namespace import FeedEntry, Report, Tell
from insightdesk_rt.engine.model import Status, iso, named
from insightdesk_rt.engine.wire import json
from insightdesk_rt.helpdesk.pending_events import PendingEvent


class PresenceReport(Report, kw_only=True):
    """A customer is named by `customerId` where ids are separate. `lastSeen` is when an absent user was last here."""

    userId: str = ""
    customerId: str = ""
    teamId: str = ""
    status: Status
    lastSeen: str = ""


class PresenceOnlineReport(PresenceReport):
    """A user came online, with the status that the user has chosen before."""

    type: ClassVar[str] = "presence.online"


class PresenceOfflineReport(PresenceReport):
    """A user's last connection is gone, and the grace period is over."""

    type: ClassVar[str] = "presence.offline"


class PresenceStatusReport(PresenceReport):
    """A user who is online chose another status."""

    type: ClassVar[str] = "presence.status"


PRESENCE_REPORTS: tuple[type[Report], ...] = (PresenceOnlineReport, PresenceOfflineReport, PresenceStatusReport)


class PresenceTransition(msgspec.Struct, gc=False):
    """What the store recorded of a change of status. `userId` is a UserKey.

    `was` is the status before, and empty in records of earlier versions of this server.
    """

    userId: str
    status: Status
    teamId: str
    lastSeen: int
    was: str = ""


read_transition = msgspec.json.Decoder(PresenceTransition)


class PresenceReports:
    """Tells the back end of changes of presence."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    async def tell(self, record: PendingEvent) -> None:
        """Tell of one change. Raises RtError UNAVAILABLE."""
        change = json.decode(read_transition, record.data)
        await self._tell([FeedEntry(record.id, record.seq, report_of(change))])  # a seq is the time of its change


def report_of(change: PresenceTransition) -> PresenceReport:
    """Return the feed entry of a change."""
    kind: type[PresenceReport] = PresenceStatusReport
    if change.status == "offline":
        kind = PresenceOfflineReport
    elif change.was == "offline":
        kind = PresenceOnlineReport
    who = named(change.userId)
    return kind(
        userId=who.user_id,
        customerId=who.customer_id,
        teamId=change.teamId,
        status=change.status,
        lastSeen=iso(change.lastSeen) if change.status == "offline" else "",
    )
