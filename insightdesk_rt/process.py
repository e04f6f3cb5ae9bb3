"""The process of one node: signals, the lines a newcomer reads first, the exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from insightdesk_rt import __version__
from insightdesk_rt.cli import command_line
from insightdesk_rt.config import Loaded, shown
from insightdesk_rt.namespaces import PATHS
from insightdesk_rt.server import Server, StartError

log = logging.getLogger(__name__)


def run(loaded: Loaded) -> int:
    """Run a node until SIGTERM or Ctrl-C and return the process's exit code; a second signal ends it at once."""
    return asyncio.run(_run(loaded))


async def _run(loaded: Loaded) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping() -> None:
        stop.set()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)  # the next one has its usual effect

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping)
    server = Server(loaded)
    try:
        await server.start()
    except StartError as why:
        sys.stderr.write(f"insightdesk-rt: {why}\n")
        return 1
    _say(banner(server, loaded))
    log.info("started", extra={"port": server.port, "admin_port": server.admin_port})
    await stop.wait()
    log.info("stopping")
    await server.stop(loaded.settings.drain_seconds)
    log.info("stopped")
    return 0


def banner(server: Server, loaded: Loaded) -> str:
    """Return what a newcomer needs next: where it listens, a token to connect with, how it ends."""
    settings, scheme = server.settings, "s" if server.settings.tls_cert_file else ""
    host = f"{_host(settings.address)}:{server.port}"
    admin = f"{_host(settings.admin_address)}:{server.admin_port}"
    where = "its own Valkey in " + settings.data_dir if server.embedded else shown("valkey_url", settings.valkey_url)
    token = command_line(loaded, "token", "--sub", "ann", "--role", "agent", "--team", "support", "--name", "Ann")
    rows = [
        ("clients", f"http{scheme}://{host}/socket.io/   Socket.IO"),
        ("", f"ws{scheme}://{host}/rt/tickets     JSON websockets: {', '.join('/rt' + path for path in PATHS)}"),
        *([("demo", f"http://{host}/demo")] if settings.demo else []),
        ("admin", f"http://{admin}/api/v1/     health at /readyz"),
        ("a token", token),
        ("stop", "Ctrl-C"),
    ]
    lines = [f"insightdesk_rt {__version__}, node {server.node_id}, on {where}", ""]
    return "\n".join(lines + [f"  {name:<9}{text}" for name, text in rows]) + "\n"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _host(address: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
