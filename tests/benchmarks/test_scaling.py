"""docs/scaling.md contains the measured and computed figures, and bin/scaling works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import shared_limits
from tests.benchmarks.scaling import SUBJECTS
from tests.benchmarks.scaling_plan import FIGURES, LIMITS, Load, Plan, figures_table, limit, read, tables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()


def test_the_pages_tables_are_computed_from_the_figures() -> None:
    for table in (*tables(read()), figures_table()):
        assert "\n".join(table) in PAGE


def test_the_page_contains_every_figure_of_the_formulas() -> None:
    used = set()

    class Seen(dict[str, float]):
        def __getitem__(self, key: str) -> float:
            used.add(key)
            return super().__getitem__(key)

    plan = Plan(Seen(read()), Load.of(100))
    for term in (plan.valkey, plan.valkey_of_tickets, plan.output, plan.memory, plan.node, plan.node_memory):
        assert term() > 0
    assert plan.repair() > 0 and plan.resubscribe() > 0
    assert len(used) > 20
    assert {key for key in used if f"`{key}`" not in PAGE} == set()


def test_a_nodes_events_do_not_depend_on_the_cluster_and_repair_grows_quadratically() -> None:
    small, large = (Plan(read(), Load.of(nodes)) for nodes in (100, 1_000))
    assert small.load.interested == pytest.approx(4.9, abs=0.01)  # of 100, five members
    assert large.heard() == pytest.approx(small.heard(), rel=0.03)
    assert large.heard_if_sent_to_all() == 10 * small.heard_if_sent_to_all()
    assert large.repair() == pytest.approx(100 * small.repair())


@pytest.mark.parametrize("what", LIMITS, ids=lambda row: row[0])
def test_a_limit_is_the_largest_size_that_fits(what: tuple) -> None:  # type: ignore[type-arg]
    _, _, term, bound = what
    nodes = limit(read(), term, bound)
    assert term(Plan(read(), Load.of(nodes))) <= bound < term(Plan(read(), Load.of(nodes + 1)))


def test_measuring_one_subject_keeps_the_others_in_the_file(tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    kept.write_text(FIGURES.read_text())
    before = json.loads(kept.read_text())["figures"]
    command = [sys.executable, "-m", "tests.benchmarks.scaling", "--only", "clocks", "--json", str(kept)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    after = json.loads(kept.read_text())["figures"]
    assert after.keys() == before.keys() and after["append_hot"] == before["append_hot"]
    for key in ("probe", "lease_10", "lease_1000", "sweep"):
        assert after[key]["runs"] != before[key]["runs"] and min(after[key]["runs"]) > 0
        assert len(after[key]["runs"]) >= 5 and after[key]["what"] in said
    assert set(SUBJECTS) >= {"append", "publish", "subscribe", "clocks", "people", "log", "node", "served"}


def test_the_cost_of_limits_per_cluster_can_be_measured() -> None:
    """Users below a part of their limit are not in the reports."""
    assert shared_limits.exchange(users=100, heavy=0, seconds=2).report_bytes == 0
    busy = shared_limits.exchange(users=100, heavy=10, seconds=2)
    assert busy.uses == 10 and busy.report_bytes > 100 and busy.hear_us > 0
