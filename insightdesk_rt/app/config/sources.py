"""Where values come from: command line, else environment, else file, else default; and the error that says so.

    --ping-interval-ms 20000 · INSIGHTDESK_RT_PING_INTERVAL_MS=20000 · ping_interval_ms = 20000

A setting that is unknown, of the wrong type or at odds with another is an error of one line: its name and value, where
it stands (the line, in a file), what was expected, the nearest name that exists.
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

ENV_PREFIX = "INSIGHTDESK_RT_"
# Variables that begin like a setting and are none: the file's name, and what the tests must not skip.
OTHER_ENV = {ENV_PREFIX + "CONFIG", ENV_PREFIX + "REQUIRE"}
COMMAND_LINE = "command line"
# What another command must know to reach a server and to be believed by it; data_dir too, if the secret is in it.
OF_A_SERVER = ("admin_address", "admin_port", "jwt_secret_file", "jwt_algorithms", "jwt_issuer", "jwt_audience")
ONE_OR_MORE = ("address", "admin_address")  # lists that may be written as one text in a file, too
BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class LoadedSettings(Struct, frozen=True):
    """The settings and, by name, where each value came from. `warnings` are for the log, a line each."""

    settings: Settings
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()
    file: str = ""

    def same_server(self) -> list[str]:
        """Return flags that make another command, in any folder and shell, find this server and sign with its secret.

        A secret given by hand is not among them.
        """
        values, flags = flat(self.settings), []
        if self.file:
            flags += ["--config", str(Path(self.file).absolute())]
        if not (values["jwt_secret"] or values["jwt_secret_file"]):
            flags += ["--data-dir", str(Path(values["data_dir"]).absolute())]
        for name in OF_A_SERVER:
            if self.origins[name] == COMMAND_LINE or self.origins[name].startswith("environment"):
                value = values[name]
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                flags += [table()[name].flag, str(Path(text).absolute()) if name.endswith("_file") else text]
        return flags


class Given(Struct, frozen=True):
    """One value as somebody wrote it; `typed` if its type is known already (TOML), else it is text from a shell."""

    name: str
    value: Any
    origin: str
    typed: bool = False


def load(argv: Sequence[str], environ: Mapping[str, str]) -> LoadedSettings:
    """Return the settings that the command line, the environment and the file say. Raises ConfigError."""
    flags, rest = take_flags(argv)
    if rest:
        raise ConfigError(f"{unknown(rest[0])} ({COMMAND_LINE})")
    return load_flags(flags, environ)


def load_flags(flags: Mapping[str, str], environ: Mapping[str, str]) -> LoadedSettings:
    """As `load`, for flags that were taken off the command line; `config` among them names the file."""
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
    """Return the settings (`--name value`, `--name=value`, `--yes-or-no`) and the words that are none.

    Of two the last counts. Raises ConfigError for a setting without its value.
    """
    flags: dict[str, str] = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        if name not in table() and name != "config":
            rest.append(word)
        elif equals:
            flags[name] = value
        elif name in table() and table()[name].kind is bool:
            flags[name] = words.pop(0) if words and words[0].lower() in BOOLS else "true"
        elif not words or words[0].startswith("--"):
            raise ConfigError(f"{flag} ({COMMAND_LINE}): expected a value behind it")
        else:
            flags[name] = words.pop(0)
    return flags, rest


def unknown(word: str, others: Sequence[str] = ()) -> str:
    """Return the sentence about a word that is no setting, with the nearest one that is, written the same way.

    `others` are names that would have been right there too.
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
    """Return a value as it may be printed: on one line, no secret, no password of a URL, not too long."""
    if name in secrets() and not isinstance(value, Secret):
        value = secrets()[name](value) if isinstance(value, str) else Secret(str(value))
    if isinstance(value, dict):
        value = [f"{key}={one}" for key, one in value.items()]
    if isinstance(value, tuple | list):
        value = ",".join(shown_text(str(one)) for one in value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return printable(text if isinstance(value, Secret) else shown_text(text))


def _given(flags: Mapping[str, str], environ: Mapping[str, str], file: str) -> Iterator[Given]:
    """Yield all that was set, the weakest source first."""
    if file:
        yield from _read(file)
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENV_PREFIX) and variable not in OTHER_ENV:
            name = variable.removeprefix(ENV_PREFIX).lower()
            # INSIGHTDESK_RT_port would be taken for INSIGHTDESK_RT_PORT: one spelling only
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
        # tomllib does not say where a key stood. The first line that looks like it is right, but for long texts.
        found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(name)}["']?[ \t]*[].=]""", text, re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        yield Given(name, value, f"{file}:{line}", typed=True)


def _convert(setting: Setting, given: Given) -> Any:
    """Return the value in the setting's type; text is read as that type is written in a shell. Raises ValueError."""
    value = given.value
    if not given.typed:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if setting.kind is bool:
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
