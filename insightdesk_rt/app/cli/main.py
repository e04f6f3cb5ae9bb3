"""The `insightdesk-rt` command. An error is one line on stderr.

Exit codes, for scripts: 0 done; 1 failed (no answer, refused); 2 wrong usage or configuration.
Every command takes every setting as a flag, so the flags of `serve` also work for `token` and `emit`.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

import insightdesk_rt
from insightdesk_rt.api.keys_and_scopes import PUBLISHER, SCOPES, KeyFile, PushLimits, new_key, push_limits
from insightdesk_rt.app import config
from insightdesk_rt.app import logs as observe
from insightdesk_rt.app.certificates import Certificates
from insightdesk_rt.app.cli import connections, drain, feed, notice, operate, tail, webhooks
from insightdesk_rt.app.cli.admin_client import Adder, Run
from insightdesk_rt.app.cli.explain import explain
from insightdesk_rt.app.cli.operate import DONE, FAILED, Failed, table
from insightdesk_rt.app.cli.remote import NoAnswer
from insightdesk_rt.app.config import ConfigError, LoadedSettings, Settings
from insightdesk_rt.engine.claims import ClaimUse
from insightdesk_rt.engine.model import Role
from insightdesk_rt.engine.signing_keys import configured_keys, keys_of
from insightdesk_rt.helpdesk.features import PATHS, refuse_namespace
from insightdesk_rt.helpdesk.tickets.access import find_factory
from insightdesk_rt.helpdesk.tickets.settings import TicketSettings

USAGE = 2
TOKEN_S = 86_400  # one token lasts a day; the server asks connections for a new one after a day anyway

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (without the program's name) and return its exit code."""
    _escape_what_the_terminal_cannot_show()
    try:
        flags, arguments = config.take_flags(sys.argv[1:] if argv is None else argv)
        options = _options(arguments)
        run: Callable[[LoadedSettings, argparse.Namespace], int] = options.run
        code = run(config.load_flags(flags, os.environ), options)
        sys.stdout.flush()
        return code
    except ConfigError as why:
        return _say(why, USAGE)
    except (Failed, NoAnswer) as why:
        return _say(why, FAILED)
    except KeyboardInterrupt:
        return 130
    except OSError as why:
        if why.errno not in (errno.EPIPE, errno.ENOSPC):  # `… | head`, `… > /a/full/disk`
            raise
        # without this Python prints a second error when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED if why.errno == errno.EPIPE else _say(Failed(f"cannot write: {why.strerror}"), FAILED)


