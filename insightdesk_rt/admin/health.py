"""Is this process alive, and may it be sent clients? For service managers and balancers: no token is asked.

GET /healthz  200 while the process answers at all
GET /readyz   200 if every check is well, else 503; either way each check with what is wrong
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from insightdesk_rt.admin.base import Admin, Answer, Handler, operation

CHECK_WITHIN_S = 2.0  # balancers ask every few seconds and give up after about as many


class Check(NamedTuple):
    """`run` returns what is wrong, in a few words, or "". If it raises, that is wrong."""

    name: str
    run: Callable[[], Awaitable[str]]


class Checked(Struct, omit_defaults=True):
    name: str
    ok: bool
    why: str = ""


class Readiness(Struct):
    ready: bool
    checks: list[Checked]


class HealthHandler(Handler):
    @operation(None)
    async def get(self) -> Answer:
        """The process answers."""
        return Answer({"status": "ok"})


class ReadyHandler(Handler):
    def initialize(self, admin: Admin, checks: Sequence[Check]) -> None:  # type: ignore[override]
        super().initialize(admin)
        self.checks = checks

    @operation(None)
    async def get(self) -> Answer:
        """The node may be sent clients: each check by name, 503 if one fails."""
        results = await asyncio.gather(*(_run(check) for check in self.checks))
        ready = all(result.ok for result in results)
        return Answer(Readiness(ready, results), 200 if ready else 503)


def health_routes(admin: Admin, checks: Sequence[Check]) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of this file for a Tornado Application."""
    return [
        (r"/healthz", HealthHandler, {"admin": admin}),
        (r"/readyz", ReadyHandler, {"admin": admin, "checks": checks}),
    ]


async def _run(check: Check) -> Checked:
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            why = await check.run()
    except TimeoutError:
        why = f"no answer within {CHECK_WITHIN_S:.0f} s"
    except Exception as failed:
        # Only its kind: the text may hold a URL with a password, and nobody has shown a token.
        why = type(failed).__name__
    return Checked(check.name, not why, why)
