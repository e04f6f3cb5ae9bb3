"""The measures of bin/bench. Each measure prepares a contestant; then all contestants run in turns, several times.

A run returns values by name. `cpu_us` is the CPU time of the server process (from /proc) per unit of the measure,
`valkey_us` that of its Valkey. Names in _ms are elapsed time. `busy` is the share of a core that the generator used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tests.benchmarks.contestants import NAMESPACES, Contestant, NodeSocketIO, ThisServer, tokens
from tests.benchmarks.generator import Generator, payload

Values = dict[str, Any]  # numbers, and the first failure's text, "" if there was none
SUBSCRIBERS = 1_000
WINDOW = 50  # clients that connect at the same time, unless all connect at once


class Spent:
    """A context manager that measures CPU seconds of the contestant and of its Valkey."""

    def __init__(self, who: Contestant) -> None:
        self._who = who

    def __enter__(self) -> Spent:
        self._before = self._now()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server_s, self.valkey_s = (new - old for new, old in zip(self._now(), self._before, strict=True))

    def per(self, units: float) -> Values:
        found = {"cpu_us": 1e6 * self.server_s / units}
        if isinstance(self._who, ThisServer):
            found["valkey_us"] = 1e6 * self.valkey_s / units
        return found

    def _now(self) -> tuple[float, float]:
        return self._who.cpu_s(), self._who.valkey_cpu_s() if isinstance(self._who, ThisServer) else 0.0


class Measure:
    """`title` names the measure; `cpu_us` is the cost of one `unit`. `seconds` is about how long a run takes."""

    key: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    extra: ClassVar[tuple[str, ...]] = ("p50_ms", "p99_ms", "max_ms")  # values of the table beside CPU time

    def __init__(self, who: Contestant) -> None:
        self.who = who
        self.shop = who.shop

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        """Return whether this kind of contestant can run the measure."""
        return True

    def prepare(self) -> None:
        self.who.start()

    def run(self) -> Values:
        raise NotImplementedError

    def finish(self) -> None:
        self.who.stop()


class WithClients(Measure):
    clients = SUBSCRIBERS

    def prepare(self) -> None:
        self.load = Generator(self.shop)
        super().prepare()
        self.enter(self.load, self.clients)

    def enter(self, load: Generator, count: int, window: int = WINDOW, **more: Any) -> dict[str, Any]:
        return load.open(count, window, self.who.port, self.who.script(), tokens(), **more)

    def finish(self) -> None:
        self.load.end()
        super().finish()


class FreshProcess(Measure):
    """Each run has its own server process, which `run` starts and ends."""

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        return kind.enters

    def prepare(self) -> None:
        pass

    def finish(self) -> None:
        pass


def timed(report: dict[str, Any]) -> Values:
    return {name: report[name] for name in ("p50_ms", "p99_ms", "max_ms", "busy")}


# ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Broadcast(WithClients):
    key, title, unit = "broadcast", "volatile broadcast of 100 B to 1,000 clients, 20 a second", "message delivered"
    size, per_s, rounds, burst, logged = 100, 20.0, 60, 1, False
    extra = ("per_s", "p50_ms", "p99_ms", "max_ms")

    def prepare(self) -> None:
        super().prepare()
        port, request = self.who.emit(payload(self.size), logged=self.logged)
        self._publish: Callable[[int], dict[str, Any]] = lambda rounds: self.load.publish(
            rounds, self.per_s, self.burst, port, request
        )
        self._publish(10)  # warm-up: caches are filled

    def run(self) -> Values:
        with Spent(self.who) as spent:
            report = self._publish(self.rounds)
        expected = self.clients * self.rounds * self.burst
        assert report["deliveries"] == expected and not report["refused"], report
        return {**spent.per(expected), "per_s": expected / report["wall_s"], **timed(report)}


class BroadcastKilobyte(Broadcast):
    key, title, size = "broadcast-1k", "volatile broadcast of 1 KB to 1,000 clients, 20 a second", 1024


class BroadcastLogged(Broadcast):
    """A feature of this server alone: an event is in the log before anybody receives it."""

    key, title = "broadcast-logged", "broadcast of 100 B to 1,000 clients, 20 a second, logged in Valkey first"
    logged = True

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        return issubclass(kind, ThisServer)


class Burst(Broadcast):
    key, title = "burst", "burst of 10 volatile broadcasts of 100 B to 1,000 clients, twice a second"
    per_s, rounds, burst = 2.0, 6, 10


class BurstLogged(Burst):
    """Compared with an ordinary burst of Node, which has no log."""

    key, title = "burst-logged", "the same burst, logged in Valkey first; Node has no log, so its burst is as above"
    logged = True

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        return issubclass(kind, ThisServer | NodeSocketIO)


class Echo(WithClients):
    key, title, unit = "echo", "event and ack, 200 clients with one call at a time each", "round trip"
    clients, seconds = 200, 2.0
    extra = ("per_s", "p50_ms", "p99_ms")

    def enter(self, load: Generator, count: int, window: int = WINDOW, **more: Any) -> dict[str, Any]:
        return load.open(count, window, self.who.port, self.who.script(("/presence",)), tokens(), **more)

    def prepare(self) -> None:
        super().prepare()
        self.load.echo(0.5, *self.who.echo)

    def run(self) -> Values:
        with Spent(self.who) as spent:
            report = self.load.echo(self.seconds, *self.who.echo)
        assert report["answered"] > 0 and not report["failed"], report
        return {**spent.per(report["answered"]), "per_s": report["answered"] / report["wall_s"], **timed(report)}


# ── connecting ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Connect(WithClients):
    key, title, unit = "connect", "connect: websocket, token, one namespace; 50 at a time", "connect"
    clients, connects = 200, 1_000
    extra = ("per_s", "p50_ms", "p99_ms")

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        return kind.enters

    def prepare(self) -> None:
        super().prepare()
        self.run()  # warm-up: code that is compiled at run time is compiled now

    def run(self) -> Values:
        with Spent(self.who) as spent:
            report = self.enter(self.load, self.connects)
        self.load.close(self.connects)
        time.sleep(0.3)
        return {**spent.per(self.connects), "per_s": self.connects / report["wall_s"], **timed(report)}


class Disconnect(Connect):
    key, title, unit = "disconnect", "disconnect: the connection is closed", "disconnect"
    extra = ()

    def run(self) -> Values:
        report = self.enter(self.load, self.connects)
        time.sleep(0.5)
        with Spent(self.who) as spent:
            self.load.close(self.connects)
            time.sleep(1.5)
        return {**spent.per(self.connects), "busy": report["busy"]}


class Storm(FreshProcess, WithClients):
    """5,000 clients connect at once while 1,000 connected ones receive 20 messages a second.

    A run ends when all new clients are connected or have failed, and after 40 s at the latest. The traffic's cost is
    part of `cpu_us`. It is not subtracted, because an overloaded server delivers messages together, so one message
    costs less there than elsewhere. `messages` is the number of deliveries per connect.

    Each run has its own process: an overloaded one would still work while the next contestant is measured.
    """

    key, title = "storm", "5,000 clients connect at once while 1,000 receive 20 volatile messages a second"
    unit = "connect, traffic included"
    extra = ("messages", "let_in", "all_in_ms", "worst_ms", "traffic_p99_ms", "traffic_max_ms")
    newcomers, limit_s, late_s, per_s = 5_000, 40.0, 20.0, 20.0

    def run(self) -> Values:
        try:
            WithClients.prepare(self)
            return self._run()
        finally:
            WithClients.finish(self)

    def _run(self) -> Values:
        port, request = self.who.emit(payload(100))
        self.load.publish(10, self.per_s, 1, port, request, late_s=self.late_s)  # warm-up: caches are filled
        with Generator(self.shop, source=1) as storm, Spent(self.who) as spent:
            entered, traffic = self.load.publish_until(
                lambda: self._storm(storm), self.per_s, port, request, late_s=self.late_s
            )
        never_ms, let_in = 1e3 * self.limit_s, max(1, entered["in"])  # an overloaded server may accept nobody
        return {
            **spent.per(let_in),
            "messages": traffic["deliveries"] / let_in,
            "let_in": entered["in"],
            "all_in_ms": 1e3 * entered["wall_s"],
            "worst_ms": entered.get("max_ms", never_ms),
            "traffic_p99_ms": traffic.get("p99_ms", never_ms),
            "traffic_max_ms": traffic.get("max_ms", never_ms),
            "published": traffic["published"],
            "deliveries": traffic["deliveries"],
            "busy": max(entered["busy"], traffic["busy"]),
            "failure": entered["failure"],
        }

    def _storm(self, storm: Generator) -> dict[str, Any]:
        # New clients are of another team, so the messages go to the same clients all the time.
        newcomers, script = tokens(teams=2)[1::2], self.who.script()
        time.sleep(0.2)
        storm.begin_open(self.newcomers, self.newcomers, self.who.port, script, newcomers, self.limit_s)
        return storm.answer(self.limit_s + 20)


class Memory(FreshProcess):
    """Memory per idle connection. The kernel's part is of both ends of a connection, which are on one machine."""

    key, title, unit = "memory", "idle connection, one namespace", "connection"
    extra = ("rss_bytes", "kernel_bytes")
    clients = 8_000
    namespaces: ClassVar[tuple[str, ...]] = NAMESPACES[:1]
    role = "agent"

    def run(self) -> Values:
        self.who.start()
        try:
            with Generator(self.shop) as load:
                script = self.who.script(self.namespaces)
                load.open(200, WINDOW, self.who.port, script, tokens(self.role))  # warm-up: caches are filled
                load.idle(1)
                rss, kernel = self.who.rss(), kernel_bytes()
                report = load.open(
                    self.clients, WINDOW, self.who.port, script, tokens(self.role, self.clients), deadline_s=120
                )
                load.idle(2)
                each = (self.who.rss() - rss) / self.clients
                return {
                    "rss_bytes": each,
                    "kernel_bytes": (kernel_bytes() - kernel) / self.clients,
                    "busy": report["busy"],
                }
        finally:
            self.who.stop()


