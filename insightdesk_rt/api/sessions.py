"""Who has signed in to the console: a browser shows a cookie instead of a key or token, on any node.

The cookie is a random secret and nothing else. Valkey keeps what was shown at the sign-in, sealed (AES-256-GCM) under a
key made of that secret and named by a hash of it, so neither the cookie nor Valkey alone has the key or token. It is
kept there, not signed into the cookie, because signing out must end it, and because nodes need share no setting for it:
with published keys (JWKS) alone there is none. Each request opens the seal and judges what is inside as if it stood in
the Authorization header: a key that was taken out of the file, a token that has expired, and a scope that was changed
count at once.

While Valkey is away a node goes on with the sessions it has seen lately (OUTAGE_S), and takes new ones for itself: the
console is what people look at then.

A cookie is sent by the browser, whoever's page asks it to. Therefore it counts for requests of our own pages only
(`of_our_page`), besides being SameSite=Strict: another port of the same host is the same site.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tornado.httputil import HTTPHeaders

from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import RtError

log = logging.getLogger(__name__)

COOKIE = "insightdesk_console"
SESSION_S = 12 * 3600  # a working day; then the key or token is asked for again
OUTAGE_S = 600.0
MAX_SEEN = 1_000  # sessions a node remembers for when Valkey is away
SECRET_BYTES = 32
NONCE_BYTES = 12
HEADER, HEADER_VALUE = "X-Requested-With", "console"
SAFE_METHODS = ("GET", "HEAD")


class _Seen(NamedTuple):
    sealed: str
    at_s: float
    until_s: float


class Sessions:
    """Of all nodes on this Valkey. `now_s` is a monotonic clock."""

    def __init__(self, valkey: Valkey, now_s: Callable[[], float] = time.monotonic) -> None:
        self._valkey = valkey
        self._now_s = now_s
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    async def open(self, credential: str) -> str:
        """Keep what somebody signed in with and return the cookie's value, good for SESSION_S."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        name, key = _derived(secret)
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = (nonce + AESGCM(key).encrypt(nonce, credential.encode(), name.encode())).hex()
        try:
            await self._valkey.command("SET", self._key(name), sealed, "EX", SESSION_S)
        except RtError as refused:
            log.warning("a console session is this node's alone", extra={"why": refused.code})
        now_s = self._now_s()
        self._remember(name, _Seen(sealed, now_s, now_s + SESSION_S))
        return secret

    async def credential(self, secret: str) -> str:
        """Return what was signed in with. Raises RtError AUTH_TOKEN_MISSING: the session is over; UNAVAILABLE."""
        name, key = _derived(secret)
        sealed = bytes.fromhex(await self._sealed(name))
        try:
            return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode()).decode()
        except InvalidTag:
            raise RtError("AUTH_TOKEN_MISSING", "The session is over.") from None

    async def close(self, secret: str) -> None:
        """End it on all nodes; again is nothing. Raises RtError UNAVAILABLE: it has ended on this node only."""
        name, _ = _derived(secret)
        self._seen.pop(name, None)
        await self._valkey.command("DEL", self._key(name))

    async def _sealed(self, name: str) -> str:
        now_s = self._now_s()
        seen = self._seen.get(name)
        try:
            sealed: str | None = await self._valkey.command("GET", self._key(name))
        except RtError:
            if seen is None or now_s > min(seen.at_s + OUTAGE_S, seen.until_s):
                raise
            return seen.sealed
        if sealed is None:
            self._seen.pop(name, None)
            raise RtError("AUTH_TOKEN_MISSING", "The session is over.")
        self._remember(name, _Seen(sealed, now_s, seen.until_s if seen is not None else now_s + SESSION_S))
        return sealed

    def _remember(self, name: str, seen: _Seen) -> None:
        self._seen[name] = seen
        self._seen.move_to_end(name)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def _key(self, name: str) -> str:
        return self._valkey.key("console", name)


def of_our_page(method: str | None, headers: HTTPHeaders) -> bool:
    """May a cookie count for this request? Changes need our header, which another origin may not send unasked (CORS),
    and the browser's word that a page of ours sends it; readings only must not be another origin's.
    """
    site = headers.get("Sec-Fetch-Site", "")
    if method in SAFE_METHODS:
        return site in ("", "same-origin", "none")  # none: typed in, or a bookmark
    if headers.get(HEADER, "") != HEADER_VALUE:
        return False
    # Browsers leave Sec-Fetch-Site out over plain HTTP, except to loopback addresses. Where it is, no page can change
    # it, and it holds behind a proxy that calls us by another Host too.
    if site:
        return site == "same-origin"
    # The scheme is not compared: a proxy that we are not told to trust may speak TLS for us.
    origin = headers.get("Origin", "").partition("://")[2].lower()
    return bool(origin) and origin == headers.get("Host", "").lower()


def _derived(secret: str) -> tuple[str, bytes]:
    """Return what a session is called in Valkey, and the key it is sealed under: each says nothing of the other."""
    return sha256(b"name" + secret.encode()).hexdigest(), sha256(b"seal" + secret.encode()).digest()
