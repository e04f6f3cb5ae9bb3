"""What is installed elsewhere has all that it needs: scripts, pages and styles are in the package too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "insightdesk_rt"


def test_a_built_package_holds_every_file_of_the_tree(tmp_path: Path) -> None:
    """Once it lacked every Lua script: patterns without ** do not look into folders that are no packages."""
    source, built = tmp_path / "source", tmp_path / "built"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "README.md", "insightdesk_rt"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build", "-b", str(built)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    wanted = {
        path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    found = {path.relative_to(built / "lib") for path in (built / "lib").rglob("*") if path.is_file()}
    assert wanted - found == set()