def _escape_what_the_terminal_cannot_show() -> None:
    """Escape characters that the terminal's encoding lacks: a name with an umlaut must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# ── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────


def _serve(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    from insightdesk_rt.app import process

    observe.setup_logging(loaded.settings.logs.log_level, loaded.settings.logs.log_format)
    for warning in loaded.warnings:
        log.warning(warning)
    return process.run(loaded)


def _token(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    if options.explain is not None:
        return explain(loaded, options.explain)
    missing = [f"--{name}" for name in ("sub", "role") if getattr(options, name) is None]
    if missing:
        raise ConfigError(
            f"the following arguments are required: {', '.join(missing)}; see insightdesk-rt token --help"
        )
    facts: dict[ClaimUse, str | None] = {
        "user": options.sub,
        "role": options.role,
        "name": options.name,
        "email": options.email,
        "team": options.team,
        "session": options.session,
    }
    given: dict[ClaimUse, str] = {use: text for use, text in facts.items() if text}
    print(operate.make_token(loaded.settings.tokens, given, options.ttl))
    return DONE


def _check(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    if options.print:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # the output goes into a file, and TOML is always UTF-8
        print({"toml": config.as_toml, "markdown": config.as_markdown}[options.print](), end="")
        return DONE
    problems = _file_problems(loaded.settings) + _address_problems(loaded.settings)
    found: list[tuple[str, str]] = []
    if not options.offline:
        problem, found = _look_at_valkey(loaded.settings)
        problems += [problem] if problem else []
    if problems:
        raise ConfigError("\n".join(problems))
    values = config.flat(loaded.settings)
    rows = [
        (name, config.shown(name, values[name]), loaded.origins[name])
        for name in config.table()
        if options.all or loaded.origins[name] != "default"
    ]
    table(rows)
    if found:
        print()
        table(found)
        print()
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("The configuration is valid." + ("" if rows else " Every setting has its default value."))
    return DONE


def _key(loaded: LoadedSettings, options: argparse.Namespace) -> int:
    limits = _limits(options)
    try:
        key, line = new_key(options.name, options.scope, limits)
    except ValueError as why:
        raise ConfigError(f"--name {options.name}: {why}") from None
    print(f"key   {key}\nline  {line}")
    file = loaded.settings.admin_port.admin_keys_file
    print(f"\nThe key is shown once. Add the line to {file or 'the file that admin_keys_file names'} (mode 600).")
    return DONE


def _limits(options: argparse.Namespace) -> PushLimits | None:
    """Return where a publisher may push; None for other scopes. Raises ConfigError."""
    given = options.namespaces, options.rooms
    if options.scope != PUBLISHER:
        if any(one is not None for one in given):
            raise ConfigError(f"--namespaces and --rooms are for --scope publisher; {options.scope} has no such limits")
        return None
    if any(one is None for one in given):
        raise ConfigError("--scope publisher needs --namespaces and --rooms, for example /tickets and ticket:,team:")
    namespaces, rooms = (one.split(",") for one in given)
    for namespace in namespaces:
        if refusal := refuse_namespace(namespace):
            raise ConfigError(f"--namespaces {namespace}: {refusal}; there are {', '.join(PATHS)}")
    try:
        return push_limits(namespaces, rooms)
    except ValueError as why:
        raise ConfigError(f"--{why}") from None


def _file_problems(settings: Settings) -> list[str]:
    """Return a line for each problem with the files and the module that settings name. Writes nothing permanent."""
    problems = []
    try:
        configured_keys(settings.tokens, may_make=False)
        for issuer in settings.tokens.jwt_issuers:
            keys_of(issuer)
    except ConfigError as why:
        problems.append(str(why))
    try:
        KeyFile(settings.admin_port.admin_keys_file)
    except ConfigError as why:
        problems.append(str(why))
    access = settings.features.of(TicketSettings).access
    for look in (lambda: Certificates(settings.tls), lambda: find_factory(access) if access else None):
        try:
            look()
        except (ConfigError, ValueError) as why:
            problems.append(str(why))
    for name, misfit in config.file_misfits(settings):
        problems.append(f"{name} = {config.shown(name, config.flat(settings)[name])}: {misfit}")
    return problems


def _address_problems(settings: Settings) -> list[str]:
    """Return a line for each setting that names an address this machine cannot listen on, at whatever port."""
    from insightdesk_rt.engine.doors.listener import StartError, bind, close_all

    problems = []
    named = {"address": settings.client_port.address, "admin_address": settings.admin_port.admin_address}
    for name, addresses in (named | {"relay_address": (settings.relay.relay_address,)}).items():
        try:
            close_all(bind(name, addresses, 0) if any(addresses) else [])
        except StartError as why:
            problems.append(f"{name}: {str(why).partition(': ')[2]}")
    return problems


def _look_at_valkey(settings: Settings) -> tuple[str, list[tuple[str, str]]]:
    """Connect to the configured Valkey. Return why it does not answer or take a write, or "", and what it is.

    If none is configured, look for a binary that could be started.
    """
    from insightdesk_rt.app.embedded_valkey import EmbeddedError, find_binary
    from insightdesk_rt.engine.cluster.survey import survey
    from insightdesk_rt.engine.errors import RtError
    from insightdesk_rt.helpdesk.features import PATHS

    if not settings.valkey.valkey_url:
        try:
            find_binary()
        except EmbeddedError as why:
            return str(why), []
        return "", []

    async def look() -> tuple[str, list[tuple[str, str]]]:
        valkey = settings.valkey.connect_to(settings.valkey.valkey_url.reveal(), PATHS)
        try:
            await valkey.start()
            why = await valkey.fitness()
            return why, [] if why else await survey(valkey)
        except RtError:
            return valkey.trouble, []
        finally:
            await valkey.close()

    logging.disable()  # its log lines are for a server; the reason is returned
    try:
        fault, found = asyncio.run(look())
    finally:
        logging.disable(logging.NOTSET)
    return f"valkey_url = {settings.valkey.valkey_url}: {fault}" if fault else "", found


# ── usage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Parser(argparse.ArgumentParser):
    """argparse with errors on one line, and without abbreviations: `--por` is not `--port`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line from which the settings were removed. Raises ConfigError."""
    parser, commands = _parser()
    command = commands.get(arguments[0]) if arguments else None
    if command:
        own = {name for action in command._actions for name in action.option_strings}
        for word in arguments[1:]:
            if word.startswith("--") and word.partition("=")[0] not in own:
                raise ConfigError(f"{config.unknown(word, [name[2:] for name in own])} (command line)")
    return parser.parse_args(arguments)


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of the command line, and the parser of each command."""
    parser = _Parser(
        prog="insightdesk-rt",
        description="The realtime server of the InsightDesk helpdesk.",
        epilog="insightdesk-rt COMMAND --help describes a command.\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.",
    )
    parser.add_argument("--version", action="version", version=f"insightdesk-rt {insightdesk_rt.__version__}")
    adder = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def command(name: str, run: Run, help: str, epilog: str) -> _Parser:
        one: _Parser = adder.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)
        one.set_defaults(run=run)
        return one

    _add_serve(command)
    for add in COMMANDS:
        add(command, SAME_HELP)
    for name in ASK_THE_ADMIN_PORT:
        one = adder.choices[name]
        one.add_argument("--url", help="URL of the admin port, if it differs from the settings")
        one.add_argument("--key-file", metavar="FILE", help="file with an admin key or token, instead of the secret")
    return parser, dict(adder.choices)


