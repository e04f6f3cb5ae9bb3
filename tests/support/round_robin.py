"""A balancer that knows nothing: each connection goes to the next node, whatever was said on the one before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tests.support.cable import Cable, _Near


class RoundRobin(Cable):
    def __init__(self, targets: Sequence[tuple[str, int]]) -> None:
        super().__init__(*targets[0])
        self._next = itertools.cycle(targets)

    def _answer(self) -> _Near:
        return _Near(self._ends, next(self._next))
