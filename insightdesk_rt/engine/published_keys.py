"""The public keys that one issuer publishes at its `jwks_url`: fetched beside the tokens that need them.

No token waits for a fetch. The keys are fetched at the start, every five minutes, and, at most every half minute, when
a token names a key that is not known. After a failed fetch the last good keys stay in use, so an issuer that is down
locks nobody out. A key that the issuer has withdrawn is refused within five minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin, urlsplit

from msgspec import structs
from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.tokens import VerificationKey, jwk_key
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 3.0
REFRESH_S = 300.0
RETRY_S = 30.0  # tokens that name unknown keys cause at most one fetch in this time
MAX_JWKS_BYTES = 65_536  # Google's set has 1.5 KB, Microsoft's 13 KB
MAX_KEYS = 64
MAX_REDIRECTS = 3


class PublishedKeys:
    """The keys at one URL, for some algorithms. `changed` is called after each successful fetch.

    Call `start` on the event loop where the keys are used, and `close` there.
    """

    def __init__(
        self,
        url: str,
        algorithms: tuple[str, ...],
        changed: Callable[[], None],
        *,
        refresh_s: float = REFRESH_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._url = url
        self._algorithms = algorithms
        self._changed = changed
        self._refresh_s = refresh_s
        self._retry_s = retry_s
        self._wanted = asyncio.Event()
        self._tasks = OwnedTasks(log)
        self._http: SimpleAsyncHTTPClient | None = None
        self.keys: tuple[VerificationKey, ...] = ()
        self.fetches = 0
        self.failures = 0

    def want(self) -> None:
        """Fetch again soon: a token names a key that is not among `keys`."""
        self._wanted.set()

    async def start(self) -> None:
        """Fetch the keys and keep them fresh. A failure is only logged."""
        if self._http is None:
            # force_instance: Tornado shares one client per loop with its limits; the limits here are stricter
            self._http = SimpleAsyncHTTPClient(force_instance=True, max_body_size=MAX_JWKS_BYTES, max_clients=1)
            await self._fetch()
            self._tasks.spawn(self._stay_fresh(), "fetching keys")

    async def close(self) -> None:
        await self._tasks.close()
        if self._http is not None:
            self._http.close()
            self._http = None

    async def _stay_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._retry_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s - self._retry_s):
                    await self._wanted.wait()
            await self._fetch()

    async def _fetch(self) -> None:
        """Replace the keys by those that are published now. After a failure keep them, and fetch again soon."""
        self._wanted.clear()
        self.fetches += 1
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                body = await self._get(self._url)
            published = _parse(body, self._algorithms)
        except Exception as why:  # nothing that another server answers may stop this one
            self.failures += 1
            self._wanted.set()
            log.warning("fetching keys failed", extra={"why": str(why) or type(why).__name__, "kept": len(self.keys)})
            return
        if [key.kid for key in published] != [key.kid for key in self.keys]:
            log.info("keys fetched", extra={"kids": ",".join(key.kid for key in published)})
        self.keys = published
        self._changed()

    async def _get(self, url: str) -> bytes:
        """Return the body at the URL. Redirects are followed on the same host only."""
        assert self._http is not None
        for _ in range(MAX_REDIRECTS + 1):
            request = HTTPRequest(
                url,
                headers={"Accept": "application/jwk-set+json, application/json"},
                connect_timeout=FETCH_TIMEOUT_S,
                request_timeout=FETCH_TIMEOUT_S,
                follow_redirects=False,
                decompress_response=False,  # so that 64 KB on the wire stay 64 KB
            )
            answer = await self._http.fetch(request, raise_error=False)
            if answer.code == 200:
                return answer.body
            where = answer.headers.get("Location", "")
            if answer.code not in (301, 302, 303, 307, 308) or not where:
                raise ValueError(str(answer.error or answer.code))
            target = urljoin(url, where)
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                raise ValueError("redirected to another host or scheme")
            url = target
        raise ValueError("too many redirects")


def _parse(body: bytes, allowed: tuple[str, ...]) -> tuple[VerificationKey, ...]:
    """Return the usable keys of a JWKS. Raises ValueError if there is none, which is a failure of its server."""
    found: Any = json.loads(body)
    members = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(members, list):
        raise ValueError("it is not a JWKS")
    candidates = (jwk_key(member, allowed) for member in members[:MAX_KEYS] if isinstance(member, dict))
    keys = tuple(structs.replace(key, origin="jwks_url") for key in candidates if key is not None)
    if not keys:
        raise ValueError("it has no key that could be used")
    return keys
