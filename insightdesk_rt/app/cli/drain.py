"""`drain`: move the clients of a node to the other nodes before an upgrade; `--undo` lets it accept clients again."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from insightdesk_rt.app.cli.admin_client import Adder, AdminClient, add_reason, count_of
from insightdesk_rt.app.cli.operate import DONE, Failed
from insightdesk_rt.app.config import LoadedSettings

LOOK_S = 1.0
GRACE_S = 60.0  # longer than the drain itself should take


def add(command: Adder, epilog: str) -> None:
    parser = command("drain", drain, "move the clients of a node to the other nodes", epilog)
    parser.add_argument("node", metavar="NODE", help="the node's id; see insightdesk-rt status")
    add_reason(parser)
    parser.add_argument(
        "--over", type=float, default=30.0, metavar="SECONDS", help="spread the disconnects over this time (30)"
    )
    parser.add_argument("--wait", action="store_true", help="show the progress, and return when it is done")
    parser.add_argument("--undo", action="store_true", help="let the node accept clients again")


def drain(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    client = AdminClient(loaded, options)
    if options.undo:
        client.send("POST", "nodes", options.node, "undrain", body={"reason": options.reason})
        print(f"{options.node} accepts clients again")
        return DONE
    order = {"overSeconds": options.over, "reason": options.reason}
    client.send("POST", "nodes", options.node, "drain", body=order)
    print(f"{options.node} disconnects its clients, over {options.over:g} s")
    if options.wait:
        _wait(client, options.node, options.over + GRACE_S)
    return DONE


def _wait(client: AdminClient, name: str, within_s: float) -> None:
    """Show the progress on one line of the terminal. Raises Failed if the drain is undone, or takes too long."""
    end = time.monotonic() + within_s
    while True:
        nodes: list[dict[str, Any]] = client.get("nodes")["nodes"]
        progress = next((node["drain"] for node in nodes if node["node"] == name), None)
        if progress is None:
            raise Failed(f"{name} is no longer draining")
        text = f"{count_of(progress['sentAway'], 'client')} disconnected, {progress['left']} left"
        if progress["done"]:
            print(f"{text}: done")
            return
        if sys.stdout.isatty():
            print(text, end="\r", flush=True)
        if time.monotonic() > end:
            raise Failed(f"not done after {within_s:g} s: {text}")
        time.sleep(LOOK_S)
