"""The server's process: signals, the messages at the start, the exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec import structs

from insightdesk_rt import __version__
from insightdesk_rt.app import private_parts
from insightdesk_rt.app.config import LoadedSettings, Settings, changed
from insightdesk_rt.app.server import Server
from insightdesk_rt.app.workers import AT_ONCE, Supervisor, Worker
from insightdesk_rt.engine.doors.listener import StartError
from insightdesk_rt.engine.errors import ConfigError
from insightdesk_rt.helpdesk.features import PATHS

log = logging.getLogger(__name__)


def run(loaded: LoadedSettings) -> int:
    """Run one node, or several workers, until SIGTERM or Ctrl-C, and return the exit code.

    SIGTERM drains. Ctrl-C ends without a drain, because a person is waiting. A second signal kills the process.
    """
    # SIGHUP reloads the certificate. It must never end the server, also before its handler is set and after the stop.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    node_id = loaded.settings.process.node_id or "n" + secrets.token_hex(3)
    loaded = structs.replace(loaded, settings=changed(apart(loaded.settings), node_id=node_id))
    try:
        if gone := private_parts.lacking(private_parts.PARTS):
            raise StartError(gone)
        if loaded.settings.process.workers > 1:
            Supervisor(loaded, _work).run(lambda *what: _say(_banner_of_workers(loaded, *what)))
        else:
            asyncio.run(_serve(Server(loaded), signal.SIGINT, lambda server: _say(_banner_of(server, loaded))))
    except StartError as why:
        sys.stderr.write(f"insightdesk-rt: {why}\n")
        return 1
    return 0


def apart(settings: Settings) -> Settings:
    """Return the settings with a separate data folder for the demo, whose users, tickets and secret are made up."""
    if not settings.process.demo:
        return settings
    return changed(settings, data_dir=str(Path(settings.tokens.data_dir) / "demo"))


def _work(loaded: LoadedSettings, sockets: list[socket.socket], news: Connection) -> int:
    """The main function of one worker."""
    try:
        asyncio.run(_serve(Server(loaded, sockets), AT_ONCE, lambda server: news.send(server.admin_port)))
    except (StartError, ConfigError) as why:
        news.send(str(why))
        return 1
    return 0


async def _serve(server: Server, at_once: signal.Signals, started: Callable[[Server], None]) -> None:
    """Run a server until it is told to stop. Raises StartError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    drain_s: dict[signal.Signals, float] = {signal.SIGTERM: server.settings.process.drain_seconds, at_once: 0.0}
    over_s = 0.0

    def unhandle() -> None:
        for number in drain_s:
            loop.remove_signal_handler(number)

    def stopping(number: signal.Signals) -> None:
        nonlocal over_s
        over_s = drain_s[number]
        stop.set()
        unhandle()  # a second signal has its default effect

    for number in drain_s:
        loop.add_signal_handler(number, stopping, number)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    try:
        await server.start()
        _calm_the_collector()
        started(server)
        log.info("started", extra={"port": server.port, "admin_port": server.admin_port})
        await stop.wait()
        log.info("stopping")
        await server.stop(over_s)
        log.info("stopped")
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        unhandle()  # when the loop closes, its handlers would have no pipe to write to for a moment


def _calm_the_collector() -> None:
    """Make Python's garbage collector run rarely, and never look at objects that exist after the start.

    Nearly all objects are freed by their last reference. A single broadcast creates more objects than Python's
    threshold of 700, so each one triggered a collection: 6 to 10 % of the CPU of a broadcast, and of a connect.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


# ── the message at the start: addresses, a token to connect with, how to stop ───────────────────────────────────────


def command_line(loaded: LoadedSettings, *arguments: str) -> str:
    """Return a shell command that runs this program for the same server with the same secret, from any folder."""
    if Path(sys.argv[0]).name == "__main__.py":
        program = [sys.executable, "-m", "insightdesk_rt"]
    else:
        program = [str(Path(shutil.which(sys.argv[0]) or "insightdesk-rt").absolute())]
    return shlex.join([*program, *arguments, *loaded.same_server()])


def _banner_of(server: Server, loaded: LoadedSettings) -> str:
    return _banner(loaded, f"node {server.node_id}", server.port, str(server.admin_port), server.embedded is not None)


def _banner_of_workers(loaded: LoadedSettings, port: int, workers: list[Worker], embedded: bool) -> str:
    admins = [worker.admin_port for worker in workers]
    in_a_row = admins[-1] - admins[0] == len(admins) - 1
    shown_ports = f"{admins[0]}…{admins[-1]}" if in_a_row else ", ".join(map(str, admins))
    return _banner(loaded, f"nodes {workers[0].name} to {workers[-1].name}", port, shown_ports, embedded)


def _banner(loaded: LoadedSettings, nodes: str, port: int, admin_ports: str, embedded: bool) -> str:
    settings, scheme = loaded.settings, "s" if loaded.settings.tls.tls_cert_file else ""
    addresses = settings.client_port.address
    host = f"{_host(addresses[0])}:{port}"
    admin = f"{_host(settings.admin_port.admin_address[0])}:{admin_ports}"
    where = "its own Valkey in " + settings.tokens.data_dir if embedded else str(settings.valkey.valkey_url)
    token = command_line(loaded, "token", "--sub", "ann", "--role", "agent", "--team", "support", "--name", "Ann")
    rows = [
        ("clients", f"http{scheme}://{host}/socket.io/   Socket.IO"),
        ("", f"ws{scheme}://{host}/rt/tickets     JSON websockets: {', '.join('/rt' + path for path in PATHS)}"),
        *([("demo", f"http://{host}/demo")] if settings.process.demo else []),
        ("admin", f"http{scheme}://{admin}/   the console; the API at /api/v1/, health at /readyz"),
        *([("on", ", ".join(map(_written, addresses)))] if len(addresses) > 1 else []),
        ("a token", token),
        ("stop", "Ctrl-C"),
    ]
    lines = [f"insightdesk_rt {__version__}, {nodes}, on {where}", ""]
    return "\n".join(lines + [f"  {name:<9}{text}" for name, text in rows]) + "\n"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _host(address: str) -> str:
    """Return an address that a client can connect to: loopback for the addresses that mean all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(address, _written(address))


def _written(address: str) -> str:
    return f"[{address}]" if ":" in address else address
