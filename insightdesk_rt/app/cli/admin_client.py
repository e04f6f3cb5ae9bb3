"""The commands' client of the admin port: sends requests, prints answers, turns refusals into errors of one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from insightdesk_rt.app.cli import remote
from insightdesk_rt.app.cli.operate import Failed, admin_key, admin_url
from insightdesk_rt.app.config import ConfigError, LoadedSettings

LONG_KEY_S = 86_400  # how long the key of a command is valid that runs until Ctrl-C

Run = Callable[[LoadedSettings, argparse.Namespace], int]


class Adder(Protocol):
    """Adds a command to the command line and returns its parser."""

    def __call__(self, name: str, run: Run, help: str, epilog: str) -> argparse.ArgumentParser: ...


class AdminClient:
    """All methods raise Failed (the server refuses), NoAnswer, ConfigError (there is no key)."""

    def __init__(self, loaded: LoadedSettings, options: argparse.Namespace) -> None:
        self._url = admin_url(loaded, options) + "/api/v1/"
        self._key = admin_key(loaded, options, LONG_KEY_S)

    def get(self, *path: str, **query: object) -> dict[str, Any]:
        return self._call("GET", path, query)

    def send(self, method: str, *path: str, body: dict[str, Any] | None = None, **query: object) -> dict[str, Any]:
        """Send a change. Fields and parameters that are None are left out."""
        return self._call(method, path, query, body)

    def events(self, *path: str, **query: object) -> Iterator[tuple[str, Any]]:
        """Yield the name and data of server-sent events until the stream ends."""
        return remote.events(self._at(path, query), self._key, _refused)

    def _call(
        self, method: str, path: tuple[str, ...], query: dict[str, object], body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        text = None if body is None else json.dumps({name: one for name, one in body.items() if one is not None})
        status, answer = remote.call(self._at(path, query), text, self._key, method)
        if not 200 <= status < 300:
            _refused(status, answer)
        return answer

    def _at(self, path: tuple[str, ...], query: dict[str, object]) -> str:
        texts = {name: str(one).lower() if isinstance(one, bool) else one for name, one in query.items()}
        try:
            text = urlencode({name: one for name, one in texts.items() if one not in (None, "")})
            return self._url + "/".join(quote(part, safe="") for part in path) + (f"?{text}" if text else "")
        except UnicodeEncodeError:
            raise ConfigError("an argument is not UTF-8") from None


def _refused(status: int, answer: dict[str, Any]) -> None:
    raise Failed(f"the server refused: {remote.reason(status, answer)}")


def print_missing(missing: list[str]) -> None:
    """Print on stderr which nodes did not answer."""
    for name in missing:
        print(f"{remote.plain(name)} did not answer", file=sys.stderr)


def print_json(answer: Any) -> None:
    """Print the API's answer as ASCII."""
    print(json.dumps(answer, indent=2))


def count_of(count: int, what: str = "connection") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def add_reason(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--reason", required=required, help="the reason, for the audit log")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the API's answer as JSON")
