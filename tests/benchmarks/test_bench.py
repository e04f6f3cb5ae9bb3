"""bin/bench works, nothing costs more than in Node's Socket.IO, and docs/performance.md shows the measurements.

Only ratios are compared, because the contestants take turns on the same machine. The bounds leave room for its noise.
The targets are in report.py, and docs/performance.md shows how far they are met.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import c100k, growth, measures, pages
from tests.benchmarks.contestants import ThisServer
from tests.benchmarks.generator import HERE, Generator, NoCompiler, Workshop, payload, request
from tests.benchmarks.plots import lines, nice
from tests.benchmarks.report import COSTS, TARGETS, Runs, Target, median, ratio, table, verdicts

ROOT = Path(__file__).parents[2]
REQUIRED = os.environ.get("INSIGHTDESK_RT_REQUIRE", "")
COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
needs_compiler = pytest.mark.skipif(
    not COMPILER and "cc" not in REQUIRED.split(","), reason="no C compiler: apt-get install gcc libc6-dev"
)
needs_node = pytest.mark.skipif(
    shutil.which("node") is None and "node" not in REQUIRED, reason="no node: apt-get install nodejs"
)
# measure → value, and the most of Node's that is let pass: never more than Node needs, less where the measured ratio
# (docs/performance.md) leaves room for a busy machine's noise
BOUNDS = {
    "broadcast": ("cpu_us", 0.95),
    "burst": ("cpu_us", 0.4),
    "echo": ("cpu_us", 1.0),
    "connect": ("cpu_us", 0.95),
    "memory": ("rss_bytes", 0.4),
}


def short_bench(kept: Path, *more: str) -> tuple[dict[str, Runs], str]:
    command = [sys.executable, "-m", "tests.benchmarks.bench", "--short", "--json", str(kept), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(kept.read_text(encoding="utf-8"))["measures"], done.stdout


def slower(found: dict[str, Runs]) -> dict[str, float]:
    """Return the ratios beyond their bounds."""
    ratios = {name: ratio(found, Target(name, BOUNDS[name][0], "node", 0)) or 0.0 for name in found}
    return {name: value for name, value in ratios.items() if value >= BOUNDS[name][1]}


@pytest.mark.alone
@needs_compiler
@needs_node
def test_a_short_bench_shows_that_nothing_costs_more_than_in_node(tmp_path: Path) -> None:
    """A ratio beyond its bound is measured once more, and longer: a slower server is slower then, too."""
    found, said = short_bench(tmp_path / "short.json")
    assert found.keys() == BOUNDS.keys()
    for runs in (runs for contestants in found.values() for runs in contestants.values()):
        assert len(runs) >= 5 and median(runs, "busy") < 0.7, "the load generator was the bottleneck"
    if once := slower(found):
        again, said_again = short_bench(tmp_path / "again.json", "--only", ",".join(once), "--runs", "9")
        assert not slower(again), (once, slower(again), said, said_again)


def test_a_server_as_slow_as_node_is_over_every_bound() -> None:
    same = [{"cpu_us": 10.0, "rss_bytes": 10.0}] * 5
    assert slower({name: {"this": same, "node": same} for name in BOUNDS}).keys() == BOUNDS.keys()


@needs_compiler
@pytest.mark.parametrize("name", [kind.key for kind in measures.ALL if kind.key not in BOUNDS])
def test_measures_that_the_short_bench_leaves_out_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(kind for kind in measures.ALL if kind.key == name)
    small = {"agents": 40, "grace_s": 6.0, "clients": 100, "rounds": 5, "seconds": 0.3}
    for attribute, value in {**small, "connects": 50, "newcomers": 100}.items():
        if hasattr(kind, attribute):
            monkeypatch.setattr(kind, attribute, value)
    with Workshop() as shop:
        one = kind(ThisServer(shop))
        try:
            one.prepare()
            values = one.run()
        finally:
            one.finish()
    named = [column for column in (*COSTS, *kind.extra) if column in values]
    assert named and all(values[column] >= 0 for column in named), values
    assert "| " in "\n".join(table(kind, {"this": [values]}))
    if name == "presence":
        assert 0 < values["commands"] < 20, "it does not depend on the number of users"
    if name == "storm":
        assert values["let_in"] == 100 and values["failure"] == ""
        assert values["deliveries"] == 100 * values["published"] > 0, "all messages arrived"


@needs_compiler
def test_growth_is_measured_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, object] = {"ROOMS": (100, 200), "PRESENT": (100, 200), "CONNECTED": (100, 200), "DELIVERIES": 500}
    waits: dict[str, object] = {"SETTLE_S": 0.1, "GOING_S": 0.3, "UNLISTENED_S": 0.0, "FAST_PING_MS": 500}
    for name, value in {**sizes, **waits, "RUNS": 1, "COMING_RUNS": 2, "COMING": 50}.items():
        monkeypatch.setattr(growth, name, value)
    with Workshop() as shop:
        found = growth.measured(shop)
    assert [*found] == ["room", "connect", "disconnect", "heartbeats"]
    assert all(sorted(points) == [100, 200] for points in found.values())
    assert [len(runs) for points in found.values() for runs in points.values()] == [1, 1, 2, 2, 2, 2, 1, 1]
    assert all(run > 0 for name in ("room", "connect") for runs in found[name].values() for run in runs)


@needs_compiler
def test_the_measure_of_100_000_clients_works_with_a_few_hundred() -> None:
    with Workshop() as shop:
        found = c100k.run(shop, 300, 0.5)
    assert found["connections"] == 300 and not found["why_not_more"]
    assert found["broadcast_last_ms"] > 0 and "computed from 300 connections" in c100k.verdict(found)
    assert "| connections | 300 |" in pages.blocks({**pages.read(), "c100k": found})["c100k"]


@needs_compiler
def test_the_generator_reports_failed_connects() -> None:
    with Workshop() as shop, Generator(shop) as load:
        load.begin_open(3, 3, 1, ["path /x"], [""], deadline_s=2)  # nobody listens on port 1
        report = load.answer(10)
    assert report["in"] == 0 and report["failed"] == 3 and "refused" in report["failure"]


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Workshop() as shop, pytest.raises(NoCompiler, match="apt-get install gcc"):
        shop.build(HERE / "load.c")


def test_a_payload_has_its_size_including_the_time() -> None:
    for size in (100, 1024):
        text = payload(size).replace("$TIME_OF_PUBLICATION", "1795397242677123")
        assert len(text) == size and json.loads(text)["at"] == 1795397242677123
    asked = request("PUT", "/tickets/$NUMBER", payload(100))
    head, _, body = asked.partition("\r\n\r\n")
    assert "Content-Length: 100" in head and body == payload(100)


def test_a_ratio_is_computed_from_runs_side_by_side() -> None:
    found = {"echo": {"this": [{"cpu_us": 10.0}, {"cpu_us": 30.0}, {"cpu_us": 9.0}], "node": [{"cpu_us": 20.0}] * 3}}
    assert ratio(found, Target("echo", "cpu_us", "node", 1)) == 0.5
    assert ratio(found, Target("echo", "cpu_us", "node", 1, least=True)) == 2.0
    assert ratio(found, Target("echo", "cpu_us", "ws", 1)) is None


def test_a_plot_begins_at_zero_and_has_all_its_sizes() -> None:
    drawn = lines({"a message": {100: [3.0, 4.0], 10_000: [8.0, 9.0]}}, "members", "µs")
    assert ">100<" in drawn and ">10,000<" in drawn and ">0<" in drawn and ">10<" in drawn
    assert [nice(value) for value in (0.7, 3.2, 11, 85)] == [0.8, 4, 20, 100]


def test_the_page_is_up_to_date_with_the_measurements() -> None:
    results = pages.read()
    text = pages.PAGE.read_text()
    for name, block in pages.blocks(results).items():
        assert f"<!-- {name} -->\n{block}\n<!-- /{name} -->" in text, f"run: python -m tests.benchmarks.pages ({name})"
    for name, picture in pages.plots(results).items():
        assert (pages.PLOTS / f"{name}.svg").read_text() == picture
        assert f"performance/{name}.svg" in text
    measured = results["measures"]
    assert text.count("not measured yet") == sum(ratio(measured, target) is None for target in TARGETS)
    assert min(len(runs) for of_one in measured.values() for runs in of_one.values()) >= pages.LEAST_RUNS


def test_kept_results_replace_only_those_of_the_same_measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = pages.read()
    monkeypatch.setattr(pages, "RESULTS", shutil.copy(pages.RESULTS, tmp_path / "bench.json"))
    runs = {"this": [{"cpu_us": 3.0, "valkey_us": 1.0, "busy": 0.1}] * 5, "node": [{"cpu_us": 10.0, "busy": 0.1}] * 5}
    pages.keep({"about": before["about"], "measures": {"burst-logged": runs}})
    after = pages.read()
    assert after["measures"].pop("burst-logged") == runs
    for part in (before["measures"], before.get("elsewhere", {})):
        part.pop("burst-logged", None)
    assert after == {"elsewhere": {}, **before}
    pages.keep({"about": {**before["about"], "cpu": "another"}, "measures": {"burst-logged": runs}})
    assert pages.read()["about"] == before["about"]
    assert pages.blocks(pages.read())["tables"].count("Measured with cpu another.\n\n|") == 1


def test_pages_are_not_written_if_results_would_be_lost() -> None:
    assert pages.would_lose({"echo": [*pages.read()["measures"]["echo"]], "new": ["this"]}, 5) == []
    assert "node of echo" in pages.would_lose({"echo": ["this"]}, 5)
    assert pages.would_lose({"new": ["this"]}, 3) and not pages.would_lose({}, 3)


def test_a_target_shows_valkeys_part_and_missing_measurements() -> None:
    ours, nodes = [{"cpu_us": 8.0, "valkey_us": 2.0}], [{"cpu_us": 10.0}]
    target = Target("echo", "cpu_us", "node", 0.9)
    (row,) = verdicts({"echo": {"this": ours, "node": nodes}}, [target])[2:]
    assert "0.80 ×" in row and "1.00 ×" in row and "but **missed** with Valkey's" in row
    assert "not measured yet" in verdicts({}, [target])[2]
