"""The settings of the hooks. `access_url` and `access_down` are the tickets' (helpdesk/tickets/settings.py)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from insightdesk_rt.backend.signing import secret_key
from insightdesk_rt.engine.secret import Secret, SecretUrl
from insightdesk_rt.engine.settings import Help, Names, SettingsPart

ACCESS_TIMEOUT_MS = 800  # a revocation is complete within a second, so its questions must be answered or denied by then


MAKE_SECRET = "echo whsec_$(openssl rand -base64 32)"


class HookSettings(SettingsPart, frozen=True):
    """Where the back end is asked, and how long an answer may take."""

    access_url: SecretUrl = SecretUrl()
    hook_secret: Annotated[Secret, Help("secret that signs requests to the back end: whsec_ and base64")] = Secret()
    hook_secret_file: Annotated[str, Help("file that holds hook_secret")] = ""
    # A back end that asks its database has a pool of about that many connections.
    hook_requests_at_once: Annotated[
        int, Meta(ge=1, le=1000), Help("requests to each of the back end's hooks at once, per node")
    ] = 50
    connect_url: Annotated[SecretUrl, Help("URL of your back end that says who a client without a token is")] = (
        SecretUrl()
    )
    connect_headers: Annotated[Names, Help("headers of a client's first request that connect_url is sent")] = (
        "cookie",
    )
    rpc_url: Annotated[SecretUrl, Help("URL of your back end that answers the events of rpc_events")] = SecretUrl()
    rpc_events: Annotated[Names, Help('events that rpc_url answers, as in "/tickets macro:run"')] = ()
    access_timeout_ms: Annotated[int, Meta(ge=50, le=900), Help("how long access_url may take to answer")] = (
        ACCESS_TIMEOUT_MS
    )
    # A page shows nothing until it is connected, but a session may have to be looked up in a database.
    connect_url_timeout_ms: Annotated[int, Meta(ge=50, le=20_000), Help("how long connect_url may take to answer")] = (
        3_000
    )
    rpc_timeout_ms: Annotated[int, Meta(ge=50, le=30_000), Help("how long rpc_url may take to answer")] = 5_000


def secret_fault(text: str) -> str:
    """Return what is wrong with a secret of Standard Webhooks, or ""."""
    try:
        secret_key(text)
    except ValueError as why:
        return f"{why} Make one with: {MAKE_SECRET}"
    return ""
