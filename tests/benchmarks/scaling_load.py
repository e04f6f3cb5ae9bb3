"""The tools of bin/scaling: plain connections to a Valkey of its own, its CPU time and memory, and results.

The connections are blocking sockets that send prepared commands, so their cost is not part of the figures.
`python -m tests.benchmarks.scaling_load PORT EVENTS PER_SECOND ROOMS` appends events from a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import libvalkey

from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.publisher import EventLogSettings, append_call
from insightdesk_rt.engine.cluster.resp import Arg, Script, load_script, pack
from insightdesk_rt.engine.model import Event, Room, new_id
from tests.support.own_valkey import OwnValkey
from tests.support.server import free_port

PREFIX = "bench"
NS = "/tickets"
NAMES = Names(PREFIX)
APPEND = load_script("insightdesk_rt.engine.cluster", "append")
# 300 bytes, as a change of a ticket has
PAYLOAD = '{"ticketId":"123456","version":12,"changes":{"status":["open","pending"]},"text":"' + "x" * 216 + '"}'
RUNS = 5
LANES = 16  # connections that have one command under way each, as many nodes together have


class Result(NamedTuple):
    """One figure: the values of its `runs`, in `unit`."""

    key: str
    what: str
    unit: str
    runs: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def as_json(self) -> dict[str, Any]:
        rounded = [round(run, 4) for run in self.runs]
        return {"what": self.what, "unit": self.unit, "median": round(self.median, 4), "runs": rounded}

    def __str__(self) -> str:
        spread = f"{min(self.runs):>10.4g} … {max(self.runs):<10.4g}"
        return f"{self.what:<66} {self.median:>10.4g}  {spread} {self.unit}"


class Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = libvalkey.Reader(encoding="utf-8", errors="replace", notEnoughData=None)

    def send(self, *commands: bytes) -> None:
        self.socket.sendall(b"".join(commands))

    def reply(self) -> Any:
        while (found := self._reader.gets()) is None:
            data = self.socket.recv(262_144)
            if not data:
                raise ConnectionError("Valkey closed the connection")
            self._reader.feed(data)
        if isinstance(found, libvalkey.ReplyError):
            raise found
        return found

    def ask(self, *command: Arg) -> Any:
        self.send(pack(command))
        return self.reply()

    def close(self) -> None:
        self.socket.close()


class Bench(OwnValkey):
    """A Valkey on a TCP port of loopback, as nodes on other machines would use it, with a connection to it."""

    def __init__(self, *args: str) -> None:
        self.port = free_port()
        super().__init__("--port", str(self.port), "--bind", "127.0.0.1", *args)

    def __enter__(self) -> Bench:
        self.start()
        return self

    def start(self) -> None:
        super().start()
        self.url = f"valkey://127.0.0.1:{self.port}"
        self.control = Connection(self.port)

    def info(self, section: str) -> dict[str, str]:
        lines = self.control.ask("INFO", section).splitlines()
        return dict(line.partition(":")[::2] for line in lines if ":" in line)

    def cpu_us(self) -> float:
        """CPU time of the server process so far, including kernel time (getrusage, as in /proc/PID/stat)."""
        cpu = self.info("cpu")
        return 1e6 * (float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]))

    def memory(self) -> int:
        return int(self.info("memory")["used_memory"])

    def addresses(self) -> set[str]:
        """Return the addresses of all connected clients."""
        return {line.split("addr=")[1].split()[0] for line in self.control.ask("CLIENT", "LIST").splitlines()}

    def watched(self, senders: set[str], seconds: float) -> float:
        """Return how many commands a second these addresses send; a script counts as one."""
        monitor, count, end = Connection(self.port), 0, time.monotonic() + seconds
        monitor.ask("MONITOR")
        while (left_s := end - time.monotonic()) > 0:
            monitor.socket.settimeout(left_s)
            with contextlib.suppress(TimeoutError):  # 1795397242.677001 [0 127.0.0.1:50954] "EVALSHA" …
                count += monitor.reply().split("]")[0].split()[-1] in senders
        monitor.close()
        return count / seconds

    def script_us(self) -> float:
        """CPU time that Valkey has spent inside scripts so far, without reading and writing."""
        found = self.info("commandstats").get("cmdstat_evalsha", "")
        return float(dict(part.partition("=")[::2] for part in found.split(",")).get("usec", 0))

    def empty(self) -> None:
        self.control.ask("FLUSHALL", "SYNC")

    def load(self, script: Script) -> None:
        self.control.ask("SCRIPT", "LOAD", script.source)


class Lanes:
    """Sends a list of commands over LANES connections, one under way on each; `after` is called after each round."""

    def __init__(self, port: int, count: int = LANES) -> None:
        self.connections = [Connection(port) for _ in range(count)]

    def run(self, commands: Sequence[bytes], after: Callable[[], None] = lambda: None, replies: int = 1) -> list[Any]:
        """Send these commands, or pipelines with so many `replies` each; return the last reply to each."""
        last, count = [], len(self.connections)
        for start in range(0, len(commands), count):
            pairs = list(zip(self.connections, commands[start : start + count], strict=False))
            for connection, command in pairs:
                connection.send(command)
            last += [[connection.reply() for _ in range(replies)][-1] for connection, _ in pairs]
            after()
        return last

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


class Crowd:
    """Subscription connections that discard what they read."""

    def __init__(self, port: int, count: int) -> None:
        self.connections = [Connection(port) for _ in range(count)]
        self._poll = select.epoll()
        self._sockets = {connection.socket.fileno(): connection.socket for connection in self.connections}
        for number in self._sockets:
            self._poll.register(number, select.EPOLLIN)

    def subscribe(self, wanted: dict[str, list[int]]) -> None:
        """`wanted`: channel → numbers of the connections."""
        lists: dict[int, list[str]] = {}
        for channel, numbers in wanted.items():
            for number in numbers:
                lists.setdefault(number, []).append(channel)
        for number, channels in lists.items():
            connection = self.connections[number]
            for start in range(0, len(channels), 512):
                part = channels[start : start + 512]
                connection.send(pack(("SUBSCRIBE", *part)))
                for _ in part:
                    connection.reply()

    def drain(self) -> None:
        for number, _ in self._poll.poll(0):
            self._sockets[number].recv(1_048_576)

    def close(self) -> None:
        self._poll.close()
        for connection in self.connections:
            connection.close()


def call(script: Script, keys: Sequence[str], args: Sequence[Arg]) -> bytes:
    return pack(("EVALSHA", script.sha, len(keys), *keys, *args))


def append(room: str, namespace: str = NS, payload: str = PAYLOAD) -> bytes:
    """The command a node sends to append one event to a room."""
    event = Event(namespace, "ticket:updated", payload, (Room(room),), id=new_id())
    return call(APPEND, *append_call(NAMES, event, "node-1.abcdef01", EventLogSettings(), "0-0"))


def cost(bench: Bench, work: Callable[[], object], units: int) -> float:
    """Return CPU µs of Valkey per unit of work."""
    before = bench.cpu_us()
    work()
    return (bench.cpu_us() - before) / units


def process_cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process, to the nanosecond."""
    return sum(int(p.read_text().split()[0]) for p in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0]}


def _publish(port: int, events: int, per_s: int, rooms: list[str]) -> None:
    """Append this many events to random rooms; `per_s` 0: as fast as possible."""
    sequencers, rng = Lanes(port, 1 if per_s else LANES), random.Random(1)
    sequencers.connections[0].ask("SCRIPT", "LOAD", APPEND.source)
    commands = [append(rng.choice(rooms)) for _ in range(events)]
    began_s = time.monotonic()
    if not per_s:
        sequencers.run(commands)
    for number, command in enumerate(commands if per_s else ()):
        time.sleep(max(0.0, began_s + number / per_s - time.monotonic()))
        sequencers.run([command])
    sequencers.close()


def rooms_named(count: int) -> Iterator[str]:
    return (f"ticket:{number}" for number in range(count))


if __name__ == "__main__":
    _publish(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), list(rooms_named(int(sys.argv[4]))))
