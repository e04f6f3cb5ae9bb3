"""Valkey: sends commands. One connection, one pipeline per turn of the loop, a deadline per command, back-off.

All commands of a loop turn are sent as one pipeline (one command alone costs ~75 µs of Python, in a batch ~9 µs).
Commands that come meanwhile form the next pipeline. A connection that missed a deadline is dropped and never reused,
because a late answer would be taken for the next command's. Without a connection, commands fail at once with
UNAVAILABLE; nothing is queued for later.

valkey-py provides the connection (URL, TLS, AUTH, RESP). Its pool and its pipelines are not used: 200 concurrent
commands would open 200 connections, and a silent reconnect between two commands would hide a replaced server.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

from valkey.exceptions import NoScriptError, ReadOnlyError, ResponseError, ValkeyError

from insightdesk_rt.engine.cluster.names import Key, Names
from insightdesk_rt.engine.cluster.outage import UNKNOWN, Refusals, in_words
from insightdesk_rt.engine.cluster.resp import Arg, Script, load_script, pack
from insightdesk_rt.engine.cluster.valkey_url import parse
from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.secret import SecretUrl
from insightdesk_rt.engine.settings import Help, SettingsPart

log = logging.getLogger(__name__)

BACKOFF_STEP_S, BACKOFF_MAX_S = 0.05, 2.0
# An AOF that is fsynced every second answers WAITAOF up to a second later.
DURABLE_EXTRA_MS = 2_000
# Errors of a server that is reachable but cannot serve now: the same command may be tried again.
# valkey-py removes the codes it knows from the message; other messages start with their code.
BUSY_CODES = ("BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")
BUSY_ERRORS = ("OutOfMemoryError", "ReadOnlyError", "NoPermissionError")
PROBE_MS = 10_000  # lifetime of the key that /readyz writes as a test
LAST_LOOK_S = 0.05  # a last look after a deadline that passed while this process was stopped
# Seconds; the last one is the deadline, after which a command has failed.
COMMAND_BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class ValkeySettings(SettingsPart, frozen=True):
    """Which Valkey the nodes share."""

    valkey_url: Annotated[SecretUrl, Help("valkey://, valkeys:// or unix://; empty starts an embedded one")] = (
        SecretUrl()
    )
    valkey_prefix: Annotated[str, Help("prefix of every key and channel; one per environment")] = "insightdesk"
    durable: Annotated[bool, Help("acknowledge a chat message only when it is on disk")] = False


class Valkey:
    """`url`: unix://, valkey://, valkeys://, redis:// or rediss://, with user, password and db as usual.

    A `costly` call takes Valkey more than a few microseconds. It uses a connection of its own, so that other commands
    neither wait behind it nor fail with it.

    The listeners in `on_up` are called after each connect. Their argument says whether the server's run id changed: a
    new server may lack what the old one confirmed. `durable`: commands with that flag wait until they are on disk.
    """

    def __init__(self, url: str, prefix: str, *, deadline_ms: int = 1000, durable: bool = False) -> None:
        self.url = url
        self.prefix = prefix
        self.names = Names(prefix)
        self.run_id = ""
        self.on_up: list[Callable[[bool], None]] = []
        self._refusals = Refusals()
        self._pipe = _Pipe(url, deadline_ms, self._came_up, self._refusals)
        self._costly_pipe = _Pipe(url, deadline_ms, lambda run_id: None, self._refusals, away=self._costly_away)
        self._durable_pipe = (
            _Pipe(url, deadline_ms + DURABLE_EXTRA_MS, lambda run_id: None, self._refusals, durable=True)
            if durable
            else None
        )

    @property
    def available(self) -> bool:
        return self._pipe.up and (self._durable_pipe is None or self._durable_pipe.up)

    @property
    def trouble(self) -> str:
        """Why commands fail now, in words without secrets; "" while they work."""
        for pipe in (self._pipe, self._durable_pipe):
            if pipe is not None and not pipe.up:
                return pipe.why
        return self._refusals.why

    async def fitness(self) -> str:
        """Return what is wrong with the server, in words, or "". It must take a write and must not evict data."""
        try:
            memory, _ = await asyncio.gather(
                self.command("INFO", "memory"),
                self.command("SET", self.names.cluster.key("probe"), "1", "PX", PROBE_MS),
            )
        except RtError:
            return self.trouble or UNKNOWN
        return _evicts(memory)

    @property
    def counters(self) -> dict[str, int]:
        """Sums since the start: commands, batches, failed commands, connects."""
        pipe = self._pipe
        return {"commands": pipe.commands, "batches": pipe.batches, "failed": pipe.failed, "connects": pipe.connects}

    @property
    def seconds(self) -> Histogram:
        """Seconds per pipeline: from its first command until all are answered or have failed."""
        return self._pipe.seconds

    async def start(self) -> None:
        """Connect, and wait up to the deadline for it. Does not fail: `available` says whether it succeeded."""
        await asyncio.gather(*(pipe.start() for pipe in self._pipes))

    async def close(self) -> None:
        await asyncio.gather(*(pipe.close() for pipe in self._pipes))

    @property
    def _pipes(self) -> list[_Pipe]:
        return [pipe for pipe in (self._pipe, self._costly_pipe, self._durable_pipe) if pipe]

    async def command(self, *args: Arg, durable: bool = False, costly: bool = False) -> Any:
        """Return the answer (text as str, lists, ints, None).

        Raises RtError UNAVAILABLE when Valkey is unreachable, too late or cannot serve now (the command may or may not
        have been executed); INTERNAL for a command that it refuses. A cancelled command may still be executed.
        """
        pipe = await self._for_costly() if costly else self._for(durable)
        return await pipe.put(_Command(args))

    async def in_order(self, *commands: Sequence[Arg]) -> list[Any]:
        """Have one server execute commands in this order, and return their answers.

        Commands of others may come in between. Raises as `command` if one of them fails.
        """
        answers = [self._pipe.put(command) for command in map(_Command, commands)]
        return await asyncio.gather(*answers)

    async def call(
        self, script: Script, keys: Sequence[Key], args: Sequence[Arg], durable: bool = False, costly: bool = False
    ) -> Any:
        """Run a script; the same answers and errors as `command`. `keys`: all that it touches, of one partition."""
        pipe = await self._for_costly() if costly else self._for(durable)
        pipe.learn(script)
        return await pipe.put(_Command(("EVALSHA", script.sha, len(keys), *keys, *args), script))

    def begin(
        self, script: Script, keys: Sequence[Key], args: Sequence[Arg], durable: bool = False
    ) -> asyncio.Future[Any]:
        """Queue a script for this turn's pipeline. The future has what `call` returns or raises. Raises UNAVAILABLE.

        For many calls at once: a task for each would cost more than the call. All of the futures must be awaited.
        """
        pipe = self._for(durable)
        pipe.learn(script)
        return pipe.put(_Command(("EVALSHA", script.sha, len(keys), *keys, *args), script))

    def send(self, *args: Arg) -> bool:
        """Send a command without waiting for its answer. Returns False if Valkey is known to be unreachable."""
        if self._pipe.up:
            self._pipe.post(_Command(args))
        return self._pipe.up

    def _for(self, durable: bool) -> _Pipe:
        return self._durable_pipe if durable and self._durable_pipe else self._pipe

    async def _for_costly(self) -> _Pipe:
        if self._pipe.up:  # then the costly connection will soon be back, too
            await self._costly_pipe.soon_up()
        return self._costly_pipe

    def _costly_away(self, why: str, said: str) -> None:
        if self._pipe.up:  # otherwise the main connection has logged it
            log.warning("valkey did not answer a costly call: %s", why, extra={"said": said})

    def _came_up(self, run_id: str) -> None:
        changed = self.run_id not in ("", run_id)
        self.run_id = run_id
        self._costly_pipe.retry()
        for call in self.on_up:
            try:
                call(changed)
            except Exception:
                log.exception("a listener for Valkey's connect failed")


class _Command:
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


class _Greeting(NamedTuple):
    """`unfit`: why this server cannot be used, in words, or ""."""

    run_id: str
    unfit: str
    evicts: str
    has_file: bool


class _Pipe:
    """One connection that is either up or being re-established."""

    def __init__(
        self,
        url: str,
        deadline_ms: int,
        came_up: Callable[[str], None],
        refusals: Refusals,
        durable: bool = False,
        away: Callable[[str, str], None] | None = None,
    ) -> None:
        self._class, self._kwargs = parse(url)
        self._deadline_s = deadline_ms / 1000
        self._came_up = came_up
        self._refusals = refusals
        self._beside = away is not None  # another connection to the same server logs its troubles
        self._away = away or (lambda why, said: log.warning("valkey is unreachable: %s", why, extra={"said": said}))
        self._durable = durable
        self.why = "no answer in time"  # why there is no connection, in words
        self._said = ""  # the error of the library or system, for the log: it may name hosts
        self._without_file = ""  # run id of the server of which this was said last
        self._failed_before = 0  # commands, when the connection was lost
        self._queue: list[_Command] = []
        self._answers: list[Any] = []  # of the pipeline that is under way
        self._expected = 0
        self._complete: asyncio.Future[None]
        self._scripts: dict[str, Script] = {}
        self._wake = asyncio.Event()
        self._first = asyncio.Event()  # set while it is up
        self._retry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self.seconds = Histogram(COMMAND_BOUNDS)
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

    def put(self, command: _Command) -> asyncio.Future[Any]:
        """Queue a command for this turn's pipeline; the future has its answer. hot."""
        if not self.up:
            self.failed += 1
            raise RtError("UNAVAILABLE")
        command.answer = asyncio.get_running_loop().create_future()
        self.post(command)
        return command.answer

    def post(self, command: _Command) -> None:
        command.until = asyncio.get_running_loop().time() + self._deadline_s
        self._queue.append(command)
        self._wake.set()

    def learn(self, script: Script) -> None:
        if script.sha not in self._scripts:
            self._scripts[script.sha] = script
            if self.up:
                self.post(_Command(("SCRIPT", "LOAD", script.source)))

    async def _run(self) -> None:
        misses = 0
        try:
            while True:
                why, served = await self._session()
                self.why = why
                misses = 1 if served else misses + 1
                if misses == 1:  # once per outage, not once per attempt
                    self._away(why, self._said)
                self._retry.clear()
                try:
                    async with asyncio.timeout(min(BACKOFF_STEP_S * misses, BACKOFF_MAX_S) * random.uniform(0.5, 1)):
                        await self._retry.wait()
                except TimeoutError:
                    pass
        finally:
            self._down()

    async def _session(self) -> tuple[str, bool]:
        """Connect and serve until the connection is lost. Returns why it was lost, and whether it ever served."""
        served, self._said = False, ""
        connection = self._class(
            **{**self._kwargs, "socket_timeout": None, "socket_connect_timeout": self._deadline_s},
            decode_responses=True,
            encoding_errors="replace",  # foreign bytes in our keys must not end the connection
        )
        try:
            async with asyncio.timeout(self._deadline_s):
                await connection.connect()
                greeting = await self._greet(connection)
            if greeting.unfit:
                return greeting.unfit, False
            self.up = served = True
            self.connects += 1
            if not self._beside:
                self._refusals.forget()
                self._say_what_it_may_lose(greeting)
            self._came_up(greeting.run_id)
            self._first.set()
            failed = self.failed - self._failed_before  # commands that the outage cost
            level = logging.DEBUG if self._beside else logging.INFO
            log.log(
                level, "valkey connected run_id=%s durable=%s failed=%s", greeting.run_id[:8], self._durable, failed
            )
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
        unfit = _unfit(server, replication)
        if not unfit:
            scripts = [("SCRIPT", "LOAD", script.source) for script in self._scripts.values()]
            # Without an AOF a durable connection is refused here, with one log line instead of one per command.
            waits = [("WAITAOF", 1, 0, 1)] if self._durable else []
            await self._ask(connection, [*scripts, *waits])
        return _Greeting(_field(server, "run_id"), unfit, _evicts(memory), _field(persistence, "aof_enabled") != "0")

    @staticmethod
    async def _ask(connection: Any, commands: Sequence[Sequence[Arg]]) -> list[Any]:
        if commands:
            await connection.send_packed_command([pack(args) for args in commands], check_health=False)
        return [await connection.read_response() for _ in commands]

    async def _serve(self, connection: Any) -> None:
        """Send and receive until the connection is lost. Reading never pauses, so its end is noticed when idle."""
        reader = asyncio.create_task(self._read(connection))
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            while not reader.done():
                await self._wake.wait()
                self._wake.clear()
                # No await between the look at the reader and the send: valkey-py would silently reconnect.
                if self._queue and not reader.done():
                    await self._exchange(connection, reader)
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
        if self._durable:
            sent.append(pack(("WAITAOF", 1, 0, DURABLE_EXTRA_MS)))
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

    def _hand_out(self, batch: list[_Command], answers: list[Any]) -> None:
        on_disk = not self._durable or (len(answers) == self._expected and _on_disk(answers[-1]))
        again = []
        for number, command in enumerate(batch):
            answer = answers[number] if number < len(answers) else RtError("UNAVAILABLE")
            if isinstance(answer, NoScriptError) and command.script and command.args[0] == "EVALSHA":
                # The scripts were flushed. EVAL with the full text loads this one again.
                command.args = ("EVAL", command.script.source, *command.args[2:])
                command.packed = pack(command.args)
                again.append(command)
            else:
                self._answer(command, answer if on_disk or isinstance(answer, Exception) else RtError("UNAVAILABLE"))
        if again:
            self._queue[:0] = again
            self._wake.set()

    def _answer(self, command: _Command, answer: Any) -> None:
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

    def _refusal(self, command: _Command, error: Exception) -> RtError:
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


def _on_disk(answer: Any) -> bool:
    return isinstance(answer, list) and answer[0] >= 1


def _field(info: str, name: str) -> str:
    return next((line.partition(":")[2] for line in info.splitlines() if line.startswith(name + ":")), "")


def _unfit(server: str, replication: str) -> str:
    """Return why a server cannot be used, by its INFO, or ""."""
    mode = _field(server, "server_mode") or _field(server, "redis_mode")
    if mode == "sentinel":
        return "it is a Sentinel; name the port of the primary that it watches"
    if mode == "cluster":
        return "it is a node of a Valkey Cluster, which is not supported; cluster-enabled must be no"
    if _field(replication, "role") != "master":
        return "it is a read-only replica; name the primary"
    return ""


def _evicts(memory: str) -> str:
    """Return what is wrong with the eviction policy, by INFO memory, or ""."""
    policy = _field(memory, "maxmemory_policy")
    if policy in ("", "noeviction") or _field(memory, "maxmemory") in ("", "0"):
        return ""
    return f"it drops data when it is full (maxmemory-policy {policy}); it must be noeviction"


__all__ = ["Arg", "Script", "Valkey", "cannot_serve", "load_script"]
