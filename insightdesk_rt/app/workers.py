"""Several worker processes behind one client port: starts them, restarts those that die, and ends them together.

    supervisor ── fork ──▶ worker 1 (n1-1, admin port 3002), worker 2 (n1-2, 3003) …

Each worker is an ordinary node of the cluster. The kernel distributes new connections over the workers (SO_REUSEPORT).
The supervisor holds every worker's listening socket, so new connections wait while a worker restarts instead of being
refused. The supervisor also owns the embedded Valkey, if there is one. It does nothing else.

Workers take signals from the supervisor only: Ctrl-C in a terminal reaches all processes, and must count once. To end
them without a drain, the supervisor sends AT_ONCE.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from msgspec import structs

from insightdesk_rt.app import logs as observe
from insightdesk_rt.app.config import LoadedSettings, changed
from insightdesk_rt.app.embedded_valkey import Embedded, EmbeddedError, dies_with_parent
from insightdesk_rt.engine.doors.listener import StartError, bind_shared, close_all, port_of
from insightdesk_rt.engine.secret import SecretUrl

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD = signal.SIGHUP  # passed on to every worker
AT_ONCE = signal.SIGUSR1  # tells a worker to end without a drain
START_WITHIN_S = 60.0
END_WITHIN_S = 30.0  # in addition to the drain
AGAIN_S = 0.2  # pause before a restart; doubled with each death within CALM_S of the start …
AGAIN_MOST_S = 5.0  # … up to this
CALM_S = 60.0
LOOK_S = 0.5  # how often workers and the embedded Valkey are checked

Serve = Callable[[LoadedSettings, list[socket.socket], Connection], int]


class Worker:
    """One worker process, restarted whenever it dies. `admin_port` is known once it is ready."""

    def __init__(self, loaded: LoadedSettings, sockets: list[socket.socket], serve: Serve) -> None:
        self.loaded = loaded
        self.sockets = sockets
        self.admin_port = 0
        self._serve = serve
        self._process: BaseProcess | None = None
        self._news: Connection | None = None
        self._began_s = self._again_s = 0.0
        self._deaths = 0

    @property
    def name(self) -> str:
        return self.loaded.settings.process.node_id

    @property
    def sentinel(self) -> int | None:
        return self._process.sentinel if self._process is not None else None

    def start(self, in_child: Callable[[Worker], None]) -> None:
        """Fork. Signals are blocked until the child has set its own handlers."""
        self._news, theirs = multiprocessing.Pipe(duplex=False)
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=self._run, args=(theirs, in_child), name=self.name)
        signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, RELOAD))
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, RELOAD))
            theirs.close()
        self._began_s = time.monotonic()

    def wait_ready(self, within_s: float) -> None:
        """Wait until the worker is ready. Raises StartError with the reason that it gave."""
        report = self._heard(within_s) or "a worker was not ready in time"
        if isinstance(report, str):
            raise StartError(report)
        self.admin_port = report

    def look_after(self, in_child: Callable[[Worker], None]) -> None:
        """Restart the process if it has died, after a pause that grows with repeated deaths."""
        now_s = time.monotonic()
        if self._process is not None and not self._process.is_alive():
            self._deaths = self._deaths + 1 if now_s - self._began_s < CALM_S else 0
            self._again_s = now_s + min(AGAIN_S * 2**self._deaths, AGAIN_MOST_S)
            report = self._heard(0)
            why = report if isinstance(report, str) else ""
            log.error("a worker died", extra={"worker": self.name, "code": self._process.exitcode, "why": why})
            self._bury()
        if self._process is None and now_s >= self._again_s:
            self.start(in_child)

    def send(self, number: int) -> None:
        if self._process is not None and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)

    def join(self, end_s: float) -> None:
        """Wait for the process to end until `end_s` (monotonic), then kill it."""
        if self._process is not None:
            self._process.join(max(end_s - time.monotonic(), 0))
            if self._process.is_alive():
                log.error("a worker did not end in time and was killed", extra={"worker": self.name})
                self._process.kill()
                self._process.join()
            self._bury()

    def _heard(self, within_s: float) -> str | int | None:
        """Return the last message of the worker: its admin port, or why it cannot start; None if there is none."""
        assert self._news is not None
        try:
            report: str | int | None = self._news.recv() if self._news.poll(within_s) else None
        except EOFError:
            report = f"worker {self.name} died while starting"
        return report

    def _bury(self) -> None:
        assert self._process is not None and self._news is not None
        self._process.close()
        self._news.close()
        self._process = None

    def _run(self, news: Connection, in_child: Callable[[Worker], None]) -> None:
        """The process's main function."""
        in_child(self)
        settings = self.loaded.settings
        observe.setup_logging(settings.logs.log_level, settings.logs.log_format, settings.process.node_id)
        raise SystemExit(self._serve(self.loaded, self.sockets, news))


