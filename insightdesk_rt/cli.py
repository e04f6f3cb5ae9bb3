"""The `insightdesk-rt` command. What goes wrong is one line on stderr.

Exit codes, for scripts: 0 done; 1 it failed (nobody answers, refused); 2 asked wrongly (usage, configuration).
Every command takes every setting as a flag, so that what works for `serve` works for `token` and `emit`.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import insightdesk_rt
from insightdesk_rt import auth, config, observe
from insightdesk_rt.admin import remote
from insightdesk_rt.admin.remote import NoAnswer
from insightdesk_rt.config import ConfigError, Loaded, Settings
from insightdesk_rt.errors import RtError
from insightdesk_rt.keys import configured_keys, signing_key
from insightdesk_rt.model import Role
from insightdesk_rt.wire import json

DONE, FAILED, USAGE = 0, 1, 2
EMIT_TOKEN_S = 60
TOKEN_S = 86_400  # a working day with one token; the server asks connections for it again after a day anyway
LOOPBACKS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

log = logging.getLogger(__name__)


class Failed(Exception):
    """It was asked rightly and did not work; one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (without the program's name) and return its exit code."""
    try:
        flags, words = config.take_flags(sys.argv[1:] if argv is None else argv)
        options = _options(words)
        run: Callable[[Loaded, argparse.Namespace], int] = options.run
        return run(config.load_flags(flags, os.environ), options)
    except ConfigError as why:
        return _say(why, USAGE)
    except (Failed, NoAnswer) as why:
        return _say(why, FAILED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `… | head`; without this Python complains once more while it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def command_line(loaded: Loaded, *words: str) -> str:
    """Return a line for the shell that runs this program with the same secret and server as `loaded`, from anywhere."""
    if Path(sys.argv[0]).name == "__main__.py":
        program = [sys.executable, "-m", insightdesk_rt.__name__]
    else:
        program = [str(Path(shutil.which(sys.argv[0]) or "insightdesk-rt").absolute())]
    return shlex.join([*program, *words, *loaded.same_server()])


# ── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────


def _serve(loaded: Loaded, options: argparse.Namespace) -> int:
    from insightdesk_rt import process  # the only command that needs Tornado's and Valkey's import time

    observe.setup_logging(loaded.settings.log_level, loaded.settings.log_format)
    for warning in loaded.warnings:
        log.warning(warning)
    return process.run(loaded)


def _token(loaded: Loaded, options: argparse.Namespace) -> int:
    claims = {
        "sub": options.sub,
        "role": options.role,
        "name": options.name,
        "email": options.email,
        "teamId": options.team,
        "sessionId": options.session,
    }
    print(make_token(loaded.settings, {name: value for name, value in claims.items() if value}, options.ttl))
    return DONE


def make_token(settings: Settings, claims: dict[str, Any], ttl_s: int) -> str:
    """Return a token that this server will believe. Raises ConfigError: no secret, or claims it would refuse."""
    now_s = int(time.time())
    parties = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience}
    key = signing_key(settings)
    token = auth.sign(
        {**claims, "iat": now_s, "exp": now_s + ttl_s, **{name: value for name, value in parties.items() if value}}, key
    )
    try:
        auth.verify(token, auth.Keys((key,), settings.jwt_issuer, settings.jwt_audience), now_s)
    except auth.BadToken as refused:
        raise ConfigError(f"the server would refuse this token: {refused.why}") from None
    except RtError as refused:
        raise ConfigError(f"the server would refuse this token: {refused.message}") from None
    return token


def _emit(loaded: Loaded, options: argparse.Namespace) -> int:
    text = sys.stdin.read() if options.json == "-" else options.json
    try:
        data = json.loads(text)
    except json.BadJson as why:
        raise ConfigError(f"JSON: {why.why}") from None
    body: dict[str, Any] = {"namespace": options.namespace, "room": options.room, "event": options.event, "data": data}
    if options.volatile:
        body["volatile"] = True
    else:
        body["id"] = options.id or secrets.token_urlsafe(12)
    status, answer = remote.call(
        _admin_url(loaded, options) + "/api/v1/emit", json.dumps(body), _admin_key(loaded, options)
    )
    if status != 200:
        raise Failed(f"the server refused: {remote.reason(status, answer)}")
    print(answer.get("offset") or "sent")
    return DONE


def _admin_key(loaded: Loaded, options: argparse.Namespace) -> str:
    if not options.key_file:
        return make_token(loaded.settings, {"sub": "insightdesk-rt", "role": "admin"}, EMIT_TOKEN_S)
    try:
        return Path(options.key_file).read_text("ascii").strip()
    except (OSError, ValueError) as why:
        raise ConfigError(f"--key-file {options.key_file}: {getattr(why, 'strerror', None) or 'not a key'}") from None


def _status(loaded: Loaded, options: argparse.Namespace) -> int:
    url = _admin_url(loaded, options)
    status, answer = remote.call(url + "/readyz")
    rows = [("server", url), ("ready", "yes" if status == 200 else f"no (HTTP {status})")]
    rows += [(name, text) for name, text in _rows(answer) if name != "ready"]
    _table([*rows, ("version", insightdesk_rt.__version__)])
    return DONE if status == 200 else FAILED


def _check(loaded: Loaded, options: argparse.Namespace) -> int:
    if options.print:
        print({"toml": config.as_toml, "markdown": config.as_markdown}[options.print](), end="")
        return DONE
    problems = list(_file_problems(loaded.settings))
    if problems:
        raise ConfigError("\n".join(problems))
    rows = [
        (name, config.shown(name, getattr(loaded.settings, name)), loaded.origins[name])
        for name in config.table()
        if options.all or loaded.origins[name] != "default"
    ]
    _table(rows)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("The configuration is right." + ("" if rows else " Every setting has its default."))
    return DONE


def _file_problems(settings: Settings) -> list[str]:
    """Return what is wrong with the files that are named, a line each. Nothing is written."""
    problems = []
    try:
        configured_keys(settings, may_make=False)
    except ConfigError as why:
        problems.append(str(why))
    for name, misfit in config.file_misfits(settings):
        problems.append(f"{name} = {config.shown(name, getattr(settings, name))}: {misfit}")
    return problems


# ── the admin port ──────────────────────────────────────────────────────────────────────────────────────────────────


def _admin_url(loaded: Loaded, options: argparse.Namespace) -> str:
    if options.url:
        return str(options.url).rstrip("/")
    settings = loaded.settings
    if not settings.admin_port:
        raise ConfigError("admin_port = 0: which port did the server take? say so with --admin-port or --url")
    host = LOOPBACKS.get(settings.admin_address, settings.admin_address)
    scheme = "https" if settings.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.admin_port}"


