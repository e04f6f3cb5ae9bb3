"""bin/torture: a minute of random faults on one server, and each fault of replicas once in the other topologies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_client import why_not

TOP = Path(__file__).parents[2]


def torture(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TOP / "bin/torture"), *args], capture_output=True, text=True, timeout=200)


pytestmark = pytest.mark.valkey


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_minute_of_random_faults_loses_nothing(tmp_path: Path) -> None:
    found = clean(tmp_path, "--minutes", "0.8", "--seed", "7")
    total = found["table"][-1]
    assert found["seed"] == 7 and total["fault"] == "total"
    assert total["acked"] > 1000 and total["expected"] == total["delivered"] + total["emitter"]


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize(
    ("topology", "faults"),
    [
        ("sentinel", {"primary-killed", "lagging-replica", "sentinel-failover"}),
        ("cluster", {"primary-killed", "cluster-failover", "slot-migrated", "one-primary-cut-off"}),
    ],
)
def test_a_replica_that_takes_over_loses_nothing(tmp_path: Path, topology: str, faults: set[str]) -> None:
    """Each fault is injected once, however slow the machine is."""
    found = clean(tmp_path, "--topology", topology, "--faults", ",".join(sorted(faults)), "--once", "--seed", "7")
    assert found["topology"] == topology
    assert {row["fault"] for row in found["table"]} == {*faults, "total"}
    assert found["table"][-1]["acked"] > 100


def clean(folder: Path, *args: str) -> Any:
    """Return what a run found; it must have found nothing wrong."""
    done = torture(*args, "--json", str(folder / "found.json"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    found = json.loads((folder / "found.json").read_text())
    total = found["table"][-1]
    assert (total["missing"], total["doubled"], total["disorder"], total["forgotten"], total["wrong"]) == (0,) * 5
    assert "| total" in done.stdout and "s left" in done.stderr
    return found


def test_help_names_every_option_and_fault_and_a_wrong_fault_is_refused() -> None:
    text = torture("--help").stdout
    words = ("--minutes", "--seed", "--faults", "--json", "--topology", "--once", "kill-subscriptions", "Exit code 1")
    assert all(word in text for word in words)
    refused = torture("--faults", "gremlins")
    assert refused.returncode == 2 and "gremlins" in refused.stderr
    refused = torture("--topology", "sentinel", "--faults", "slot-migrated")
    assert refused.returncode == 2 and "topology sentinel has no such fault: slot-migrated" in refused.stderr
