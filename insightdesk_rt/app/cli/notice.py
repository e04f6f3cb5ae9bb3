"""`notice`: show clients a message, list such messages, and end them."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import get_args

from insightdesk_rt.app.cli.admin_client import Adder, AdminClient, add_json, add_reason, print_json
from insightdesk_rt.app.cli.operate import DONE, table
from insightdesk_rt.app.cli.remote import plain
from insightdesk_rt.app.config import ConfigError, LoadedSettings
from insightdesk_rt.engine.model import Role, Severity


def add(command: Adder, epilog: str) -> None:
    parser = command("notice", notice, "show clients a message, now or at a given time; list and end notices", epilog)
    parser.add_argument("message", nargs="?", metavar="MESSAGE", help="the text, up to 2,000 characters")
    parser.add_argument("--severity", choices=get_args(Severity), default="info", help="how important it is (info)")
    add_reason(parser, required=False)
    parser.add_argument("--starts", metavar="TIME", help="when it begins, for example 2026-11-23T22:00:00+01:00 (now)")
    parser.add_argument("--ends", metavar="TIME", help="when it ends; by default when --end ends it")
    parser.add_argument(
        "--for", type=int, dest="seconds", metavar="SECONDS", help="how long it lasts, instead of --ends"
    )
    parser.add_argument("--namespace", help="only to clients in this namespace, for example /chat")
    parser.add_argument("--role", choices=get_args(Role), help="only to users with this role")
    parser.add_argument("--list", action="store_true", help="list the notices in force and those to come")
    parser.add_argument("--end", metavar="ID", help="end the notice with this id")
    add_json(parser)


def notice(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    if (options.message is not None) + options.list + (options.end is not None) != 1:
        raise ConfigError("give exactly one of MESSAGE, --list and --end ID")
    if not options.list and not options.reason:
        raise ConfigError("--reason is required")
    client = AdminClient(loaded, options)
    if options.list:
        answer = client.get("notices", limit=500)
        if not options.json:
            _print(answer["items"])
    elif options.end is not None:
        answer = client.send("DELETE", "notices", options.end, reason=options.reason)
        if not options.json:
            print(f"{plain(options.end)} has ended")
    else:
        answer = client.send("POST", "notices", body=_order(options))
        if not options.json:
            when = "shown to everybody now" if answer["told"] else f"will be shown to everybody at {answer['startsAt']}"
            print(f"{answer['id']}  {when}")
    if options.json:
        print_json(answer)
    return DONE


def _order(options: argparse.Namespace) -> dict[str, object]:
    if options.seconds is not None and options.ends:
        raise ConfigError("--for and --ends cannot be combined")
    ends = options.ends
    if options.seconds is not None:
        try:
            starts = datetime.fromisoformat(options.starts) if options.starts else datetime.now(UTC)
            ends = (starts + timedelta(seconds=options.seconds)).isoformat()
        except (ValueError, OverflowError) as why:
            raise ConfigError(f"--starts, --for: {why}") from None
    return {
        "message": options.message,
        "severity": options.severity,
        "startsAt": options.starts,
        "endsAt": ends,
        "namespace": options.namespace,
        "role": options.role,
        "reason": options.reason,
    }


def _print(items: list[dict[str, object]]) -> None:
    if not items:
        print("There are no notices.")
        return
    rows = [("id", "severity", "from", "until", "for", "message")]
    for one in items:
        whom = " ".join(str(one[name]) for name in ("namespace", "role") if one[name]) or "everybody"
        cells = (one["id"], one["severity"], one["startsAt"], one["endsAt"] or "-", whom, one["message"])
        rows.append(tuple(plain(str(cell)) for cell in cells))  # type: ignore[arg-type]
    table(rows)
