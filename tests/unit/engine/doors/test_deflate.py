"""Offers of permessage-deflate: which are accepted, and the answer (RFC 7692 7.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.doors.deflate import NAME, Parameters, agreed

KEPT: list[tuple[str, Parameters]] = [
    ("permessage-deflate", {}),
    ("permessage-deflate; client_max_window_bits", {}),
    ("Permessage-Deflate;client_max_window_bits=12", {"client_max_window_bits": "12"}),
    ("permessage-deflate; client_max_window_bits=8", {}),
    ("permessage-deflate; server_max_window_bits=9", {"server_max_window_bits": "9"}),
    ('permessage-deflate; server_max_window_bits="10"', {"server_max_window_bits": "10"}),
    ("permessage-deflate; server_no_context_takeover", {"server_no_context_takeover": None}),
    ("permessage-deflate; CLIENT_no_context_takeover", {"client_no_context_takeover": None}),
    ("permessage-deflate; server_max_window_bits=8, permessage-deflate", {}),
    ("x-webkit-deflate-frame, permessage-deflate; unknown, permessage-deflate; client_max_window_bits", {}),
]
DECLINED = [
    "",
    "permessage-bzip2",
    "permessage-deflate; server_max_window_bits=8",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=015",
    "permessage-deflate; server_max_window_bits=x",
    "permessage-deflate; server_max_window_bits=-9",
    "permessage-deflate; client_max_window_bits=99",
    "permessage-deflate; client_max_window_bits=",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; unknown",
    "permessage-deflate;",
    "permessage-deflate; =15",
    'permessage-deflate; server_max_window_bits="15',
    "permessage-deflate; \xb2",
]


@pytest.mark.parametrize(("header", "answer"), KEPT)
def test_the_first_acceptable_offer_is_answered_with_its_parameters(header: str, answer: Parameters) -> None:
    assert agreed(header) == answer


@pytest.mark.parametrize("header", DECLINED)
def test_an_unacceptable_offer_is_declined(header: str) -> None:
    assert agreed(header) is None


@given(st.lists(st.sampled_from([NAME, ";", ",", "=", '"', " ", "server_max_window_bits", "8", "15", "\u0662", "é"])))
def test_no_offer_raises(parts: list[str]) -> None:
    agreed("".join(parts))
