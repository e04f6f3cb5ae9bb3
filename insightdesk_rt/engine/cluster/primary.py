"""Primary: sends commands to one server that takes writes. One pipeline per turn of the loop, deadlines, back-off.

All commands of a loop turn are sent as one pipeline (one command alone costs ~75 µs of Python, in a batch ~9 µs).
Commands that come meanwhile form the next pipeline. A connection that missed a deadline is dropped and never reused,
because a late answer would be taken for the next command's. Without a connection, commands fail at once with
UNAVAILABLE; nothing is queued for later.

Where the server is, is asked at each connect: a host name may point to another server by now, and Sentinels may name
another one. A server that has become a replica is left at once.

valkey-py provides the connection (TLS, AUTH, RESP). Its pool and its pipelines are not used: 200 concurrent commands
would open 200 connections, and a silent reconnect between two commands would hide a replaced server.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import NoScriptError, ReadOnlyError, ResponseError, ValkeyError

from insightdesk_rt.engine.cluster.outage import UNKNOWN, NoServer, Refusals, in_words
from insightdesk_rt.engine.cluster.resp import Arg, Script, pack
from insightdesk_rt.engine.cluster.valkey_url import Endpoint, Topology
from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.errors import RtError

log = logging.getLogger(__name__)

BACKOFF_STEP_S, BACKOFF_MAX_S = 0.05, 2.0
# With Sentinel or in a cluster another server takes over within seconds, and should be found soon.
BACKOFF_FAILOVER_S = 0.5
# An AOF that is fsynced every second answers WAITAOF up to a second later.
DURABLE_EXTRA_MS = 2_000
# Replicas on the same network confirm within some milliseconds. One that is slower than this is not in step.
REPLICAS_EXTRA_MS = 1_000
# Errors of a server that is reachable but cannot serve now: the same command may be tried again.
# valkey-py removes the codes it knows from the message; other messages start with their code.
BUSY_CODES = ("BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "MOVED ", "ASK ")
BUSY_ERRORS = ("OutOfMemoryError", "ReadOnlyError", "NoPermissionError")
# Of these, the errors by which a cluster says that its map of slots has changed, or is about to.
MOVED_CODES = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")
PROBE_MS = 10_000  # lifetime of the key that /readyz writes as a test
LAST_LOOK_S = 0.05  # a last look after a deadline that passed while this process was stopped
# Seconds; the last one is the deadline, after which a command has failed.
COMMAND_BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class PrimaryOwner(Protocol):
    """What is done when a primary's main connection changes its state."""

    def came_up(self, primary: Primary) -> None: ...

    def went_down(self, primary: Primary) -> None:
        """It cannot be reached, or is not a primary any more."""
        ...

    def redirected(self, primary: Primary, why: str) -> None:
        """It refused a command because the keys are elsewhere, or will be. `why` is the cluster's error."""
        ...


class PrimarySettings(NamedTuple):
    """`durable`: have a connection that waits for the disk. `min_replicas`: and one that waits for so many replicas."""

    topology: Topology = Topology.ONE
    deadline_ms: int = 1000
    durable: bool = False
    min_replicas: int = 0


