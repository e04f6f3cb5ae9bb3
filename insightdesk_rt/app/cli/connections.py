"""`connections` and `kick`: who is connected, and sending them away. Both mean connections by the same filters."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from datetime import datetime
from typing import Any

from insightdesk_rt.app.cli.admin_client import (
    Adder,
    AdminPort,
    add_json,
    add_reason,
    count_of,
    print_json,
    say_missing,
)
from insightdesk_rt.app.cli.operate import DONE, FAILED, Failed, span, table
from insightdesk_rt.app.config import ConfigError, LoadedSettings
from insightdesk_rt.operations.views.remote import plain

FILTERS = {
    "user": "id of a user; of an agent or admin, where ids are separate",
    "customer": "id of a customer, where ids are separate",
    "ip": "an address",
    "room": "a room they are in, as ticket:42",
    "namespace": "as /tickets",
    "node": "id of a node",
    "transport": "websocket or polling",
    "role": "customer, agent or admin",
    "sid": "of a connection or of one of its sockets",
}
OF_CLOSED = ("user", "customer", "ip", "node", "sid")
WIDTH = 160  # where there is no terminal to ask


def add(command: Adder, epilog: str) -> None:
    shown = command("connections", connections, "show who is connected, or was", epilog)
    for name, help in FILTERS.items():
        shown.add_argument(f"--{name}", metavar=name.upper(), help=help)
    shown.add_argument(
        "--sort", default="-connected", help="connected, seen, outbox, dropped or user; -outbox: the other way round"
    )
    shown.add_argument("--limit", type=int, default=50, metavar="N", help="how many at most (50, up to 500)")
    shown.add_argument("--closed", action="store_true", help="those that are gone, and why")
    add_json(shown)

    kicked = command("kick", kick, "send connections away: one by its sid, or all that the filters mean", epilog)
    kicked.add_argument("one", nargs="?", metavar="SID", help="this one alone, without a question")
    for name, help in FILTERS.items():
        kicked.add_argument(f"--{name}", metavar=name.upper(), help=help)
    add_reason(kicked)
    kicked.add_argument("--reconnect", action="store_true", help="cut them, so that they come back by themselves")
    kicked.add_argument("--dry-run", action="store_true", help="only say how many it would be")
    kicked.add_argument("--yes", action="store_true", help="do not ask")


def connections(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    port = AdminPort(loaded, options)
    filters = _filters(options)
    if options.closed:
        others = [name for name, value in filters.items() if value and name not in OF_CLOSED]
        if others:
            raise ConfigError(f"--{others[0]} does not go with --closed")
        named = {name: filters[name] for name in OF_CLOSED}
        answer = port.get("connections", "closed", **named, limit=options.limit)
    else:
        answer = port.get("connections", **filters, sort=options.sort, limit=options.limit)
    if options.json:
        print_json(answer)
    elif options.closed:
        _print(CLOSED_HEAD, [_closed(one) for one in answer["items"]])
    else:
        _print(HEAD, [_open(one) for one in answer["items"]])
        print(f"\n{len(answer['items'])} of {count_of(answer['total'])}")
    say_missing(answer["missing"])
    return DONE


def kick(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    where = {name: value for name, value in _filters(options).items() if value is not None}
    if options.one and where:
        raise ConfigError("a SID beside filters is one of them: --sid SID")
    if options.one == "" or not (options.one or where):
        raise ConfigError("say whom: a SID, or filters as --user; see insightdesk-rt kick --help")
    port = AdminPort(loaded, options)
    if options.one and not options.dry_run:
        answer = port.send("DELETE", "connections", options.one, reason=options.reason, reconnect=options.reconnect)
    else:
        order = {"where": where or {"sid": options.one}, "reconnect": options.reconnect, "reason": options.reason}
        answer = port.send("POST", "connections", "disconnect", body={**order, "dryRun": True})
        if options.dry_run:
            print(f"{count_of(answer['count'])} would be sent away")
            say_missing(answer["missing"])
            return DONE
        if not options.yes and not _confirmed(answer["count"]):
            print("nothing was done")
            return FAILED
        answer = port.send("POST", "connections", "disconnect", body=order)
    print(f"{count_of(answer['count'])} sent away")
    say_missing(answer["missing"])
    return DONE


def _filters(options: argparse.Namespace) -> dict[str, str | None]:
    """Return what was said of each. Raises ConfigError for an empty one: it would be left out, and mean more."""
    filters = {name: getattr(options, name) for name in FILTERS}
    for name, value in filters.items():
        if value == "":
            raise ConfigError(f"--{name} is empty")
    return filters


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise Failed(f"it would be {count_of(count)}: say --yes, as there is nobody to ask")
    try:
        return input(f"Send away {count_of(count)}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False


# ── as tables ───────────────────────────────────────────────────────────────────────────────────────────────────────

HEAD = ("sid", "user", "role", "ip", "transport", "node", "namespaces", "connected", "outbox", "agent")
CLOSED_HEAD = ("sid", "user", "role", "ip", "transport", "node", "stayed", "closed", "why", "agent")


def _open(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["sid"],
        one["user"]["id"] if one["user"] else "-",
        one["role"] or "-",
        one["ip"],
        one["transport"] or "-",
        one["node"],
        ",".join(name.removeprefix("/") for name in one["namespaces"]) or "-",
        span(time.time() - _unix(one["connectedAt"])),
        _size(one["outboxBytes"]),
        one["agent"] or "-",
    )


def _closed(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["sid"],
        one["user"]["id"] if one["user"] else "-",
        one["role"] or "-",
        one["ip"],
        one["transport"] or "-",
        one["node"],
        span(_unix(one["closedAt"]) - _unix(one["connectedAt"])),
        f"{span(time.time() - _unix(one['closedAt']))} ago",
        one["closeReason"],
        one["agent"] or "-",
    )


def _print(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table no wider than the terminal: the last column gives way."""
    cells = [head, *(tuple(plain(cell) for cell in row) for row in rows)]
    taken = sum(max(map(len, column)) + 2 for column in list(zip(*cells, strict=True))[:-1])
    left = max(shutil.get_terminal_size((WIDTH, 24)).columns - taken, 10)
    table([(*row[:-1], row[-1] if len(row[-1]) <= left else row[-1][: left - 1] + "…") for row in cells])


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _size(count: int) -> str:
    return f"{count / 1000:.1f} kB" if count >= 1000 else f"{count} B"
