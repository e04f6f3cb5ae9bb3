"""`tail`: print events as they are published, one per line, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from insightdesk_rt.app.cli.admin_client import Adder, AdminClient
from insightdesk_rt.app.cli.operate import Failed
from insightdesk_rt.app.cli.remote import NoAnswer, plain
from insightdesk_rt.app.config import LoadedSettings, printable
from insightdesk_rt.engine.errors import ERRORS

AGAIN_S = 1.0
MAX_TRIES = 30
MAX_CELL = 2_000  # characters of a payload


def add(command: Adder, epilog: str) -> None:
    parser = command("tail", tail, "show events as they are published, until Ctrl-C", epilog)
    parser.add_argument("--user", help="only events sent to this user's connections")
    parser.add_argument("--customer", help="only events sent to this customer (with separate ids)")
    parser.add_argument("--room", help="only events for this room, for example ticket:42")
    parser.add_argument("--namespace", help="only events of this namespace, for example /tickets")
    parser.add_argument("--event", help="only events of this name")
    parser.add_argument("--payload", action="store_true", help="show the payloads; needs the scope admin")
    parser.add_argument("--json", action="store_true", help="print a JSON object per line")


def tail(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    """Run until Ctrl-C. If the server becomes unreachable, wait for it; if it refuses, stop."""
    client = AdminClient(loaded, options)
    query = {name: getattr(options, name) for name in ("user", "customer", "room", "namespace", "event")}
    tries, seen = 0, False
    while True:
        why = "it closed the stream"
        try:
            for name, data in client.events("events", **query, payload="full" if options.payload else None):
                if name == "welcome":
                    if tries:
                        print("… connected again", file=sys.stderr)
                    tries, seen = 0, True
                elif name == "event":
                    print(json.dumps(data) if options.json else _line(data), flush=True)
                elif name == "dropped":
                    print(f"… {data['count']} events were left out because this reader is too slow", file=sys.stderr)
                elif name == "end":
                    code = str(data.get("code"))
                    if code in ERRORS and not ERRORS[code].retry:
                        raise Failed(f"the server ended the stream: {code}: {ERRORS[code].text}")
                    why = code
        except NoAnswer as no_answer:
            if not seen:
                raise
            why = str(no_answer)
        if not tries:
            print(f"… lost the server ({plain(why)}); trying again", file=sys.stderr)
        tries += 1
        if tries > MAX_TRIES:
            raise NoAnswer(f"the server did not come back: {why}")
        time.sleep(AGAIN_S)


def _line(event: dict[str, Any]) -> str:
    """Return the line for an event: time, namespace, name, rooms, offset and size, payload."""
    clock = event["at"][11:23]
    notes = [event["offset"] if event.get("offset") else "volatile", f"{event['bytes']} B"]
    if event.get("except"):
        notes.append("not " + ",".join(event["except"]))
    cells = [clock, event["namespace"], event["event"], "→ " + ",".join(event["rooms"]), f"({', '.join(notes)})"]
    if "payload" in event:
        cells.append(json.dumps(event["payload"]))
    return " ".join(printable(cell, MAX_CELL) for cell in cells)
