"""HTTP calls to the admin port: JSON answers, server-sent events, errors of one line.

Blocking, on the standard library: for the command line, not for the server.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from insightdesk_rt.engine.secret import printable, shown_text
from insightdesk_rt.engine.wire import json

TIMEOUT_S = 10.0
SILENCE_S = 30.0  # longest silence of a stream; the server sends a sign of life every 10 s


class NoAnswer(Exception):
    """There was no answer, or not an HTTP answer, or not from this server; one line."""


class RemoteAnswer(dict[str, Any]):
    """The JSON object of an answer. Raises NoAnswer for a missing field: the answer is not from this server then."""

    def __missing__(self, name: str) -> NoReturn:
        raise NoAnswer(f"the answer is not from this server, or from another version of it: {name} is missing")


def call(url: str, body: str | None = None, key: str = "", method: str | None = None) -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of an answer. By default the method is GET without a body, POST with one.

    Raises NoAnswer.
    """
    with _open(url, body, key, method, TIMEOUT_S) as answer:
        return answer.status, _object(answer.read())


def events(url: str, key: str, refused: Callable[[int, dict[str, Any]], None]) -> Iterator[tuple[str, Any]]:
    """Yield the name and data of server-sent events, first ("welcome", {}). Raises NoAnswer when the connection breaks.

    https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as this server uses it. If the server
    refuses, `refused` is called with status and answer, and must raise.
    """
    with _open(url, None, key, None, SILENCE_S) as answer:
        if answer.status != 200:
            refused(answer.status, _object(answer.read()))
        yield "welcome", {}
        name, data = "message", ""
        for line in answer:
            field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data += value
            elif not field and data:
                yield name, _object(data.encode())
                name, data = "message", ""


@contextmanager
def _open(url: str, body: str | None, key: str, method: str | None, timeout_s: float) -> Iterator[Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    # ignore proxies from the environment: the admin port is on this machine or in its network
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AnyAnswer())
    try:
        request = urllib.request.Request(url, body.encode() if body is not None else None, headers, method=method)
        with opener.open(request, timeout=timeout_s) as answer:
            yield answer
    except urllib.error.URLError as why:
        raise NoAnswer(plain(f"no server answers at {url}: {why.reason}")) from None
    except (OSError, ValueError, http.client.HTTPException) as why:
        raise NoAnswer(plain(f"no answer from {url}: {str(why) or type(why).__name__}")) from None


def reason(status: int, answer: dict[str, Any]) -> str:
    """Return the reason of a refusal as text."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return f"HTTP {status}"
    field = f" ({error['field']})" if error.get("field") else ""
    return plain(f"{error.get('code')}: {error.get('message')}{field}")


class _AnyAnswer(urllib.request.HTTPErrorProcessor):
    """Returns every status as an answer, and follows no redirect: the token must only reach this server."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.BadJson:
        return RemoteAnswer()
    return RemoteAnswer(found) if isinstance(found, dict) else RemoteAnswer()


def plain(text: str) -> str:
    """Return text of a server as one line without control characters, so that it cannot control the terminal."""
    return printable(shown_text(text.strip()))
