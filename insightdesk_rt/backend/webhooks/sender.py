"""Sends one message of a webhook. Every outcome is an `Attempt`; nothing that a receiver does raises or hangs.

A receiver may be slow, hang, redirect, or answer without end: a request ends after TIMEOUT_S, redirects are not
followed, and of an answer only its status counts. Each request uses a connection of its own (Tornado's client).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from http.client import responses
from typing import NamedTuple

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from insightdesk_rt.backend.signing import signed_headers
from insightdesk_rt.backend.webhooks.addresses import CheckedResolver
from insightdesk_rt.backend.webhooks.settings import WebhookSettings

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 65_536
MAX_CLIENTS = 64  # requests at once: one for each webhook, and tests
MAX_ERROR = 200  # characters
USER_AGENT = "insightdesk_rt webhooks"


class Attempt(NamedTuple):
    """What came of a request. `status` is 0 if there was no answer; `error` is "" if the message was accepted."""

    status: int
    error: str
    seconds: float
    retry_after_s: float = 0.0

    @property
    def accepted(self) -> bool:
        return not self.error


class WebhookSender:
    def __init__(self, settings: WebhookSettings = WebhookSettings()) -> None:
        self._resolver = CheckedResolver(allow_private=settings.webhook_allow_private)
        self._ca_file = settings.webhook_ca_file or None
        self._client = SimpleAsyncHTTPClient(
            force_instance=True,
            resolver=self._resolver,
            max_clients=MAX_CLIENTS,
            max_body_size=MAX_ANSWER_BYTES,
            max_header_size=MAX_ANSWER_BYTES,
        )

    async def send(self, url: str, secrets: Sequence[str], id: str, body: bytes) -> Attempt:
        """POST one message, signed with each of the secrets."""
        began_s, status = time.monotonic(), 0

        def read(line: str) -> None:
            nonlocal status
            if line.startswith("HTTP/"):  # an answer whose body is too long, or late, still has a status
                status = int(line.split(" ", 2)[1])

        headers = signed_headers(secrets, id, int(time.time()), body)
        request = HTTPRequest(
            url,
            "POST",
            {**headers, "Content-Type": "application/json", "User-Agent": USER_AGENT},
            body,
            connect_timeout=TIMEOUT_S,
            request_timeout=TIMEOUT_S,
            follow_redirects=False,
            decompress_response=False,
            header_callback=read,
            ca_certs=self._ca_file,
        )
        try:
            answer = await self._client.fetch(request, raise_error=False)
        except Exception as why:  # Tornado raises what its socket, TLS and resolver raise
            return Attempt(status, _no_answer(why, status), time.monotonic() - began_s)
        seconds = time.monotonic() - began_s
        if answer.code == 599:
            return Attempt(status, _no_answer(answer.error, status), seconds)
        return Attempt(answer.code, _refused(answer), seconds, _retry_after_s(answer))

    def close(self) -> None:
        self._client.close()
        self._resolver.close()


def _no_answer(why: BaseException | None, status: int) -> str:
    """Return why there was no whole answer; "" if its status says that the message was accepted."""
    if 200 <= status < 300:
        return ""
    text = getattr(why, "strerror", None) or " ".join(str(why).split()) or type(why).__name__
    return f"HTTP {status}" if status else text[:MAX_ERROR]


def _refused(answer: HTTPResponse) -> str:
    if 200 <= answer.code < 300:
        return ""
    if 300 <= answer.code < 400:
        return f"HTTP {answer.code}: redirects are not followed"
    return f"HTTP {answer.code} {responses.get(answer.code, '')}".strip()


def _retry_after_s(answer: HTTPResponse) -> float:
    """Return the seconds of a Retry-After header (RFC 9110 10.2.3), 0 without one. A date is not read."""
    text = answer.headers.get("Retry-After", "").strip()
    return float(text) if answer.code in (429, 503) and text.isdigit() and len(text) < 7 else 0.0
