"""What a scenario sees of a client, whichever library and transport it is: a Peer, made by a Door.

A Peer is one client in one namespace. Its events arrive in `events` in the order the library handed them over; `expect`
takes the next one that fits, and fails, listing what there is instead, if none comes before the deadline.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.support.cable import Cable

DEADLINE_S = 15.0  # for a machine that has a lot else to do

Match = Mapping[str, Any] | Callable[[Any], bool] | None


class Received(NamedTuple):
    """One event. `extra` is what came behind the first argument (a stock client is shown the offset there)."""

    event: str
    data: Any
    extra: tuple[Any, ...] = ()


class Refused(Exception):
    """The server did not let the client into the namespace. `close_code` is the websocket's, native protocol only."""

    def __init__(self, message: str, data: Any, close_code: int | None = None) -> None:
        super().__init__(message, data)
        self.message = message
        self.data = data
        self.close_code = close_code

    @property
    def code(self) -> str | None:
        return self.data["code"] if isinstance(self.data, dict) else None


class NotAnswered(AssertionError):
    """An acknowledgement did not come in time, or the connection ended before it."""


class Change:
    """Wakes everybody who waits whenever something happened."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def happened(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def until(self, true: Callable[[], Any], what: Callable[[], str], deadline_s: float) -> Any:
        """Return the first truthy value of `true()`. Raises AssertionError with `what()` past the deadline."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while not (value := true()):
            left_s = end - loop.time()
            if left_s <= 0:
                raise AssertionError(f"not within {deadline_s} s: {what()}")
            future = loop.create_future()
            self._waiting.add(future)
            await asyncio.wait([future], timeout=left_s)
            self._waiting.discard(future)
        return value


class Peer(ABC):
    """One client in one namespace. Subclasses say how the library is driven; they call `_heard` and set the facts."""

    def __init__(self, namespace: str, cable: Cable | None = None) -> None:
        self.namespace = namespace
        self.sid = ""
        self.recovered = False
        self.connected = False
        self.connects = 0
        self.refused: Refused | None = None
        self.ended: str | int | None = None  # why the last connection ended: the library's word, or a close code
        self.events: list[Received] = []  # every one so far
        self._pending: list[Received] = []  # those nobody has expected yet
        self._change = Change()
        self._cable = cable

    # ── what scenarios use ─────────────────────────────────────────────────────────────────────────────────────────

    async def expect(self, event: str, match: Match = None, deadline_s: float = DEADLINE_S) -> Any:
        """Return the data of the next event of this name that fits `match` (a subset of its fields, or a question)."""

        def first() -> Received | None:
            return next((r for r in self._pending if r.event == event and fits(r.data, match)), None)

        found: Received = await self._change.until(first, lambda: f"{event} {match or ''}\n{self}", deadline_s)
        self._pending.remove(found)
        return found.data

    async def not_told(self, event: str, match: Match = None) -> None:
        """Assert that no such event has come, once everything that was sent to this client has arrived."""
        await self.settled()
        assert not (told := self.pending(event, match)), f"{self} was told {told}"

    def pending(self, event: str, match: Match = None) -> list[Any]:
        return [r.data for r in self._pending if r.event == event and fits(r.data, match)]

    def forget(self) -> None:
        """What came so far is of no interest."""
        self._pending.clear()

    async def settled(self) -> None:
        """Return when what the server has sent so far is here: answers come behind it."""
        answer = await self.call("are:you:there", {})
        assert answer["error"]["code"] == "UNKNOWN_EVENT", answer

    async def call(self, event: str, *args: Any, deadline_s: float = DEADLINE_S) -> Any:
        """Emit and return the acknowledgement's first argument. Raises NotAnswered."""
        answer = await self.request(event, *args, deadline_s=deadline_s)
        assert len(answer) == 1, f"an acknowledgement has one argument: {answer}"
        return answer[0]

    async def ok(self, event: str, *args: Any) -> dict[str, Any]:
        """Call, and return the answer, which must not be a refusal."""
        answer: dict[str, Any] = await self.call(event, *args)
        assert answer.get("ok") is True, f"{event} {args}: {answer}"
        return answer

    async def error(self, event: str, *args: Any) -> dict[str, Any]:
        """Call, and return the error, which the answer must be."""
        answer = await self.call(event, *args)
        assert answer.get("ok") is False, f"{event} {args}: {answer}"
        error: dict[str, Any] = answer["error"]
        assert isinstance(error["message"], str) and error["message"], error
        return error

    async def drop(self) -> None:
        """Pull the cable: the connection dies without a goodbye."""
        assert self._cable is not None, "connect with cable=True"
        await self._cable.cut()

    def answer_502(self) -> None:
        """Let the next poll be answered with 502 by a proxy that does not pass it on."""
        assert self._cable is not None, "connect with cable=True"
        self._cable.answer_502()

    def mend(self) -> None:
        """Plug the cable in again: a client that tries gets through."""
        assert self._cable is not None
        self._cable.mend()

    async def gone(self, deadline_s: float = DEADLINE_S) -> str | int:
        """Return why the connection ended, once it has."""
        await self._change.until(lambda: self.ended is not None, lambda: f"the end of {self}", deadline_s)
        assert self.ended is not None
        return self.ended

    async def again(self, connects: int = 2, deadline_s: float = DEADLINE_S) -> None:
        """Return once the client, which reconnects by itself, has come in this many times."""
        await self._change.until(
            lambda: self.connects >= connects and self.connected, lambda: f"connect {connects} of {self}", deadline_s
        )

    def __str__(self) -> str:
        state = "connected" if self.connected else f"ended: {self.ended}"
        return f"{type(self).__name__} {self.namespace} ({state}), not expected so far: {self._pending}"

    # ── what drivers do ────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def emit(self, event: str, *args: Any) -> None:
        """Send an event and ask for no acknowledgement."""

    @abstractmethod
    async def request(self, event: str, *args: Any, deadline_s: float = DEADLINE_S) -> list[Any]:
        """Emit and return the acknowledgement's arguments. Raises NotAnswered."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Say goodbye as this library does, and return when the connection is gone."""

    @abstractmethod
    async def close(self) -> None:
        """Free everything. Idempotent."""

    async def next_token(self, token: str) -> None:
        """Give a client that reconnects by itself the token it will use then."""
        raise NotImplementedError

    async def came_in(self, deadline_s: float = DEADLINE_S) -> None:
        """Return once the first CONNECT was answered. Raises Refused."""
        await self._change.until(
            lambda: self.connected or self.refused is not None or self.ended is not None,
            lambda: f"the answer to CONNECT of {self}",
            deadline_s,
        )
        if self.refused is not None:
            raise self.refused
        assert self.connected, f"{self}"

    def _heard(self, event: str, args: Sequence[Any]) -> None:
        received = Received(event, args[0] if args else None, tuple(args[1:]))
        self.events.append(received)
        self._pending.append(received)
        self._change.happened()

    def _in(self, sid: str, recovered: bool) -> None:
        self.sid, self.recovered, self.connected, self.ended = sid, recovered, True, None
        self.connects += 1
        self._change.happened()

    def _out(self, why: str | int) -> None:
        self.connected, self.ended = False, why
        self._change.happened()

    def _no(self, refused: Refused) -> None:
        self.refused = refused
        self._change.happened()