def _rows(answer: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of an object by name, checks (`{name, ok, why}`) as a word each."""
    for name, value in answer.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        elif isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
            for one in value:
                yield str(one["name"]), "ok" if one.get("ok") else str(one.get("why") or "not well")
        else:
            yield prefix + name, str(value)


# ── usage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and without guessing: `--por` is not `--port`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _options(words: Sequence[str]) -> argparse.Namespace:
    """Return what a command line without its settings asks for. Raises ConfigError."""
    parser, commands = _parser()
    command = commands.get(words[0]) if words else None
    if command:
        own = {name for action in command._actions for name in action.option_strings}
        for word in words[1:]:
            if word.startswith("--") and word.partition("=")[0] not in own:
                raise ConfigError(f"{config.unknown(word, [name[2:] for name in own])} (command line)")
    return parser.parse_args(words)


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="insightdesk-rt",
        description="The realtime server of the InsightDesk helpdesk.",
        epilog="insightdesk-rt COMMAND --help says more. Exit codes: 0 done, 1 failed, 2 asked wrongly.",
    )
    parser.add_argument("--version", action="version", version=f"insightdesk-rt {insightdesk_rt.__version__}")
    adder = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def command(name: str, run: Callable[[Loaded, argparse.Namespace], int], help: str, epilog: str) -> _Parser:
        one: _Parser = adder.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)
        one.set_defaults(run=run)
        return one

    serve = command("serve", _serve, "run the server until Ctrl-C or SIGTERM", SETTINGS_HELP)
    serve.usage = "insightdesk-rt serve [--config FILE] [--demo] [--port N] [--any-setting VALUE]"
    serve.add_argument("--config", metavar="FILE", help="TOML file with settings")
    group: argparse._ArgumentGroup | None = None
    for setting in config.table().values():  # only for --help: they are off the line before argparse sees it
        if group is None or group.title != setting.group:
            group = serve.add_argument_group(setting.group)
        default = f" ({config.shown('', setting.default)})" if setting.default not in ("", (), {}) else ""
        group.add_argument(setting.flag, metavar=_metavar(setting), help=setting.help + default)

    token = command("token", _token, "print a token signed with the server's secret", SAME_HELP)
    token.add_argument("--sub", required=True, metavar="ID", help="the user's id")
    token.add_argument("--role", required=True, choices=get_args(Role), help="what the user is")
    for name, help in (
        ("team", "the user's team"),
        ("name", "name"),
        ("email", "address"),
        ("session", "session's id"),
    ):
        token.add_argument(f"--{name}", metavar=name.upper(), help=help)
    token.add_argument(
        "--ttl", type=_seconds, default=TOKEN_S, metavar="SECONDS", help=f"how long it lives ({TOKEN_S})"
    )

    emit = command("emit", _emit, "publish an event to a room and print its offset", SAME_HELP)
    emit.add_argument("namespace", metavar="NAMESPACE", help="/tickets, /chat, /notifications …")
    emit.add_argument("room", metavar="ROOM", help="ticket:42, user:anna, team:berlin …")
    emit.add_argument("event", metavar="EVENT", help="name of the event")
    emit.add_argument("json", metavar="JSON", help="its payload; - reads it from standard input")
    emit.add_argument("--volatile", action="store_true", help="may be lost, is not logged")
    emit.add_argument("--id", help="the same id again publishes nothing new")
    emit.add_argument("--key-file", metavar="FILE", help="an admin key or token, where the secret is not at hand")

    status = command("status", _status, "say how the server is", SAME_HELP)
    for one in (emit, status):
        one.add_argument("--url", help="of the admin port, if it is not what the settings say")

    check = command("check", _check, "validate the configuration, say what is wrong and where", SAME_HELP)
    check.add_argument("--all", action="store_true", help="show every setting, not only those that were set")
    check.add_argument("--print", choices=("toml", "markdown"), help="print all settings with their defaults instead")
    return parser, dict(adder.choices)


SETTINGS_HELP = """Each setting may also stand in the environment (INSIGHTDESK_RT_PORT=3001) or in
the file (port = 3001); the command line counts first, then the environment.
Lists are written a,b,c.
"""
SAME_HELP = """Every setting of `serve` may be given too, to say which server is meant:
--config FILE, --data-dir DIR, --admin-port N …
"""


def _metavar(setting: config.Setting) -> str:
    by_ending = {"file": "FILE", "dir": "DIR", "url": "URL"}
    by_kind = {bool: "YES|NO", int: "N", tuple: "A,B", dict: "EVENT=MAX/SECONDS"}
    return by_kind.get(setting.kind) or by_ending.get(setting.name.rpartition("_")[2], "TEXT")


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, not {text[:40]!r}")
    return int(text)


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(why: Exception, code: int) -> int:
    for line in str(why).splitlines():
        print(f"insightdesk-rt: {line}", file=sys.stderr)
    return code
