"""LimitExchange: tells the other nodes once a second what this node uses of shared limits, and hears what they use.

shared_limits.py decides what is told and what follows from it. A message is volatile: the next one replaces it.
"""

from __future__ import annotations

from collections.abc import Callable

from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.cluster.requests import LimitReport
from insightdesk_rt.engine.shared_limits import SharedLimits


class LimitExchange:
    """Call `turn` every EXCHANGE_MS. `nodes` returns how many nodes live, as far as is known."""

    def __init__(
        self, limits: SharedLimits, calls: NodeCalls, nodes: Callable[[], int], now_ms: Callable[[], int]
    ) -> None:
        self._limits = limits
        self._calls = calls
        self._nodes = nodes
        self._now_ms = now_ms
        self.sent = 0
        calls.on_limits.append(self._heard)

    def turn(self) -> None:
        self._limits.nodes = max(self._nodes(), 1)
        report = self._limits.report(self._now_ms())
        if report is not None:
            self.sent += self._calls.report_limits(report)

    def close(self) -> None:
        """Take back what this node has reported: its clients are gone."""
        self._calls.report_limits({})

    def _heard(self, report: LimitReport) -> None:
        self._limits.hear(report.node, report.uses, self._now_ms())
