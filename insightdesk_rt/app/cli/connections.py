"""`connections` and `kick`: show who is connected, and disconnect them. Both select connections by the same filters."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from datetime import datetime
from typing import Any

from insightdesk_rt.app.cli.admin_client import (
    Adder,
    AdminClient,
    add_json,
    add_reason,
    count_of,
    print_json,
    print_missing,
)
from insightdesk_rt.app.cli.operate import DONE, FAILED, Failed, span, table
from insightdesk_rt.app.cli.remote import plain
from insightdesk_rt.app.config import ConfigError, LoadedSettings

FILTERS = {
    "user": "user id (with separate ids: of an agent or admin)",
    "customer": "customer id (with separate ids)",
    "ip": "client address",
    "room": "room, for example ticket:42",
    "namespace": "namespace, for example /tickets",
    "node": "node id",
    "transport": "websocket or polling",
    "role": "customer, agent or admin",
    "sid": "id of a connection or of one of its sockets",
}
OF_CLOSED = ("user", "customer", "ip", "node", "sid")
WIDTH = 160  # if there is no terminal


def add(command: Adder, epilog: str) -> None:
    shown = command("connections", connections, "show who is connected, or was recently", epilog)
    for name, help in FILTERS.items():
        shown.add_argument(f"--{name}", metavar=name.upper(), help=help)
    shown.add_argument(
        "--sort",
        default="-connected",
        help="connected, seen, outbox, dropped or user; with - in front descending, for example -outbox",
    )
    shown.add_argument("--limit", type=int, default=50, metavar="N", help="show at most this many (50, up to 500)")
    shown.add_argument("--closed", action="store_true", help="show closed connections, and why they closed")
    add_json(shown)

    kicked = command("kick", kick, "disconnect clients: one by its sid, or all that match the filters", epilog)
    kicked.add_argument("one", nargs="?", metavar="SID", help="disconnect only this one, without confirmation")
    for name, help in FILTERS.items():
        kicked.add_argument(f"--{name}", metavar=name.upper(), help=help)
    add_reason(kicked)
    kicked.add_argument("--reconnect", action="store_true", help="let the clients reconnect by themselves")
    kicked.add_argument("--dry-run", action="store_true", help="only count the connections")
    kicked.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def connections(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    client = AdminClient(loaded, options)
    filters = _filters(options)
    if options.closed:
        others = [name for name, value in filters.items() if value and name not in OF_CLOSED]
        if others:
            raise ConfigError(f"--{others[0]} cannot be combined with --closed")
        named = {name: filters[name] for name in OF_CLOSED}
        answer = client.get("connections", "closed", **named, limit=options.limit)
    else:
        answer = client.get("connections", **filters, sort=options.sort, limit=options.limit)
    if options.json:
        print_json(answer)
    elif options.closed:
        _print(CLOSED_HEAD, [_closed(one) for one in answer["items"]])
    else:
        _print(HEAD, [_open(one) for one in answer["items"]])
        print(f"\n{len(answer['items'])} of {count_of(answer['total'])}")
    print_missing(answer["missing"])
    return DONE


def kick(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    where = {name: value for name, value in _filters(options).items() if value is not None}
    if options.one and where:
        raise ConfigError("SID and filters cannot be combined; use --sid SID as a filter")
    if options.one == "" or not (options.one or where):
        raise ConfigError("give a SID, or filters such as --user; see insightdesk-rt kick --help")
    client = AdminClient(loaded, options)
    if options.one and not options.dry_run:
        answer = client.send("DELETE", "connections", options.one, reason=options.reason, reconnect=options.reconnect)
    else:
        order = {"where": where or {"sid": options.one}, "reconnect": options.reconnect, "reason": options.reason}
        answer = client.send("POST", "connections", "disconnect", body={**order, "dryRun": True})
        if options.dry_run:
            print(f"{count_of(answer['count'])} would be disconnected")
            print_missing(answer["missing"])
            return DONE
        if not options.yes and not _confirmed(answer["count"]):
            print("nothing was changed")
            return FAILED
        answer = client.send("POST", "connections", "disconnect", body=order)
    print(f"{count_of(answer['count'])} disconnected")
    print_missing(answer["missing"])
    return DONE


def _filters(options: argparse.Namespace) -> dict[str, str | None]:
    """Return the filters. Raises ConfigError for an empty one, which would be left out and match more connections."""
    filters = {name: getattr(options, name) for name in FILTERS}
    for name, value in filters.items():
        if value == "":
            raise ConfigError(f"--{name} is empty")
    return filters


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise Failed(f"{count_of(count)} would be disconnected; confirm with --yes, as there is no terminal to ask")
    try:
        return input(f"Disconnect {count_of(count)}? [y/N] ").strip().lower() in ("y", "yes")
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
    """Print a table no wider than the terminal: the last column is shortened."""
    cells = [head, *(tuple(plain(cell) for cell in row) for row in rows)]
    taken = sum(max(map(len, column)) + 2 for column in list(zip(*cells, strict=True))[:-1])
    left = max(shutil.get_terminal_size((WIDTH, 24)).columns - taken, 10)
    table([(*row[:-1], row[-1] if len(row[-1]) <= left else row[-1][: left - 1] + "…") for row in cells])


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _size(count: int) -> str:
    return f"{count / 1000:.1f} kB" if count >= 1000 else f"{count} B"
