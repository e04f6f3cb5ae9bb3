"""The demo's page stays within the server's default limits."""

from __future__ import annotations

import pytest

from insightdesk_rt.demo.cast import FRESH_IDS, TICKETS
from insightdesk_rt.helpdesk.tickets.namespace import Tickets

LOADS = 20  # within a minute, by somebody who presents it


@pytest.mark.parametrize("event", ["ticket:subscribe", "ticket:view"])
def test_the_page_may_be_loaded_twenty_times_in_a_minute(event: str) -> None:
    """It makes each of these calls once per ticket; from the eighth load on it got "Too many ticket:view events"."""
    rate = Tickets.events[event].rate
    assert rate is not None and rate.per_s == 60
    assert LOADS * (len(TICKETS) + len(FRESH_IDS)) <= rate.max
