"""Reads settings: from the command line, else the environment, else the file, else the default.

    --ping-interval-ms 20000 · INSIGHTDESK_RT_PING_INTERVAL_MS=20000 · ping_interval_ms = 20000

A setting that is unknown, has the wrong type or contradicts another is an error of one line, with its name and value,
where it is set (in a file: the line), what was expected, and the most similar name that exists.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from insightdesk_rt.app.config.checks import doubts, misfits
from insightdesk_rt.app.config.settings import Setting, Settings, compose, flat, secrets, table
from insightdesk_rt.engine.errors import ConfigError
from insightdesk_rt.engine.secret import Secret, printable, shown_text
from insightdesk_rt.engine.wire import json

ENV_PREFIX = "INSIGHTDESK_RT_"
# Variables that begin like a setting and are none: the name of the file, and what the tests must not skip.
OTHER_ENV = {ENV_PREFIX + "CONFIG", ENV_PREFIX + "REQUIRE"}
COMMAND_LINE = "command line"
# Settings that another command needs to reach a server and sign a token for it; also data_dir, if the secret is there.
OF_A_SERVER = (
    *("admin_address", "admin_port", "jwt_secret_file", "jwt_secret_files", "jwt_algorithms", "jwt_issuer"),
    *("jwt_audience", "jwt_claims", "jwt_roles"),
)
ONE_OR_MORE = ("address", "admin_address")  # lists that may be written as one text in a file, too
BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class LoadedSettings(Struct, frozen=True):
    """The settings and, by name, where each value came from. `warnings` has one line each for the log."""

    settings: Settings
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()
    file: str = ""

    def same_server(self) -> list[str]:
        """Return the flags with which another command finds this server and its secret, from any folder and shell.

        A secret that was given as text is not among them.
        """
        values, flags = flat(self.settings), []
        if self.file:
            flags += ["--config", str(Path(self.file).absolute())]
        if not (values["jwt_secret"] or values["jwt_secret_file"] or values["jwt_secret_files"]):
            flags += ["--data-dir", str(Path(values["data_dir"]).absolute())]
        for name in OF_A_SERVER:
            if self.origins[name] == COMMAND_LINE or self.origins[name].startswith("environment"):
                flags += [table()[name].flag, _written(name, values[name])]
        return flags


def _written(name: str, value: Any) -> str:
    """Return a value as it is written in a shell, with absolute paths of files."""
    if isinstance(value, dict):
        return ",".join(f"{key}={one}" for key, one in value.items())
    texts = list(value) if isinstance(value, tuple) else [str(value)]
    if name.endswith(("_file", "_files")):
        texts = [str(Path(text).absolute()) for text in texts]
    return ",".join(texts)


class Given(Struct, frozen=True):
    """One value as it was written. `typed` says that it has a type (TOML); otherwise it is text from a shell."""

    name: str
    value: Any
    origin: str
    typed: bool = False


def load(argv: Sequence[str], environ: Mapping[str, str]) -> LoadedSettings:
    """Return the settings from command line, environment and file. Raises ConfigError."""
    flags, rest = take_flags(argv)
    if rest:
        raise ConfigError(f"{unknown(rest[0])} ({COMMAND_LINE})")
    return load_flags(flags, environ)


def load_flags(flags: Mapping[str, str], environ: Mapping[str, str]) -> LoadedSettings:
    """Like `load`, for flags that `take_flags` returned; the flag `config` names the file."""
    file = flags.get("config") or environ.get(ENV_PREFIX + "CONFIG", "")
    values: dict[str, Any] = {}
    origins = dict.fromkeys(table(), "default")
    problems: list[str] = []
    for given in _given(flags, environ, file):
        setting = table().get(given.name)
        if setting is None:
            problems.append(f"{unknown(given.name)} ({given.origin})")
            continue
        origins[given.name] = given.origin
        try:
            values[given.name] = _convert(setting, given)
        except ValueError:
            value = shown(given.name, given.value)
            if given.typed and isinstance(given.value, str):  # port = "3001" is wrong for its quotes
                value = f'"{value}"'
            problems.append(f"{given.name} = {value} ({given.origin}): expected {setting.expected}")
    if not problems:
        settings = compose(**values)
        for name, why in misfits(settings):
            problems.append(f"{name} = {shown(name, flat(settings)[name])} ({origins[name]}): {why}")
    if problems:
        raise ConfigError("\n".join(problems))
    return LoadedSettings(settings, origins, tuple(doubts(settings)), file)


def take_flags(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the settings (`--name value`, `--name=value`, `--yes-or-no`) and all other words of a command line.

    The last one counts if a setting is given twice. Raises ConfigError for a setting without a value.
    """
    flags: dict[str, str] = {}
    rest: list[str] = []
    arguments = list(argv)
    while arguments:
        word = arguments.pop(0)
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        if name not in table() and name != "config":
            rest.append(word)
        elif equals:
            flags[name] = value
        elif name in table() and table()[name].kind is bool:
            flags[name] = arguments.pop(0) if arguments and arguments[0].lower() in BOOLS else "true"
        elif not arguments or arguments[0].startswith("--"):
            raise ConfigError(f"{flag} ({COMMAND_LINE}): expected a value behind it")
        else:
            flags[name] = arguments.pop(0)
    return flags, rest


