"""Intake: limits of unfinished messages per user and per node; the client that holds most is closed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.transport.intake import NODE, USER, Intake, IntakeExcess


def client(user: str = "", address: str = "192.0.2.1") -> Any:
    """Create a client with the parts that `Intake` reads."""
    sockets = {"/tickets": SimpleNamespace(user=SimpleNamespace(key=user))} if user else {}
    return _Client(sockets, address)


class _Client:
    def __init__(self, sockets: dict[str, Any], address: str) -> None:
        self.sockets, self.address = sockets, address


def test_all_connections_of_a_user_share_one_limit() -> None:
    intake = Intake(100, 1_000)
    one, two, other = client("ann"), client("ann"), client("bob")
    assert intake.hold(one, 60) is None and intake.hold(other, 100) is None
    assert intake.hold(two, 41) == IntakeExcess(one, USER), "the client that holds most"
    assert intake.hold(two, 40) is None, "its former bytes are not counted twice"
    intake.forget(one)
    assert intake.hold(two, 100) is None and intake.total == 200


def test_a_client_without_a_user_counts_for_its_address() -> None:
    intake = Intake(100, 1_000)
    assert intake.hold(client(), 60) is None
    assert intake.hold(client(address="192.0.2.2"), 60) is None
    assert (excess := intake.hold(client(), 41)) is not None and excess.limit_name == USER


def test_the_client_that_fills_an_addresss_limit_is_closed_and_not_the_next() -> None:
    """Many people may share an address, and behind an untrusted proxy all do. None has sent a token yet."""
    intake = Intake(100, 1_000)
    slow = [client() for _ in range(3)]
    for each in slow:
        assert intake.hold(each, 33) is None
    assert intake.hold(client(), 2) == IntakeExcess(slow[0], USER)


def test_addresses_of_one_ipv6_network_share_a_limit() -> None:
    """A customer has 2^64 of them. If each had its own limit, the node's limit would affect others."""
    intake = Intake(100, 1_000)
    assert intake.hold(client(address="2001:db8:0:1::1"), 60) is None
    assert intake.hold(client(address="2001:db8:0:2::1"), 60) is None
    assert (excess := intake.hold(client(address="2001:db8:0:1::2"), 50)) is not None and excess.limit_name == USER


def test_at_the_nodes_limit_the_client_that_holds_most_is_closed() -> None:
    """Otherwise a few clients could get all others closed."""
    intake = Intake(100, 150)
    big, bigger, last = client("greedy"), client("greedy"), client("last")
    intake.hold(big, 40)
    intake.hold(bigger, 60)
    assert intake.hold(last, 51) == IntakeExcess(bigger, NODE)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), max_size=60))
def test_the_sums_match_the_held_bytes(steps: list[tuple[int, int]]) -> None:
    intake = Intake(10_000, 10_000)
    clients = [client("ab"[number % 2]) for number in range(6)]
    held: dict[int, int] = {}
    for number, size in steps:
        intake.hold(clients[number], size)
        held[number] = size
    assert intake.total == sum(held.values()) == sum(intake._of_user.values())
    for each in clients:
        intake.forget(each)
        intake.forget(each)
    assert intake.total == 0 and not intake._of_user and not intake._held
