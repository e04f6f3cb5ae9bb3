"""Is this process alive, and may it be sent clients? For service managers and balancers: no token is asked.

GET /healthz  200 while the process answers at all
GET /readyz   200 if every check is well, else 503; either way each check with what is wrong
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.transport.lag import LoopLag
from insightdesk_rt.operations.views.node_stats import max_files, open_files_beyond

log = logging.getLogger(__name__)

LAG_WITHIN_S = 2.0
MAX_LAG_S = 1.0  # as long as a command to Valkey may take: beyond, requests of clients fail
MAX_FILES = 0.9  # near the limit no client is taken, and no file and no connection to Valkey opened
FRESH_S = 1.0  # of what nodes tell each other; /readyz is asked anew
CHECK_WITHIN_S = 2.0  # balancers ask every few seconds and give up after about as many


class Check:
    """`run` returns what is wrong, in a few words, or "". If it raises, that is wrong, and logged once in a row."""

    __slots__ = ("failed", "name", "run")

    def __init__(self, name: str, run: Callable[[], Awaitable[str]]) -> None:
        self.name = name
        self.run = run
        self.failed = False


class Checked(Struct, omit_defaults=True):
    """`why` says what is wrong; it is left out where all is well."""

    name: str
    ok: bool
    why: str = ""


class ReadinessReport(Struct):
    ready: bool
    checks: list[Checked]


class Alive(Struct):
    status: Literal["ok"]


def node_checks(valkey: Valkey, backplane: ValkeyBackplane, port: ClientPort, lag: LoopLag) -> list[Check]:
    """Return what makes a node ready."""

    async def hears() -> str:
        return "" if backplane.subscribed else "this node does not hear the others"

    async def accepts() -> str:
        return "" if port.accepting else "this node sends its clients away"

    async def keeps_up() -> str:
        # Two seconds back and no more: after one stall the node is soon ready again.
        worst_s = lag.worst_s(LAG_WITHIN_S)
        return "" if worst_s <= MAX_LAG_S else f"the loop was held up for {worst_s:.1f} s"

    async def has_files() -> str:
        most = max_files()
        used = open_files_beyond(int(most * MAX_FILES))
        return f"{used} of {most} file descriptors are in use" if used else ""

    return [
        Check("valkey", valkey.fitness),
        Check("subscription", hears),
        Check("drain", accepts),
        Check("loop", keeps_up),
        Check("files", has_files),
    ]


class HealthHandler(Handler):
    @operation(None, answer=Alive)
    async def get(self) -> Answer:
        """The process answers."""
        return Answer(Alive("ok"))


class ReadyHandler(Handler):
    checks: Sequence[Check]

    @operation(None, answer=ReadinessReport, statuses=(200, 503))
    async def get(self) -> Answer:
        """The node may be sent clients: each check by name, 503 if one fails."""
        results = await run_checks(self.checks)
        ready = all(result.ok for result in results)
        return Answer(ReadinessReport(ready, results), 200 if ready else 503)


def health_routes(admin: Admin, checks: Sequence[Check]) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application."""
    return [
        (r"/healthz", HealthHandler, {"admin": admin}),
        (r"/readyz", ReadyHandler, {"admin": admin, "checks": checks}),
    ]


class Lately:
    """The checks as they went at most FRESH_S ago: however many ask, the node has the work once."""

    def __init__(self, checks: Sequence[Check], now_s: Callable[[], float] = time.monotonic) -> None:
        self._checks = checks
        self._now_s = now_s
        self._lock = asyncio.Lock()
        self._results: list[Checked] = []
        self._until_s = float("-inf")

    async def results(self) -> list[Checked]:
        async with self._lock:
            if self._now_s() >= self._until_s:
                self._results = await run_checks(self._checks)
                self._until_s = self._now_s() + FRESH_S
            return self._results


async def run_checks(checks: Sequence[Check]) -> list[Checked]:
    """Return how they went, all at once."""
    return await asyncio.gather(*(run_check(check) for check in checks))


async def run_check(check: Check) -> Checked:
    """Return how it went; within CHECK_WITHIN_S, and without raising."""
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            why = await check.run()
        check.failed = False
    except TimeoutError:
        why = f"no answer within {CHECK_WITHIN_S:.0f} s"
    except RtError as refused:
        why = refused.message
    except Exception:
        # Its text may hold a URL with a password, and who asks has shown no token: it is for the log.
        if not check.failed:
            log.exception("a check failed", extra={"check": check.name})
        check.failed = True
        why = "the check itself failed; the log says why"
    return Checked(check.name, not why, why)
