"""At most one log line per kind and minute, with the number of lines that were left out before."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from insightdesk_rt.engine.seldom import Seldom


class Clock:
    now_s = 0.0


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    found = [(record.why, getattr(record, "others", 0)) for record in caplog.records]  # type: ignore[attr-defined]
    caplog.clear()
    return found


def test_a_kind_is_logged_once_a_minute_with_the_number_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    seldom = Seldom(logging.getLogger("test"), now_s=lambda: clock.now_s)
    for second in range(60):
        clock.now_s = float(second)
        seldom.say(logging.INFO, "refused", "a", why="a")
    seldom.say(logging.INFO, "refused", "b", why="b")
    assert lines(caplog) == [("a", 0), ("b", 0)]
    clock.now_s = 60.0
    seldom.say(logging.INFO, "refused", "a", why="a")
    assert lines(caplog) == [("a", 59)]


def test_the_number_of_kinds_is_bounded_and_further_kinds_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    seldom = Seldom(logging.getLogger("test"), max_kinds=3, now_s=lambda: clock.now_s)
    for number in range(1_000):
        seldom.say(logging.INFO, "refused", f"kind {number}", why=str(number))
    assert lines(caplog) == [("0", 0), ("1", 0), ("2", 0), ("3", 0)]
    clock.now_s = 61.0
    seldom.say(logging.INFO, "refused", "another", why="another")
    assert lines(caplog) == [("another", 996)]