class MemoryOfFive(Memory):
    key, title = "memory-5", "idle connection, all five namespaces"
    namespaces, role = NAMESPACES, "admin"

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        return kind.many


def kernel_bytes() -> int:
    """Return the kernel's memory for sockets and files: its slab, and the pages of TCP's queues."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    tcp = next(
        line for line in Path("/proc/net/sockstat").read_text(encoding="utf-8").splitlines() if line.startswith("TCP:")
    )
    return int(meminfo["Slab"].split()[0]) * 1024 + int(tcp.split("mem ")[1]) * 4096


# ── long-polling ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Polling(Broadcast):
    key, title = "polling", "500 long-polling clients, volatile broadcast of 100 B 5 times a second"
    clients, per_s, rounds = 500, 5.0, 15

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        return kind.polls

    def enter(self, load: Generator, count: int, window: int = WINDOW, **more: Any) -> dict[str, Any]:
        return load.open(count, window, self.who.port, self.who.script(polling=True), tokens(), **more)


# ── only this server ──────────────────────────────────────────────────────────────────────────────────────────────────


class OfThisServer(Measure):
    who: ThisServer

    @classmethod
    def fits(cls, kind: type[Contestant]) -> bool:
        return kind is ThisServer


class Emits(OfThisServer):
    """Requests of a back end on the admin port, to a room without members."""

    key, title, unit = "push-emit", "POST /emit of a logged event, 16 requests at a time", "request"
    extra = ("per_s", "p50_ms", "p99_ms")
    seconds, connections = 2.0, 16

    def prepare(self) -> None:
        self.load = Generator(self.shop)
        super().prepare()
        self.run()

    def request(self) -> str:
        return self.who.emit(payload(100), logged=True)[1]

    def run(self) -> Values:
        with Spent(self.who) as spent:
            report = self.load.http(self.seconds, self.connections, self.who.admin_port, self.request())
        assert report["answered"] and not report["refused"], report
        return {**spent.per(report["answered"]), "per_s": report["answered"] / report["wall_s"], **timed(report)}

    def finish(self) -> None:
        self.load.end()
        super().finish()


class Tickets(Emits):
    key, title = "push-ticket", "PUT /tickets/…, 16 requests at a time"

    def request(self) -> str:
        return self.who.put_ticket("$NUMBER")


class Batches(Emits):
    """100 new tickets in a request."""

    key, title = "push-batch", "POST /batch of 100 × ticket.put, 4 requests at a time"
    unit, operations, connections = "ticket.put", 100, 4

    def prepare(self) -> None:
        super().prepare()
        self.who.check_batch(self.operations)

    def request(self) -> str:
        return self.who.put_tickets(self.operations)

    def run(self) -> Values:
        found = super().run()
        shared = {name: found[name] / self.operations for name in ("cpu_us", "valkey_us")}
        return {**found, **shared, "per_s": found["per_s"] * self.operations}


class PresenceMeasure(OfThisServer):
    """2,000 agents of 20 teams connect, all disconnect, the grace ends. A transition is one connect or disconnect."""

    key, title, unit = "presence", "2,000 agents of 20 teams connect to /presence and disconnect", "transition"
    extra = ("commands",)
    agents, teams, grace_s = 2_000, 20, 5.0

    def run(self) -> Values:
        with Generator(self.shop) as load:
            idle, began_s = self.who.commands(), time.monotonic()
            load.idle(1)
            idle_per_s = (self.who.commands() - idle) / (time.monotonic() - began_s)
            people = tokens(users=self.agents, teams=self.teams)
            before, began_s = self.who.commands(), time.monotonic()
            with Spent(self.who) as spent:
                report = load.open(self.agents, WINDOW, self.who.port, self.who.script(("/presence",)), people)
                load.idle(1)
                load.close(self.agents)
                time.sleep(self.grace_s + 2)
            commands = self.who.commands() - before - idle_per_s * (time.monotonic() - began_s)
        return {**spent.per(2 * self.agents), "commands": commands / 2 / self.agents, "busy": report["busy"]}


class TwoNodes(OfThisServer):
    """Events published on one node reach 1,000 clients of the other."""

    key, title = "two-nodes", "logged broadcast of 100 B on one node to 1,000 clients of another"
    unit = "message delivered"
    extra = ("per_s", "p50_ms", "p99_ms", "max_ms")
    rounds = 60
    second: ThisServer | None = None

    def prepare(self) -> None:
        self.load = Generator(self.shop)
        super().prepare()
        self.second = ThisServer(self.shop, self.who.valkey, "n2")
        self.second.start()
        self.load.open(SUBSCRIBERS, WINDOW, self.second.port, self.second.script(), tokens())
        port, request = self.who.emit(payload(100), logged=True)
        self._publish: Callable[[int], dict[str, Any]] = lambda rounds: self.load.publish(rounds, 20, 1, port, request)
        self._publish(10)

    def run(self) -> Values:
        assert self.second is not None
        with Spent(self.who) as one, Spent(self.second) as two:
            report = self._publish(self.rounds)
        expected = SUBSCRIBERS * self.rounds
        assert report["deliveries"] == expected, report
        values = two.per(expected)
        return {
            **values,
            "other_us": one.per(expected)["cpu_us"],
            "per_s": expected / report["wall_s"],
            **timed(report),
        }

    def finish(self) -> None:
        self.load.end()
        if self.second is not None:
            self.second.stop()
        super().finish()


ALL: tuple[type[Measure], ...] = (
    Broadcast,
    BroadcastKilobyte,
    BroadcastLogged,
    Burst,
    BurstLogged,
    Echo,
    Connect,
    Disconnect,
    Storm,
    Polling,
    Memory,
    MemoryOfFive,
    PresenceMeasure,
    TwoNodes,
    Emits,
    Tickets,
    Batches,
)
