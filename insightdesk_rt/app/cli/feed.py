"""`feed`: print the back end's feed, one JSON object per line, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys

from insightdesk_rt.app.cli.admin_client import LONG_KEY_S, Adder, AdminClient
from insightdesk_rt.app.cli.operate import Failed, admin_key, admin_url
from insightdesk_rt.app.config import LoadedSettings
from insightdesk_rt.engine.wire import json
from insightdesk_rt.feed import Feed, FeedIncomplete, FeedRefused


def add(command: Adder, epilog: str) -> None:
    parser = command("feed", feed, "print what happens as JSON lines, until Ctrl-C", epilog)
    parser.add_argument("--types", default="", metavar="A,B", help="for example chat.*,ticket.created (all types)")
    parser.add_argument(
        "--after",
        default="",
        metavar="OFFSET",
        help="`offset` of the last line that was handled; 0-0: the oldest entry (now)",
    )


def feed(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    """Run until Ctrl-C. If the server becomes unreachable, wait for it; if it refuses, stop."""
    types = [one for one in options.types.split(",") if one]
    begin = AdminClient(loaded, options).get("feed", types=options.types, after=options.after, limit=1)
    # The first call finds out whether there is such a server, and where "now" is.
    after = options.after or begin["next"]
    reader = Feed(admin_url(loaded, options), admin_key(loaded, options, LONG_KEY_S), types=types, after=after)
    while True:
        try:
            for event in reader:
                line = {"offset": reader.offset, "id": event.id, "type": event.type, "at": event.at, "data": event.data}
                print(json.dumps(line), flush=True)
        except FeedIncomplete as missing:
            print(f"… {missing}", file=sys.stderr)
        except FeedRefused as refused:
            raise Failed(f"the server refused: {refused}") from None
