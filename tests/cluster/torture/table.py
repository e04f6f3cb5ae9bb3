"""The table of a run, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from tests.cluster.torture.rounds import Row

COLUMNS = (
    "fault",
    "times",
    "acked",
    "expected",
    "delivered",
    "missing",
    "doubled",
    "disorder",
    "forgotten",
    "facts",
    "wrong",
    "announced",
    "resync",
    "new",
    "resumed",
    "retried",
    "emitter",
    "reordered",
    "repeated",
    "gap s",
)


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row per fault, in the order of first appearance, and the total."""
    names = list(dict.fromkeys(row.fault for row in rows))
    found = [_sum(name, [row for row in rows if row.fault == name]) for name in names]
    return [*found, _sum("total", rows)]


def as_text(rows: Sequence[Row]) -> str:
    """Return the table as Markdown, as docs/reliability.md shows it."""
    table = [list(COLUMNS), *([str(row[name]) for name in COLUMNS] for row in figures(rows))]
    widths = [max(len(line[at]) for line in table) for at in range(len(COLUMNS))]
    lines = ["| " + " | ".join(_cell(line, at, widths) for at in range(len(COLUMNS))) + " |" for line in table]
    rule = "|" + "|".join(("-" * (w + 1) + ":") if at else "-" * (w + 2) for at, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def as_json(rows: Sequence[Row], **about: Any) -> str:
    return json.dumps({**about, "table": figures(rows), "rounds": [dataclasses.asdict(row) for row in rows]}, indent=1)


def _sum(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    verdicts = [row.verdict for row in rows]
    return {
        "fault": name,
        "times": len(rows),
        "acked": sum(v.acknowledged for v in verdicts),
        "expected": sum(v.expected for v in verdicts),
        "delivered": sum(v.delivered for v in verdicts),
        "missing": sum(len(v.missing) for v in verdicts),
        "doubled": sum(len(v.doubled) for v in verdicts),
        "disorder": sum(len(v.disordered) for v in verdicts),
        "forgotten": sum(len(v.forgotten) for v in verdicts),
        "facts": sum(v.facts for v in verdicts),
        "wrong": sum(len(v.lost_facts) for v in verdicts),
        "announced": sum(v.announced for v in verdicts),
        "resync": sum(v.resyncs for v in verdicts),
        "new": sum(v.new_sessions for v in verdicts),
        "resumed": sum(v.recovered for v in verdicts),
        "retried": sum(v.retried for v in verdicts),
        "emitter": sum(v.emitter_lost for v in verdicts),
        "reordered": sum(v.reordered for v in verdicts),
        "repeated": sum(v.repeated for v in verdicts),
        "gap s": round(max((v.longest_gap_s for v in verdicts), default=0.0), 2),
    }


def _cell(line: list[str], at: int, widths: list[int]) -> str:
    return line[at].rjust(widths[at]) if at else line[at].ljust(widths[at])
