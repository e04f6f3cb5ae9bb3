"""What staff say on the visitor's own ticket: a script that is said once, and goes on only when the customer writes.

Without an end it would be the same lines for ever, answered by nobody. A visitor who comes when it is over finds the
thread cut back to its beginning, and the script begins again. Pure.
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
    """Return each line once: a note among colleagues after every two replies, as long as there are any."""
    replies, notes = deque(TO_MIA), deque(ABOUT_MIA)
    said = []
    while replies or notes:
        said += [Saying(BOB, replies.popleft()) for _ in range(min(2, len(replies)))]
        if notes:
            said.append(Saying(PRIYA, notes.popleft(), note=True))
    return said


class Thread:
    """`over`: all was said, and nobody says more until the customer writes or a visitor comes."""

    def __init__(self) -> None:
        self._left = deque(script())
        self._answers = 0

    @property
    def over(self) -> bool:
        return not self._left

    def next(self) -> Saying | None:
        """Return what is said when time passes, None when all was said."""
        return self._left.popleft() if self._left else None

    def answer(self) -> Saying:
        """Return Bob's answer to the customer: the next reply of the script, after it any of them in turn."""
        for saying in tuple(self._left):
            if not saying.note:
                self._left.remove(saying)
                return saying
        self._answers += 1
        return Saying(BOB, TO_MIA[(self._answers - 1) % len(TO_MIA)])

    def begin_again(self) -> None:
        self._left = deque(script())
