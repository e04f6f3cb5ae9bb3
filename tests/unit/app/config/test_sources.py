"""The sources of settings (command line, environment, file, default): precedence, parsing, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.app.config import ConfigError, LoadedSettings, compose, flat, load, shown, table, take_flags
from insightdesk_rt.engine.tokens import TokenIssuer

Write = Callable[[str], str]


@pytest.fixture
def toml(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        file = tmp_path / "rt.toml"
        file.write_text(text)
        return str(file)

    return write


def problem(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(argv, environ or {})
    return str(caught.value)


def test_settings_that_are_not_given_have_their_defaults() -> None:
    loaded = load([], {"HOME": "/root", "PORT": "9"})
    assert loaded.settings == compose()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.origins.keys() == table().keys()


def test_the_command_line_overrides_the_environment_and_that_the_file(toml: Write) -> None:
    file = toml("port = 1\nadmin_port = 2\nnode_id = 'n3'\n")
    loaded = load(["--port", "5", "--config", file], {"INSIGHTDESK_RT_PORT": "4", "INSIGHTDESK_RT_ADMIN_PORT": "6"})
    assert (
        loaded.settings.client_port.port,
        loaded.settings.admin_port.admin_port,
        loaded.settings.process.node_id,
    ) == (5, 6, "n3")
    assert loaded.origins["port"] == "command line"
    assert loaded.origins["admin_port"] == "environment INSIGHTDESK_RT_ADMIN_PORT"
    assert loaded.origins["node_id"] == f"{file}:3"
    assert loaded.file == file


def test_the_environment_can_name_the_file(toml: Write) -> None:
    file = toml("port = 7\n")
    assert load([], {"INSIGHTDESK_RT_CONFIG": file}).settings.client_port.port == 7
    assert load([], {"INSIGHTDESK_RT_REQUIRE": "node,chromium"}).settings == compose(), "not a setting"


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--demo"], "demo", True),
        (["--demo", "--port", "0"], "demo", True),
        (["--demo", "no"], "demo", False),
        (["--demo=false"], "demo", False),
        (["--connection_recovery", "off"], "connection_recovery", False),
        (["--transports", "websocket, polling,"], "transports", ("websocket", "polling")),
        (["--allowed-origins="], "allowed_origins", ()),
        (["--rate-limits", "chat:message=5/1, default=9/9"], "rate_limits", {"chat:message": "5/1", "default": "9/9"}),
        (["--port", "1", "--port", "2"], "port", 2),
        (["--node-id=a=b".replace("a=b", "ab")], "node_id", "ab"),
        (["--jwt-issuer", "https://a?b=c"], "jwt_issuer", "https://a?b=c"),
        (["--log-level", "debug"], "log_level", "debug"),
    ],
)
def test_a_flag_is_parsed_by_the_type_of_its_setting(argv: list[str], name: str, value: object) -> None:
    assert flat(load(argv, {}).settings)[name] == value


def test_a_file_is_read_as_toml(toml: Write) -> None:
    file = toml('demo = true\ntransports = ["polling"]\n[rate_limits]\n"chat:message" = "5/1"\n')
    settings = load(["--config", file], {}).settings
    assert settings.process.demo and settings.client_port.transports == ("polling",)
    assert settings.dispatch.rate_limits == {"chat:message": "5/1"}


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('port = "3001"', 1, 'port = "3001" ({}:1): expected a whole number from 0 to 65535'),
        ("port = true", 1, "port = true ({}:1): expected a whole number from 0 to 65535"),
        ("port = 3001.0", 1, "port = 3001.0 ({}:1): expected a whole number from 0 to 65535"),
        ("\n# port = 1\n port = -1", 3, "port = -1 ({}:3): expected a whole number from 0 to 65535"),
        ("demo = 1", 1, "demo = 1 ({}:1): expected true or false"),
        ('transports = "polling"', 1, 'transports = "polling" ({}:1): expected a list of texts'),
        ("transports = [1]", 1, "transports = 1 ({}:1): expected a list of texts"),
        ('log_level = "loud"', 1, 'log_level = "loud" ({}:1): expected debug or info or warning or error'),
        ("data_dir = 1979-05-27", 1, "data_dir = 1979-05-27 ({}:1): expected a text"),
        ("xyzzy = 1", 1, "unknown setting xyzzy ({}:1)"),
        ("\n\nping_intervall_ms = 1", 3, "unknown setting ping_intervall_ms; did you mean ping_interval_ms? ({}:3)"),
        ("ping-interval-ms = 1", 1, "unknown setting ping-interval-ms; did you mean ping_interval_ms? ({}:1)"),
        ("[server]\nport = 1", 1, "unknown setting server ({}:1)"),
        ("[rate_limits]\nx = 5", 1, 'rate_limits = x=5 ({}:1): expected a table of event = "max/seconds"'),
    ],
)
def test_an_error_in_a_file_is_reported_with_its_line(toml: Write, text: str, line: int, expected: str) -> None:
    file = toml(text)
    assert problem(["--config", file]) == expected.format(file)


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "= 1", "port = 1 2"])
def test_a_file_that_is_not_toml_is_reported_with_the_line(toml: Write, text: str) -> None:
    file = toml(text)
    said = problem(["--config", file])
    assert said.startswith(f"config = {file}: ") and "(at " in said and "\n" not in said


def test_the_error_for_an_unreadable_file_names_it(tmp_path: Path) -> None:
    assert problem(["--config", str(tmp_path / "x")]) == f"config = {tmp_path / 'x'}: No such file or directory"
    assert "Is a directory" in problem([], {"INSIGHTDESK_RT_CONFIG": str(tmp_path)})
    (tmp_path / "latin").write_bytes(b'node_id = "\xe4"')
    assert "utf-8" in problem(["--config", str(tmp_path / "latin")])


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        (["--prot", "1"], {}, "unknown setting --prot; did you mean --port? (command line)"),
        (["--xyzzy=1"], {}, "unknown setting --xyzzy (command line)"),
        (["3001"], {}, "unknown setting 3001 (command line)"),
        (["--port"], {}, "--port (command line): expected a value behind it"),
        (["--port", "--demo"], {}, "--port (command line): expected a value behind it"),
        (["--port", "x"], {}, "port = x (command line): expected a whole number from 0 to 65535"),
        (
            ["--port", "9" * 5000],
            {},
            "port = " + "9" * 200 + " (command line): expected a whole number from 0 to 65535",
        ),
        (["--demo=maybe"], {}, "demo = maybe (command line): expected true or false"),
        ([], {"INSIGHTDESK_RT_PORT": ""}, "port =  (environment INSIGHTDESK_RT_PORT): expected a whole number"),
        ([], {"INSIGHTDESK_RT_PROT": "1"}, "unknown setting INSIGHTDESK_RT_PROT; did you mean INSIGHTDESK_RT_PORT?"),
        ([], {"INSIGHTDESK_RT_port": "1"}, "unknown setting INSIGHTDESK_RT_port; did you mean INSIGHTDESK_RT_PORT?"),
        (
            [],
            {"INSIGHTDESK_RT_NODE_ID": "a\nb"},
            "node_id = a\\nb (environment INSIGHTDESK_RT_NODE_ID): expected 1 to 32",
        ),
    ],
)
def test_an_error_in_a_flag_or_variable_names_its_source(
    argv: list[str], environ: dict[str, str], expected: str
) -> None:
    said = problem(argv, environ)
    assert said.startswith(expected) and "\n" not in said


def test_all_problems_are_reported_together_in_one_line_each(toml: Write) -> None:
    said = problem(["--config", toml("port = true\nfoo = 1\n"), "--demo=x"])
    assert len(said.splitlines()) == 3


def test_contradictory_settings_are_reported_with_their_origin() -> None:
    said = problem(["--address", "0.0.0.0"])
    assert said.startswith("address = 0.0.0.0 (command line): off loopback a secret is needed")


def test_a_secret_is_never_shown(toml: Write) -> None:
    for argv in (["--jwt-secret", "hunter2"], ["--config", toml("jwt_secret = ['hunter2']")]):
        assert "hunter2" not in problem(argv)
    assert "hunter2" not in problem(["--jwt-secrett=hunter2"])
    assert shown("jwt_secret", "hunter2") == "[hidden]"
    assert shown("jwt_secret", "") == ""
    assert shown("valkey_url", "valkey://me:hunter2@host") == "valkey://me:[hidden]@host"
    assert shown("valkey_url", "valkey://:hunter2@host") == "valkey://:[hidden]@host"


def test_warnings_are_passed_on() -> None:
    assert load(["--allowed-origins", "*"], {}).warnings[0].startswith("allowed_origins")


def test_other_arguments_are_left_for_the_command() -> None:
    flags, rest = take_flags(["emit", "/t", "--port", "1", "r", "--volatile", "--config=x", "e", "{}", "--demo", "yes"])
    assert flags == {"port": "1", "config": "x", "demo": "yes"}
    assert rest == ["emit", "/t", "r", "--volatile", "e", "{}"]


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, ["--data-dir", "/w/data"]),
        (["--data-dir", "d", "--port", "5"], {}, ["--data-dir", "/w/d"]),
        (["--admin-port", "5"], {}, ["--data-dir", "/w/data", "--admin-port", "5"]),
        (
            ["--jwt-secret-file", "s"],
            {"INSIGHTDESK_RT_JWT_ISSUER": "me"},
            ["--jwt-secret-file", "/w/s", "--jwt-issuer", "me"],
        ),
        (["--jwt-secret", "s" * 32, "--jwt-algorithms", "HS512,HS256"], {}, ["--jwt-algorithms", "HS512,HS256"]),
    ],
)
def test_the_arguments_that_select_the_same_server_can_be_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: list[str], environ: dict[str, str], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(argv, environ).same_server()
    assert [word.replace(str(tmp_path), "/w") for word in found] == expected
    again: LoadedSettings = load(found, {})
    for name in ("data_dir", "admin_port", "jwt_issuer", "jwt_algorithms"):
        one, two = flat(again.settings)[name], flat(load(argv, environ).settings)[name]
        assert one == two or Path(one) == tmp_path / two


def test_those_arguments_include_the_file(toml: Write) -> None:
    file = toml("admin_port = 9\n")
    assert load(["--config", file], {}).same_server()[:2] == ["--config", file]


def test_every_setting_can_be_given_in_all_three_ways(toml: Write) -> None:
    """Each default, written out, is read back as the same value; this covers settings that are added later."""
    for name, setting in table().items():
        text = ",".join(setting.default) if setting.kind is tuple else str(setting.default)
        text = "" if setting.kind is dict else text
        assert _value(name, [f"{setting.flag}={text}"], {}) == setting.default
        assert _value(name, [], {f"INSIGHTDESK_RT_{name.upper()}": text}) == setting.default


def _value(name: str, argv: list[str], environ: dict[str, str]) -> Any:
    loaded = load(argv, environ)
    assert loaded.origins[name] != "default"
    return flat(loaded.settings)[name]


def test_tables_of_claims_roles_and_issuers_are_read_in_all_three_ways(toml: Write) -> None:
    issuer = TokenIssuer("https://id", jwks_url="https://id/keys", claims={"role": "a.b"}, roles={"boss": "admin"})
    text = '[{"issuer":"https://id","jwks_url":"https://id/keys","claims":{"role":"a.b"},"roles":{"boss":"admin"}}]'
    file = toml(
        '[jwt_claims]\nuser = "oid"\n[jwt_roles]\n"*" = "customer"\n[[jwt_issuers]]\nissuer = "https://id"\n'
        'jwks_url = "https://id/keys"\nclaims = { role = "a.b" }\nroles = { boss = "admin" }\n'
    )
    flags = ["--jwt-claims", "user=oid", "--jwt-roles=*=customer", "--jwt-issuers", text]
    environ = {"JWT_CLAIMS": "user=oid", "JWT_ROLES": "*=customer", "JWT_ISSUERS": text}
    for argv, env in [
        (["--config", file], {}),
        (flags, {}),
        ([], {f"INSIGHTDESK_RT_{name}": one for name, one in environ.items()}),
    ]:
        tokens = load(argv, env).settings.tokens
        assert (tokens.jwt_claims, tokens.jwt_roles) == ({"user": "oid"}, {"*": "customer"})
        assert tokens.jwt_issuers == (issuer,)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--jwt-claims", "id=sub"], "expected a table of name = text, with email or name or role or session or team"),
        (["--jwt-claims", "role=a..b"], "role: expected the name of a claim"),
        (["--jwt-roles", "boss=owner"], "expected a table of name = text, with admin or agent or customer"),
        (["--jwt-issuers", "x"], "expected a list of tables"),
        (["--jwt-issuers", '[{"issuer": "a", "secret": "b"}]'], "expected a list of tables"),
        (["--jwt-issuers", '[{"issuer": "a"}]'], "a: RS, PS, ES and EdDSA need jwks_url or public_key_file"),
        (["--jwt-issuers", '[{"issuer": "a", "jwks_url": "ftp://a"}]'], "a: jwks_url: expected http(s)://host/path"),
        (
            ["--jwt-issuer", "a", "--jwt-issuers", '[{"issuer": "a", "jwks_url": "https://a/k"}]'],
            "a: the issuer is configured twice",
        ),
        (
            ["--jwt-issuers", '[{"issuer": "a", "algorithms": ["HS256"]}]'],
            "a: secret_files: HS algorithms need them",
        ),
    ],
)
def test_a_wrong_table_of_tokens_is_named(argv: list[str], words: str) -> None:
    assert words in problem(argv)


def test_an_address_may_be_one_text_or_a_list(tmp_path: Path) -> None:
    """Older files have one text."""
    file = tmp_path / "settings.toml"
    for written, addresses in (('"::1"', ("::1",)), ('["127.0.0.1", "::1"]', ("127.0.0.1", "::1"))):
        file.write_text(f"address = {written}\nadmin_address = {written}\n", encoding="utf-8")
        settings = load(["--config", str(file)], {}).settings
        assert (settings.client_port.address, settings.admin_port.admin_address) == (addresses, addresses)
    assert load(["--address", "127.0.0.1,::1"], {}).settings.client_port.address == ("127.0.0.1", "::1")
    with pytest.raises(ConfigError, match=r"address = .*expected an address"):
        load(["--address", ""], {})
    file.write_text('allowed_origins = "https://a.example"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a list of texts"):
        load(["--config", str(file)], {})