class Supervisor:
    """`serve(loaded, client_sockets, news)` runs one worker; it sends its admin port, or why it cannot start."""

    def __init__(self, loaded: LoadedSettings, serve: Serve) -> None:
        self._loaded = loaded
        self._serve = serve
        self._workers: list[Worker] = []
        self._embedded: Embedded | None = None
        self._die_with_me = dies_with_parent(signal.SIGKILL)
        self._signals = 0
        self._how: int = signal.SIGTERM  # workers are to end

    def run(self, started: Callable[[int, list[Worker], bool], None]) -> None:
        """Run until a signal. `started(port, workers, embedded)` is called once all are ready. Raises StartError."""
        settings = self._loaded.settings
        sockets = bind_shared("port", settings.client_port.address, settings.client_port.port, settings.process.workers)
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken)
        for name in SIGNALS:
            signal.signal(name, self._signalled)
        signal.signal(RELOAD, self._reload)
        try:
            url = self._valkey_url()
            for number, own in enumerate(sockets, start=1):
                self._workers.append(Worker(_of_worker(self._loaded, number, url), own, self._serve))
            for worker in self._workers:
                worker.start(self._in_child)
            for worker in self._workers:
                worker.wait_ready(START_WITHIN_S)
            started(port_of(sockets[0]), self._workers, self._embedded is not None)
            while not self._signals:
                wait([wake, *(worker.sentinel for worker in self._workers if worker.sentinel is not None)], LOOK_S)
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)  # what a RELOAD wrote: left there, it would wake the loop for ever
                if not self._signals:
                    self._look_after()
            log.info("stopping")
        finally:
            for own in sockets:
                close_all(own)  # the supervisor's copies: otherwise connections would wait at a port that nobody serves
            self._end()
        log.info("stopped")

    def _signalled(self, number: int, frame: Any) -> None:
        """The first signal lets the workers end, the second kills them, as in a server without workers."""
        self._signals += 1
        if number == signal.SIGINT:
            self._how = AT_ONCE
        if self._signals > 1:
            for worker in self._workers:
                worker.send(signal.SIGKILL)

    def _reload(self, number: int, frame: Any) -> None:
        for worker in self._workers:
            worker.send(number)

    def _in_child(self, worker: Worker) -> None:
        self._die_with_me()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(RELOAD, signal.SIG_IGN)  # until the worker can reload its certificate
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, RELOAD))
        for other in self._workers:
            if other is not worker:
                close_all(other.sockets)
        if self._embedded is not None:
            self._embedded.disown()

    def _look_after(self) -> None:
        if self._embedded is not None and self._embedded.restart_if_dead():
            log.error("the embedded Valkey had died and was started again")
        for worker in self._workers:
            worker.look_after(self._in_child)

    def _end(self) -> None:
        for worker in self._workers:
            worker.send(self._how)
        end_s = time.monotonic() + self._loaded.settings.process.drain_seconds + END_WITHIN_S
        for worker in self._workers:
            worker.join(end_s)
        if self._embedded is not None:
            self._embedded.stop()

    def _valkey_url(self) -> str:
        settings = self._loaded.settings
        if settings.valkey.valkey_url:
            return settings.valkey.valkey_url.reveal()
        try:
            self._embedded = settings.embedded.start()
        except EmbeddedError as why:
            raise StartError(str(why)) from None
        return self._embedded.url


def _of_worker(loaded: LoadedSettings, number: int, valkey_url: str) -> LoadedSettings:
    """Return the settings of one worker: they differ in node id, Valkey URL and ports."""
    settings = loaded.settings

    def own(port: int) -> int:
        return port + number - 1 if port else 0

    of_worker = changed(
        settings,
        node_id=f"{settings.process.node_id}-{number}",
        valkey_url=SecretUrl(valkey_url),
        admin_port=own(settings.admin_port.admin_port),
        relay_port=own(settings.relay.relay_port),
    )
    return structs.replace(loaded, settings=of_worker)
