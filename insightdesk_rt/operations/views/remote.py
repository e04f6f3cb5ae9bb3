"""The admin port as another program on this machine sees it: one HTTP call, its JSON, its errors in a line.

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
SILENCE_S = 30.0  # of a stream; the server gives a sign of life every 10 s


class NoAnswer(Exception):
    """Nobody answered, or not in HTTP, or somebody else did; one line."""


class RemoteAnswer(dict[str, Any]):
    """The object in an answer. Raises NoAnswer for a field it should have: then it is not one of this server's."""

    def __missing__(self, name: str) -> NoReturn:
        raise NoAnswer(f"what answers there is not this server, or another version of it: {name} is missing")


def call(url: str, body: str | None = None, key: str = "", method: str | None = None) -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of an answer; GET without a body, else POST, if no method is said.

    Raises NoAnswer.
    """
    with _open(url, body, key, method, TIMEOUT_S) as answer:
        return answer.status, _object(answer.read())


def events(url: str, key: str, refused: Callable[[int, dict[str, Any]], None]) -> Iterator[tuple[str, Any]]:
    """Yield name and data of server-sent events, first ("welcome", {}). Raises NoAnswer when they break off.

    https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as this server writes them. `refused` is
    called with status and answer, to raise, if there are none.
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
    # no proxy from the environment: the admin port is near
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AnyAnswer())
    try:
        request = urllib.request.Request(url, body.encode() if body is not None else None, headers, method=method)
        with opener.open(request, timeout=timeout_s) as answer:
            yield answer
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
        return RemoteAnswer()
    return RemoteAnswer(found) if isinstance(found, dict) else RemoteAnswer()


def plain(text: str) -> str:
    """Whatever answered, it does not get to write to the terminal what it likes."""
    return printable(shown_text(text.strip()))
