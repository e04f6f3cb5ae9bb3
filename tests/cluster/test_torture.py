"""bin/torture: a minute of random faults."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.node_client import why_not

TOP = Path(__file__).parents[2]


def torture(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TOP / "bin/torture"), *args], capture_output=True, text=True, timeout=200)


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_minute_of_random_faults_loses_nothing(tmp_path: Path) -> None:
    done = torture("--minutes", "0.8", "--seed", "7", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    found = json.loads((tmp_path / "found.json").read_text())
    total = found["table"][-1]
    assert found["seed"] == 7 and total["fault"] == "total"
    assert total["acked"] > 1000 and total["expected"] == total["delivered"] + total["emitter"]
    assert (total["missing"], total["doubled"], total["disorder"]) == (0, 0, 0)
    assert "| total" in done.stdout and "s left" in done.stderr


def test_help_names_every_option_and_fault_and_a_wrong_fault_is_refused() -> None:
    text = torture("--help").stdout
    assert all(
        word in text for word in ("--minutes", "--seed", "--faults", "--json", "kill-subscriptions", "Exit code 1")
    )
    refused = torture("--faults", "gremlins")
    assert refused.returncode == 2 and "gremlins" in refused.stderr