def unknown(word: str, others: Sequence[str] = ()) -> str:
    """Return the error for a word that is no setting, with the most similar setting, written the same way.

    `others` are further names that would be correct there.
    """
    word = word.partition("=")[0]  # what follows may be a secret
    bare = word.removeprefix("--").removeprefix(ENV_PREFIX).replace("-", "_").lower()
    near = difflib.get_close_matches(bare, [*table(), "config", *others], 1)
    name = near[0] if near else ""
    if word.startswith("--"):
        name = "--" + name.replace("_", "-")
    elif word.startswith(ENV_PREFIX):
        name = ENV_PREFIX + name.upper()
    return f"unknown setting {printable(word)}" + (f"; did you mean {name}?" if near else "")


def shown(name: str, value: Any) -> str:
    """Return a value as it may be printed: one line, without secrets and passwords of URLs, not too long."""
    if name in secrets() and not isinstance(value, Secret):
        value = secrets()[name](value) if isinstance(value, str) else Secret(str(value))
    if isinstance(value, dict):
        value = [f"{key}={one}" for key, one in value.items()]
    if isinstance(value, tuple | list):
        value = ",".join(shown_text(str(one)) for one in value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return printable(text if isinstance(value, Secret) else shown_text(text))


def _given(flags: Mapping[str, str], environ: Mapping[str, str], file: str) -> Iterator[Given]:
    """Yield every value that was set; later ones take precedence."""
    if file:
        yield from _read(file)
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENV_PREFIX) and variable not in OTHER_ENV:
            name = variable.removeprefix(ENV_PREFIX).lower()
            # upper case only: otherwise INSIGHTDESK_RT_port would count as INSIGHTDESK_RT_PORT
            yield Given(name if name in table() and variable.isupper() else variable, text, f"environment {variable}")
    for name, text in flags.items():
        if name != "config":
            yield Given(name, text, COMMAND_LINE)


def _read(file: str) -> Iterator[Given]:
    try:
        text = Path(file).read_text("utf-8")
        values = tomllib.loads(text)
    except OSError as why:
        raise ConfigError(f"config = {file}: {why.strerror or why}") from None
    except ValueError as why:  # TOMLDecodeError says line and column; UnicodeDecodeError the byte
        raise ConfigError(f"config = {file}: {why}") from None
    for name, value in values.items():
        # tomllib does not tell the line of a key. The first line that looks like it is taken; long texts can mislead.
        found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(name)}["']?[ \t]*[].=]""", text, re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        yield Given(name, value, f"{file}:{line}", typed=True)


def _convert(setting: Setting, given: Given) -> Any:
    """Return the value in the type of the setting; text from a shell is parsed. Raises ValueError."""
    value = given.value
    if not given.typed:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if setting.of_tables:
            value = json.loads(value or "[]")
        elif setting.kind is bool:
            value = BOOLS.get(value.lower(), value)
        elif setting.kind is int:
            value = int(value)
        elif setting.kind is tuple:
            value = parts
        elif setting.kind is dict:
            value = {key.strip(): rate.strip() for key, _, rate in (part.partition("=") for part in parts)}
    elif setting.name in ONE_OR_MORE and isinstance(value, str):
        value = [value]
    return msgspec.convert(value, setting.type, dec_hook=_secret)


def _secret(kind: type, value: Any) -> Any:
    if not (issubclass(kind, Secret) and isinstance(value, str)):
        raise ValueError
    return kind(value)