class Primary:
    """One server that takes writes. `where` finds it; it is awaited before each connect, and raises NoServer.

    A `costly` command takes Valkey more than a few microseconds. It uses a connection of its own, so that other
    commands neither wait behind it nor fail with it. `durable` commands and `replicated` ones have connections of
    their own, too, because every command behind one waits with it. `name` tells it from others for people.
    """

    def __init__(
        self,
        where: Callable[[], Awaitable[Endpoint]],
        settings: PrimarySettings,
        owner: PrimaryOwner,
        seconds: Histogram,
        name: str = "",
    ) -> None:
        self.name = name
        self.run_id = ""
        self._owner = owner
        self._settings = settings
        self._refusals = Refusals(name=name)
        deadline_ms, extra = settings.deadline_ms, Histogram(COMMAND_BOUNDS)

        def pipe(kind: _PipeKind, seconds: Histogram = extra) -> Pipe:
            return Pipe(where, settings.topology, deadline_ms, kind, self._refusals, seconds)

        self.main = pipe(_PipeKind(self._came_up, self._lost, self._went_down, self._redirected), seconds)
        self._costly = pipe(_PipeKind(lost=self._costly_lost, redirected=self._redirected, beside=True))
        self.durable = self.replicated = self.main
        if settings.durable:
            self.durable = pipe(_PipeKind(lost=self._lost, redirected=self._redirected, confirm=ON_DISK))
        if settings.min_replicas:
            confirm = on_replicas(settings.min_replicas)
            self.replicated = pipe(_PipeKind(lost=self._lost, redirected=self._redirected, confirm=confirm))

    @property
    def available(self) -> bool:
        return self.main.up and self.durable.up and self.replicated.up

    @property
    def address(self) -> str:
        """Where it is, or was last: host:port, or the path of a socket; "" before the first connect."""
        return self.name or str(self.main.endpoint or "")

    @property
    def trouble(self) -> str:
        """Why commands fail now, in words without secrets; "" while they work."""
        for pipe in (self.main, self.durable, self.replicated):
            if not pipe.up:
                return pipe.why
        return self._refusals.why

    async def fitness(self, key: str) -> str:
        """Return what is wrong with the server, in words, or "". It must take a write (to `key`) and not evict data."""
        try:
            memory, replication, _ = await asyncio.gather(
                self.main.put(Command(("INFO", "memory"))),
                self.main.put(Command(("INFO", "replication"))),
                self.main.put(Command(("SET", key, "1", "PX", PROBE_MS))),
            )
        except RtError:
            return self.trouble or UNKNOWN
        if self._refusals.why:
            self._refusals.served("SET", wrote=True)
        replicas, wanted = int(info_field(replication, "connected_slaves") or 0), self._settings.min_replicas
        if replicas < wanted:
            return f"min_replicas_to_ack = {wanted}, and it has {replicas} replicas: no event is acknowledged"
        return _evicts(memory)

    async def start(self) -> None:
        """Connect, and wait up to the deadline for it. Does not fail: `available` says whether it succeeded."""
        await asyncio.gather(*(pipe.start() for pipe in self._pipes))

    async def close(self) -> None:
        await asyncio.gather(*(pipe.close() for pipe in self._pipes))

    async def for_costly(self) -> Pipe:
        """Return the connection for costly commands; if it is being re-established, wait for it up to the deadline."""
        if self.main.up:  # then the costly connection will soon be back, too
            await self._costly.soon_up()
        return self._costly

    async def soon_up(self) -> None:
        """Wait until all connections that `available` needs are up, or the deadline is over."""
        await asyncio.gather(*(pipe.soon_up() for pipe in {self.main, self.durable, self.replicated}))

    def forget_refusals(self) -> None:
        """Forget why commands were refused: the reason is over."""
        self._refusals.forget()

    def retry(self) -> None:
        """Connect now, if it is not connected: another server may have taken over."""
        for pipe in self._pipes:
            if not pipe.up:
                pipe.retry()

    def leave(self, why: str) -> None:
        """Drop all connections and look for the server again: another one has taken over."""
        for pipe in self._pipes:
            pipe.drop(why)

    @property
    def _pipes(self) -> list[Pipe]:
        return list(dict.fromkeys((self.main, self._costly, self.durable, self.replicated)))

    def _came_up(self, run_id: str) -> None:
        self.run_id = run_id
        self._costly.retry()
        self._owner.came_up(self)

    def _went_down(self) -> None:
        self._owner.went_down(self)

    def _redirected(self, why: str) -> None:
        self._owner.redirected(self, why)

    def _lost(self, why: str, said: str) -> None:
        log.warning("valkey is unreachable: %s", why, extra={"said": said, **self._named})

    def _costly_lost(self, why: str, said: str) -> None:
        if self.main.up:  # otherwise the main connection has logged it
            log.warning("valkey did not answer a costly call: %s", why, extra={"said": said, **self._named})

    @property
    def _named(self) -> dict[str, str]:
        return {"primary": self.name} if self.name else {}


class Command:
    """A command, or a call of a script, on its way to the server."""

    __slots__ = ("answer", "args", "packed", "script", "until")

    @property
    def name(self) -> str:
        """The name of the command or script, for the log: keys and values may be private."""
        return self.script.name if self.script else str(self.args[0])

    def __init__(self, args: Sequence[Arg], script: Script | None = None) -> None:
        self.args = args
        self.packed = pack(args)  # packed here, so that an argument that cannot be sent fails only its caller
        self.script = script
        self.answer: asyncio.Future[Any] | None = None
        self.until = 0.0


class Confirmation(NamedTuple):
    """A command that is sent behind each pipeline. The pipeline's commands have failed if its answer is not `enough`.

    `extra_ms`: how much later than usual the answers may come.
    """

    command: tuple[Arg, ...]
    enough: Callable[[Any], bool]
    extra_ms: int


