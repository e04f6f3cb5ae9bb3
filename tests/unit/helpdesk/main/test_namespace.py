"""The main namespace has no events; tests/scenarios/test_main_namespace.py tests it with real clients."""

from __future__ import annotations

from insightdesk_rt.engine.dispatch.namespace import EVERYBODY
from insightdesk_rt.helpdesk.main.namespace import Main


def test_the_main_namespace_has_no_events_and_lets_every_role_in() -> None:
    assert Main.path == "/"
    assert Main.events == {} and Main.plain == () and Main.tickers == ()
    assert Main.allow == EVERYBODY
