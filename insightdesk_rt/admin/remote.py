"""The admin port as another program on this machine sees it: one HTTP call, its JSON, its errors in a line.

Blocking, on the standard library: for the command line, not for the server.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

from insightdesk_rt.config import shown
from insightdesk_rt.wire import json

TIMEOUT_S = 10.0


class NoAnswer(Exception):
    """Nobody answered, or not in HTTP; one line."""


def call(url: str, body: str | None = None, key: str = "") -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of an answer; GET without a body. Raises NoAnswer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    # no proxy from the environment: the admin port is near
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AnyAnswer())
    try:
        request = urllib.request.Request(url, body.encode() if body is not None else None, headers)
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, _object(answer.read())
    except urllib.error.URLError as why:
        raise NoAnswer(plain(f"nobody answers at {url}: {why.reason}")) from None
    except (OSError, ValueError, http.client.HTTPException) as why:
        raise NoAnswer(plain(f"no answer from {url}: {str(why) or type(why).__name__}")) from None


def reason(status: int, answer: dict[str, Any]) -> str:
    """Return why the server refused, for people."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return f"HTTP {status}"
    field = f" ({error['field']})" if error.get("field") else ""
    return plain(f"{error.get('code')}: {error.get('message')}{field}")


class _AnyAnswer(urllib.request.HTTPErrorProcessor):
    """Takes every status for an answer, and follows no redirect: the token is for this server alone."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.BadJson:
        return {}
    return found if isinstance(found, dict) else {}


def plain(text: str) -> str:
    """Whatever answered, it does not get to write to the terminal what it likes."""
    return shown("", text.strip())
