"""URLs of one server, of Sentinels and of clusters: what is read from them, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from insightdesk_rt.engine.cluster.outage import NoServer
from insightdesk_rt.engine.cluster.valkey_url import Host, Topology, fault_of, parse


def test_a_sentinel_url_names_sentinels_primary_and_database() -> None:
    url = parse("valkeys+sentinel://desk:p%40ss@a:1,b,[::1]:3/main/4?sentinel_username=s&sentinel_password=q")
    assert (url.topology, url.name, url.tls) == (Topology.SENTINEL, "main", True)
    assert url.hosts == (Host("a", 1), Host("b", 26379), Host("::1", 3))
    server = url.endpoint(Host("10.0.0.1", 7))
    assert (str(server), server.username, server.password, server.options["db"]) == ("10.0.0.1:7", "desk", "p@ss", 4)
    sentinel = url.sentinel(url.hosts[2])
    assert (str(sentinel), sentinel.username, sentinel.password, sentinel.tls) == ("[::1]:3", "s", "q", True)
    assert "db" not in sentinel.options


def test_a_cluster_url_names_some_of_its_servers() -> None:
    url = parse("valkey+cluster://desk:pw@a,b:7000")
    assert (url.topology, url.hosts) == (Topology.CLUSTER, (Host("a", 6379), Host("b", 7000)))
    assert (url.endpoint(Host("c", 1)).username, url.endpoint(Host("c", 1)).password) == ("desk", "pw")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("valkey://host", ""),
        ("unix:///run/valkey.sock", ""),
        ("valkey+sentinel://a:1,b:2/desk", ""),
        ("valkeys+cluster://a,b?ssl_certfile=/c&ssl_keyfile=/k&ssl_ca_certs=/a", ""),
        ("valkey+sentinel://a:1,b:2", "the primary's name behind the Sentinels"),
        ("valkey+sentinel://a:1,b:2/", "the primary's name behind the Sentinels"),
        ("valkey+sentinel://a:1/desk/x", "the primary's name behind the Sentinels"),
        ("valkey+cluster://a:1/0", "nothing behind the hosts of a cluster"),
        ("valkey+cluster://a:1,,b", "expected valkey://host:6379"),
        ("valkey+sentinel://a:one/desk", "expected valkey://host:6379"),
        ("valkey+replicas://a:1", "expected valkey://host:6379"),
        ("valkey+cluster://u:p/w@a:1", "percent-encode the password"),
        ("valkey://a?ssl_certfile=/c", "no other options"),
        ("valkey+cluster://a?sentinel_password=x", "no other options"),
        ("valkey://host:6379/name", "the number of a database"),
    ],
)
def test_a_wrong_url_is_refused_with_what_to_write(url: str, says: str) -> None:
    fault = fault_of(url)
    assert says in fault and bool(says) == bool(fault)
    assert "p/w" not in fault


def test_a_password_file_is_read_at_each_connect_and_its_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n", encoding="utf-8")
    url = parse("valkey+sentinel://a/desk", str(file), str(tmp_path / "none"))
    assert url.endpoint(Host("h", 1)).password == "first"
    file.write_text("second", encoding="utf-8")
    assert url.endpoint(Host("h", 1)).password == "second"
    with pytest.raises(NoServer, match=r"sentinel_password_file = .*none cannot be read"):
        url.sentinel(Host("a", 1))
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(NoServer, match=r"valkey_password_file = .* is empty"):
        url.endpoint()
