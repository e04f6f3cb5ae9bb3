"""`webhooks`: list webhooks, make one, and act on one."""

from __future__ import annotations

import argparse
from typing import Any

from insightdesk_rt.app.cli.admin_client import Adder, AdminClient, add_json, add_reason, print_json
from insightdesk_rt.app.cli.operate import DONE, FAILED, table
from insightdesk_rt.app.cli.remote import plain
from insightdesk_rt.app.config import ConfigError, LoadedSettings

ACTIONS = ("pause", "resume", "replay", "test", "secret", "delete")


def add(command: Adder, epilog: str) -> None:
    parser = command("webhooks", webhooks, "list webhooks, make one, or act on one", epilog)
    parser.usage = (
        "insightdesk-rt webhooks [list]\n"
        "       insightdesk-rt webhooks create URL [--types A,B] [--after OFFSET] --reason REASON\n"
        f"       insightdesk-rt webhooks {{{','.join(ACTIONS)}}} ID --reason REASON"
    )
    parser.add_argument("action", nargs="?", default="list", choices=("list", "create", *ACTIONS), metavar="ACTION")
    parser.add_argument(
        "target", nargs="?", metavar="URL|ID", help="the receiver's https:// address; or a webhook's id"
    )
    parser.add_argument("--types", default="", metavar="A,B", help="create: for example chat.*,ticket.created (all)")
    parser.add_argument(
        "--after", metavar="OFFSET", help="create, replay: where in the feed to begin; 0-0: the oldest entry"
    )
    add_reason(parser, required=False)
    add_json(parser)


def webhooks(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    _check(options)
    client = AdminClient(loaded, options)
    if options.action == "list":
        answer = client.get("webhooks")
    elif options.action == "create":
        types = [one for one in options.types.split(",") if one]
        body = {"url": options.target, "types": types, "after": options.after, "reason": options.reason}
        answer = client.send("POST", "webhooks", body=body)
    elif options.action == "delete":
        answer = client.send("DELETE", "webhooks", options.target, reason=options.reason)
    else:
        body = {"reason": options.reason} | ({"after": options.after} if options.action == "replay" else {})
        answer = client.send("POST", "webhooks", options.target, options.action, body=body)
    if options.json:
        print_json(answer)
    else:
        _print(options.action, answer)
    return FAILED if options.action == "test" and not answer["accepted"] else DONE


def _check(options: argparse.Namespace) -> None:
    """Raise ConfigError for arguments that do not belong together."""
    if options.action == "list":
        if options.target is not None:
            raise ConfigError("list takes no further argument; see insightdesk-rt webhooks --help")
        return
    if options.target is None:
        raise ConfigError(f"{options.action} needs {'a URL' if options.action == 'create' else 'the id of a webhook'}")
    if not options.reason:
        raise ConfigError("--reason is required")
    if options.action == "replay" and not options.after:
        raise ConfigError("--after is required: an offset of the feed, or 0-0 for the oldest entry")
    if options.after and options.action not in ("create", "replay"):
        raise ConfigError("--after belongs to create and replay")


def _print(action: str, answer: dict[str, Any]) -> None:
    if action == "list":
        _print_list(answer["items"])
    elif action == "create":
        print(f"{answer['id']}  {plain(answer['webhook']['url'])}\nsecret  {answer['secret']}")
        print("\nThe secret is shown once. The receiver verifies messages with it.")
    elif action == "secret":
        print(f"secret  {answer['secret']}\n\nThe secret is shown once.")
        print(f"The old one signs beside it until {answer['oldUntil']}.")
    elif action == "test":
        said = "accepted" if answer["accepted"] else f"not accepted: {plain(answer['error'])}"
        print(f"{said} ({answer['milliseconds']} ms)")
    else:
        print(f"{answer['id']}  {'deleted' if action == 'delete' else answer['state']}")


def _print_list(items: list[dict[str, Any]]) -> None:
    if not items:
        print("There are no webhooks.")
        return
    rows = [("id", "state", "delivered", "failures", "last error", "types", "url")]
    for one in items:
        cells = (one["id"], one["state"], one["delivered"], one.get("failures", 0), one.get("lastError") or "-")
        rows.append(tuple(plain(str(cell)) for cell in (*cells, ",".join(one["types"]), one["url"])))  # type: ignore[arg-type]
    table(rows)
