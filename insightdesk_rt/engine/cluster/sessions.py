"""ClusterSessions: sessions that outlive their connection, so that a client may resume its rooms within two minutes.

A session's record is in Valkey from the connect on, because a node that crashes cannot save anything. The record
belongs to the connection that took it last (`owner`). Every later write names its owner, so that a late write of an old
connection has no effect. A client that comes back *claims* the record. The last claim wins, and an earlier holder,
connected or still connecting, is closed as replaced. A claim leaves the content of the record as it is until the
connect is complete, because the client may disconnect again before.

The record has no events, which are in the log, but it must know from where to read them. A client that has received
nothing yet has no offset and gets everything since its first connect (`start`). A client in quiet rooms has an old
offset, which the log may not reach any more. So every quarter of an hour the record notes that its rooms had no event
between `from` and `quiet`; an offset between the two counts as `quiet`.

Records lie in 16 partitions by their pid, and each partition has a set of the records that a node holds there. A
node's death is cleared in all of them, in bounded steps that another node may repeat.
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

from insightdesk_rt.engine.cluster.names import Key, Partition
from insightdesk_rt.engine.cluster.resp import Arg, load_script
from insightdesk_rt.engine.cluster.session_record import Ended, Resumed, SessionRecord, read_starts, since, starts_text
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import Offset, Room, Sid
from insightdesk_rt.engine.periodic import PeriodicWork, start_periodic
from insightdesk_rt.engine.settings import Help, Seconds, SettingsPart
from insightdesk_rt.engine.tasks import OwnedTasks
from insightdesk_rt.engine.wire import json

log = logging.getLogger(__name__)

PID = re.compile(r"[A-Za-z0-9_.\-]{24,100}")
RETRY_S = 0.2
TOUCH_S = 900.0  # a quarter of the time that a room's offsets are kept
TOUCH_TURN_MS = TOUCH_S * 1000 / 10
# Longer than the time between two writes of a record. Records that no node could clear (all died at once) expire.
SAFETY_TTL_MS = 86_400_000
REAP_BATCH = 500
PACKAGE = "insightdesk_rt.engine.cluster"
SAVE = load_script(PACKAGE, "session_save")
END = load_script(PACKAGE, "session_end")
CLAIM = load_script(PACKAGE, "session_claim")
UNLIST = load_script(PACKAGE, "session_unlist")
QUIET = load_script(PACKAGE, "session_quiet", "offsets_lib")
REAP = load_script(PACKAGE, "session_reap")
ROOMS_LAST = load_script(PACKAGE, "rooms_last", "offsets_lib")
MAX_SAVES = 1_000  # records in one pipeline
OTHER_OWNER, NO_RECORD = 0, -1  # answers of lua/session_save.lua


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
        self._names = valkey.names
        self._node_id = node_id
        self._address = address
        self._incarnation = incarnation
        self._position = position
        self._replaced = replaced
        self._window_ms = window_s * 1000
        self._numbers = itertools.count()
        self._sessions: dict[str, SessionRecord] = {}  # by pid, of sockets connected here
        self._entering: dict[str, Socket] = {}  # by pid: sockets that claimed a session and are still connecting
        self._dirty: dict[str, SessionRecord] = {}
        self._ended: dict[str, Ended] = {}
        self._ending: dict[str, Ended] = {}  # those in _ended that are being written
        self._flushes = OwnedTasks(log)
        self._due: asyncio.Handle | None = None  # the next flush
        self._touching: PeriodicWork | None = None  # from `start` to `close`

    def start(self) -> None:
        self._touching = start_periodic(TOUCH_TURN_MS, self._touch, "noting that sessions missed nothing")

    async def close(self) -> None:
        """Write what is still to be written if Valkey is reachable, then end."""
        touching, self._touching = self._touching, None
        if touching is not None:
            touching.stop()
            await self._flushes.wait()
        if self._due is not None:
            self._due.cancel()
        if not await self._quietly(self._flush()):
            log.warning("sessions were not saved", extra={"sessions": len(self._ended) + len(self._dirty)})

    # ── what dispatch asks ────────────────────────────────────────────────────────────────────────────────────────

    def new_pid(self) -> str:
        """Return a new pid, a secret of its client: 128 random bits. The node's name in front helps to read logs."""
        return f"{self._node_id}.{secrets.token_urlsafe(16)}"

    @asynccontextmanager
    async def claim(self, socket: Socket, pid: str, offset: str) -> AsyncIterator[Resumed | None]:
        """Claim the session for the socket if it belongs to its user. `offset` is the client's last one, or "".

        When the block begins, the old connection is closed if it was on this node. The block ends with `opened` or
        `drop`; with neither, the client may claim the session again. Raises RtError UNAVAILABLE.
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
            return None
        if pid in self._dirty or pid in self._ended:
            await self._flush()  # the client is back before its record was written: write it first
        owner = self._new_owner()
        args: list[Arg] = [socket.namespace, socket.user.key, owner, self._address, self._window_ms]
        record = self._names.session(pid).session(pid)
        found = await self._valkey.call(CLAIM, [record], args)
        if not found:
            return None
        sid, rooms, start, said, quiet, role, team, address, over, starts, listed_in = found
        if listed_in and not over:
            await self._valkey.call(UNLIST, [record, Key(listed_in)], [pid])
        if not over:
            if address == self._address:
                self.evict(pid)
            else:
                self._replaced(address, pid)
        has = since(offset, start, said, quiet)
        names = tuple(map(Room, json.loads(rooms)))
        return Resumed(Sid(sid), pid, names, has, Offset(start), owner, role, team, read_starts(starts))

    def opened(self, socket: Socket, found: Resumed | None = None) -> None:
        """The socket has joined its rooms and has its pid. `found`: the session that it claimed, if it resumed one."""
        now_s = asyncio.get_running_loop().time()
        if found is None:
            session = SessionRecord(socket, self._new_owner(), self._position(socket.namespace), "open", now_s)
        else:  # what it was just sent may not arrive, so the start of its next read stays as it is
            session = SessionRecord(socket, found.owner, found.start, "keep", now_s)
        self._ended.pop(socket.pid, None)
        self._sessions[socket.pid] = self._dirty[socket.pid] = session
        self._flush_soon()

    def drop(self, found: Resumed) -> None:
        """End a session that was claimed and cannot be resumed."""
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
        """The connection has ended; `socket.rooms` still has its rooms."""
        session = self._sessions.get(socket.pid)
        if session is None or session.socket is not socket:
            return  # it was replaced: another connection has the session
        del self._sessions[socket.pid]
        self._dirty.pop(socket.pid, None)
        keep_ms = self._window_ms if why.may_resume else 0
        if keep_ms and session.mode == "open":  # the record was not written yet
            session.mode = "again"
            self._dirty[socket.pid] = session
        self._end_later(socket.pid, session.owner, keep_ms, _names(socket), starts_text(socket))

    def _end_later(self, pid: str, owner: str, keep_ms: int, rooms: str, starts: str) -> None:
        until_s = asyncio.get_running_loop().time() + keep_ms / 1000
        self._ended[pid] = Ended(owner, self._incarnation(), keep_ms, rooms, starts, until_s)
        self._flush_soon()

    # ── what others ask ───────────────────────────────────────────────────────────────────────────────────────────

    def evict(self, pid: str) -> None:
        """Another connection has taken the session: close the one on this node, connected or still connecting."""
        session, entering = self._sessions.pop(pid, None), self._entering.pop(pid, None)
        if session is not None:
            self._dirty.pop(pid, None)
        for socket in (session.socket if session else None, entering):
            if socket is not None and not socket.gone:  # a socket that has ended may be the one whose client came back
                socket.client.close(CloseReason.REPLACED)

    async def re_register(self) -> None:
        """Write all records again: Valkey lost them, or this node has a new incarnation."""
        for pid, session in self._sessions.items():
            if session.mode != "open":
                session.mode = "again"
            self._dirty[pid] = session
        self._flush_soon()

    async def node_lost(self, incarnation: str) -> None:
        """Let the sessions of a dead node expire after the usual time. Idempotent. Raises RtError UNAVAILABLE."""
        await asyncio.gather(*(self._reap(partition, incarnation) for partition in self._names.sessions))

    async def _reap(self, partition: Partition, incarnation: str) -> None:
        index = partition.sessions(incarnation)
        while pids := await self._valkey.command("SRANDMEMBER", index, REAP_BATCH):
            keys = [index, *map(partition.session, pids)]
            if not await self._valkey.call(REAP, keys, [self._window_ms, *pids]):
                return

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _flush_soon(self) -> None:
        """Write in the next turn, so that a record has a room before its client is told. Flushes overlap, in order."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._begin_flush)

    def _begin_flush(self) -> None:
        self._due = None
        self._flushes.spawn(self._quietly(self._flush()), "writing sessions")

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> bool:
        try:
            await work
            return True
        except RtError as failed:
            log.debug("sessions will be written later: %s", failed.code)
        except Exception:
            log.exception("writing sessions failed")
        return False

    async def _flush(self) -> None:
        """Write everything that changed. If this raises, what could not be written is due again."""
        saves = list(self._dirty.items())
        self._dirty.clear()
        ends = [(pid, ended) for pid, ended in self._ended.items() if self._ending.get(pid) is not ended]
        self._ending.update(ends)
        try:
            while len(saves) > MAX_SAVES:  # after Valkey was emptied
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
        """Write records. A record is saved before it is ended, because calls are sent in this order."""
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
        partition = self._names.session(pid)
        keys = [partition.session(pid), partition.sessions(self._incarnation())]
        args: list[Arg] = [mode, session.owner, pid, SAFETY_TTL_MS, *itertools.chain.from_iterable(fields.items())]
        session.mode = "keep"  # a write that starts while this is under way comes after it
        try:
            saved = await self._valkey.call(SAVE, keys, args)
        except BaseException:
            session.mode = "keep" if mode == "keep" else "again"
            raise
        if saved == NO_RECORD:  # Valkey was emptied
            session.mode = "again"
            self._dirty.setdefault(pid, session)
            self._flush_soon()
            return
        if saved == OTHER_OWNER and self._sessions.get(pid) is session:
            self.evict(pid)  # the notification of the session's new node did not arrive

    async def _write_end(self, pid: str, ended: Ended) -> None:
        partition = self._names.session(pid)
        keys = [partition.session(pid), partition.sessions(ended.holder)]
        # If Valkey was unreachable for longer than the client may take, the record is deleted; it would stay otherwise.
        keep_ms = ended.keep_ms if asyncio.get_running_loop().time() < ended.until_s else 0
        await self._valkey.call(END, keys, [ended.owner, pid, keep_ms, ended.rooms, ended.starts])
        if self._ended.get(pid) is ended:
            del self._ended[pid]

    async def _touch(self) -> None:
        now_s = asyncio.get_running_loop().time()
        due = [(pid, s) for pid, s in self._sessions.items() if now_s - s.touched_s > TOUCH_S and s.mode == "keep"]
        for start in range(0, len(due), MAX_SAVES):
            calls = []
            for pid, session in due[start : start + MAX_SAVES]:
                session.touched_s = now_s
                calls.append(self._touch_one(pid, session))
            _raise_first(await asyncio.gather(*calls, return_exceptions=True))

    async def _touch_one(self, pid: str, session: SessionRecord) -> None:
        """Note in a record up to where its rooms had no event. Two steps, as log and record are in two partitions.

        What the first step reads stays true whatever happens before the second: these rooms have the same events up to
        that end of the log for ever. The second one only moves the fields forward, and only in a record that still
        belongs to this connection. A room that the socket joined while the first step was under way may have had an
        event that was not looked for; then the fields stay as they are until the next touch.
        """
        namespace, rooms = self._names.namespace(session.socket.namespace), frozenset(session.socket.rooms)
        top, newest = await self._valkey.call(ROOMS_LAST, [namespace.log_state, *map(namespace.ids, rooms)], [])
        if not session.socket.rooms <= rooms:
            top = ""
        record = self._names.session(pid).session(pid)
        await self._valkey.call(QUIET, [record], [session.owner, SAFETY_TTL_MS, top, newest])


def _names(socket: Socket) -> str:
    return json.dumps(sorted(socket.rooms | socket.shut if socket.shut else socket.rooms))


def _raise_first(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result
