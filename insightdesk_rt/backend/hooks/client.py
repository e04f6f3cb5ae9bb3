"""Asks one URL of the back end: a signed POST of JSON with a deadline, a circuit breaker and bounded answers.

Requests are signed as Standard Webhooks say, so that the back end can trust them: the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature`. Connections are kept and reused. Redirects are not followed. The URL is the
admin's choice, so it may be a private address.

Everything that can go wrong has one name in OUTCOMES, which is counted, and logged in words at most once a minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter, time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from insightdesk_rt import __version__
from insightdesk_rt.backend.hooks.breaker import Breaker
from insightdesk_rt.backend.signing import signed_headers
from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import new_id
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.wire import json

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ANSWER_BYTES = 262_144  # 200 tickets with their answers have 10 KB
MAX_WAITING = 1_000  # questions that wait for their turn; more are refused at once
# Shorter than servers keep idle connections (gunicorn 2 s, Node 5 s): otherwise a question meets a closing connection.
KEEP_ALIVE_S = 1.5
OUTCOMES = (
    "ok",
    "refused",
    "timeout",
    "unreachable",
    "redirect",
    "error",
    "too_big",
    "not_json",
    "wrong_answer",
    "breaker_open",
    "busy",
)
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WORDS = {
    "timeout": "it did not answer in time",
    "breaker_open": "it has failed several times in a row and is not asked for a moment",
    "busy": "too many questions wait for their turn",
}


class HookAnswer(NamedTuple):
    """The back end's answer: a status below 500 that is no redirect, and the decoded JSON (None: an empty body)."""

    status: int
    body: Any


class HookFailed(Exception):
    """There is no usable answer. `outcome` is one of OUTCOMES; `why` is for the log.

    `error` is what the client receives, if the back end has decided that.
    """

    def __init__(self, outcome: str, why: str = "", error: RtError | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.error = error
        self.why = why or _WORDS.get(outcome, outcome)


class HookClient:
    """One hook. `retries`: whether a question may be asked twice when its connection turns out to be closed.

    Call `start` on the event loop, and `close` there.
    """

    def __init__(
        self, name: str, url: str, secret: str, *, timeout_s: float, at_once: int = 50, retries: bool = True
    ) -> None:
        self.name = name
        self._url = url
        self._secret = secret
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._retries = retries
        self._turn = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._session: aiohttp.ClientSession | None = None
        self._seldom = Seldom(log)
        self.breaker = Breaker()
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.seconds = Histogram(BOUNDS_S)

    def start(self) -> None:
        import aiohttp  # here, because a server without hooks need not spend a tenth of a second and 15 MB on it

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._at_once, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),  # no user's cookie may be sent with another user's question
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        question: Mapping[str, Any],
        read: Callable[[HookAnswer], T],
        *,
        id: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Return what `read` makes of the answer. `id` is sent as `webhook-id`; default: a new one.

        `read` raises HookFailed for an answer that is not as documented. Raises HookFailed; every failure is counted
        and logged. If it is cancelled, the request is given up.
        """
        if not self.breaker.allows(monotonic()):
            raise self._count(HookFailed("breaker_open"))
        if self._waiting >= MAX_WAITING:
            self.breaker.abandoned(monotonic())
            raise self._count(HookFailed("busy"))
        began_s, done = perf_counter(), False
        try:
            found = read(await self._in_turn(json.dumps(question), id or new_id(), headers or {}))
            self.breaker.succeeded()
            done = True
        except HookFailed as failed:
            done = True
            if failed.outcome == "refused":  # it answers, but not this question
                self.breaker.succeeded()
            else:
                self.breaker.failed(monotonic())
            raise self._count(failed) from None
        finally:
            self.seconds.add(perf_counter() - began_s)
            if not done:
                self.breaker.abandoned(monotonic())
        self.outcomes["ok"] += 1
        return found

    def _count(self, failed: HookFailed) -> HookFailed:
        self.outcomes[failed.outcome] += 1
        level = logging.INFO if failed.outcome == "refused" else logging.WARNING
        self._seldom.say(
            level, "the back end was asked in vain", f"{self.name} {failed.outcome}", hook=self.name, why=failed.why
        )
        return failed

    async def _in_turn(self, body: str, id: str, headers: Mapping[str, str]) -> HookAnswer:
        self._waiting += 1
        waits = True
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                self._waiting -= 1
                waits = False
                return await self._post(body, id, headers)
        except TimeoutError:
            raise HookFailed("timeout") from None
        finally:
            self._waiting -= waits

    async def _post(self, body: str, id: str, headers: Mapping[str, str]) -> HookAnswer:
        import aiohttp

        tries = 2 if self._retries else 1
        for left in range(tries, 0, -1):
            try:
                return await self._post_once(body, id, headers)
            except (aiohttp.ServerDisconnectedError, ConnectionResetError) as why:
                # A kept connection that the back end closed at the same moment; a new one is opened.
                if left == 1:
                    raise HookFailed("unreachable", f"it closed the connection: {why}") from None
            except aiohttp.ClientError as why:
                raise HookFailed("unreachable", f"{type(why).__name__}: {why}") from None
        raise AssertionError("unreachable code")

    async def _post_once(self, body: str, id: str, headers: Mapping[str, str]) -> HookAnswer:
        assert self._session is not None
        data = body.encode()
        request = self._session.post(
            self._url, data=data, headers={**headers, **self._signed(data, id)}, allow_redirects=False
        )
        async with request as response:
            if 300 <= response.status < 400:
                raise HookFailed("redirect", f"it answered {response.status}; redirects are not followed")
            if response.status >= 500:
                raise HookFailed("error", f"it answered {response.status}")
            text = bytearray()
            async for chunk in response.content.iter_any():
                text += chunk
                if len(text) > MAX_ANSWER_BYTES:
                    response.close()
                    raise HookFailed("too_big", f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
            return HookAnswer(response.status, _decoded(bytes(text), response.status))

    def _signed(self, body: bytes, id: str) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"insightdesk-rt/{__version__}",
            **signed_headers([self._secret], id, int(time()), body),
        }


def _decoded(text: bytes, status: int) -> Any:
    """Return the JSON of an answer. The body of a refusal is optional, so it may be anything."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except json.BadJson as bad:
        if status >= 400:
            return None
        raise HookFailed("not_json", f"its answer is not JSON: {bad.why}") from None
