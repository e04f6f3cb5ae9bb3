"""The staff's messages on the visitor's own ticket: a script that runs once and waits for the customer's answers.

Without an end it would repeat the same texts for ever, with nobody answering. A visitor who arrives after the end finds
the thread cut back to its beginning, and the script starts again. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from insightdesk_rt.demo.cast import ABOUT_MIA, BOB, PRIYA, TO_MIA, Who


class Saying(NamedTuple):
    who: Who
    text: str
    note: bool = False


def script() -> list[Saying]:
    """Return each text once: a note to colleagues after every two replies, as long as there are notes."""
    replies, notes = deque(TO_MIA), deque(ABOUT_MIA)
    lines = []
    while replies or notes:
        lines += [Saying(BOB, replies.popleft()) for _ in range(min(2, len(replies)))]
        if notes:
            lines.append(Saying(PRIYA, notes.popleft(), note=True))
    return lines


class Thread:
    """`over`: the script has ended, and staff write nothing until the customer writes or a visitor arrives."""

    def __init__(self) -> None:
        self._left = deque(script())
        self._answers = 0

    @property
    def over(self) -> bool:
        return not self._left

    def next(self) -> Saying | None:
        """Return the next text of the script, None after its end."""
        return self._left.popleft() if self._left else None

    def answer(self) -> Saying:
        """Return Bob's answer to the customer: the next reply of the script, and after its end all replies in turn."""
        for saying in tuple(self._left):
            if not saying.note:
                self._left.remove(saying)
                return saying
        self._answers += 1
        return Saying(BOB, TO_MIA[(self._answers - 1) % len(TO_MIA)])

    def begin_again(self) -> None:
        self._left = deque(script())
