"""The offset after which a returning client is sent the log."""

import pytest

from insightdesk_rt.engine.cluster.session_record import since


@pytest.mark.parametrize(
    ("offset", "wanted"),
    [("", "5-0"), ("7-0", "7-0"), ("10-0", "20-0"), ("15-3", "20-0"), ("20-0", "20-0"), ("25-0", "25-0")],
)
def test_only_an_offset_in_the_quiet_time_counts_as_its_end(offset: str, wanted: str) -> None:
    assert since(offset, "5-0", "10-0", "20-0") == wanted


def test_a_session_without_events_is_quiet_from_its_start() -> None:
    assert since("", "5-0", "5-0", "20-0") == "20-0"
