"""A server whose wall clock is another than everybody's, and may jump; its other clocks are as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.server import ServerProcess

SOURCE = Path(__file__).with_name("clock.c")


class ClockedServer(ServerProcess):
    """Needs a C compiler, `cc`."""

    def command(self) -> list[str]:
        library = self.folder / "clock.so"
        compile = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE)]
        subprocess.run(compile, check=True, timeout=60)
        self._file.write_bytes(bytes(8))
        return ["env", f"LD_PRELOAD={library}", f"CLOCK_FILE={self._file}", *super().command()]

    @property
    def _file(self) -> Path:
        return self.folder / "clock"

    def set_clock(self, ahead_s: int) -> None:
        """To be called while it runs."""
        with self._file.open("r+b") as file:
            file.write(ahead_s.to_bytes(8, "little", signed=True))
