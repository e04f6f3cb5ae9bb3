"""`token --explain TOKEN`: say step by step why this server accepts or refuses a token."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from insightdesk_rt.app.cli.operate import DONE, Failed, table
from insightdesk_rt.app.config import ConfigError, LoadedSettings
from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.claims import find_claim, role_names, strongest_role
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.signing_keys import KeyRing
from insightdesk_rt.engine.wire import json

TIMES = ("iat", "nbf", "exp")
MAX_SHOWN = 200  # characters of a claim


def explain(loaded: LoadedSettings, text: str) -> int:
    """Print what the token says, how it was checked, and who it speaks for. Raises Failed if the server refuses it.

    `-` reads the token from standard input, so that it stays out of the shell's history.
    """
    token = sys.stdin.read() if text == "-" else text
    odd: list[str] = []
    try:
        keys = asyncio.run(_keys(loaded))
        if not (keys.keys or keys.others):
            raise ConfigError(
                "there is no key to check the token with: no secret in data_dir ="
                f" {loaded.settings.tokens.data_dir}; give the server's --config or --data-dir"
            )
        _show(token)
        print()
        table(list(_steps(token, keys)))
        user = auth.verify(token, keys, time.time(), odd.append)
    except auth.BadToken as refused:
        raise Failed(f"the server refuses this token ({refused.code}): {refused.why}") from None
    except RtError as refused:
        raise Failed(f"the server refuses this token ({refused.code}): {refused.message}") from None
    print(f"\nThe server accepts this token: {_who(user)}, connected until {_at(user.expires_s)} at most.")
    print("This command cannot see whether the token is revoked or its user blocked; only the running server knows.")
    for what in odd:
        print(f"warning: {what}", file=sys.stderr)
    return DONE


def _steps(token: str, keys: auth.VerificationKeys) -> Iterator[tuple[str, str]]:
    """Yield what each check found, up to the first that fails."""
    try:
        header, claims = auth.unverified(token)
    except auth.BadToken as refused:
        yield "1 form", refused.why
        return
    its = auth.keys_of_issuer(claims, keys)
    known = "an entry of jwt_issuers" if its is not keys else "no entry of jwt_issuers: the settings jwt_… apply"
    yield "1 issuer", f"{_shown('iss', claims.get('iss'))} is {known}"
    try:
        fitting = auth.keys_for(header, its)
        names = [f"{key.origin or 'a key'}{f' with kid {key.kid}' if key.kid else ''}" for key in fitting]
        yield (
            "2 key",
            f"{_shown('alg', header.get('alg'))} and kid {_shown('kid', header.get('kid'))}: " + ", ".join(names),
        )
        signer = auth.signing_key_of(token, fitting)
    except auth.BadToken as refused:
        yield "2 key", refused.why
        return
    if signer is None:
        yield "3 signature", "wrong: none of these keys has signed the token"
        return
    yield "3 signature", f"valid, signed with {names[fitting.index(signer)]}"
    yield "4 audience", _audience(claims, its)
    for use, path in its.claims.paths.items():
        value = find_claim(claims, path)
        yield f"5 {use}", f"{path}: " + ("not there" if value is None else _shown(path, value))
    value = find_claim(claims, its.claims.paths["role"])
    role, names = strongest_role(value, its.claims.roles), role_names(value)
    meant = [f"{name} is {its.claims.roles[name]}" for name in names if name in its.claims.roles]
    yield "6 role here", f"{role or 'none'}" + (f": {', '.join(meant)}" if meant else ": no name in jwt_roles")


def _audience(claims: dict[str, Any], its: auth.VerificationKeys) -> str:
    if not its.audience:
        return "not checked" if claims.get("aud") is None else "the token has an aud, and no audience is configured"
    return f"{_shown('aud', claims.get('aud'))}; expected {its.audience}"


async def _keys(loaded: LoadedSettings) -> auth.VerificationKeys:
    """Return the keys that the server would use. Published keys are fetched; no secret is created."""
    ring = KeyRing(loaded.settings.tokens, may_make=False)
    await ring.start()
    await ring.close()
    return ring.keys


def _show(token: str) -> None:
    """Print the token's header and claims, if they can be read."""
    try:
        header, claims = auth.unverified(token)
    except auth.BadToken:
        return
    rows = [(f"header {name}", _shown(name, value)) for name, value in header.items()]
    table([*rows, *((name, _shown(name, value)) for name, value in claims.items())])


def _shown(name: str, value: Any) -> str:
    text = json.dumps(value)
    text = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    number = type(value) in (int, float) and 0 < value < auth.MILLISECONDS
    return f"{text}  {_at(value)}" if name in TIMES and number else text


def _at(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return "not a date"


def _who(user: User) -> str:
    team = f" of team {user.team_id}" if user.team_id else ""
    return f"user {user.id}, role {user.role}{team}"
