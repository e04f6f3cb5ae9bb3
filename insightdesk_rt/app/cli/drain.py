"""`drain`: the clients of a node go to the others before an upgrade; `--undo` lets it take clients again."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from insightdesk_rt.app.cli.admin_client import Adder, AdminPort, add_reason, count_of
from insightdesk_rt.app.cli.operate import DONE, Failed
from insightdesk_rt.app.config import LoadedSettings

LOOK_S = 1.0
GRACE_S = 60.0  # beyond what it was given


def add(command: Adder, epilog: str) -> None:
    parser = command("drain", drain, "send the clients of a node to the others", epilog)
    parser.add_argument("node", metavar="NODE", help="its id; see insightdesk-rt status")
    add_reason(parser)
    parser.add_argument("--over", type=float, default=30.0, metavar="SECONDS", help="spread over this time (30)")
    parser.add_argument("--wait", action="store_true", help="show how far it is, and return when it is done")
    parser.add_argument("--undo", action="store_true", help="let it take clients again")


def drain(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    port = AdminPort(loaded, options)
    if options.undo:
        port.send("POST", "nodes", options.node, "undrain", body={"reason": options.reason})
        print(f"{options.node} takes clients again")
        return DONE
    order = {"overSeconds": options.over, "reason": options.reason}
    port.send("POST", "nodes", options.node, "drain", body=order)
    print(f"{options.node} sends its clients away, over {options.over:g} s")
    if options.wait:
        _wait(port, options.node, options.over + GRACE_S)
    return DONE


def _wait(port: AdminPort, name: str, within_s: float) -> None:
    """Show the progress, on one line of a terminal. Raises Failed if it is undone meanwhile, or takes too long."""
    end = time.monotonic() + within_s
    while True:
        nodes: list[dict[str, Any]] = port.get("nodes")["nodes"]
        progress = next((node["drain"] for node in nodes if node["node"] == name), None)
        if progress is None:
            raise Failed(f"{name} does not drain any more")
        said = f"{count_of(progress['sentAway'], 'client')} sent away, {progress['left']} left"
        if progress["done"]:
            print(f"{said}: done")
            return
        if sys.stdout.isatty():
            print(said, end="\r", flush=True)
        if time.monotonic() > end:
            raise Failed(f"not done after {within_s:g} s: {said}")
        time.sleep(LOOK_S)
