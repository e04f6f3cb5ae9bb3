"""Shared limits are pure values: a test runs several nodes and minutes of their exchange on a clock of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.engine.rate_limits import Rate, Window
from insightdesk_rt.engine.shared_limits import (
    EXCHANGE_MS,
    IDLE,
    LOST_MS,
    MAX_REPORT_BYTES,
    MAX_USES,
    RateShares,
    SharedCap,
    SharedLimits,
    SharedWindows,
    Use,
    first_parts,
)

STEP_MS = 10
Demand = Callable[[int, int], int]  # (number of a node, now_ms) → calls in this step


class Node:
    """One node with the windows of one user, and the times of the calls that it allowed."""

    def __init__(self, name: str, rate: Rate, nodes: int, phase_ms: int = 0) -> None:
        self.limits = SharedLimits(name)
        self.limits.nodes = nodes
        self.phase_ms = phase_ms  # of its exchanges
        self.allowed: list[int] = []
        self.reports = 0
        self._windows: dict[str, Window] = {}
        self._rate = rate
        self._shares = RateShares(self.limits, "calls", lambda subject, name: self._windows.get(subject))

    def take(self, now_ms: int, user: str = "ann") -> int:
        if user not in self._windows:
            self._windows[user] = self._shares.window(self._rate, user, "say")
        wait_ms = self._windows[user].take(now_ms)
        if not wait_ms:
            self.allowed.append(now_ms)
        return wait_ms

    def take_more(self, more: int, now_ms: int) -> int:
        return self._windows["ann"].take_more(more, now_ms)

    def overruled(self) -> None:
        """Another rate was set: all windows of the event begin again."""
        self._windows.clear()
        self._shares.forget("say")


class World:
    """Nodes that exchange their reports with a delay, on one clock."""

    def __init__(self, rate: Rate, phases_ms: Sequence[int], delay_ms: int = 20) -> None:
        self.nodes = [Node(f"n{number}", rate, len(phases_ms), phase) for number, phase in enumerate(phases_ms)]
        self.connected = True
        self._delay_ms = delay_ms
        self._mail: list[tuple[int, str, dict[str, list[Use]]]] = []
        self.now_ms = 0

    def run(self, for_ms: int, demand: Demand) -> None:
        end_ms = self.now_ms + for_ms
        while self.now_ms < end_ms:
            while self._mail and self._mail[0][0] <= self.now_ms:
                _, sender, heard = self._mail.pop(0)
                for node in self.nodes:
                    node.limits.hear(sender, heard, self.now_ms)
            for number, node in enumerate(self.nodes):
                if self.now_ms % EXCHANGE_MS == node.phase_ms // STEP_MS * STEP_MS:
                    report = node.limits.report(self.now_ms)
                    if report is not None and self.connected:
                        node.reports += 1
                        self._mail.append((self.now_ms + self._delay_ms, node.limits.address, report))
                for _ in range(demand(number, self.now_ms)):
                    node.take(self.now_ms)
            self.now_ms += STEP_MS

    def allowed(self, since_ms: int = 0, until_ms: int = 10**9) -> int:
        return sum(since_ms <= at < until_ms for node in self.nodes for at in node.allowed)


def each(per_second: float, seed: int = 1) -> Demand:
    """Every node is called this often, at random times."""
    rng, per_step = random.Random(seed), per_second * STEP_MS / 1000
    return lambda node, now_ms: int(per_step) + (rng.random() < per_step % 1)


# ── rates ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("nodes", [1, 2, 4, 10])
def test_a_user_on_one_node_of_a_cluster_may_use_the_whole_limit(nodes: int) -> None:
    world = World(Rate(100, 10), range(0, nodes * 90, 90))
    world.run(30_000, lambda node, now_ms: 3 if node == 0 else 0)
    assert [world.allowed(at, at + 10_000) for at in (0, 10_000, 20_000)] == [100, 100, 100]


def test_below_a_part_of_the_limit_nothing_is_reported() -> None:
    """`nodes` such parts are less than the limit."""
    world = World(Rate(100, 10), (0, 300, 600, 900))
    world.run(30_000, lambda node, now_ms: now_ms % 500 == 0)
    assert world.allowed() == 4 * 60
    assert [node.reports for node in world.nodes] == [0, 0, 0, 0]


@pytest.mark.parametrize("per_second", [4, 15, 100])
def test_a_user_spread_over_four_nodes_is_held_to_the_limit_of_one(per_second: float) -> None:
    world = World(Rate(100, 10), (0, 250, 430, 910))
    world.run(100_000, each(per_second))
    assert 90 * 6 <= world.allowed(40_000, 100_000) <= 110 * 6


def test_the_first_second_lets_through_the_limit_of_each_node_and_the_average_holds() -> None:
    world = World(Rate(100, 10), (250, 500, 750))
    world.run(56_000, each(300))
    assert 200 < world.allowed(0, 1_000) <= 300
    assert world.allowed(1_000, 20_000) == 0, "the window is longer"
    assert world.allowed() <= 1.1 * 560


def test_a_window_of_a_second_is_divided_from_its_beginning() -> None:
    """No report arrives within such a window, so each node takes its part of the limit at once."""
    world = World(Rate(10, 1), (0, 250, 500, 750))
    world.run(30_000, each(100))
    assert 90 <= world.allowed(20_000, 30_000) <= 110


def test_a_node_that_is_used_more_than_the_others_gets_more() -> None:
    world = World(Rate(100, 10), (0, 300, 600, 900))
    spread = random.Random(3)
    world.run(60_000, lambda node, now_ms: 1 if node == 0 else spread.random() < 0.01)
    assert 90 * 4 <= world.allowed(20_000, 60_000) <= 110 * 4


@pytest.mark.parametrize("per_second", [2, 4, 50])
def test_a_bucket_keeps_its_average_over_all_nodes(per_second: float) -> None:
    """`chat:message`: 5 a second, 30 at once. The nodes of the first row each stay below the rate."""
    world = World(Rate(5, 1, burst=30), (0, 250, 500, 750))
    world.run(120_000, each(per_second))
    assert 0.9 * 300 <= world.allowed(60_000, 120_000) <= 1.1 * 300


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 999), min_size=2, max_size=5),
    st.sampled_from([Rate(5, 10), Rate(20, 10), Rate(100, 10), Rate(30, 2), Rate(10, 1)]),
    st.lists(st.sampled_from([0.0, 0.5, 3.0, 20.0, 100.0]), min_size=5, max_size=5),
    st.sampled_from([0, 20, 90]),
    st.integers(0, 2**16),
)
def test_after_the_first_second_no_interleaving_lets_through_a_tenth_more_than_the_limit(
    phases_ms: list[int], rate: Rate, per_second: list[float], delay_ms: int, seed: int
) -> None:
    """Nodes exchange at any phase, and are used unequally. The first second may let `nodes` times the limit through."""
    world, rng, windows = World(rate, phases_ms, delay_ms), random.Random(seed), 8
    world.run(windows * rate.per_s * 1000, lambda node, now_ms: rng.random() < per_second[node] * STEP_MS / 1000)
    first = (len(phases_ms) - 1) * rate.max
    assert world.allowed() <= first + windows * rate.max * 1.1 + len(phases_ms)


def test_a_node_that_dies_frees_its_share() -> None:
    world = World(Rate(100, 30), (0, 500))
    world.run(3_000, lambda node, now_ms: 1 if node == 1 and world.allowed() < 80 else 0)
    here, dead = world.nodes
    world.nodes = [here]  # the other one is silent from here on
    world.run(2_000, lambda node, now_ms: 2)
    assert len(here.allowed) <= 20
    world.run(LOST_MS + EXCHANGE_MS, lambda node, now_ms: 2)
    assert len(here.allowed) == 100 and len(dead.allowed) == 80


def test_without_reports_each_node_counts_alone_and_with_them_together_again() -> None:
    """Valkey is unreachable for a while. Nothing is counted twice afterwards."""
    world = World(Rate(100, 10), (0, 500))
    world.run(20_000, each(50))
    world.connected = False
    world.run(30_000, each(50))
    alone = world.allowed(30_000, 50_000)
    assert alone >= 300, "each node has its own limit"
    world.connected = True
    world.run(60_000, each(50))
    assert 0.9 * 400 <= world.allowed(70_000, 110_000) <= 1.1 * 400


def test_a_repeated_or_late_report_counts_once() -> None:
    node, other = Node("n1", Rate(100, 60), 2), Node("n2", Rate(100, 60), 2)
    for _ in range(60):
        other.take(0)
    report = other.limits.report(1_000)
    assert report is not None
    for now_ms in (1_000, 1_500, 4_000):
        node.limits.hear("n2", report, now_ms)
    assert sum(not node.take(4_000) for _ in range(100)) == 20, "half of what is left, until it is reported"


def test_a_big_call_is_allowed_only_if_no_node_had_another_one() -> None:
    """A call for more items than the window allows is allowed if it is alone in the window."""
    node, other = Node("n1", Rate(10, 60), 2), Node("n2", Rate(10, 60), 2)
    assert node.take(0) == 0 and node.take_more(199, 0) == 0
    report = node.limits.report(1_000)
    assert report is not None
    other.limits.hear("n1", report, 1_000)
    assert other.take(1_000) > 0


def test_a_refused_user_is_told_when_the_node_gets_its_next_share() -> None:
    node = Node("n1", Rate(100, 60), 2)
    node.limits.hear("n2", {"calls": [Use("ann", "say", 40, 0, 40, 5_000, True)]}, 10_000)
    allowed = sum(not node.take(10_000) for _ in range(60))
    assert allowed == 30 and node.take(10_000) == EXCHANGE_MS
    node.limits.hear("n2", {"calls": [Use("ann", "say", 70, 0, 70, 6_000, True)]}, 11_000)
    node.limits.report(11_000)
    assert node.take(11_000) == 54_000, "the window began on the other node, 6 s ago"


def test_another_rate_starts_every_count_at_zero() -> None:
    node = Node("n1", Rate(10, 60), 2)
    node.limits.hear("n2", {"calls": [Use("ann", "say", 10, 0, 10, 0, True)]}, 0)
    assert node.take(1) > 0
    node.overruled()
    assert node.take(2) == 0


def test_the_first_parts_of_a_window_add_up_to_the_limit() -> None:
    assert first_parts(10, 2, {"a": 5, "b": 5, "c": 5}) == {"a": 4, "b": 3, "c": 3}
    assert first_parts(100, 25, {"a": 90, "b": 2, "c": 0}) == {"a": 94, "b": 5, "c": 1}
    assert first_parts(2, 1, {"a": 0, "b": 0, "c": 0}) == {"a": 1, "b": 1, "c": 0}


# ── caps and windows per address ────────────────────────────────────────────────────────────────────────────────────


def capped(max_count: int, nodes: int) -> list[tuple[SharedLimits, SharedCap]]:
    found = []
    for number in range(nodes):
        limits = SharedLimits(f"n{number}")
        limits.nodes = nodes
        found.append((limits, SharedCap(max_count, limits, "users")))
    return found


def exchange(nodes: Sequence[tuple[SharedLimits, object]], now_ms: int) -> None:
    reports = [(limits.address, limits.report(now_ms)) for limits, _ in nodes]
    for limits, _ in nodes:
        for sender, report in reports:
            if report is not None:
                limits.hear(sender, report, now_ms)


@pytest.mark.parametrize(("max_count", "nodes"), [(100, 4), (50, 2), (10, 3), (1, 2), (100, 30)])
def test_a_cap_holds_over_all_nodes_when_connections_come_over_seconds(max_count: int, nodes: int) -> None:
    cluster, now_ms, accepted = capped(max_count, nodes), 0, 0
    for number in range(3 * max_count + nodes):
        _, cap = cluster[number % nodes]
        if not cap.full("ann"):
            cap.enter("ann")
            accepted += 1
        if number % (1 + max_count // 50) == 0:
            now_ms += 1_000
            exchange(cluster, now_ms)
    assert max_count <= accepted <= 1.1 * max_count + 1


def test_connections_that_end_or_whose_node_dies_make_room() -> None:
    cluster = capped(10, 2)
    (one, here), (_, there) = cluster
    for _ in range(10):
        there.enter("ann")
    exchange(cluster, 0)
    assert here.full("ann") and not here.full("bob")
    there.leave("ann")
    exchange(cluster, 1_000)
    assert not here.full("ann")
    here.enter("ann")
    exchange(cluster, 2_000)
    assert here.full("ann") and there.full("ann")
    one.report(2_000 + LOST_MS + 1)
    assert not here.full("ann"), "the other node has died"


def test_a_cap_of_0_is_no_limit_and_reports_nothing() -> None:
    cluster = capped(0, 2)
    for _, cap in cluster:
        for _ in range(500):
            cap.enter("ann")
    assert [limits.report(0) for limits, _ in cluster] == [None, None]
    assert not cluster[0][1].full("ann")


def test_wrong_keys_of_an_address_count_on_all_nodes() -> None:
    nodes = []
    for name in ("n1", "n2"):
        limits = SharedLimits(name)
        limits.nodes = 2
        nodes.append((limits, SharedWindows(Rate(10, 60), limits, "wrong keys")))
    (_, here), (_, there) = nodes
    for _ in range(10):
        assert here.take("10.0.0.1", 0) == 0
    exchange(nodes, 1_000)
    assert there.take("10.0.0.1", 1_000) == 59_000
    assert there.take("10.0.0.2", 1_000) == 0
    assert here.wait_ms("10.0.0.1", 1_000) == 59_000 and here.wait_ms("10.0.0.3", 1_000) == 0


# ── reports ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_report_has_a_bounded_size_and_the_limits_that_are_used_most() -> None:
    limits, cap = capped(10, 2)[0]
    for number in range(3 * MAX_USES):
        for _ in range(10 if number % 3 == 0 else 5):
            cap.enter(f"user-{number}")
    report = limits.report(0)
    assert report is not None
    assert len(report["users"]) == MAX_USES and all(use.used == 10 for use in report["users"])
    assert limits.not_reported == 2 * MAX_USES


def test_when_too_many_users_are_at_their_limit_the_others_are_limited_by_each_node() -> None:
    node = Node("n1", Rate(10, 60), 2)
    for number in range(MAX_USES + 5):
        for _ in range(15):
            node.take(0, f"user-{number}")
    assert len(node.allowed) == 10 * (MAX_USES + 5)
    report = node.limits.report(0)
    assert report is not None and len(report["calls"]) == MAX_USES
    assert node.limits.not_reported >= 5


def test_a_report_of_long_names_is_cut_by_its_bytes() -> None:
    node = Node("n1", Rate(2, 60), 2)
    for number in range(MAX_USES):
        node.take(0, f"{number:0128}")
    report = node.limits.report(0)
    assert report is not None
    assert sum(len(use.subject) for use in report["calls"]) < MAX_REPORT_BYTES
    assert len(report["calls"]) > MAX_REPORT_BYTES / 200


def test_a_node_with_nothing_to_report_says_so_once_and_is_silent() -> None:
    limits, cap = capped(10, 2)[0]
    assert limits.report(0) is None
    for _ in range(5):
        cap.enter("ann")
    assert limits.report(1_000) == {"users": [Use("ann", "", 5, 0, 5, IDLE, True)]}
    for _ in range(5):
        cap.leave("ann")
    assert limits.report(2_000) == {}
    assert limits.report(3_000) is None


def test_a_single_node_reports_nothing() -> None:
    node = Node("n1", Rate(10, 60), 1)
    for _ in range(50):
        node.take(0)
    assert node.limits.report(1_000) is None and len(node.allowed) == 10


def test_small_uses_on_two_nodes_do_not_keep_each_other_in_the_reports() -> None:
    """A node reports a small use only while another node uses much."""
    cluster = capped(100, 2)
    (one, here), (two, there) = cluster
    there.enter("ann")
    for _ in range(30):
        here.enter("ann")
    exchange(cluster, 0)
    exchange(cluster, 1_000)
    assert one.others() == two.others() == 1
    for _ in range(20):
        here.leave("ann")
    exchange(cluster, 2_000)
    exchange(cluster, 3_000)
    assert one.others() == two.others() == 0


def test_what_a_newer_version_reports_is_ignored() -> None:
    limits, cap = capped(10, 2)[0]
    limits.hear("n2", {"moons": [Use("ann", "", 99, 0, 99, IDLE, True)]}, 0)
    assert not cap.full("ann")
