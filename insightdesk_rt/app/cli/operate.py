"""The commands `emit` and `status`, and what all commands for a running server share: the admin port's URL and key.

The key is a token signed with the server's secret, if that is on this machine; otherwise `--key-file` names one.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from insightdesk_rt.app.cli import remote
from insightdesk_rt.app.config import ConfigError, LoadedSettings
from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.claims import ClaimUse, placed_claims
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.secret import shown_url, split_url
from insightdesk_rt.engine.signing_keys import has_secret, signing_key
from insightdesk_rt.engine.tokens import TokenSettings
from insightdesk_rt.engine.wire import json

DONE, FAILED = 0, 1
KEY_S = 60  # how long a token is valid that a command signs for itself
LOOPBACKS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Failed(Exception):
    """A correct command did not succeed; one line says why."""


# ── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────


def emit(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    text = sys.stdin.read() if options.json == "-" else options.json
    try:
        data = json.loads(text)
    except json.BadJson as why:
        raise ConfigError(f"JSON: {why.why}") from None
    body: dict[str, Any] = {"namespace": options.namespace, "room": options.room, "event": options.event, "data": data}
    if options.volatile:
        body["volatile"] = True
    else:
        body["id"] = options.id or secrets.token_urlsafe(12)
    status, answer = remote.call(
        admin_url(loaded, options) + "/api/v1/emit", json.dumps(body), admin_key(loaded, options)
    )
    if status != 200:
        raise Failed(f"the server refused: {remote.reason(status, answer)}")
    print(answer.get("offset") or "sent")
    return DONE


def status(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    url = admin_url(loaded, options)
    ready, answer = remote.call(url + "/readyz")
    rows = [("server", url), ("ready", "yes" if ready == 200 else f"no (HTTP {ready})")]
    rows += [(name, text) for name, text in _rows(answer) if name != "ready"]
    table(rows)  # the version is in the table of nodes: the server may have another one than this command
    if options.key_file or has_secret(loaded.settings.tokens):
        _nodes(url, admin_key(loaded, options))
    else:
        print(
            f"\nThe nodes are not shown, because there is no secret in {loaded.settings.tokens.data_dir}. "
            "Give the server's --config or --data-dir, or a --key-file."
        )
    return DONE if ready == 200 else FAILED


def _nodes(url: str, key: str) -> None:
    status, answer = remote.call(url + "/api/v1/nodes", key=key)
    if status != 200:
        raise Failed(f"the nodes are not shown: {remote.reason(status, answer)}")
    print()
    rows = [("node", "version", "up", "connections", "rooms", "")]
    for node in answer["nodes"]:
        count = sum(node["connections"].values())
        notes = ["leader"] * node["leads"] + ["does not receive the others' events"] * (not node["hears"])
        if drain := node["drain"]:
            notes.append("drained" if drain["done"] else f"draining: {drain['left']} left")
        up = span(node["uptimeSeconds"])
        rows.append((node["node"], node["version"], up, str(count), str(node["rooms"]), ", ".join(notes)))
    table([tuple(remote.plain(cell) for cell in row) for row in rows])
    for name in answer["missing"]:
        print(f"{remote.plain(name)} did not answer")


def span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"


# ── the admin port ──────────────────────────────────────────────────────────────────────────────────────────────────


def admin_url(loaded: LoadedSettings, options: argparse.Namespace) -> str:
    if options.url:
        url = split_url(options.url)
        if url is None or url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query:
            raise ConfigError(f"--url {shown_url(options.url)}: expected http(s)://host:port, without a password")
        return str(options.url).rstrip("/")
    settings = loaded.settings
    if not settings.admin_port.admin_port:
        raise ConfigError("admin_port = 0: the server chose a port itself; give it with --admin-port or --url")
    host = LOOPBACKS.get(settings.admin_port.admin_address[0], settings.admin_port.admin_address[0])
    scheme = "https" if settings.tls.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.admin_port.admin_port}"


def admin_key(loaded: LoadedSettings, options: argparse.Namespace, ttl_s: int = KEY_S) -> str:
    """Return a key that the server accepts: from --key-file, or a token signed here. Raises ConfigError."""
    if not options.key_file:
        return make_token(loaded.settings.tokens, {"user": "insightdesk-rt", "role": "admin"}, ttl_s)
    try:
        return Path(options.key_file).read_text("ascii").strip()
    except (OSError, ValueError) as why:
        raise ConfigError(f"--key-file {options.key_file}: {getattr(why, 'strerror', None) or 'not a key'}") from None


def make_token(settings: TokenSettings, facts: Mapping[ClaimUse, str], ttl_s: int) -> str:
    """Return a token that this server accepts. Raises ConfigError: no secret, or facts the server would refuse."""
    now_s = int(time.time())
    parties = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience}
    key = signing_key(settings, may_make=False)
    where = settings.claim_map
    try:
        claims = placed_claims(facts, where)
    except ValueError as why:
        raise ConfigError(f"the server would refuse this token: {why}") from None
    token = auth.sign(
        {**claims, "iat": now_s, "exp": now_s + ttl_s, **{name: value for name, value in parties.items() if value}}, key
    )
    keys = auth.VerificationKeys((key,), settings.jwt_issuer, settings.jwt_audience, claims=where)
    try:
        auth.verify(token, keys, now_s)
    except auth.BadToken as refused:
        raise ConfigError(f"the server would refuse this token: {refused.why}") from None
    except RtError as refused:
        raise ConfigError(f"the server would refuse this token: {refused.message}") from None
    return token


def _rows(answer: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of nested objects by name, and each check (`{name, ok, why}`) as one word."""
    for name, value in answer.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        elif isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
            for one in value:
                yield str(one["name"]), "ok" if one.get("ok") else str(one.get("why") or "failed")
        else:
            yield prefix + name, str(value)


def table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
