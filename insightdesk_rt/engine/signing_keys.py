"""Which keys count now: the secret, the public key, and what the issuer publishes under `jwks_url`.

The secret is given, in a file, or made once in data_dir. Published keys are fetched on Tornado's client, never waited
for by a token: at the start, every five minutes, and, at most every half minute, when a token names a key we do not
have. What was fetched last stays good until something better comes, so an issuer that is down locks nobody out; a key
that it took back is refused within five minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.cluster.seal import derived_key, fingerprint
from insightdesk_rt.engine.errors import ConfigError, RtError
from insightdesk_rt.engine.folder import FolderError, private_folder
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.tokens import FAMILIES, BadKey, TokenSettings, VerificationKey, VerificationKeys
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

SECRET_FILE = "jwt_secret"
DEMO_SECRET_FILE = "demo_secret"
FETCH_TIMEOUT_S = 3.0
REFRESH_S = 300.0
RETRY_S = 30.0  # an unknown kid costs one fetch in this time, however many tokens name one
ODD_S = 3600.0  # between two lines about the same oddity of tokens
MAX_JWKS_BYTES = 65_536  # Google's set has 1.5 KB, Microsoft's 13 KB
MAX_KEYS = 64
MAX_REDIRECTS = 3
TOO_OPEN = stat.S_IWGRP | stat.S_IRWXO  # a group may read: that is how a service's user is given a secret of root's


def signing_key(settings: TokenSettings, *, may_make: bool = True) -> VerificationKey:
    """Return the key that tokens are signed with. Raises ConfigError.

    A server makes the secret if there is none yet. A command must not (`may_make=False`): what it signed with a secret
    of its own no server would believe.
    """
    if not may_make and not has_secret(settings) and "HS" in settings.families:
        raise ConfigError(
            f"there is no secret in {settings.data_dir}, where a server makes one at its first start; "
            "name the server's --config or --data-dir"
        )
    try:
        return auth.secret_key(_secret(settings), settings.jwt_algorithms)
    except BadKey as why:
        name = "jwt_secret" if settings.jwt_secret else "jwt_secret_file"
        if "HS" not in settings.families:
            name = "jwt_algorithms"
        raise ConfigError(f"{name}: {why}") from None


def has_secret(settings: TokenSettings) -> bool:
    """Is there a secret to sign with, without making one?"""
    hs = "HS" in settings.families
    return hs and bool(settings.jwt_secret or settings.jwt_secret_file or _made(settings).exists())


class DemoKeys:
    """Signs and verifies the demo's tokens, with a secret of their own in data_dir. Raises ConfigError.

    The demo gives tokens to whoever reaches its page, an admin's among them, so they open the client port and nothing
    else: the server's own keys do not verify them, and the admin port asks those alone.
    """

    def __init__(self, settings: TokenSettings, now_s: Callable[[], float] = time.time) -> None:
        path = Path(settings.data_dir) / DEMO_SECRET_FILE
        _make_secret(path)
        self._key = auth.secret_key(_read("data_dir", str(path)).rstrip(), ("HS256",))
        self._now_s = now_s

    def sign(self, claims: Mapping[str, Any]) -> str:
        return auth.sign(claims, self._key)

    def beside(self, verify: Callable[[object], User]) -> Callable[[object], User]:
        """Return what verifies a token of the demo's or, if it is none, as `verify` does."""
        keys = VerificationKeys((self._key,))

        def either(token: object) -> User:
            try:
                return auth.verify(token, keys, self._now_s())
            except RtError as refused:
                if refused.code != "AUTH_TOKEN_INVALID":
                    raise
            return verify(token)

        return either


