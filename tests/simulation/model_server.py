"""ModelServer: a Valkey without sockets: it takes the bytes of a connection and answers with bytes.

Data, scripts and messages behave as on the real server. What a schedule may do to it: kill it, start it again with the
data of a moment ago or with none, stop it for a while, make it a replica, promote another in its place.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable

import libvalkey

from tests.simulation.model_scripts import Scripts
from tests.simulation.model_store import COMMANDS, OK, Effect, ModelStore, Reply, ReplyError, Status

_MORE = object()
# fmt: off
READS = frozenset((
    "GET", "EXISTS", "TTL", "PTTL", "TIME", "HGET", "HMGET", "HGETALL", "HKEYS", "HVALS", "HLEN", "HEXISTS", "LRANGE",
    "LINDEX", "SMEMBERS", "SRANDMEMBER", "SCARD", "SISMEMBER", "ZSCORE", "ZCARD", "ZCOUNT", "ZRANK", "ZRANGE",
    "ZRANGEBYSCORE", "XLEN", "XRANGE", "XREVRANGE",
))
# fmt: on
INFO = {
    b"server": "run_id:{run_id}\r\nserver_mode:standalone\r\nvalkey_version:9.0.0\r\n",
    b"replication": "role:{role}\r\n",
    b"memory": "maxmemory:0\r\nmaxmemory_policy:noeviction\r\nused_memory:1000000\r\n",
    b"persistence": "aof_enabled:1\r\n",
}


class Session:
    """One connection, as the server sees it. `send` and `end` are set by the network."""

    def __init__(self, server: ModelServer, send: Callable[[bytes], None], end: Callable[[], None]) -> None:
        self.server = server
        self.send = send
        self.end = end
        self.channels: set[bytes] = set()
        self.patterns: set[bytes] = set()
        self._reader = libvalkey.Reader(notEnoughData=_MORE)

    def receive(self, data: bytes) -> None:
        self._reader.feed(data)
        answers = []
        while (request := self._reader.gets()) is not _MORE:
            answers.append(self.server.answer(self, tuple(request)))
        self.send(b"".join(answers))

    def closed(self) -> None:
        """The client is gone."""
        self.server.sessions.pop(self, None)


class ModelServer:
    """`name` is its run id's beginning. `scripts` are shared by all servers: to compile them takes the most time."""

    def __init__(self, name: str, now_ms: Callable[[], int], scripts: Scripts) -> None:
        self.name = name
        self._now_ms = now_ms
        self._scripts = scripts
        self.starts = 0
        self.alive = self.primary = True
        self.unknown: set[str] = set()  # commands that the model lacks
        self.sessions: dict[Session, None] = {}
        self.store = ModelStore(now_ms)
        self._loaded: set[bytes] = set()
        self._new_process()

    def _new_process(self) -> None:
        self.starts += 1
        self.run_id = f"{self.name}{self.starts:04d}".ljust(40, "0")
        self._loaded.clear()

    # ── what a schedule may do to it ──────────────────────────────────────────────────────────────────────────────

    def kill(self) -> None:
        self.alive = False
        self.disconnect_all()

    def disconnect_all(self) -> None:
        sessions, self.sessions = self.sessions, {}
        for session in sessions:
            session.end()

    def start(self, keeps: Iterable[Effect]) -> None:
        """Start again after `kill`, with the data to which these effects lead."""
        self.store = ModelStore.of(keeps, self._now_ms)
        self.store.effects = list(keeps)
        self.alive = True
        self._new_process()

    def kept_without(self, lost_ms: int) -> list[Effect]:
        """Return what was written, but for the last milliseconds."""
        until_ms = self._now_ms() - lost_ms
        return [effect for effect in self.store.effects if effect.at_ms <= until_ms]

    def become_replica(self) -> None:
        """It refuses writes from now on, and its data is that of its primary, which nobody reads here."""
        self.primary = False

    # ── connections ───────────────────────────────────────────────────────────────────────────────────────────────

    def accept(self, send: Callable[[bytes], None], end: Callable[[], None]) -> Session:
        session = Session(self, send, end)
        self.sessions[session] = None
        return session

    trace: list[tuple[tuple[bytes, ...], Reply]] | None = None  # requests and replies, if somebody wants them

    def answer(self, session: Session, request: tuple[bytes, ...]) -> bytes:
        try:
            return self._execute(session, request)
        except ReplyError as refused:
            return b"-%b\r\n" % str(refused).encode()

    def _execute(self, session: Session, request: tuple[bytes, ...]) -> bytes:
        name = request[0].upper().decode("latin-1")
        if name in ("SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE"):
            return self._subscription(session, name, request[1:])
        reply = self.reply(request)
        if self.trace is not None:
            self.trace.append((request, reply))
        return encode(reply)

    def reply(self, request: tuple[bytes, ...]) -> Reply:
        """Execute one request. Raises ReplyError."""
        name = request[0].upper().decode("latin-1")
        if name in COMMANDS or name == "PUBLISH":
            return self._command(request)
        if name in ("EVALSHA", "EVAL"):
            return self._script(name, request)
        if name == "SCRIPT" and request[1].upper() == b"LOAD":
            sha = self._scripts.load(request[2])
            self._loaded.add(sha)
            return sha
        if name == "INFO":
            return INFO[request[1].lower()].format(run_id=self.run_id, role=self.role).encode()
        if name == "ROLE":
            return [self.role.encode(), 0, []]
        if name == "WAITAOF":
            return [1, 0]
        if name == "PING":
            return Status(b"PONG")
        if name in ("CLIENT", "AUTH", "SELECT"):
            return OK
        self.unknown.add(name)
        raise ReplyError(f"ERR unknown command '{name}'")

    @property
    def role(self) -> str:
        return "master" if self.primary else "slave"

    def _command(self, args: tuple[bytes, ...]) -> Reply:
        name = args[0].upper().decode("latin-1")
        if name == "PUBLISH":
            return self._publish(args[1], args[2])
        if not self.primary and name not in READS:
            raise ReplyError("READONLY You can't write against a read only replica.")
        if name not in COMMANDS:
            self.unknown.add(name)
        return self.store.run(args)

    def _script(self, name: str, request: tuple[bytes, ...]) -> Reply:
        if not self.primary:
            raise ReplyError("READONLY You can't write against a read only replica.")
        if name == "EVAL":
            sha = self._scripts.load(request[1])
            self._loaded.add(sha)
        else:
            sha = request[1]
            if sha not in self._loaded:
                raise ReplyError("NOSCRIPT No matching script. Please use EVAL.")
        count = int(request[2])
        return self._scripts.run(sha, request[3 : 3 + count], request[3 + count :], self._command)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _publish(self, channel: bytes, message: bytes) -> int:
        heard = 0
        for session in list(self.sessions):
            if channel in session.channels:
                session.send(encode([b"message", channel, message]))
                heard += 1
            for pattern in session.patterns:
                if fnmatch.fnmatchcase(channel.decode("latin-1"), pattern.decode("latin-1")):
                    session.send(encode([b"pmessage", pattern, channel, message]))
                    heard += 1
        return heard

    def _subscription(self, session: Session, name: str, channels: tuple[bytes, ...]) -> bytes:
        kept = session.patterns if name.startswith("P") else session.channels
        answers = []
        for channel in channels:
            if "UNSUB" in name:
                kept.discard(channel)
            else:
                kept.add(channel)
            count = len(session.channels) + len(session.patterns)
            answers.append(encode([name.lower().encode(), channel, count]))
        return b"".join(answers)


def encode(reply: Reply) -> bytes:
    """Return a reply in RESP 2."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Status):
        return b"+%b\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return b"*%d\r\n" % len(reply) + b"".join(encode(part) for part in reply)
