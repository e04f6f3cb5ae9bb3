"""Poller: watches all connections with one epoll of our own, which the event loop watches.

It serves websockets and the HTTP connections of the fast path. asyncio's add_reader costs each connection two entries,
a Handle and a bound method (0.6 KB), and each wake-up some 2 µs in the selector's and the loop's Python. Here a
connection is one entry of a dictionary, and a wake-up is one call.

A turn of the loop serves connections for TURN_NS. The rest are served in the next turn, after whatever else is due, so
that a storm of connects does not hold up established clients. The kernel reports permanently ready connections in the
same order each time, so epoll is polled again only after all reported connections were served. A connection that takes
longer than a turn (a flood of small frames, or a big message) is served after all others, one such connection per turn:
however many clients flood, the others wait for one of them.
"""

from __future__ import annotations

import asyncio
import logging
import select
from time import monotonic_ns
from typing import Protocol

log = logging.getLogger(__name__)

AT_ONCE = 256  # connections that one poll reports at most
TURN_NS = 2_000_000  # 100 calls, or 10 connects
NOTHING, READ, WRITE = 0, select.EPOLLIN, select.EPOLLOUT


class Watched(Protocol):
    """The callbacks of a watched socket. They must not raise, and must tolerate stale events."""

    def readable(self) -> None: ...

    def writable_again(self) -> None: ...

    def failed(self) -> None: ...


class Poller:
    """Its epoll is in the running loop from the first `watch` until `close` was called and no connection is left.

    It keeps the epoll while nothing is watched, because later the process may have no file descriptor left for one.
    """

    __slots__ = ("_ending", "_epoll", "_late", "_long", "_named", "_watched")

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Watched] = {}
        self._named: list[tuple[int, int]] = []  # reported by the last poll, with their events, and not served yet
        self._long: set[int] = set()  # connections that took longer than a turn when they were last served
        self._late: dict[int, int] = {}  # those of them that are ready, with their events
        self._ending = False

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, number: int, who: Watched) -> None:
        """Call `who.readable` whenever the file can be read, has ended or failed. Replaces an earlier `who`.

        Raises OSError, without any change, if the limit of open files or of epoll watches is reached.
        """
        if self._epoll is None:
            epoll = select.epoll()
            asyncio.get_running_loop().add_reader(epoll.fileno(), self._turn)
            self._epoll = epoll
        if number not in self._watched:
            self._epoll.register(number, READ)
        self._watched[number] = who

    def wait_for(self, number: int, events: int) -> None:
        """Watch only for these events from now on. Without READ, `failed` is called when the connection ends."""
        assert self._epoll is not None
        self._epoll.modify(number, events)

    def forget(self, number: int) -> None:
        """Stop watching. Call it before the file is closed. Idempotent."""
        if self._watched.pop(number, None) is None or self._epoll is None:
            return
        self._long.discard(number)
        self._late.pop(number, None)
        if self._named:  # the next file with this number is another connection
            self._named = [pair for pair in self._named if pair[0] != number]
        self._epoll.unregister(number)
        if self._ending:
            self._end()

    def close(self) -> None:
        """Remove the epoll from the loop as soon as nothing is watched."""
        self._ending = True
        self._end()

    def _end(self) -> None:
        if self._epoll is not None and not self._watched:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _turn(self) -> None:
        """Serve the ready connections. hot: once per turn of the loop in which anything is ready."""
        assert self._epoll is not None
        named = self._named or self._epoll.poll(0, AT_ONCE)
        if self._long:
            self._late.update(pair for pair in named if pair[0] in self._long)
            named = [pair for pair in named if pair[0] not in self._long]
        rest = self._serve(named, TURN_NS)
        self._named = [pair for pair in rest if pair[0] in self._watched] if rest else rest
        if self._late:
            number = next(iter(self._late))
            self._serve([(number, self._late.pop(number))], 0)

    def _serve(self, named: list[tuple[int, int]], most_ns: int) -> list[tuple[int, int]]:
        """Serve the connections for `most_ns`, at least one. Returns those that were not served."""
        watched, now = self._watched, monotonic_ns()
        end_ns = now + most_ns
        for count, (number, events) in enumerate(named, 1):
            who = watched.get(number)
            if who is None:  # it ended after the poll that reported it
                continue
            try:
                if events & WRITE:
                    who.writable_again()
                if events & READ:
                    who.readable()
                elif events != WRITE:
                    who.failed()
            except Exception:  # a bug with one client must not cost the others their turn
                log.exception("serving a connection failed")
            before, now = now, monotonic_ns()
            if now - before > TURN_NS and number in watched:
                self._long.add(number)
            elif self._long:
                self._long.discard(number)
            if now > end_ns:
                return named[count:]
        return []
