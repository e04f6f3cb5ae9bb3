"""Sessions that outlive their connection: who was in which rooms, for a client that comes back within two minutes.

A record is in Valkey from the connect on, because a node that crashes saves nothing afterwards. It belongs to the
connection that took it last (`owner`); every later write says whose it is, so that a late one of an old connection
changes nothing. A client that comes back *claims* the record: the last claim has it, and whoever had it before,
connected or on its way in, is closed as replaced. What the record says stays until the claim comes to something, as a
client may go again before it is let in.

The record holds no events: those are in the log. What it must know is from where to read. A client that has received
nothing yet has no offset: it gets everything since its first connect (`start`). A client in quiet rooms has an old
one, which the log may no longer reach: so every quarter of an hour the record notes that nothing was said in its rooms
between `from` and `quiet`, and an offset in between counts as `quiet`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

from insightdesk_rt.engine.cluster.names import Names
from insightdesk_rt.engine.cluster.resp import Arg, load_script
from insightdesk_rt.engine.cluster.session_record import Ended, Resumed, SessionRecord, read_starts, since, starts_text
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, Room, Sid
from insightdesk_rt.engine.settings import Help, Seconds, SettingsPart
from insightdesk_rt.engine.wire import json

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


class RecoverySettings(SettingsPart, frozen=True):
    """Whether, and for how long, clients may go on with a session that was interrupted."""

    connection_recovery: Annotated[bool, Help("send returning clients the events they missed")] = True
    recovery_window_s: Annotated[Seconds, Help("how long a returning client may have been disconnected")] = 120


class ClusterSessions:
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
        window_s: int = RecoverySettings().recovery_window_s,
    ) -> None:
        self._valkey = valkey
        self._names = Names(valkey.prefix)
        self._node_id = node_id
        self._address = address
        self._incarnation = incarnation
        self._position = position
        self._replaced = replaced
        self._window_ms = window_s * 1000
        self._scripts = {name: load_script("insightdesk_rt.engine.cluster", "session_" + name) for name in SCRIPTS}
        self._numbers = itertools.count()
        self._sessions: dict[str, SessionRecord] = {}  # by pid, of sockets connected here
        self._entering: dict[str, Socket] = {}  # by pid, those that claimed theirs and are not let in yet
        self._dirty: dict[str, SessionRecord] = {}
        self._ended: dict[str, Ended] = {}
        self._ending: dict[str, Ended] = {}  # those of them that are being written
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

    @asynccontextmanager
    async def claim(self, socket: Socket, pid: str, offset: str) -> AsyncIterator[Resumed | None]:
        """Take the session for the socket, if it is its user's. `offset` is what the client says, "" for nothing.

        When the block begins, the old connection is closed if it was on this node. It is to end with `opened`, `drop`,
        or neither: then the client may claim it again. Raises RtError UNAVAILABLE.
        """
        found = await self._claim(socket, pid, offset)
        if found is not None:
            self._entering[pid] = socket
        try:
            yield found
        finally:
            if self._entering.get(pid) is socket:
                del self._entering[pid]

    async def _claim(self, socket: Socket, pid: str, offset: str) -> Resumed | None:
        if not PID.fullmatch(pid):
            self.refused += 1
            return None
        if pid in self._dirty or pid in self._ended:
            await self._flush()  # back before it was written: what is on its way to the record goes first
        owner = self._new_owner()
        args: list[Arg] = [socket.namespace, socket.user.key, owner, self._address, self._window_ms]
        found = await self._valkey.call(self._scripts["claim"], [self._names.session(pid)], args)
        if not found:
            self.refused += 1
            return None
        sid, rooms, start, said, quiet, role, team, address, over, starts = found
        if not over:
            if address == self._address:
                self.evict(pid)
            else:
                self._replaced(address, pid)
        self.claimed += 1
        has = since(offset, start, said, quiet)
        names = tuple(map(Room, json.loads(rooms)))
        return Resumed(Sid(sid), pid, names, has, Offset(start), owner, role, team, read_starts(starts))

    def opened(self, socket: Socket, found: Resumed | None = None) -> None:
        """The socket is in its rooms, and told its pid; `found`: it goes on with what it claimed."""
        now_s = asyncio.get_running_loop().time()
        if found is None:
            session = SessionRecord(socket, self._new_owner(), self._position(socket.namespace), "open", now_s)
        else:  # what it was sent just now may not arrive: from where to read stays as it is
            session = SessionRecord(socket, found.owner, found.start, "keep", now_s)
        self._ended.pop(socket.pid, None)
        self._sessions[socket.pid] = self._dirty[socket.pid] = session
        self._flush_soon()

    def drop(self, found: Resumed) -> None:
        """LogEnd a session that was claimed and cannot be gone on with."""
        self._end_later(found.pid, found.owner, 0, "[]", "")

    def _new_owner(self) -> str:
        return f"{self._address}/{next(self._numbers)}"

    def moved(self, socket: Socket) -> None:
        """The socket joined or left a room."""
        session = self._sessions.get(socket.pid)
        if session is not None and session.socket is socket:
            self._dirty[socket.pid] = session
            self._flush_soon()

    def ended(self, socket: Socket, why: CloseReason) -> None:
        """The connection is over; `socket.rooms` still says where it was."""
        session = self._sessions.get(socket.pid)
        if session is None or session.socket is not socket:
            return  # replaced: the session lives on with another connection
        del self._sessions[socket.pid]
        self._dirty.pop(socket.pid, None)
        keep_ms = self._window_ms if why.may_resume else 0
        if keep_ms and session.mode == "open":  # it was not written yet
            session.mode = "again"
            self._dirty[socket.pid] = session
        self._end_later(socket.pid, session.owner, keep_ms, _names(socket), starts_text(socket))

    def _end_later(self, pid: str, owner: str, keep_ms: int, rooms: str, starts: str) -> None:
        until_s = asyncio.get_running_loop().time() + keep_ms / 1000
        self._ended[pid] = Ended(owner, self._incarnation(), keep_ms, rooms, starts, until_s)
        self._flush_soon()

    # ── what others ask ───────────────────────────────────────────────────────────────────────────────────────────

    def evict(self, pid: str) -> None:
        """The session is another connection's now: close the one that is here, or on its way in."""
        session, entering = self._sessions.pop(pid, None), self._entering.pop(pid, None)
        if session is not None:
            self._dirty.pop(pid, None)
        for socket in (session.socket if session else None, entering):
            if socket is not None and not socket.gone:  # else its client may be the one that comes back
                self.evicted += 1
                socket.client.close(CloseReason.REPLACED)

    async def re_register(self) -> None:
        """Valkey forgot_ends, or this node has a new incarnation: write all records again."""
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
            while len(saves) > MAX_SAVES:  # of a Valkey that forgot_ends
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

    async def _write(self, saves: list[tuple[str, SessionRecord]], ends: list[tuple[str, Ended]]) -> None:
        """A record is saved before it is ended: calls go out in this order."""
        calls = [*(self._save(*save) for save in saves), *(self._write_end(*end) for end in ends)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for (pid, session), result in zip(saves, results, strict=False):
            if isinstance(result, BaseException) and (pid in self._ended or self._sessions.get(pid) is session):
                self._dirty.setdefault(pid, session)
        _raise_first(results)

    async def _save(self, pid: str, session: SessionRecord) -> None:
        socket, mode = session.socket, session.mode
        fields: dict[str, str] = {"rooms": _names(socket), "starts": starts_text(socket)}
        if mode != "keep":
            fields |= {
                "pid": pid,
                "namespace": socket.namespace,
                "user": socket.user.key,
                "role": socket.user.role,
                "team": socket.user.team_id,
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
        if mine == MISSING:  # Valkey forgot_ends
            session.mode = "again"
            self._dirty.setdefault(pid, session)
            self._flush_soon()
            return
        if mine == ANOTHERS and self._sessions.get(pid) is session:
            self.evict(pid)  # the word from where it went to did not reach us

    async def _write_end(self, pid: str, ended: Ended) -> None:
        keys = [self._names.session(pid), self._names.sessions(ended.holder)]
        # Valkey was away for so long that nobody may come back any more: without a word the record would stay.
        keep_ms = ended.keep_ms if asyncio.get_running_loop().time() < ended.until_s else 0
        await self._valkey.call(self._scripts["end"], keys, [ended.owner, pid, keep_ms, ended.rooms, ended.starts])
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


def _names(socket: Socket) -> str:
    return json.dumps(sorted(socket.rooms | socket.shut if socket.shut else socket.rooms))


def _raise_first(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result
