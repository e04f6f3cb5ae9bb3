"""A server that counts its objects on SIGUSR2: `python -m tests.support.counting_server FILE serve …`."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from insightdesk_rt.app.cli import main as cli
from tests.support.server import ServerProcess

COUNTED_S = 20.0


class CountingServer(ServerProcess):
    def command(self) -> list[str]:
        python, _, _, *words = super().command()
        return [python, "-m", __name__, str(self._file), *words]

    @property
    def _file(self) -> Path:
        return self.folder / "objects.json"

    def objects(self) -> Counter[str]:
        """Return how many objects that can be in a cycle there are, by type, garbage collected before."""
        self._file.unlink(missing_ok=True)
        self.send(signal.SIGUSR2)
        end = time.monotonic() + COUNTED_S
        while not self._file.exists():
            assert time.monotonic() < end, "nothing was counted"
            time.sleep(0.05)
        return Counter(json.loads(self._file.read_text()))


def count_on_signal(file: Path) -> None:
    def count(*_: object) -> None:
        gc.collect()
        found = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        os.replace(part, file)

    signal.signal(signal.SIGUSR2, count)


if __name__ == "__main__":
    count_on_signal(Path(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
