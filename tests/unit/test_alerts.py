"""conf/prometheus-alerts.yml: promtool accepts it, each alert fires when it should, and the runbook describes each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "conf" / "prometheus-alerts.yml"
TESTS = ROOT / "tests" / "prometheus-alerts.test.yml"
RUNBOOK = ROOT / "docs" / "operations.md"
ALERT = re.compile(r"alert: (\w+)")
REQUIRED = "promtool" in os.environ.get("INSIGHTDESK_RT_REQUIRE", "")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and not REQUIRED, reason="no promtool: apt-get install prometheus"
)


def promtool(*arguments: object) -> str:
    said = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    count = len(ALERT.findall(RULES.read_text()))
    assert f"SUCCESS: {count} rules found" in promtool("check", "rules", RULES)


@needs_promtool
def test_each_alert_fires_on_its_problem_and_not_on_a_healthy_node(tmp_path: Path) -> None:
    tests = tmp_path / "alerts.yml"
    tests.write_text(TESTS.read_text().replace("[RULES]", f"[{RULES}]"))
    assert "SUCCESS" in promtool("test", "rules", tests)


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", TESTS.read_text()))
    assert fires == set(ALERT.findall(RULES.read_text()))


def test_the_runbook_describes_exactly_the_alerts() -> None:
    assert re.findall(r"^#### `(\w+)`$", RUNBOOK.read_text(), re.MULTILINE) == ALERT.findall(RULES.read_text())
