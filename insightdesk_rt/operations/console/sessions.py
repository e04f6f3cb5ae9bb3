"""The console's sessions: after signing in, a browser sends a cookie instead of a key or token, to any node.

The cookie is only a random secret. Valkey holds the key or token of the sign-in, encrypted (AES-256-GCM) with a key
derived from that secret, under a name that is a hash of it. So neither the cookie nor Valkey alone reveals the key or
token. It is stored in Valkey rather than signed into the cookie, because signing out must end the session, and because
nodes need not share a setting for it (with published keys, JWKS, there is no shared secret). Each request decrypts it
and checks it like an Authorization header. So a removed key, an expired token and a changed scope take effect at once.

While Valkey is unreachable, a node accepts the sessions it has seen recently (OUTAGE_S), and keeps new sessions to
itself, because people need the console then.

A browser sends the cookie with every request, whichever page made it. Therefore it is accepted for requests of our own
pages only (`of_our_page`), besides being SameSite=Strict: another port of the same host is the same site.
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
SESSION_S = 12 * 3600  # a working day; then people sign in again
OUTAGE_S = 600.0
MAX_SEEN = 1_000  # sessions a node remembers in case Valkey becomes unreachable
SECRET_BYTES = 32
NONCE_BYTES = 12
HEADER, HEADER_VALUE = "X-Requested-With", "console"
SAFE_METHODS = ("GET", "HEAD")


class _Seen(NamedTuple):
    sealed: str
    at_s: float
    until_s: float


class Sessions:
    """The sessions of all nodes on this Valkey. `now_s` is a monotonic clock."""

    cookie = COOKIE

    def __init__(self, valkey: Valkey, now_s: Callable[[], float] = time.monotonic) -> None:
        self._valkey = valkey
        self._now_s = now_s
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    async def open(self, credential: str) -> str:
        """Store the key or token of a sign-in and return the cookie's value, valid for SESSION_S."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        name, key = _derived(secret)
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = (nonce + AESGCM(key).encrypt(nonce, credential.encode(), name.encode())).hex()
        try:
            await self._valkey.command("SET", self._key(name), sealed, "EX", SESSION_S)
        except RtError as refused:
            log.warning("cannot store a console session; only this node knows it", extra={"why": refused.code})
        now_s = self._now_s()
        self._remember(name, _Seen(sealed, now_s, now_s + SESSION_S))
        return secret

    def accepts(self, method: str | None, headers: HTTPHeaders) -> bool:
        """Return whether a page of ours made this request, so that its cookie counts."""
        return of_our_page(method, headers)

    async def credential(self, secret: str) -> str:
        """Return the key or token of the sign-in.

        Raises RtError AUTH_TOKEN_MISSING: the session is over; UNAVAILABLE.
        """
        name, key = _derived(secret)
        sealed = bytes.fromhex(await self._sealed(name))
        try:
            return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode()).decode()
        except InvalidTag:
            raise RtError("AUTH_TOKEN_MISSING", "The session is over.") from None

    async def close(self, secret: str) -> None:
        """End a session on all nodes. Idempotent. Raises RtError UNAVAILABLE: it has ended on this node only."""
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
        return self._valkey.names.cluster.key("console", name)


def of_our_page(method: str | None, headers: HTTPHeaders) -> bool:
    """Is this request made by a page of ours, so that its cookie may be accepted?

    A change needs our header, which another origin cannot send without a CORS preflight, and the browser's statement
    that the page is of our origin. A read only must not come from another origin.
    """
    site = headers.get("Sec-Fetch-Site", "")
    if method in SAFE_METHODS:
        return site in ("", "same-origin", "none")  # none: typed in, or from a bookmark
    if headers.get(HEADER, "") != HEADER_VALUE:
        return False
    # Browsers omit Sec-Fetch-Site over plain HTTP, except to loopback addresses. If it is there, no page can change
    # it, and it is correct behind a proxy that uses another Host, too.
    if site:
        return site == "same-origin"
    # The scheme is not compared: a proxy that is not in the list of trusted ones may terminate TLS.
    origin = headers.get("Origin", "").partition("://")[2].lower()
    return bool(origin) and origin == headers.get("Host", "").lower()


def _derived(secret: str) -> tuple[str, bytes]:
    """Return a session's name in Valkey, and its encryption key. Neither reveals the other."""
    return sha256(b"name" + secret.encode()).hexdigest(), sha256(b"seal" + secret.encode()).digest()
