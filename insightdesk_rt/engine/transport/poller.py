"""Readiness: which connections can be read or written, websockets and visitors of the short way, from one epoll of our
own that the loop watches as one more file.

asyncio's own way costs each connection two entries, a Handle and a bound method (0.6 KB), and each wake-up some 2 µs in
the selector's and the loop's Python. Here a connection is one entry of a dictionary, and a wake-up one call.

A turn of the loop serves them for TURN_NS; the others have the next, after whatever else is due, so that a storm does
not hold up what is already flowing. The kernel names those who are always ready in the same order each time, so it is
not asked again before all whom it named were served. Who takes longer than a turn, with a flood of small frames or a
big message, comes after all others and one in a turn: however many flood, the others wait for one of them.
"""

from __future__ import annotations

import asyncio
import logging
import select
from time import monotonic_ns
from typing import Protocol

log = logging.getLogger(__name__)

AT_ONCE = 256  # the most that are asked for
TURN_NS = 2_000_000  # 100 calls, or 10 connects
NOTHING, READ, WRITE = 0, select.EPOLLIN, select.EPOLLOUT


class Watched(Protocol):
    """Who is called. None raises; what they are called for may be over, or not waited for any more."""

    def readable(self) -> None: ...

    def writable_again(self) -> None: ...

    def failed(self) -> None: ...


class Poller:
    """Has an epoll, and is known to the running loop, from the first `watch` until `close`, or who is there then.

    Not only while anybody is watched: a file for it may be had no more when it is needed again.
    """

    __slots__ = ("_ending", "_epoll", "_late", "_long", "_named", "_watched")

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Watched] = {}
        self._named: list[tuple[int, int]] = []  # by the last poll, with their events, and not served yet
        self._long: set[int] = set()  # who took longer than a turn when they were last served
        self._late: dict[int, int] = {}  # those of them who are ready, and for what
        self._ending = False

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, number: int, who: Watched) -> None:
        """Call `who.readable` whenever the file can be read, has ended or failed; `who` may follow on another.

        Raises OSError, and nothing has changed, if the process or its user has as many files as they may.
        """
        if self._epoll is None:
            epoll = select.epoll()
            asyncio.get_running_loop().add_reader(epoll.fileno(), self._turn)
            self._epoll = epoll
        if number not in self._watched:
            self._epoll.register(number, READ)
        self._watched[number] = who

    def wait_for(self, number: int, events: int) -> None:
        """From now on call `readable` and `writable_again` for these events only; `failed` if READ is none of them."""
        assert self._epoll is not None
        self._epoll.modify(number, events)

    def forget(self, number: int) -> None:
        """To be called before the file is closed. Twice is nothing."""
        if self._watched.pop(number, None) is None or self._epoll is None:
            return
        self._long.discard(number)
        self._late.pop(number, None)
        if self._named:  # the next file with this number is another's
            self._named = [pair for pair in self._named if pair[0] != number]
        self._epoll.unregister(number)
        if self._ending:
            self._end()

    def close(self) -> None:
        """Leave nothing in the loop once nobody is watched any more."""
        self._ending = True
        self._end()

    def _end(self) -> None:
        if self._epoll is not None and not self._watched:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _turn(self) -> None:
        """hot: once per turn of the loop in which anything is ready."""
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
        """Call each for so long, one at least. Returns those who were not called."""
        watched, now = self._watched, monotonic_ns()
        end_ns = now + most_ns
        for count, (number, events) in enumerate(named, 1):
            who = watched.get(number)
            if who is None:  # ended since it was named
                continue
            try:
                if events & WRITE:
                    who.writable_again()
                if events & READ:
                    who.readable()
                elif events != WRITE:
                    who.failed()
            except Exception:  # a bug of ours with one client must not cost the others their turn
                log.exception("a websocket's turn failed")
            before, now = now, monotonic_ns()
            if now - before > TURN_NS and number in watched:
                self._long.add(number)
            elif self._long:
                self._long.discard(number)
            if now > end_ns:
                return named[count:]
        return []
