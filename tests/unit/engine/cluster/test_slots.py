"""The map of a cluster, as its servers show it."""

from __future__ import annotations

from insightdesk_rt.engine.cluster.slots import Shard, read_map, slot_of
from insightdesk_rt.engine.cluster.valkey_url import Host

INFO = "cluster_enabled:1\r\ncluster_state:ok\r\ncluster_current_epoch:7\r\n"


def test_only_the_text_in_braces_decides_on_the_slot() -> None:
    """Source: the cluster specification, "hash tags"."""
    assert slot_of("123456789") == 12_739  # the specification's example of CRC16
    assert slot_of("{desk/tickets}:log") == slot_of("{desk/tickets}:room:ticket:{1}") == slot_of("desk/tickets")


def test_a_map_lists_primaries_replicas_and_ranges() -> None:
    rows = [
        [0, 99, ["10.0.0.1", 1, "a", []], ["10.0.0.2", 2, "b", []]],
        [200, 299, ["10.0.0.1", 1, "a", []], ["10.0.0.2", 2, "b", []]],
        [100, 199, ["10.0.0.3", 3, "c", []]],
    ]
    found = read_map(INFO, rows, Host("asked", 9))
    first = Shard(Host("10.0.0.1", 1), (Host("10.0.0.2", 2),), ((0, 99), (200, 299)))
    assert found.shards == (first, Shard(Host("10.0.0.3", 3), (), ((100, 199),)))
    assert (found.epoch, found.whole) == (7, True)
    assert [found.owner(slot) for slot in (50, 250, 150, 300)] == [Host("10.0.0.1", 1)] * 2 + [
        Host("10.0.0.3", 3),
        None,
    ]


def test_a_server_that_does_not_know_its_own_name_is_the_one_that_was_asked() -> None:
    found = read_map("cluster_state:fail\r\n", [[0, 9, ["", 1, "a"], [None, 2, "b"], ["?", 3, "c"]]], Host("asked", 9))
    assert found.servers == [Host("asked", 1), Host("asked", 2), Host("asked", 3)]
    assert not found.whole