def configured_keys(settings: TokenSettings, *, may_make: bool = True) -> tuple[VerificationKey, ...]:
    """Return the keys that need no network. Raises ConfigError naming the setting and its file.

    Without `may_make` nothing is written: the secret that would be made is left out.
    """
    keys: list[VerificationKey] = []
    if has_secret(settings) or (may_make and "HS" in settings.families):
        keys.append(signing_key(settings))
    file = settings.jwt_public_key_file
    if file:
        try:
            keys.append(auth.public_key(_read("jwt_public_key_file", file), settings.jwt_algorithms))
        except BadKey as why:
            raise ConfigError(f"jwt_public_key_file = {file}: {why}") from None
    return tuple(keys)


def cluster_key(settings: TokenSettings) -> bytes:
    """Return the key under which nodes speak to each other: of cluster_secret, or else of the tokens' secret.

    Where there is neither, nodes are not protected from who may write to Valkey. Raises ConfigError.
    """
    secret = _own_cluster_secret(settings)
    if not secret and "HS" in settings.families:
        secret = _secret(settings)
    return derived_key(secret)


def fingerprints(settings: TokenSettings) -> dict[str, str]:
    """Return what the secrets that all nodes must share are told apart by, by setting. Raises ConfigError.

    And `user_ids` as it is: nodes that name users otherwise would let one read what is another's.
    """
    found: dict[str, str] = {"user_ids": settings.user_ids}
    if own := _own_cluster_secret(settings):
        found["cluster_secret"] = fingerprint(own)
    if "HS" in settings.families:
        found["jwt_secret"] = fingerprint(_secret(settings))
    return found


