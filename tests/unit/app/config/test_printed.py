"""The generated pages in the repository are up to date."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from insightdesk_rt.app.config import as_markdown, as_toml, compose, load, table
from insightdesk_rt.app.config.printed import SHIPPED

TOP = Path(__file__).parents[4]


def test_the_configuration_file_is_up_to_date() -> None:
    """After a change of a setting: insightdesk-rt check --print toml > conf/insightdesk-rt.toml"""
    assert (TOP / "conf/insightdesk-rt.toml").read_text() == as_toml()


def test_the_tables_of_the_documentation_are_up_to_date() -> None:
    """After a change of a setting: paste insightdesk-rt check --print markdown at the end of docs/configuration.md"""
    assert (TOP / "docs/configuration.md").read_text().find(as_markdown().rstrip()) > 0


def test_the_configuration_file_contains_every_default_as_a_comment(
    tmp_path: Path,
) -> None:
    assert tomllib.loads(as_toml()) == SHIPPED == {"data_dir": "/var/lib/insightdesk-rt"}
    file = tmp_path / "all.toml"
    file.write_text(
        re.sub(r"^# (?=[a-z0-9_]+ = )", "", re.sub(r"(?m)^data_dir = .*$", "", as_toml()), flags=re.MULTILINE)
    )
    loaded = load(["--config", str(file)], {})
    assert loaded.settings == compose()
    assert "default" not in loaded.origins.values()


def test_every_setting_is_in_the_documentation_once() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` ", as_markdown(), re.MULTILINE)
    assert rows == list(table())


def test_the_systemd_unit_waits_for_the_drain() -> None:
    unit = (TOP / "conf/insightdesk-rt.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert found and int(found.group(1)) >= compose().process.drain_seconds + 30
    assert f"\nStateDirectory={Path(SHIPPED['data_dir']).name}\n" in unit, "the folder in the configuration file"
    assert "\nKillMode=mixed\n" in unit, "the embedded Valkey must not get SIGTERM before the drain has ended"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_systemd_unit_has_few_permissions() -> None:
    line = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(TOP / "conf/insightdesk-rt.service")]
    said = subprocess.run(line, capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"exposure level for \S+: (\d+\.\d)", said)
    assert found and float(found.group(1)) <= 1.5, said[-500:]
