"""Sessions that outlive their connection: who was in which rooms, for a client that comes back within two minutes.

A record is in Valkey from the connect on, because a node that crashes saves nothing afterwards. It belongs to the
connection that opened it last (`owner`); every later write says whose it is, so that a late one of the old connection
changes nothing. A client that comes back *claims* the record: exactly one claim gets it. If the old connection still
seems alive (the client noticed before the server did), it is closed as replaced.

The record holds no events: those are in the log. What it must know is from where to read. A client that has received
nothing yet has no offset: it gets everything since its connect (`start`). A client in quiet rooms has an old one, which
the log may no longer reach: so every quarter of an hour the record notes that nothing was said in its rooms between
`from` and `quiet`, and an offset in between counts as `quiet`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from insightdesk_rt.cluster.envelope import checked_key
from insightdesk_rt.cluster.names import Names
from insightdesk_rt.cluster.resp import Arg, load_script
from insightdesk_rt.cluster.valkey import Valkey
from insightdesk_rt.errors import CloseReason, RtError
from insightdesk_rt.hub.socket import Socket
from insightdesk_rt.model import NO_OFFSET, Offset, Room, Sid, User, offset_key
from insightdesk_rt.wire import json

log = logging.getLogger(__name__)

PID = re.compile(r"[A-Za-z0-9_.\-]{24,100}")
RETRY_S = 0.2
TOUCH_S = 900.0  # a quarter of the time that a room's offsets are remembered
TOUCH_TURN_S = TOUCH_S / 10
# Longer than any connection stays unrefreshed; a record nobody could clear up (all nodes died at once) ends by itself.
SAFETY_TTL_MS = 86_400_000
REAP_BATCH = 500
SCRIPTS = ("save", "end", "claim", "touch", "reap")
MAX_SAVES = 1_000  # in one pipeline
ANOTHERS, MISSING = 0, -1  # what lua/session_save.lua answers


class Resumed(NamedTuple):
    """A session that a client came back to: its socket keeps this identity and these rooms."""

    sid: Sid
    pid: str
    rooms: tuple[Room, ...]
    offset: Offset  # everything in its rooms up to here it has


class _Session:
    """A connected socket and how its record is to be written next."""

    __slots__ = ("mode", "owner", "socket", "start", "touched_s")

    def __init__(self, socket: Socket, owner: str, start: Offset, now_s: float) -> None:
        self.socket = socket
        self.owner = owner
        self.start = start
        self.mode = "open"
        self.touched_s = now_s


class _Ended(NamedTuple):
    owner: str
    holder: str  # incarnation that listed it
    keep_ms: int
    rooms: str
    until_s: float


class Resume:
    """`address`: this node to others (`ValkeyBackplane.address`); `incarnation` and `position` are asked when needed.

    `replaced(address, pid)` tells the node that still holds a session's old connection, this one included; it answers
    by calling `evict(pid)` there. `start` begins to write, `close` writes what is left.
    """

    def __init__(
        self,
        valkey: Valkey,
        node_id: str,
        address: str,
        incarnation: Callable[[], str],
        position: Callable[[str], Offset],
        replaced: Callable[[str, str], None],
        *,
        window_s: int = 120,
    ) -> None:
        self._valkey = valkey
        self._names = Names(valkey.prefix)
        self._node_id = node_id
        self._address = address
        self._incarnation = incarnation
        self._position = position
        self._replaced = replaced
        self._window_ms = window_s * 1000
        self._scripts = {name: load_script("insightdesk_rt.cluster", "session_" + name) for name in SCRIPTS}
        self._numbers = itertools.count()
        self._sessions: dict[str, _Session] = {}  # by pid, of sockets connected here
        self._dirty: dict[str, _Session] = {}
        self._ended: dict[str, _Ended] = {}
        self._ending: dict[str, _Ended] = {}  # those of them that are being written
        self._flushes: set[asyncio.Task[bool]] = set()
        self._due: asyncio.Handle | None = None  # the next flush
        self._touching: asyncio.Task[None] | None = None
        self.claimed = self.refused = self.evicted = 0

    def start(self) -> None:
        self._touching = asyncio.create_task(self._keep_touching(), name="resume")

    async def close(self) -> None:
        """Write what is still to be written, if Valkey is there; then end."""
        touching, self._touching = self._touching, None
        if touching is not None:
            touching.cancel()
            await asyncio.wait([touching, *self._flushes])
        if self._due is not None:
            self._due.cancel()
        if not await self._quietly(self._flush()):
            log.warning("sessions were not saved", extra={"sessions": len(self._ended) + len(self._dirty)})

    # ── what dispatch asks ────────────────────────────────────────────────────────────────────────────────────────

    def new_pid(self) -> str:
        """A secret of its client: 128 bits. The node's name in front is for people who read a balancer's log."""
        return f"{self._node_id}.{secrets.token_urlsafe(16)}"

    async def claim(self, pid: str, namespace: str, user: User, offset: str) -> Resumed | None:
        """Take the session, if it is this user's and nobody took it. `offset` is what the client says, "" for nothing.

        When it returns, the old connection is closed if it was on this node. Raises RtError UNAVAILABLE.
        """
        if not PID.fullmatch(pid):
            self.refused += 1
            return None
        if pid in self._dirty or pid in self._ended:
            await self._flush()  # back before it was written: what is on its way to the record goes first
        found = await self._valkey.call(self._scripts["claim"], [self._names.session(pid)], [namespace, user.id])
        if not found:
            self.refused += 1
            return None
        sid, rooms, start, said, quiet, address, over = found
        if not over:
            if address == self._address:
                self.evict(pid)
            else:
                self._replaced(address, pid)
        self.claimed += 1
        return Resumed(Sid(sid), pid, tuple(map(Room, json.loads(rooms))), since(offset, start, said, quiet))

    def opened(self, socket: Socket) -> None:
        """The socket is in its rooms and about to be told its pid."""
        loop = asyncio.get_running_loop()
        owner = f"{self._address}/{next(self._numbers)}"
        session = _Session(socket, owner, self._position(socket.namespace), loop.time())
        self._ended.pop(socket.pid, None)
        self._sessions[socket.pid] = self._dirty[socket.pid] = session
        self._flush_soon()

    def moved(self, socket: Socket) -> None:
        """The socket joined or left a room."""
        session = self._sessions.get(socket.pid)
        if session is not None and session.socket is socket:
            self._dirty[socket.pid] = session
            self._flush_soon()

    def ended(self, socket: Socket, position: Offset, why: CloseReason) -> None:
        """The connection is over; `socket.rooms` still says where it was.

        Not used: `position`. What was put into a dead connection's outbox before its end was noticed did not arrive.
        """
        session = self._sessions.get(socket.pid)
        if session is None or session.socket is not socket:
            return  # replaced: the session lives on with another connection
        del self._sessions[socket.pid]
        self._dirty.pop(socket.pid, None)
        # Replaced: the client came back with another of its namespaces first, and is about to claim this one.
        keep_ms = self._window_ms if why.may_resume or why is CloseReason.REPLACED else 0
        if keep_ms and session.mode == "open":  # it was not written yet
            session.mode = "again"
            self._dirty[socket.pid] = session
        until_s = asyncio.get_running_loop().time() + self._window_ms / 1000
        ended = _Ended(session.owner, self._incarnation(), keep_ms, _names(socket), until_s)
        self._ended[socket.pid] = ended
        self._flush_soon()

    # ── what others ask ───────────────────────────────────────────────────────────────────────────────────────────

    def evict(self, pid: str) -> None:
        """The session is another connection's now: close the one that is here."""
        session = self._sessions.pop(pid, None)
        if session is not None:
            self._dirty.pop(pid, None)
            self.evicted += 1
            session.socket.client.close(CloseReason.REPLACED)

    async def rejoin(self) -> None:
        """Valkey forgot, or this node has a new incarnation: write all records again."""
        for pid, session in self._sessions.items():
            if session.mode != "open":
                session.mode = "again"
            self._dirty[pid] = session
        self._flush_soon()

    async def node_lost(self, incarnation: str) -> None:
        """Let the sessions of a dead node end after the usual time. Twice is nothing. Raises RtError UNAVAILABLE."""
        args: list[Arg] = [self._names.session(""), self._window_ms, REAP_BATCH]
        while await self._valkey.call(self._scripts["reap"], [self._names.sessions(incarnation)], args):
            pass

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _flush_soon(self) -> None:
        """Write in the next turn: before a client is told of a room, its record has it. Flushes overlap, in order."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._begin_flush)

    def _begin_flush(self) -> None:
        self._due = None
        task = asyncio.get_running_loop().create_task(self._quietly(self._flush()))
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)

    async def _keep_touching(self) -> None:
        while True:
            await asyncio.sleep(TOUCH_TURN_S)
            await self._quietly(self._touch(asyncio.get_running_loop().time()))

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> bool:
        try:
            await work
            return True
        except RtError as failed:
            log.debug("sessions are written later: %s", failed.code)
        except Exception:
            log.exception("writing sessions failed")
        return False

    async def _flush(self) -> None:
        """Write all that changed. What could not be written is due again when this raises."""
        saves = list(self._dirty.items())
        self._dirty.clear()
        ends = [(pid, ended) for pid, ended in self._ended.items() if self._ending.get(pid) is not ended]
        self._ending.update(ends)
        try:
            while len(saves) > MAX_SAVES:  # of a Valkey that forgot
                part, saves = saves[:MAX_SAVES], saves[MAX_SAVES:]
                await self._write(part, [])
            part, saves = saves, []
            await self._write(part, ends)
        except BaseException:
            if self._due is None and self._touching is not None:
                self._due = asyncio.get_running_loop().call_later(RETRY_S, self._begin_flush)
            raise
        finally:
            for pid, session in saves:
                self._dirty.setdefault(pid, session)
            for pid, ended in ends:
                if self._ending.get(pid) is ended:
                    del self._ending[pid]

    async def _write(self, saves: list[tuple[str, _Session]], ends: list[tuple[str, _Ended]]) -> None:
        """A record is saved before it is ended: calls go out in this order."""
        calls = [*(self._save(*save) for save in saves), *(self._write_end(*end) for end in ends)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for (pid, session), result in zip(saves, results, strict=False):
            if isinstance(result, BaseException) and (pid in self._ended or self._sessions.get(pid) is session):
                self._dirty.setdefault(pid, session)
        _raise_first(results)

    async def _save(self, pid: str, session: _Session) -> None:
        socket, mode = session.socket, session.mode
        fields: dict[str, str] = {"rooms": _names(socket)}
        if mode != "keep":
            fields |= {
                "pid": pid,
                "namespace": socket.namespace,
                "user": socket.user.id,
                "sid": socket.sid,
                "start": session.start,
                "from": session.start,
                "quiet": session.start,
                "address": self._address,
            }
        keys = [self._names.session(pid), self._names.sessions(self._incarnation())]
        args: list[Arg] = [mode, session.owner, pid, SAFETY_TTL_MS, *itertools.chain.from_iterable(fields.items())]
        session.mode = "keep"  # what is written while this is under way comes after it
        try:
            mine = await self._valkey.call(self._scripts["save"], keys, args)
        except BaseException:
            session.mode = "keep" if mode == "keep" else "again"
            raise
        if mine == MISSING:  # taken, and not opened elsewhere yet; or Valkey forgot
            session.mode = "again"
            self._dirty.setdefault(pid, session)
            self._flush_soon()
            return
        if mine == ANOTHERS and self._sessions.get(pid) is session:
            self.evict(pid)  # the word from where it went to did not reach us

    async def _write_end(self, pid: str, ended: _Ended) -> None:
        keys = [self._names.session(pid), self._names.sessions(ended.holder)]
        if asyncio.get_running_loop().time() < ended.until_s:
            await self._valkey.call(self._scripts["end"], keys, [ended.owner, pid, ended.keep_ms, ended.rooms])
        if self._ended.get(pid) is ended:
            del self._ended[pid]

    async def _touch(self, now_s: float) -> None:
        due = [(pid, s) for pid, s in self._sessions.items() if now_s - s.touched_s > TOUCH_S and s.mode == "keep"]
        for start in range(0, len(due), MAX_SAVES):
            calls = []
            for pid, session in due[start : start + MAX_SAVES]:
                session.touched_s = now_s
                namespace, rooms = session.socket.namespace, session.socket.rooms
                keys = [self._names.session(pid), self._names.tops]
                keys += [self._names.ids(namespace, room) for room in rooms]
                calls.append(self._valkey.call(self._scripts["touch"], keys, [session.owner, namespace, SAFETY_TTL_MS]))
            _raise_first(await asyncio.gather(*calls, return_exceptions=True))


def since(offset: str, start: str, said: str, quiet: str) -> Offset:
    """Return from where a client must be given the log. Pure.

    `offset` is what the client says ("" or nonsense: nothing); between `said` and `quiet` its rooms had no event.
    """
    try:
        checked_key(offset)
        has = Offset(offset)
    except ValueError:
        has = Offset(start or NO_OFFSET)
    if offset_key(has) >= offset_key(said) and offset_key(quiet) > offset_key(has):
        return Offset(quiet)
    return has


def _names(socket: Socket) -> str:
    return json.dumps(sorted(socket.rooms))


def _raise_first(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result
