"""Prints the table of settings: as the commented configuration file, and as the tables of the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from insightdesk_rt.app.config.settings import Setting, table
from insightdesk_rt.app.config.sources import ENV_PREFIX
from insightdesk_rt.engine.secret import Secret
from insightdesk_rt.engine.wire import json

HEAD = f"""\
# The settings of insightdesk-rt, each with its default. To change one, remove the "#" in front of it. The command
# `insightdesk-rt check --config FILE` checks the file. The command line (--name value) and the environment
# ({ENV_PREFIX}NAME) take precedence over this file. Relative paths start at the server's working directory.
"""


# The only setting that conf/insightdesk-rt.toml sets: the folder of conf/insightdesk-rt.service. It is in the file and
# not in the unit, so that `insightdesk-rt token --config` finds the secret that the service made.
SHIPPED = {"data_dir": "/var/lib/insightdesk-rt"}


def as_toml() -> str:
    """Return conf/insightdesk-rt.toml."""
    lines = [HEAD]
    for group, settings in _groups():
        lines.append(f"\n# {'─' * 3} {group} {'─' * (112 - len(group))}\n")
        for setting in settings:
            values = f" ({_values(setting)})" if _values(setting) else ""
            lines.append(f"\n# {setting.help}{values}\n# {setting.name} = {_toml(setting.default)}\n")
            if setting.name in SHIPPED:
                lines.append(f"{setting.name} = {_toml(SHIPPED[setting.name])}\n")
    return "".join(lines)


def as_markdown() -> str:
    """Return the tables of docs/configuration.md, one per group."""
    lines = []
    for group, settings in _groups():
        lines.append(f"### {group}\n\n| setting | default | values | what it is |\n|---|---|---|---|\n")
        lines += [f"| `{one.name}` | `{_toml(one.default)}` | {_values(one)} | {one.help} |\n" for one in settings]
        lines.append("\n")
    return "".join(lines)


def _groups() -> Iterator[tuple[str, list[Setting]]]:
    for group, settings in groupby(table().values(), lambda setting: setting.group):
        yield group, list(settings)


def _values(setting: Setting) -> str:
    """Return the values that a number or a word may have; for other types the default is example enough."""
    words = setting.expected.removeprefix("a whole number ")
    return words if setting.kind is int or (" or " in words and setting.kind is str) else ""


def _toml(value: Any) -> str:
    # TOML and JSON write texts, numbers, booleans, lists of texts and an empty table alike
    return json.dumps(list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Secret) else value)
