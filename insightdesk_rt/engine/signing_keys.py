"""The keys that verify tokens now: secrets, public keys, and the keys that issuers publish.

A secret comes from a setting, from a file, or is made once in data_dir. Several secrets and public keys may be in use
at once, so that a key can be replaced without refusing anybody. Each entry of `jwt_issuers` has keys of its own.
published_keys.py fetches what issuers publish. `KeyRing.reload` reads the files again.
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
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.claims import claim_map
from insightdesk_rt.engine.cluster.seal import derived_key, fingerprint
from insightdesk_rt.engine.errors import ConfigError, RtError
from insightdesk_rt.engine.folder import FolderError, private_folder
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.published_keys import REFRESH_S, RETRY_S, PublishedKeys
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.tokens import (
    FAMILIES,
    BadKey,
    Pass,
    TokenIssuer,
    TokenSettings,
    VerificationKey,
    VerificationKeys,
)

log = logging.getLogger(__name__)

SECRET_FILE = "jwt_secret"
DEMO_SECRET_FILE = "demo_secret"
ODD_S = 3600.0  # between two log lines about the same oddity of tokens
MAX_FILE_BYTES = 65_536  # of a secret or a public key
TOO_OPEN = stat.S_IWGRP | stat.S_IRWXO  # a group may read: so a service may use a secret file of root


def signing_key(settings: TokenSettings, *, may_make: bool = True) -> VerificationKey:
    """Return the key that tokens are signed with. Raises ConfigError.

    A server makes the secret if there is none yet. A command must not (`may_make=False`): no server would accept what
    it signs with a new secret.
    """
    if not may_make and not has_secret(settings) and "HS" in settings.families:
        raise ConfigError(
            f"there is no secret in {settings.data_dir}, where a server makes one at its first start; "
            "name the server's --config or --data-dir"
        )
    name = "jwt_secret" if settings.jwt_secret else "jwt_secret_file"
    if name == "jwt_secret_file" and not settings.jwt_secret_file and settings.jwt_secret_files:
        name = "jwt_secret_files"
    try:
        return structs.replace(auth.secret_key(_secret(settings), settings.jwt_algorithms), origin=name)
    except BadKey as why:
        raise ConfigError(f"{name if 'HS' in settings.families else 'jwt_algorithms'}: {why}") from None


def has_secret(settings: TokenSettings) -> bool:
    """Return whether there is a secret to sign with. Makes none."""
    named = settings.jwt_secret or settings.jwt_secret_file or settings.jwt_secret_files
    return "HS" in settings.families and bool(named or _made(settings).exists())


class DemoKeys:
    """Signs and verifies the demo's tokens, with a secret of their own in data_dir. Raises ConfigError.

    The demo gives tokens to everybody who reaches its page, also an admin's token. So they open only the client port:
    the server's own keys do not verify them, and the admin port asks only those.
    """

    def __init__(self, settings: TokenSettings, now_s: Callable[[], float] = time.time) -> None:
        path = Path(settings.data_dir) / DEMO_SECRET_FILE
        _make_secret(path)
        self._key = auth.secret_key(_read("data_dir", str(path)).rstrip(), ("HS256",))
        self._now_s = now_s

    def sign(self, claims: Mapping[str, Any]) -> str:
        return auth.sign(claims, self._key)

    def beside(self, verify: Callable[[object], User]) -> Callable[[object], User]:
        """Return a function that verifies a token of the demo, and every other token as `verify` does."""
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
    """Return the keys that need no network, without those of `jwt_issuers`. Raises ConfigError naming setting and file.

    Without `may_make` nothing is written: a secret that would have to be made is left out.
    """
    keys: list[VerificationKey] = []
    if has_secret(settings) or (may_make and "HS" in settings.families):
        keys.append(signing_key(settings))
    further = settings.jwt_secret_files if settings.jwt_secret or settings.jwt_secret_file else ()
    keys += _secret_keys("jwt_secret_files", further or settings.jwt_secret_files[1:], settings.jwt_algorithms)
    keys += _public_keys("jwt_public_key_file", settings.jwt_public_key_file, settings.jwt_algorithms)
    return tuple(keys)


def keys_of(issuer: TokenIssuer) -> tuple[VerificationKey, ...]:
    """Return the keys of an entry of `jwt_issuers` that need no network. Raises ConfigError."""
    return (
        *_secret_keys("jwt_issuers: secret_files", issuer.secret_files, issuer.algorithms),
        *_public_keys("jwt_issuers: public_key_file", issuer.public_key_file, issuer.algorithms),
    )


def _secret_keys(name: str, files: tuple[str, ...], allowed: tuple[str, ...]) -> list[VerificationKey]:
    keys = []
    for file in files:
        try:
            key = auth.secret_key(_secret_in(name, Path(file)), allowed)
        except BadKey as why:
            raise ConfigError(f"{name} = {file}: {why}") from None
        keys.append(structs.replace(key, origin=f"{name} = {file}"))
    return keys


def _public_keys(name: str, file: str, allowed: tuple[str, ...]) -> list[VerificationKey]:
    if not file:
        return []
    try:
        found = auth.public_keys(_read(name, file), allowed)
    except BadKey as why:
        raise ConfigError(f"{name} = {file}: {why}") from None
    return [structs.replace(key, origin=f"{name} = {file}") for key in found]


def cluster_key(settings: TokenSettings) -> bytes:
    """Return the key that seals requests between nodes: from cluster_secret, or else from the secret of tokens.

    Without either, anybody who can write to Valkey can send requests as a node. Raises ConfigError.
    """
    secret = _own_cluster_secret(settings)
    if not secret and "HS" in settings.families:
        secret = _secret(settings)
    return derived_key(secret)


def fingerprints(settings: TokenSettings) -> dict[str, str]:
    """Return fingerprints of the secrets that nodes must share, by setting; several of one setting have spaces between.

    Nodes with a `cluster_secret` need one secret of tokens in common, so that it can be replaced node by node. Without
    `cluster_secret` the first secret seals their requests, and must be the same. `user_ids` is there as it is: nodes
    with different values would let one user read what belongs to another. Raises ConfigError.
    """
    found: dict[str, str] = {"user_ids": settings.user_ids}
    own = _own_cluster_secret(settings)
    if own:
        found["cluster_secret"] = fingerprint(own)
    if "HS" in settings.families:
        further = [_secret_in("jwt_secret_files", Path(file)) for file in settings.jwt_secret_files] if own else []
        found["jwt_secret"] = " ".join(dict.fromkeys(map(fingerprint, [_secret(settings), *further])))
    return found


class IssuerKeys:
    """The keys of one issuer, configured and published, with what else its tokens are checked against."""

    def __init__(
        self,
        configured: Callable[[], tuple[VerificationKey, ...]],
        against: VerificationKeys,
        published: PublishedKeys | None,
    ) -> None:
        self._load = configured
        self._configured = configured()
        self._against = against
        self.published = published

    @property
    def keys(self) -> VerificationKeys:
        published = self.published.keys if self.published is not None else ()
        return structs.replace(self._against, keys=self._configured + published)

    def reload(self) -> None:
        """Read secrets and public keys again. Raises ConfigError, and then keeps the old ones."""
        self._configured = self._load()


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
        self._pace = {"refresh_s": refresh_s, "retry_s": retry_s}
        self._seldom = Seldom(log, every_s=ODD_S)
        own = VerificationKeys((), settings.jwt_issuer, settings.jwt_audience, claims=settings.claim_map)
        self._own = self._issuer(
            own,
            lambda: configured_keys(settings, may_make=may_make),
            settings.jwks_url.reveal(),
            settings.jwt_algorithms,
        )
        self._others: dict[str, IssuerKeys] = {}
        for one in settings.jwt_issuers:
            against = VerificationKeys((), one.issuer, one.audience, claims=claim_map(one.claims, one.roles))
            self._others[one.issuer] = self._issuer(against, partial(keys_of, one), one.jwks_url, one.algorithms)
        self._changed()

    def _issuer(
        self,
        against: VerificationKeys,
        configured: Callable[[], tuple[VerificationKey, ...]],
        url: str,
        algorithms: tuple[str, ...],
    ) -> IssuerKeys:
        against = structs.replace(
            against,
            leeway_s=self._settings.jwt_leeway_s,
            published=tuple(one for one in algorithms if url and FAMILIES[one] != "HS"),
            separate_ids=self._settings.user_ids == "separate",
        )
        return IssuerKeys(
            configured, against, PublishedKeys(url, algorithms, self._changed, **self._pace) if url else None
        )

    def _changed(self) -> None:
        self.keys = structs.replace(self._own.keys, others={name: one.keys for name, one in self._others.items()})

    @property
    def _published(self) -> list[PublishedKeys]:
        return [one.published for one in (self._own, *self._others.values()) if one.published is not None]

    @property
    def fetches(self) -> int:
        return sum(one.fetches for one in self._published)

    @property
    def failures(self) -> int:
        return sum(one.failures for one in self._published)

    def verify(self, token: object) -> User:
        """Return the user that the token speaks for now. Raises RtError as `auth.verify` does."""
        try:
            return auth.verify(token, self.keys, self._now_s(), self._odd)
        except auth.UnknownKey as unknown:
            self._fetch_for(unknown)
            raise

    def verify_pass(self, token: object) -> Pass:
        """Return what a pass allows now. Raises RtError as `auth.verify_pass` does."""
        try:
            return auth.verify_pass(token, self.keys, self._now_s())
        except auth.UnknownKey as unknown:
            self._fetch_for(unknown)
            raise

    def _fetch_for(self, unknown: auth.UnknownKey) -> None:
        published = self._others.get(unknown.issuer, self._own).published
        if published is not None:
            published.want()

    def _odd(self, what: str) -> None:
        self._seldom.say(logging.WARNING, "a token is accepted and looks wrong", what, why=what)

    def reload(self) -> None:
        """Read all secrets and public keys from their files again, and log the result.

        If one cannot be used, all of its issuer's old keys stay in use.
        """
        for issuer in (self._own, *self._others.values()):
            try:
                issuer.reload()
            except ConfigError as why:
                log.error("the keys were not reloaded; the old ones stay in use", extra={"why": str(why)})
        self._changed()
        count = len(self.keys.keys) + sum(len(one.keys) for one in self.keys.others.values())
        log.info("keys reloaded", extra={"keys": count})

    async def start(self) -> None:
        """Fetch the keys that issuers publish, and keep them fresh. An issuer that is down is only logged."""
        await asyncio.gather(*(one.start() for one in self._published))

    async def close(self) -> None:
        for one in self._published:
            await one.close()


def _secret(settings: TokenSettings) -> bytes:
    """Return the secret that tokens are signed with; make it if there is none."""
    if settings.jwt_secret:
        return settings.jwt_secret.reveal().encode()
    if settings.jwt_secret_file:
        return _secret_in("jwt_secret_file", Path(settings.jwt_secret_file))
    if settings.jwt_secret_files:
        return _secret_in("jwt_secret_files", Path(settings.jwt_secret_files[0]))
    path = _made(settings)
    _make_secret(path)
    return _secret_in("jwt_secret_file", path)


def _secret_in(name: str, path: Path) -> bytes:
    secret = _read(name, str(path)).rstrip(b"\r\n")
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
    """Make the file if it does not exist: completely or not at all, and only once if several processes try."""
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
            with contextlib.suppress(FileExistsError):  # another process was first, and its secret counts
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
            return opened.read(MAX_FILE_BYTES)
    except OSError as why:
        raise ConfigError(f"{name} = {file}: {why.strerror}") from None
