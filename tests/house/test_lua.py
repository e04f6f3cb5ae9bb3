"""Runs luacheck on the Lua scripts as Valkey gets them: each with its libraries in front of it."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import insightdesk_rt
from insightdesk_rt.engine.cluster.resp import Script
from tests.house.test_layout import PACKAGE

REQUIRED = os.environ.get("INSIGHTDESK_RT_REQUIRE", "").split(",")
pytestmark = pytest.mark.skipif(
    shutil.which("luacheck") is None and "luacheck" not in REQUIRED, reason="no luacheck: apt-get install lua-check"
)
# The globals that Valkey provides to a script.
GLOBALS = ("KEYS", "ARGV", "redis", "server", "cjson", "cmsgpack", "bit", "struct")
UNUSED = ("W211", "W221")  # a local that nothing reads


class Warned(NamedTuple):
    """One line of luacheck. `in_library`: it is about a library in front of the script."""

    code: str
    text: str
    in_library: bool


def files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(PACKAGE.rglob("*.lua"))}


@cache
def composed() -> dict[str, str]:
    """Return name → source of every script that a module of the package loads when it is imported."""
    for module in pkgutil.walk_packages(insightdesk_rt.__path__, "insightdesk_rt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    scripts = [each for each in gc.get_objects() if type(each) is Script]
    return {each.name: each.source for each in scripts if each.name in files()}  # tests may have made others


@cache
def warnings(name: str) -> tuple[Warned, ...]:
    """Return the warnings of luacheck about a script with its libraries."""
    own = files()[name].read_text(encoding="utf-8")
    source = composed().get(name, own)
    command = [
        "luacheck",
        "-",
        "--std",
        "lua51",
        "--no-color",
        "--codes",
        "--no-max-line-length",
        "--globals",
        *GLOBALS,
    ]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=30)
    before = source.removesuffix(own).count("\n")
    found = re.findall(r"^\s*stdin:(\d+):\d+: \(([WE]\d+)\) (.*)$", done.stdout, re.MULTILINE)
    return tuple(Warned(code, f"line {int(line) - before}: {text}", int(line) <= before) for line, code, text in found)


def is_library(name: str) -> bool:
    """Is this file a library, which other scripts begin with?"""
    text = files()[name].read_text(encoding="utf-8")
    return any(text in source and other != name for other, source in composed().items())


@pytest.mark.parametrize("name", files())
def test_a_script_has_no_warning(name: str) -> None:
    if not is_library(name):
        said = [each.text for each in warnings(name) if not (each.in_library and each.code in UNUSED)]
        assert said == []


def test_each_name_of_a_library_is_used_by_a_script() -> None:
    """A script need not use everything in its library, but some script must."""
    unused: dict[str, int] = defaultdict(int)
    offered: dict[str, int] = defaultdict(int)
    for name, source in composed().items():
        if name in files():
            own = files()[name].read_text(encoding="utf-8")
            for offer in re.findall(r"^local function (\w+)", source.removesuffix(own), re.MULTILINE):
                offered[offer] += 1
            for each in warnings(name):
                quoted = re.search(r"'(\w+)'", each.text)
                if each.in_library and each.code in UNUSED and quoted:
                    unused[quoted[1]] += 1
    assert offered
    assert [name for name, scripts in offered.items() if unused[name] == scripts] == []