def _add_serve(command: Adder) -> None:
    serve = command("serve", _serve, "run the server until Ctrl-C or SIGTERM", SETTINGS_HELP)
    serve.usage = "insightdesk-rt serve [--config FILE] [--demo] [--port N] [--any-setting VALUE]"
    serve.add_argument("--config", metavar="FILE", help="TOML file with settings")
    group: argparse._ArgumentGroup | None = None
    for setting in config.table().values():  # for --help only: take_flags has removed them from the line
        if group is None or group.title != setting.group:
            group = serve.add_argument_group(setting.group)
        default = config.shown("", setting.default)
        help = f"{setting.help} ({default})" if default else setting.help
        group.add_argument(setting.flag, metavar=_metavar(setting), help=help)


def _add_token(command: Adder, epilog: str) -> None:
    token = command("token", _token, "print a token signed with the server's secret, or explain one", epilog)
    token.usage = "insightdesk-rt token --sub ID --role ROLE [--team TEAM …] | --explain TOKEN"
    token.add_argument(
        "--explain", metavar="TOKEN", help="say why the server accepts or refuses it; - reads it from standard input"
    )
    token.add_argument("--sub", metavar="ID", help="the user's id")
    token.add_argument("--role", choices=get_args(Role), help="the user's role")
    token.add_argument("--team", metavar="TEAM", help="the user's team")
    token.add_argument("--name", metavar="NAME", help="the user's name")
    token.add_argument("--email", metavar="EMAIL", help="the user's e-mail address")
    token.add_argument("--session", metavar="SESSION", help="the session's id, by which it can be revoked")
    token.add_argument(
        "--ttl", type=_seconds, default=TOKEN_S, metavar="SECONDS", help=f"how long the token is valid ({TOKEN_S})"
    )


def _add_key(command: Adder, epilog: str) -> None:
    key = command("key", _key, "print a new key for the admin port, and the line that enables it", epilog)
    key.add_argument("--name", required=True, help="who uses it, for the audit log")
    key.add_argument(
        "--scope",
        required=True,
        choices=SCOPES,
        help="viewer: read; operator: also act; admin: everything; publisher: only push",
    )
    key.add_argument(
        "--namespaces", metavar="A,B", help="of a publisher: the namespaces it may push into, /tickets,/chat"
    )
    key.add_argument(
        "--rooms", metavar="A,B", help="of a publisher: how the names of its rooms begin, ticket:,team:; * for all"
    )


def _add_emit(command: Adder, epilog: str) -> None:
    emit = command("emit", operate.emit, "publish an event to a room and print its offset", epilog)
    emit.add_argument("namespace", metavar="NAMESPACE", help="/tickets, /chat, /notifications …")
    emit.add_argument("room", metavar="ROOM", help="ticket:42, user:anna, team:berlin …")
    emit.add_argument("event", metavar="EVENT", help="name of the event")
    emit.add_argument("json", metavar="JSON", help="its payload; - reads it from standard input")
    emit.add_argument("--volatile", action="store_true", help="send it without logging it; it may be lost")
    emit.add_argument("--id", help="an id for the event; an event with an id that was used already is not published")


def _add_status(command: Adder, epilog: str) -> None:
    command("status", operate.status, "show the state of the server and its nodes", epilog)


def _add_check(command: Adder, epilog: str) -> None:
    check = command("check", _check, "validate the configuration, and report what is wrong and where", epilog)
    check.add_argument("--offline", action="store_true", help="do not connect to Valkey")
    check.add_argument("--all", action="store_true", help="show every setting, not only those that were set")
    check.add_argument("--print", choices=("toml", "markdown"), help="print all settings with their defaults instead")


COMMANDS: tuple[Callable[[Adder, str], None], ...] = (
    _add_token,
    _add_key,
    _add_emit,
    _add_status,
    connections.add,
    tail.add,
    feed.add,
    drain.add,
    notice.add,
    webhooks.add,
    _add_check,
)
ASK_THE_ADMIN_PORT = ("emit", "status", "connections", "kick", "tail", "feed", "drain", "notice", "webhooks")

SETTINGS_HELP = """A setting can also be given in the environment (INSIGHTDESK_RT_PORT=3001) or in the
file (port = 3001). The command line wins over the environment, the environment over the file.
Lists are written a,b,c.
"""
SAME_HELP = """This command also takes every setting of `serve`. They tell it which server to use:
--config FILE, --data-dir DIR, --admin-port N …
"""


def _metavar(setting: config.Setting) -> str:
    by_ending = {"file": "FILE", "dir": "DIR", "url": "URL"}
    by_kind = {bool: "YES|NO", int: "N", tuple: "A,B", dict: "NAME=TEXT,…"}
    if setting.of_tables:
        return "JSON"
    return by_kind.get(setting.kind) or by_ending.get(setting.name.rpartition("_")[2], "TEXT")


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, not {text[:40]!r}")
    return int(text)


def _say(why: Exception, code: int) -> int:
    for line in str(why).splitlines():
        print(f"insightdesk-rt: {line}", file=sys.stderr)
    return code