class Door(ABC):
    """One way into the server: a library and its transports."""

    name: str
    reconnects = True  # by itself, when the transport is lost
    needs_node = False

    async def open(self, address: tuple[str, int], namespace: str, auth: Any, **options: bool) -> Peer:
        """Return a client that is in. The options are those of `open_all`. Raises Refused."""
        (peer,) = await self.open_all(address, [namespace], auth, **options)
        return peer

    async def open_all(
        self,
        address: tuple[str, int],
        namespaces: Sequence[str],
        auth: Any,
        *,
        cable: bool = False,
        reconnection: bool = False,
        some_refused: bool = False,
        settle: bool = True,
    ) -> list[Peer]:
        """Return one Peer for each namespace, over one connection where the protocol has that. Raises Refused.

        With `cable` the connection can be dropped. With `some_refused` those that were refused are returned too, and
        say so. Without `settle` a client that upgrades its transport may still be doing so.
        """
        laid = None
        if cable:
            laid = Cable(*address)
            address = ("127.0.0.1", await laid.lay())
        peers = await self._open(address, namespaces, auth, laid, reconnection)
        try:
            for peer in peers:
                try:
                    await peer.came_in()
                except Refused:
                    if not some_refused:
                        raise
            if settle:
                await self.settle(peers[0])
        except BaseException:
            for peer in peers:
                await peer.close()
            raise
        return peers

    @abstractmethod
    async def _open(
        self,
        address: tuple[str, int],
        namespaces: Sequence[str],
        auth: Any,
        cable: Cable | None,
        reconnection: bool,
    ) -> list[Peer]: ...

    @abstractmethod
    async def settle(self, peer: Peer) -> None:
        """Wait for what makes this door what it is: that the client is on its last transport."""


def fits(data: Any, match: Match) -> bool:
    if match is None:
        return True
    if callable(match):
        return bool(match(data))
    return isinstance(data, dict) and all(key in data and data[key] == value for key, value in match.items())