ON_DISK = Confirmation(
    ("WAITAOF", 1, 0, DURABLE_EXTRA_MS), lambda found: isinstance(found, list) and found[0] >= 1, DURABLE_EXTRA_MS
)


def on_replicas(number: int) -> Confirmation:
    """Return the confirmation that so many replicas have everything."""
    command = ("WAIT", number, REPLICAS_EXTRA_MS)
    return Confirmation(command, lambda found: isinstance(found, int) and found >= number, REPLICAS_EXTRA_MS)


class _Greeting(NamedTuple):
    """`unfit`: why this server cannot be used, in words, or ""."""

    run_id: str
    unfit: str
    evicts: str
    has_file: bool


class _PipeKind(NamedTuple):
    """What a connection is for. `beside`: it says less in the log, because another one to the same server says it."""

    came_up: Callable[[str], None] = lambda run_id: None
    lost: Callable[[str, str], None] = lambda why, said: None  # once per outage
    went_down: Callable[[], None] = lambda: None  # after each attempt that failed
    redirected: Callable[[str], None] = lambda why: None
    confirm: Confirmation | None = None
    beside: bool = False


class Pipe:
    """One connection that is either up or being re-established."""

    def __init__(
        self,
        where: Callable[[], Awaitable[Endpoint]],
        topology: Topology,
        deadline_ms: int,
        kind: _PipeKind,
        refusals: Refusals,
        seconds: Histogram,
    ) -> None:
        self._where = where
        self._topology = topology
        self._deadline_s = (deadline_ms + (kind.confirm.extra_ms if kind.confirm else 0)) / 1000
        self._backoff_max_s = BACKOFF_MAX_S if topology is Topology.ONE else BACKOFF_FAILOVER_S
        self._kind = kind
        self._confirm = kind.confirm
        self._refusals = refusals
        self.endpoint: Endpoint | None = None  # where it connected to last
        self.why = "no answer in time"  # why there is no connection, in words
        self._said = ""  # the error of the library or system, for the log: it may name hosts
        self._without_file = ""  # run id of the server of which this was said last
        self._failed_before = 0  # commands, when the connection was lost
        self._queue: list[Command] = []
        self._answers: list[Any] = []  # of the pipeline that is under way
        self._expected = 0
        self._complete: asyncio.Future[None]
        self._scripts: dict[str, Script] = {}
        self._wake = asyncio.Event()
        self._leave: asyncio.Future[str] | None = None  # of the present connection; its result says why to leave it
        self._first = asyncio.Event()  # set while it is up
        self._retry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self.seconds = seconds
        self.commands = self.batches = self.failed = self.connects = 0

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="valkey")
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._first.wait()
        except TimeoutError:
            pass  # it keeps trying

    def retry(self) -> None:
        """Reconnect at once instead of waiting: the server was seen to be reachable."""
        self._retry.set()

    def drop(self, why: str) -> None:
        """End the connection, if there is one. Commands that are under way fail."""
        if self.up and self._leave is not None and not self._leave.done():
            self._leave.set_result(why)

    async def soon_up(self) -> None:
        """Wait up to the deadline for a connection that is being re-established."""
        if not self.up:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await self._first.wait()
            except TimeoutError:
                pass  # `put` raises UNAVAILABLE

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def put(self, command: Command) -> asyncio.Future[Any]:
        """Queue a command for this turn's pipeline; the future has its answer. hot."""
        if not self.up:
            self.failed += 1
            raise RtError("UNAVAILABLE")
        command.answer = asyncio.get_running_loop().create_future()
        self.post(command)
        return command.answer

    def post(self, command: Command) -> None:
        command.until = asyncio.get_running_loop().time() + self._deadline_s
        self._queue.append(command)
        self._wake.set()

    def learn(self, script: Script) -> None:
        if script.sha not in self._scripts:
            self._scripts[script.sha] = script
            if self.up:
                self.post(Command(("SCRIPT", "LOAD", script.source)))

    async def _run(self) -> None:
        misses = 0
        try:
            while True:
                why, served = await self._session()
                self.why = why
                misses = 1 if served else misses + 1
                if misses == 1:  # once per outage, not once per attempt
                    self._kind.lost(why, self._said)
                self._kind.went_down()
                self._retry.clear()
                try:
                    async with asyncio.timeout(
                        min(BACKOFF_STEP_S * misses, self._backoff_max_s) * random.uniform(0.5, 1)
                    ):
                        await self._retry.wait()
                except TimeoutError:
                    pass
        finally:
            self._down()

    async def _session(self) -> tuple[str, bool]:
        """Connect and serve until the connection is lost. Returns why it was lost, and whether it ever served."""
        served, self._said = False, ""
        connection: AbstractConnection | None = None
        try:
            async with asyncio.timeout(self._deadline_s):
                endpoint = self.endpoint = await self._where()
                # Foreign bytes in our keys must not end the connection.
                connection = endpoint.connection(self._deadline_s, decode_responses=True, encoding_errors="replace")
                await connection.connect()  # type: ignore[no-untyped-call]
                greeting = await self._greet(connection)
            if greeting.unfit:
                return greeting.unfit, False
            self.up = served = True
            self.connects += 1
            if not self._kind.beside:
                self._refusals.forget()
                self._say_what_it_may_lose(greeting)
            self._kind.came_up(greeting.run_id)
            self._first.set()
            failed = self.failed - self._failed_before  # commands that the outage cost
            level = logging.DEBUG if self._kind.beside else logging.INFO
            durable = self._confirm is ON_DISK
            log.log(level, "valkey connected run_id=%s durable=%s failed=%s", greeting.run_id[:8], durable, failed)
            await self._serve(connection)
            return "it closed the connection", served
        except (ValkeyError, OSError, TimeoutError) as lost:
            self._said = f"{type(lost).__name__} {lost}".strip()
            return in_words(lost), served
        except Exception:
            log.exception("unexpected error in the connection to valkey")  # it must reconnect nevertheless
            return "unexpected error; the log has its traceback", served
        finally:
            if served:
                self._failed_before = self.failed
            self._down()
            if connection is not None:
                await connection.disconnect(nowait=True)

    def _say_what_it_may_lose(self, greeting: _Greeting) -> None:
        if greeting.evicts:
            log.error("valkey may drop what it was given", extra={"why": greeting.evicts})
        if not greeting.has_file and greeting.run_id != self._without_file:
            self._without_file = greeting.run_id
            log.info(
                "valkey writes no file of each change: a restart of it loses chats, notifications, sessions and "
                "what clients missed; set appendonly yes there"
            )

    async def _greet(self, connection: Any) -> _Greeting:
        """Check the server and load our scripts, which a restarted server has forgotten."""
        server, replication, memory, persistence = await self._ask(
            connection, [("INFO", part) for part in ("server", "replication", "memory", "persistence")]
        )
        unfit = _unfit(server, replication, self._topology)
        if not unfit:
            scripts = [("SCRIPT", "LOAD", script.source) for script in self._scripts.values()]
            # Without an AOF a durable connection is refused here, with one log line instead of one per command.
            waits = [("WAITAOF", 1, 0, 1)] if self._confirm is ON_DISK else []
            await self._ask(connection, [*scripts, *waits])
        return _Greeting(
            info_field(server, "run_id"), unfit, _evicts(memory), info_field(persistence, "aof_enabled") != "0"
        )

    @staticmethod
    async def _ask(connection: Any, commands: Sequence[Sequence[Arg]]) -> list[Any]:
        if commands:
            await connection.send_packed_command([pack(args) for args in commands], check_health=False)
        return [await connection.read_response() for _ in commands]

    async def _serve(self, connection: Any) -> None:
        """Send and receive until the connection is lost. Reading never pauses, so its end is noticed when idle."""
        self._leave = asyncio.get_running_loop().create_future()
        reader = asyncio.create_task(self._read(connection))
        reader.add_done_callback(lambda _: self._wake.set())
        self._leave.add_done_callback(lambda _: reader.cancel())
        try:
            while not reader.done():
                await self._wake.wait()
                self._wake.clear()
                # No await between the look at the reader and the send: valkey-py would silently reconnect.
                if self._queue and not reader.done():
                    await self._exchange(connection, reader)
            if self._leave.done():
                raise NoServer(self._leave.result())
            await reader  # raises why it ended
        except (ValkeyError, OSError) as lost:
            self.why = in_words(lost)  # no await since its commands failed: their callers find the reason
            raise
        finally:
            self._down()  # before a caller whose command failed can send another
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self, connection: Any) -> None:
        while True:
            try:
                answer = await connection.read_response()
            except ResponseError as refused:
                answer = refused
            self._answers.append(answer)
            if len(self._answers) == self._expected and not self._complete.done():
                self._complete.set_result(None)

    async def _exchange(self, connection: Any, reader: asyncio.Task[None]) -> None:
        """Send the queue as one pipeline and hand out the answers. Raises if the connection is lost."""
        batch, self._queue = self._queue, []
        sent = [command.packed for command in batch]
        if self._confirm is not None:
            sent.append(pack(self._confirm.command))
        self.batches += 1
        self.commands += len(batch)
        answers = self._answers = list[Any]()
        self._expected = len(sent)
        loop = asyncio.get_running_loop()
        self._complete = loop.create_future()
        first_s = min(c.until for c in batch)
        try:
            until = max(first_s, loop.time() + LAST_LOOK_S)
            try:
                async with asyncio.timeout_at(until):
                    await connection.send_packed_command(sent, check_health=False)
                    await asyncio.wait([self._complete, reader], return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError:
                # This process may have been stopped so long that the answer is already in the socket: look once more.
                async with asyncio.timeout(LAST_LOOK_S):
                    await asyncio.wait([self._complete, reader], return_when=asyncio.FIRST_COMPLETED)
        finally:  # also when the connection was lost: some commands may have been answered
            self.seconds.add(loop.time() - (first_s - self._deadline_s))
            self._hand_out(batch, answers)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            raise ReadOnlyError("the server became a replica")  # reconnect: the name may point to its successor by now

    def _hand_out(self, batch: list[Command], answers: list[Any]) -> None:
        confirm = self._confirm
        confirmed = confirm is None or (len(answers) == self._expected and confirm.enough(answers[-1]))
        again = []
        for number, command in enumerate(batch):
            answer = answers[number] if number < len(answers) else RtError("UNAVAILABLE")
            if isinstance(answer, NoScriptError) and command.script and command.args[0] == "EVALSHA":
                # The scripts were flushed. EVAL with the full text loads this one again.
                command.args = ("EVAL", command.script.source, *command.args[2:])
                command.packed = pack(command.args)
                again.append(command)
            else:
                self._answer(command, answer if confirmed or isinstance(answer, Exception) else RtError("UNAVAILABLE"))
        if again:
            self._queue[:0] = again
            self._wake.set()

    def _answer(self, command: Command, answer: Any) -> None:
        future = command.answer
        if future is None or future.done():  # nobody waits for the answer
            return
        if not isinstance(answer, Exception):
            if self._refusals.why:
                self._refusals.served(command.name)
            future.set_result(answer)
            return
        self.failed += 1
        future.set_exception(answer if isinstance(answer, RtError) else self._refusal(command, answer))

    def _refusal(self, command: Command, error: Exception) -> RtError:
        text = str(error)
        if text.startswith(MOVED_CODES):
            self._kind.redirected(text)
        if text.startswith("MOVED "):
            return RtError("UNAVAILABLE")  # this server works: its keys are elsewhere, which the owner looks up
        if cannot_serve(error):
            self._refusals.refused(command.name, error)
            return RtError("UNAVAILABLE")
        log.error("valkey refused %s: %s", command.name, error)
        return RtError("INTERNAL")

    def _down(self) -> None:
        self.up = False
        self._first.clear()
        self._wake.clear()
        queue, self._queue = self._queue, []
        for command in queue:
            self._answer(command, RtError("UNAVAILABLE"))


def cannot_serve(error: Exception) -> bool:
    """Is the server reachable but unable to serve now? Then the same command may be tried again."""
    return type(error).__name__ in BUSY_ERRORS or str(error).startswith(BUSY_CODES)


def info_field(info: str, name: str) -> str:
    """Return a field of an INFO answer, or ""."""
    return next((line.partition(":")[2] for line in info.splitlines() if line.startswith(name + ":")), "")


def _unfit(server: str, replication: str, topology: Topology) -> str:
    """Return why a server cannot be used, by its INFO, and what to change, or ""."""
    mode = info_field(server, "server_mode") or info_field(server, "redis_mode")
    if mode == "sentinel":
        return "it is a Sentinel; write valkey+sentinel://host:26379/NAME, with the name of the primary that it watches"
    if mode == "cluster" and topology is not Topology.CLUSTER:
        return "it is a server of a Valkey Cluster; write valkey+cluster://host:6379"
    if mode != "cluster" and topology is Topology.CLUSTER:
        return "it is one server and no cluster; write valkey:// instead of valkey+cluster://"
    if info_field(replication, "role") != "master":
        named = topology is Topology.ONE
        return "it is a read-only replica; " + ("name the primary" if named else "another server is taking over")
    return ""


def _evicts(memory: str) -> str:
    """Return what is wrong with the eviction policy, by INFO memory, or ""."""
    policy = info_field(memory, "maxmemory_policy")
    if policy in ("", "noeviction") or info_field(memory, "maxmemory") in ("", "0"):
        return ""
    return f"it drops data when it is full (maxmemory-policy {policy}); it must be noeviction"