class KeyRing:
    """Verifies tokens. `start` it on the loop where it is used; `close` it there.

    Without `may_make` it makes no secret where there is none.
    """

    def __init__(
        self,
        settings: TokenSettings,
        *,
        now_s: Callable[[], float] = time.time,
        refresh_s: float = REFRESH_S,
        retry_s: float = RETRY_S,
        may_make: bool = True,
    ) -> None:
        self._settings = settings
        self._now_s = now_s
        self._refresh_s = refresh_s
        self._retry_s = retry_s
        self._configured = configured_keys(settings, may_make=may_make)
        self._seldom = Seldom(log, every_s=ODD_S)
        self._wanted = asyncio.Event()
        self._tasks = OwnedTasks(log)
        self._http: SimpleAsyncHTTPClient | None = None
        self.keys = self._with(())
        self.fetches = 0
        self.failures = 0

    def verify(self, token: object) -> User:
        """Return who the token speaks for, now. Raises RtError as `auth.verify` does."""
        try:
            return auth.verify(token, self.keys, self._now_s(), self._odd)
        except auth.UnknownKey:
            self._wanted.set()
            raise

    def _odd(self, what: str) -> None:
        self._seldom.say(logging.WARNING, "a token is accepted and looks wrong", what, why=what)

    async def start(self) -> None:
        """Fetch the published keys, if there are any, and keep them fresh. An issuer that is down is only logged."""
        if self._settings.jwks_url and self._http is None:
            # force_instance: Tornado shares one client per loop, and its limits; this one's are stricter
            self._http = SimpleAsyncHTTPClient(force_instance=True, max_body_size=MAX_JWKS_BYTES, max_clients=1)
            await self._fetch()
            self._tasks.spawn(self._stay_fresh(), "fetching keys")

    async def close(self) -> None:
        await self._tasks.close()
        if self._http is not None:
            self._http.close()
            self._http = None

    async def _stay_fresh(self) -> None:
        """Not periodic work: a token with an unknown key must not wait for the next turn."""
        while True:
            await asyncio.sleep(self._retry_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s - self._retry_s):
                    await self._wanted.wait()
            await self._fetch()

    async def _fetch(self) -> None:
        """Take over what is published; on any failure keep what there was, and ask again soon."""
        self._wanted.clear()
        self.fetches += 1
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                body = await self._get(self._settings.jwks_url.reveal())
            published = _parse(body, self._settings.jwt_algorithms)
        except Exception as why:  # whatever a foreign server does is no reason to stop
            self.failures += 1
            self._wanted.set()
            kept = len(self.keys.keys) - len(self._configured)
            log.warning("fetching keys failed", extra={"why": str(why) or type(why).__name__, "kept": kept})
            return
        fresh = self._with(published)
        if [key.kid for key in fresh.keys] != [key.kid for key in self.keys.keys]:
            log.info("keys fetched", extra={"kids": ",".join(key.kid for key in published)})
        self.keys = fresh

    async def _get(self, url: str) -> bytes:
        """Return the body behind the URL. A redirect may lead elsewhere on the same host, never to another one."""
        assert self._http is not None
        for _ in range(MAX_REDIRECTS + 1):
            request = HTTPRequest(
                url,
                headers={"Accept": "application/jwk-set+json, application/json"},
                connect_timeout=FETCH_TIMEOUT_S,
                request_timeout=FETCH_TIMEOUT_S,
                follow_redirects=False,
                decompress_response=False,  # 64 KB on the wire stay 64 KB
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

    def _with(self, published: tuple[VerificationKey, ...]) -> VerificationKeys:
        settings = self._settings
        open_to = tuple(name for name in settings.jwt_algorithms if settings.jwks_url and FAMILIES[name] != "HS")
        return VerificationKeys(
            self._configured + published,
            settings.jwt_issuer,
            settings.jwt_audience,
            settings.jwt_leeway_s,
            open_to,
            settings.user_ids == "separate",
        )


def _parse(body: bytes, allowed: tuple[str, ...]) -> tuple[VerificationKey, ...]:
    """Return the keys of a JWKS that may be used. One that has none is taken for a failure of its server."""
    found: Any = json.loads(body)
    members = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(members, list):
        raise ValueError("it is not a JWKS")
    candidates = (auth.jwk_key(member, allowed) for member in members[:MAX_KEYS] if isinstance(member, dict))
    keys = tuple(key for key in candidates if key is not None)
    if not keys:
        raise ValueError("it has no key that could be used")
    return keys


def _secret(settings: TokenSettings) -> bytes:
    if settings.jwt_secret:
        return settings.jwt_secret.reveal().encode()
    if settings.jwt_secret_file:
        path = Path(settings.jwt_secret_file)
    else:
        path = _made(settings)
        _make_secret(path)
    secret = _read("jwt_secret_file", str(path)).rstrip(b"\r\n")
    if path.stat().st_mode & TOO_OPEN:
        log.warning("the secret's file is open to others; chmod 600 it", extra={"file": str(path)})
    return secret


def _own_cluster_secret(settings: TokenSettings) -> bytes:
    if settings.cluster_secret:
        return settings.cluster_secret.reveal().encode()
    if not settings.cluster_secret_file:
        return b""
    secret = _read("cluster_secret_file", settings.cluster_secret_file).strip()
    if len(secret) < auth.MIN_SECRET_BYTES:
        raise ConfigError(f"cluster_secret_file = {settings.cluster_secret_file}: expected 32 bytes or more")
    return secret


def _made(settings: TokenSettings) -> Path:
    return Path(settings.data_dir) / SECRET_FILE


def _make_secret(path: Path) -> None:
    """Make the file if it is not there: never half of it, and one only, however many processes try."""
    if path.exists():
        return
    try:
        private_folder(path.parent)
        handle, draft = tempfile.mkstemp(prefix=f".{SECRET_FILE}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first: its secret is the one
                os.link(draft, path)
        finally:
            os.unlink(draft)
    except FolderError as why:
        raise ConfigError(f"data_dir = {path.parent}: {why}") from None
    except OSError as why:
        raise ConfigError(f"data_dir = {path.parent}: cannot make a secret in it: {why.strerror}") from None


def _read(name: str, file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(MAX_JWKS_BYTES)
    except OSError as why:
        raise ConfigError(f"{name} = {file}: {why.strerror}") from None
