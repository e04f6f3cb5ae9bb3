"""The Receiver of the transports: turns what clients send into sockets and into calls of a namespace's handlers.

connect_received  verify the token, make the Socket, join its first rooms, answer CONNECT, call `joined`
call_received     see calls.py
client_ended      leave all rooms, call `left`
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from insightdesk_rt.engine import model
from insightdesk_rt.engine.cluster.session_record import Resumed
from insightdesk_rt.engine.cluster.sessions import ClusterSessions
from insightdesk_rt.engine.dispatch.calls import Calls, OwnEvents
from insightdesk_rt.engine.dispatch.expiry import REFRESH, Expiry
from insightdesk_rt.engine.dispatch.namespace import Namespace, Timers
from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.hub.access_rechecks import AccessChanged
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.hub.socket import Socket
from insightdesk_rt.engine.model import User, UserId
from insightdesk_rt.engine.rate_limits import Rate, parse_rate
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.settings import Count, CountLimit, Help, SettingsPart
from insightdesk_rt.engine.shared_limits import SharedCap, SharedLimits
from insightdesk_rt.engine.tokens import BadToken
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import Ack, Call, Codec, Connect
from insightdesk_rt.engine.wire.limits import PacketLimits

log = logging.getLogger(__name__)

MAX_REASONS = 64  # reasons of refusals; each is a label of a metric
NO_TOKEN = (
    "No token was given. It belongs in auth.token, as in io(url, {auth: {token}}); headers, cookies and the query are"
    " not read."
)
NO_TOKEN_NATIVE = "No token was given. It belongs in data.token of connect, or in the header Authorization: Bearer."


UNIDENTIFIED = "?"  # begins the id of a user who is not known yet, with the client's id: calls that wait count for it
CONNECTS = "connect"  # a key among a user's rate windows; no client may send an event of this name


class Auth(Struct, frozen=True):
    """The auth object of a CONNECT. The verifier checks the type of the token."""

    token: Any = None
    pid: Any = None
    offset: Any = None
    recovery: Any = None


class DispatchSettings(SettingsPart, frozen=True):
    """How often users may call, and how many sockets they may have."""

    max_waiting_calls_per_socket: Annotated[
        CountLimit, Help("calls that wait for earlier calls of the socket; 0: no limit")
    ] = 1000
    # Ten a second: a person with ten tabs of four namespaces whose network drops every five seconds makes eight.
    max_connects_per_user_per_minute: Annotated[
        Count, Help("connects of one user into namespaces, per cluster; 0: no limit")
    ] = 600
    max_connections_per_user: Annotated[Count, Help("sockets of one user per namespace and cluster; 0: no limit")] = 100
    rate_limits: Annotated[
        dict[str, str], Help('rates per user and cluster: event = "max/seconds"; "default": all other events')
    ] = {}
    max_namespaces_per_connection: int = PacketLimits().max_namespaces_per_connection
    max_json_depth: CountLimit = PacketLimits().max_json_depth

    @property
    def rates(self) -> dict[str, Rate]:
        """The configured rates, by event."""
        return {event: parse_rate(text) for event, text in self.rate_limits.items() if event != "default"}

    @property
    def default_rate(self) -> Rate:
        """The rate of events that neither the settings nor their namespace give one."""
        return parse_rate(self.rate_limits["default"]) if "default" in self.rate_limits else DEFAULT_RATE


DEFAULT_RATE = Rate(100, 60)


Verify = Callable[[object], User]


Identify = Callable[[Client, str], Awaitable[User]]


class Admission(NamedTuple):
    """`verify` returns the user of a token. `admit` raises RtError for a client that may not connect from its address.

    `on_new` is called with each socket that did not resume a session, before its namespace's `joined`. `identify`
    returns the user of a client that brings no token into a namespace, by the headers of its first request, or raises
    RtError AUTH_*, FORBIDDEN, UNAVAILABLE; None: a token is needed.
    """

    verify: Verify
    admit: Callable[[Client], None] = lambda client: None
    on_new: Callable[[Socket], None] = lambda socket: None
    identify: Identify | None = None


class Dispatch:
    def __init__(
        self,
        hub: Hub,
        namespaces: Iterable[Namespace],
        admission: Admission,
        timers: Timers,
        settings: DispatchSettings = DispatchSettings(),
        sessions: ClusterSessions | None = None,
        own_events: OwnEvents = MappingProxyType({}),
        shared: SharedLimits | None = None,
    ) -> None:
        self._hub = hub
        self._namespaces = {namespace.path: namespace for namespace in namespaces}
        self._admission = admission
        self._settings = settings
        self._sessions = sessions
        self._expiry = Expiry(admission.verify, timers, None if admission.identify is None else self._identify_again)
        self.limits = shared or SharedLimits()
        self.calls = Calls(
            self._namespaces.values(),
            timers.now_ms,
            settings.default_rate,
            settings.rates,
            {REFRESH.name: (REFRESH, self._expiry.refresh)},
            own_events=own_events,
            max_waiting=settings.max_waiting_calls_per_socket,
            max_depth=settings.max_json_depth,
            shared=self.limits,
        )
        self._auth = msgspec.json.Decoder(Auth)
        cap = settings.max_connections_per_user
        self._users = {path: SharedCap(cap, self.limits, f"users of {path}") for path in self._namespaces}
        self._unidentified: set[Socket] = set()  # their users are asked for, and not counted yet
        self.connected: Counter[str] = Counter()  # by namespace
        self.refused: Counter[tuple[str, str]] = Counter()  # by code, and for invalid tokens by what is wrong
        self._seldom = Seldom(log)
        self.resumed = 0
        self.not_resumed = 0  # clients whose session could not be resumed, and that got a new one

    # ── a client connects to a namespace ─────────────────────────────────────────────────────────────────────────────

    def connect_received(self, client: Client, ask: Connect) -> None:
        namespace = self._namespaces.get(ask.namespace)
        if namespace is None:
            self._note(client, ask.namespace, "INVALID_NAMESPACE", "there is no such namespace")
            self._turn_away(client, ask.namespace, "", "Invalid namespace")
            return
        if self._asked_before(client, ask):
            return
        try:
            auth = self._read_auth(ask.auth)
            user = self._user(client, auth)
            self._admission.admit(client)
            self._limit_namespaces(client)
            if user is not None:
                self._limit(namespace, user)
        except RtError as refused:
            if refused.code == "RATE_LIMITED":  # a stock client reconnects by itself only after a lost transport
                self._note(client, ask.namespace, refused.code, refused.message)
                client.close(CloseReason.UNAVAILABLE)
                return
            self._refuse(client, ask.namespace, refused)
            return
        sent, codec = self._hub.sent[ask.namespace], _codec(client, auth)
        shown = User(UserId(UNIDENTIFIED + client.id), "customer") if user is None else user
        socket = Socket(model.new_sid(), ask.namespace, shown, client, client.outbox, codec, sent)
        socket.connected_at_s = time.time()
        socket.asked_with = hash(bytes(ask.auth))
        if user is None:
            self._unidentified.add(socket)
        else:
            socket.windows = self.calls.windows_of(user.key)
            self._users[ask.namespace].enter(user.key)
        client.sockets[ask.namespace] = socket
        self.calls.start(socket, self._connect(client, socket, namespace, auth))

    def _asked_before(self, client: Client, ask: Connect) -> bool:
        """Answer a second CONNECT of a client that cannot have seen the answer to its first (engine/wire/socketio.py).

        The same auth gets the same answer. Another auth is a new request: the client has given up the first,
        perhaps to sign in as another user, so that socket ends. Returns False if `ask` is still to be handled.
        """
        first: Socket | None = client.sockets.get(ask.namespace)
        if first is None:
            return False
        if first.asked_with != hash(bytes(ask.auth)):
            self._end(client, ask.namespace, CloseReason.CLIENT_LEFT)
            return False
        if first.connected:
            self._greet(client, first, recovered=False)  # only Socket.IO asks twice, and it does not write `recovered`
        else:
            first.asks += 1
        return True

    @staticmethod
    def _greet(client: Client, socket: Socket, *, recovered: bool) -> None:
        client.session.accept(socket.namespace)
        socket.send(socket.codec.connected(socket.namespace, socket.sid, socket.pid, recovered))

    def _read_auth(self, text: Raw) -> Auth:
        if not bytes(text):
            return Auth()
        try:
            return json.decode(self._auth, text, self._settings.max_json_depth)
        except json.BadJson:
            raise BadToken("auth is not JSON of the documented form") from None

    def _user(self, client: Client, auth: Auth) -> User | None:
        """Return the user of the token; None if there is no token, and the back end must be asked."""
        token = client.bearer or auth.token
        if token in (None, "") and self._admission.identify is not None and client.forwarded:
            return None
        return self._admission.verify(token)

    async def _identify(self, client: Client, socket: Socket, namespace: Namespace) -> None:
        """Find out the user of a socket without a token. Raises RtError."""
        assert self._admission.identify is not None
        user = await self._admission.identify(client, namespace.path)
        if socket.gone:
            return
        self._admission.admit(client)
        self._limit(namespace, user)
        self._unidentified.discard(socket)
        self._users[namespace.path].enter(user.key)
        self.calls.identified(socket, user)

    async def _identify_again(self, socket: Socket) -> User:
        assert self._admission.identify is not None
        client: Any = socket.client
        return await self._admission.identify(client, socket.namespace)

    def _limit_namespaces(self, client: Client) -> None:
        limit = self._settings.max_namespaces_per_connection
        if limit and len(client.sockets) >= limit:
            raise RtError("TOO_MANY_CONNECTIONS", "This connection has joined as many namespaces as it may.")

    def _limit(self, namespace: Namespace, user: User) -> None:
        if user.role not in namespace.allow:
            raise RtError("FORBIDDEN")
        if self._users[namespace.path].full(user.key):
            raise RtError("TOO_MANY_CONNECTIONS")
        limit = self._settings.max_connects_per_user_per_minute
        if limit:
            window = self.calls.window_of(user.key, self.calls.windows_of(user.key), CONNECTS, Rate(limit, 60))
            if window.take(self.calls.now_ms()):
                raise RtError("RATE_LIMITED")

    def _refuse(self, client: Client, namespace: str, refused: RtError) -> None:
        """Refuse the client. Counts and logs the reason."""
        message = refused.message
        if refused.code == "AUTH_TOKEN_MISSING":
            message = NO_TOKEN_NATIVE if client.native else NO_TOKEN
        self._note(client, namespace, refused.code, refused.why if isinstance(refused, BadToken) else message)
        self._turn_away(client, namespace, refused.code, message)

    @staticmethod
    def _turn_away(client: Client, namespace: str, code: str, message: str) -> None:
        client.send(client.codec.refused(namespace, code, message))
        client.refused(namespace, code)

    def _note(self, client: Client, namespace: str, code: str, why: str) -> None:
        """Count a refusal, and log one of each kind a minute. `why` contains nothing of the token."""
        key = (code, why if code == "AUTH_TOKEN_INVALID" else "")
        if key not in self.refused and len(self.refused) >= MAX_REASONS:
            key = (code, "")
        self.refused[key] += 1
        fields = {"code": code, "why": why, "namespace": namespace, "address": client.address, "agent": client.agent}
        self._seldom.say(logging.INFO, "connect refused", f"{code} {key[1]}", **fields)

    async def _connect(self, client: Client, socket: Socket, namespace: Namespace, auth: Auth) -> None:
        try:
            if socket in self._unidentified:
                await self._identify(client, socket, namespace)
                if socket.gone:
                    return
            await namespace.coming(socket.user)
            lost = await self._enter(client, socket, namespace, auth)
        except RtError as refused:
            if socket.gone:
                return
            self._discard(client, socket)
            # A stock client reconnects after a lost transport, not after a CONNECT_ERROR.
            if refused.kind.retry and refused.code != "TOO_MANY_CONNECTIONS":
                self._note(client, socket.namespace, refused.code, refused.message)
                client.close(CloseReason.UNAVAILABLE)
            else:
                self._refuse(client, socket.namespace, refused)
            return
        if socket.gone:
            return
        if lost:
            socket.emit("resync", json.dumps({"rooms": lost}))
        if lost is not None:
            self._admission.on_new(socket)
        self._expiry.watch(socket)
        await namespace.joined(socket)

    async def _enter(
        self, client: Client, socket: Socket, namespace: Namespace, auth: Auth
    ) -> Collection[model.Room] | None:
        """Resume the client's session and replay what it missed, or start a new session; then answer the CONNECT.

        Returns None for a resumed session, otherwise the rooms whose missed events are lost.
        """

        def greet(recovered: bool) -> None:
            if not socket.gone:
                socket.connected = True
                self.connected[socket.namespace] += 1
                for _ in range(socket.asks):
                    self._greet(client, socket, recovered=recovered)

        sessions = self._sessions if socket.codec.recovery else None
        lost: Collection[model.Room] = ()
        if sessions is not None:
            if isinstance(auth.pid, str):
                offset = auth.offset if isinstance(auth.offset, str) else ""
                async with sessions.claim(socket, auth.pid, offset) as found:
                    if found is not None and await self._resume(socket, namespace, found, lambda: greet(True)):
                        sessions.opened(socket, found)
                        self.resumed += 1
                        return None
                    if socket.gone:  # the client may return for the session in a moment
                        return ()
                    self.not_resumed += 1
                    if found is not None:
                        sessions.drop(found)
                        lost = found.rooms
            socket.pid = sessions.new_pid()
        self._hub.add(socket)
        await self._hub.enter(socket, first_rooms(socket.user))
        greet(False)
        if sessions is not None and not socket.gone:
            sessions.opened(socket)
        return lost

    async def _resume(self, socket: Socket, namespace: Namespace, found: Resumed, greet: Callable[[], None]) -> bool:
        """Resume the session that the socket claimed. Returns False, with the socket unchanged, if it cannot.

        A user whose role or team has changed cannot resume: the session's rooms follow from the old permissions.
        """
        user = socket.user
        if (found.role, found.team_id) != (user.role, user.team_id):
            return False
        if user.rooms is not None and {room for room in found.rooms if model.is_of_back_end(room)} != set(user.rooms):
            return False

        async def check_and_resume(unchanged: Callable[[], bool]) -> bool:
            rooms = await namespace.still_allowed(user, found.rooms, found.starts)
            fresh, socket.sid, socket.pid = socket.sid, found.sid, found.pid
            self._hub.add(socket)

            def greet_and_notify() -> None:
                greet()
                socket.shut = set(found.rooms).difference(rooms) or None
                namespace.notify_lost_rooms(socket, socket.shut or ())  # first: what it missed of these is not sent

            def undo() -> None:
                self._hub.forget(socket)
                socket.sid = fresh

            try:
                if await self._hub.resume(socket, rooms, found.offset, greet_and_notify, found.starts, unchanged):
                    return True
            except AccessChanged:
                undo()
                raise
            undo()
            return False

        return await namespace.rechecks.join(found.rooms, check_and_resume)

    def _discard(self, client: Client, socket: Socket) -> None:
        """Undo `connect_received` for a socket that is refused."""
        if client.sockets.get(socket.namespace) is socket:
            del client.sockets[socket.namespace]
        self._forget(socket)

    def _forget(self, socket: Socket) -> None:
        self.calls.forget_waiting(socket)
        self._hub.remove(socket)
        socket.gone = True
        if socket in self._unidentified:
            self._unidentified.discard(socket)
        else:
            self._users[socket.namespace].leave(socket.user.key)
        self._expiry.forget(socket)

    # ── a client calls ─────────────────────────────────────────────────────────────────────────────────────────────

    def call_received(self, client: Client, call: Call) -> None:
        socket: Socket | None = client.sockets.get(call.namespace)
        if socket is not None:  # a native client may send a call right after a connect that is refused
            self.calls.take(socket, call)

    # ── acks, leaving, ends ────────────────────────────────────────────────────────────────────────────────────────

    def ack_received(self, client: Client, ack: Ack) -> None:
        socket: Socket | None = client.sockets.get(ack.namespace)
        if socket is not None:
            socket.acked(ack.ack_id, ack.payload)

    def leave_received(self, client: Client, namespace: str) -> None:
        self._end(client, namespace, CloseReason.CLIENT_LEFT)

    def client_ended(self, client: Client, why: CloseReason) -> None:
        for namespace in tuple(client.sockets):
            self._end(client, namespace, why)

    def _end(self, client: Any, namespace: str, why: CloseReason) -> None:
        socket: Socket | None = client.sockets.pop(namespace, None)
        if socket is None:
            return
        started, running = self._hub.sockets(namespace).get(socket.sid) is socket, socket.task
        self._forget(socket)
        if not started:
            return
        if self._sessions is not None:
            self._sessions.ended(socket, why)
        self.calls.tasks.spawn(self._leave(socket, running, why), "a leave")

    async def _leave(self, socket: Socket, running: asyncio.Task[None] | None, why: CloseReason) -> None:
        """Call the namespace's `left`, after the running handler is done: a handler must not run after `left`."""
        if running is not None:
            await asyncio.wait([running])
        try:
            await self._namespaces[socket.namespace].left(socket, why)
        except RtError as refused:
            log.log(refused.log_level, "leave not finished", extra={"why": refused.code, **socket.fields()})
        except Exception:
            log.exception("leave failed", extra=socket.fields())

    # ── housekeeping ───────────────────────────────────────────────────────────────────────────────────────────────

    def users(self) -> set[str]:
        """Return the distinct users that are connected here. O(users), for occasional callers."""
        return set().union(*self._users.values())

    def user_count(self) -> int:
        """Return the number of distinct users that are connected here. O(users)."""
        return len(self.users())

    def sweep(self) -> None:
        """Forget the rate windows of users who have left. Called every minute."""
        self.calls.sweep(lambda user: any(user in users for users in self._users.values()))

    async def close(self, within_s: float) -> None:
        """Wait for running handlers and their calls of `left`. Cancel what still runs after the deadline."""
        await self.calls.close(within_s)


def first_rooms(user: User) -> list[model.Room]:
    rooms = [model.user_room(user.key), model.role_room(user.role)]
    if user.team_id:
        rooms.append(model.team_room(user.team_id))
    return [*rooms, *(user.rooms or ())]


def _codec(client: Client, auth: Auth) -> Codec:
    """Return the codec for this client: with recovery if it asks for it, brings a pid, or is known to use it."""
    wanted = auth.recovery if isinstance(auth.recovery, bool) else client.recovers or isinstance(auth.pid, str)
    return client.codec if wanted else client.codec.plain
