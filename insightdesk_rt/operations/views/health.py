"""Liveness and readiness of this process, for service managers and load balancers. No token is required.

GET /healthz  200 while the process runs
GET /readyz   200 if every check passes, otherwise 503; both list each check and what is wrong
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
MAX_LAG_S = 1.0  # the timeout of a Valkey command; a longer block makes requests of clients fail
MAX_FILES = 0.9  # of the limit; at the limit no client is accepted, and no file or Valkey connection opened
FRESH_S = 1.0  # how old results for other nodes may be; /readyz always runs the checks
CHECK_WITHIN_S = 2.0  # balancers check every few seconds, with a timeout of about the same


class Check:
    """`run` returns a short reason, or "" for success. An exception fails the check, and is logged once in a row."""

    __slots__ = ("failed", "name", "run")

    def __init__(self, name: str, run: Callable[[], Awaitable[str]]) -> None:
        self.name = name
        self.run = run
        self.failed = False


class Checked(Struct, omit_defaults=True):
    """`why` is the reason of a failure; it is left out if the check passed."""

    name: str
    ok: bool
    why: str = ""


class ReadinessReport(Struct):
    ready: bool
    checks: list[Checked]


class Alive(Struct):
    status: Literal["ok"]


def node_checks(valkey: Valkey, backplane: ValkeyBackplane, port: ClientPort, lag: LoopLag) -> list[Check]:
    """Return the checks that make a node ready."""

    async def hears() -> str:
        if backplane.subscribed:
            return ""
        unheard = [path for path in backplane.unheard if path]
        of = "" if len(unheard) == len(backplane.namespaces) else f" of {', '.join(unheard) or 'admins'}"
        return f"this node does not receive the others' events{of}"

    async def accepts() -> str:
        return "" if port.accepting else "this node is draining"

    async def keeps_up() -> str:
        # Only the last two seconds, so that the node is ready again soon after one stall.
        worst_s = lag.worst_s(LAG_WITHIN_S)
        return "" if worst_s <= MAX_LAG_S else f"the event loop was blocked for {worst_s:.1f} s"

    async def has_files() -> str:
        limit = max_files()
        used = open_files_beyond(int(limit * MAX_FILES))
        return f"{used} of {limit} file descriptors are in use" if used else ""

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
        """Each readiness check by name; 503 if one fails, and the node should get no clients."""
        results = await run_checks(self.checks)
        ready = all(result.ok for result in results)
        return Answer(ReadinessReport(ready, results), 200 if ready else 503)


def health_routes(admin: Admin, checks: Sequence[Check]) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file."""
    return [
        (r"/healthz", HealthHandler, {"admin": admin}),
        (r"/readyz", ReadyHandler, {"admin": admin, "checks": checks}),
    ]


class Lately:
    """The results of the checks, at most FRESH_S old, so that many requests cost the work once."""

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
    """Run the checks at the same time and return their results."""
    return await asyncio.gather(*(run_check(check) for check in checks))


async def run_check(check: Check) -> Checked:
    """Run a check and return its result within CHECK_WITHIN_S. Never raises."""
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            why = await check.run()
        check.failed = False
    except TimeoutError:
        why = f"no answer within {CHECK_WITHIN_S:.0f} s"
    except RtError as refused:
        why = refused.message
    except Exception:
        # The exception may contain a URL with a password, and the caller has no token, so it only goes to the log.
        if not check.failed:
            log.exception("a check failed", extra={"check": check.name})
        check.failed = True
        why = "the check itself failed; the log says why"
    return Checked(check.name, not why, why)
