"""engine/doors/makers.py: which clients are sent recovery offsets, judged by their handshake."""

from __future__ import annotations

import time

import pytest

from insightdesk_rt.engine.doors.makers import uses_recovery

JS = "EIO=4&transport=polling&t=OkV9"


@pytest.mark.parametrize(
    "agent",
    [
        "Python/3.11 aiohttp/3.14.5",
        "Python/3.12 websockets/17.4",
        "python-requests/2.34.2",
        "Dart/3.8 (dart:io)",
        "Go-http-client/1.1",
        "Ruby",
        "PHP/8.4",
        "elephant.io",
    ],
)
def test_libraries_without_recovery_are_recognised_by_their_user_agent(agent: str) -> None:
    assert not uses_recovery(agent, JS)


@pytest.mark.parametrize(
    "agent", ["", "Mozilla/5.0 (compatible; Python)", "node-XMLHttpRequest", "okhttp/4", "curl/8.1"]
)
def test_all_other_clients_are_assumed_to_use_recovery(agent: str) -> None:
    assert uses_recovery(agent, JS)
    assert uses_recovery(agent, "EIO=4&transport=websocket")


@pytest.mark.parametrize(
    ("query", "uses"),
    [
        ("transport=websocket&EIO=4", False),
        ("transport=polling&EIO=4&t=1764525123.25", False),
        ("tenant=a&transport=websocket&EIO=4", False),
        ("EIO=4&transport=websocket", True),
        ("transport=websocket&EIO=40", True),
        ("mytransport=websocket&EIO=4", True),
        ("", True),
    ],
)
def test_python_engineio_is_recognised_by_the_order_of_its_query(query: str, uses: bool) -> None:
    """Its websocket-client library sends no User-Agent."""
    assert uses_recovery("", query) is uses


def test_a_hostile_query_costs_linear_time() -> None:
    start = time.process_time()
    assert uses_recovery("", "transport=polling&" * 100_000)
    assert time.process_time() - start < 1
