"""Printing a secret, or a URL that may contain one, never shows a part of a password, whatever characters it has."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.app.config import ConfigError, load, shown
from insightdesk_rt.app.config.settings import compose, flat, secrets, table
from insightdesk_rt.engine.secret import ENCODE, HIDDEN, Secret, SecretUrl, shown_text, shown_url, url_fault

# Letters that occur nowhere else in these URLs, and characters with a meaning in URLs.
PASSWORDS = st.text("QXZJ@/#?:%&=[]! \t", min_size=1).filter(lambda text: set(text) & set("QXZJ"))


def leaked(shown: str) -> set[str]:
    return set(shown) & set("QXZJ")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("valkey://localhost:6379", "valkey://localhost:6379"),
        ("valkey://db.internal/3", "valkey://db.internal/3"),
        ("valkey://desk:hunter2@db:6379/0", "valkey://desk:[hidden]@db:6379/0"),
        ("valkey://:hunter2@db", "valkey://:[hidden]@db"),
        ("valkey://hunter2@db", "valkey://[hidden]@db"),
        ("valkey://desk:hunter%402@[::1]:6379", "valkey://desk:[hidden]@[::1]:6379"),
        ("valkey://desk:p@hunter2@db", "valkey://[hidden]"),
        ("valkey://:p@hunter2/w#rd@127.0.0.1:6379", "valkey://[hidden]"),
        ("unix:///run/valkey.sock?db=0&password=hunter2", "unix:///run/valkey.sock?db=0&password=[hidden]"),
        ("unix:///run/valkey@1/valkey.sock", "unix:///run/valkey@1/valkey.sock"),
        ("unix://desk:hunter2@/run/valkey.sock", "unix://desk:[hidden]@/run/valkey.sock"),
        ("valkeys://db:6380?ssl_ca_certs=/ca.pem&username=u", "valkeys://db:6380?ssl_ca_certs=/ca.pem&username=[hidden]"),
        ("valkeys://db?password=hun@ter2", "valkeys://[hidden]"),
        ("valkeys://db?password=hun%40ter2", "valkeys://db?password=[hidden]"),
        ("https://issuer.example.com/keys?api_key=hunter2", "https://issuer.example.com/keys?api_key=[hidden]"),
        ("https://issuer.example.com/keys?hunter2", "https://issuer.example.com/keys?[hidden]"),
        ("localhost:6379", "localhost:6379"),
        ("hunter2", HIDDEN),
        ("", ""),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert shown_url(url) == expected
    assert f"{SecretUrl(url)}" == expected and "hunter2" not in repr(SecretUrl(url))


@settings(max_examples=300)
@given(PASSWORDS, st.sampled_from(["valkey://:{}@db:6379/0", "valkeys://desk:{}@db", "unix://:{}@/run/s"]))
def test_no_part_of_an_unencoded_password_is_shown(password: str, url: str) -> None:
    """Either it is certain where the password ends, or only the scheme is shown."""
    text = url.format(password)
    assert not leaked(shown_url(text)), shown_url(text)
    assert not leaked(shown("valkey_url", text)) and not leaked(shown("", text.replace(" ", "").replace("\t", "")))


@given(PASSWORDS)
def test_an_encoded_password_is_hidden(password: str) -> None:
    text = f"valkey://desk:{quote(password, safe='')}@db:6379/0"
    assert url_fault(text) == ""
    assert shown_url(text) == "valkey://desk:[hidden]@db:6379/0"
    in_query = f"unix:///run/s?password={quote(password, safe='')}"
    assert (url_fault(in_query), shown_url(in_query)) == ("", "unix:///run/s?password=[hidden]")
    assert unquote(urlsplit(text).password or "") == password


@pytest.mark.parametrize("password", ["p@ss", "p/ss", "p#ss", "p@ss/w#rd", "a?b", "50%", "a b", "p[ss", "a@b@c", "1/2"])
def test_a_url_with_an_unencoded_password_is_refused_with_a_correction(password: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(["--valkey-url", f"valkey://:{password}@127.0.0.1:6379"], {})
    assert str(refused.value) == f"valkey_url = valkey://[hidden] (command line): {ENCODE}"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("valkey://db/zero", "the number of a database"),
        ("valkey://db?db=zero", "a number for the option db"),
        ("valkey://db?pasword=hunter2", "no other options"),
        ("valkey://db?ssl_ca_certs=/x", "no other options"),
        ("unix:///run/valkey.sock?pass=hunter2", "no other options"),
        ("unix://run/valkey.sock", "unix:///path/to/socket"),
        ("valkey://", "expected valkey://host:6379"),
        ("hunter2", "expected valkey://host:6379"),
        ("http://db", "expected valkey://host:6379"),
    ],
)
def test_an_invalid_url_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load([f"--valkey-url={url}"], {})
    assert why in str(refused.value) and "hunter2" not in str(refused.value)


def test_every_setting_for_a_secret_has_a_secret_type() -> None:
    """This also covers settings that are added later: a text would be printed, a Secret is not."""
    for name, setting in table().items():
        secret = name.endswith(("secret", "password", "_url", "_key"))
        assert issubclass(setting.kind, Secret) == (name in secrets()) == secret, name


@pytest.mark.parametrize("name", list(secrets()))
def test_settings_convert_texts_to_secrets(name: str) -> None:
    value = flat(compose(**{name: "https://a:hunter2@b?c=hunter2"}))[name]
    assert isinstance(value, secrets()[name]) and value.reveal() == "https://a:hunter2@b?c=hunter2"
    for text in (str(value), repr(value), f"{value}", f"{compose(**{name: 'x://a:hunter2@b'})}"):
        assert "hunter2" not in text
    assert not secrets()[name]() and value == secrets()[name](value.reveal()) and len({value, value}) == 1


@pytest.mark.parametrize("name", list(secrets()))
@pytest.mark.parametrize("text", ["hunter2", "x://u:hunter2@h", "https://h/p?q=hunter2", "valkey://:a@hunter2@h"])
def test_no_source_of_a_setting_shows_its_secret(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / "rt.toml"
    flag, variable = f"--{name.replace('_', '-')}", f"INSIGHTDESK_RT_{name.upper()}"
    for content in (f'{name} = "{text}"', f'{name} = ["{text}"]', f'{name} = {{"{text}" = 1}}'):
        file.write_text(content, "utf-8")
        assert "hunter2" not in said(["--config", str(file)], {})
    assert "hunter2" not in said([flag, text], {}) + said([], {variable: text}) + said([f"{flag}x={text}"], {})


def said(argv: list[str], environ: dict[str, str]) -> str:
    try:
        return str(load(argv, environ))
    except ConfigError as why:
        return str(why)


def test_urls_within_a_text_are_shown_without_their_secrets() -> None:
    text = "nobody answers at http://a:hunter2@127.0.0.1:1/x: refused, nor at http://127.0.0.1:2/readyz: refused"
    expected = "nobody answers at http://a:[hidden]@127.0.0.1:1/x: refused, nor at http://127.0.0.1:2/readyz: refused"
    assert shown_text(text) == expected
