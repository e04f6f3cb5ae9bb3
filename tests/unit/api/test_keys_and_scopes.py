"""Keys of the admin port: the syntax of the file, reloading it, and the limit of wrong keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from insightdesk_rt.api.keys_and_scopes import (
    MAX_FAILURES,
    PER_S,
    SCOPES,
    AdminAccess,
    KeyFile,
    Principal,
    PushLimits,
    Scope,
    new_key,
    parse_keys,
    push_limits,
)
from insightdesk_rt.app.config import ConfigError
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import User, UserId

HASH = "sha256:" + "0f" * 32


def verify(token: object) -> User:
    if token not in ("admin", "agent"):
        raise RtError({"": "AUTH_TOKEN_MISSING", "old": "AUTH_TOKEN_EXPIRED"}.get(str(token), "AUTH_TOKEN_INVALID"))
    return User(UserId("ann"), token)  # type: ignore[arg-type]


class Clock:
    ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def keys_file(folder: Path, text: str) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_new_key_is_accepted_once_its_line_is_in_the_file(tmp_path: Path) -> None:
    key, line = new_key("grafana", "viewer")
    other, _ = new_key("other", "admin")
    assert len(key) >= 40 and key not in line
    file = KeyFile(str(keys_file(tmp_path, f"# ours\n\n{line}   # dashboards\n")))
    found = file.find(key)
    assert found == Principal("grafana", "viewer", is_key=True) and found.id == "key:grafana"
    assert file.find(other) is None and file.find(key + "x") is None and file.find("irt_é") is None


def test_a_publishers_line_keeps_its_limits_whatever_characters_they_have(tmp_path: Path) -> None:
    limits = push_limits(["/tickets", "/"], ["team:Second line", "a,b#c=é%", "*"])
    key, line = new_key("shop", "publisher", limits)
    (found,) = parse_keys(line + "   # the shop")
    assert found.principal == Principal("shop", "publisher", True, limits)
    assert found.principal.limits == PushLimits(("/tickets", "/"), ("team:Second line", "a,b#c=é%", ""))
    assert KeyFile(str(keys_file(tmp_path, line))).find(key) == found.principal


@pytest.mark.parametrize("needed", SCOPES)
@pytest.mark.parametrize("held", SCOPES)
def test_a_scope_includes_those_below_it_and_a_publisher_only_pushes(held: Scope, needed: Scope) -> None:
    may = {
        "viewer": {"viewer"},
        "operator": {"viewer", "operator"},
        "admin": {"viewer", "operator", "admin", "publisher"},
        "publisher": {"publisher"},
    }
    assert Principal("any", held).may(needed) == (needed in may[held])


@pytest.mark.parametrize(
    ("namespace", "room", "may"),
    [
        ("/tickets", "ticket:1", True),
        ("/tickets", "team:a", True),
        ("/tickets", "team:b", False),
        ("/tickets", "xticket:1", False),
        ("/tickets", "ticket", False),
        ("/tickets/", "ticket:1", False),
        ("/chat", "ticket:1", False),
    ],
)
def test_a_publisher_may_push_within_its_limits(namespace: str, room: str, may: bool) -> None:
    limited = Principal("shop", "publisher", True, push_limits(["/tickets"], ["ticket:", "team:a"]))
    Principal("ann", "admin").require_push(namespace, [room])
    if may:
        limited.require_push(namespace, [room, room])
        return
    with pytest.raises(RtError, match="FORBIDDEN") as refused:
        limited.require_push(namespace, ["ticket:1", room], "room")
    assert refused.value.fields == {"field": "room"}


def test_reloading_reads_a_file_that_looks_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its time, size and inode may be the same: a copy that keeps times, within the clock's step."""
    (one, first), (two, second) = new_key("one", "viewer"), new_key("two", "viewer")
    path = keys_file(tmp_path, first)
    file = KeyFile(str(path))
    state = path.stat()
    with path.open("r+") as text:
        text.write(second)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.find(one) is not None and file.find(two) is None
    with caplog.at_level("INFO"):
        file.reload()
    assert file.find(one) is None and file.find(two) is not None
    assert [record.keys for record in caplog.records] == [1]  # type: ignore[attr-defined]
    path.write_text("nonsense")
    file.reload()
    assert file.find(two) is not None and "has an error" in caplog.text


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"x publisher {HASH}", "a publisher has two more words"),
        (f"x publisher {HASH} namespaces=/tickets", "a publisher has two more words"),
        (f"x publisher {HASH} namespaces=/tickets namespaces=/chat", "a publisher has two more words"),
        (f"x publisher {HASH} namespaces=/tickets rooms=a scope=admin", "a publisher has two more words"),
        (f"x publisher {HASH} namespaces= rooms=a", "namespaces: expected one or several"),
        (f"x publisher {HASH} namespaces=/tickets rooms=a,,b", "rooms: expected one or several"),
        (f"x admin {HASH} namespaces=/tickets rooms=a", "expected name, scope and hash"),
        ("x", "expected name, scope and hash"),
        (f"x viewer {HASH} more", "expected name, scope and hash"),
        (f"-x viewer {HASH}", "a name has"),
        (f"x root {HASH}", "the scope is one of viewer, operator, admin"),
        ("x viewer 0f0f", "expected sha256:"),
        (f"x viewer {HASH.upper()}", "expected sha256:"),
        (f"a viewer {HASH}", "the name a occurs twice"),
    ],
)
def test_the_error_for_an_invalid_line_names_it(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"line 3: .*{why}"):
        parse_keys(f"# keys\na viewer {HASH}\n{line}\n")


def test_no_key_is_created_for_a_name_that_the_file_cannot_contain() -> None:
    for name in ("", "two words", "a#b", "x" * 65, "é", "a\n"):
        with pytest.raises(ValueError, match="a name has"):
            new_key(name, "viewer")


def test_the_server_does_not_start_with_an_invalid_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"admin_keys_file = .*/none: No such file"):
        KeyFile(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"admin_keys_file = .*/keys: line 1: expected name"):
        KeyFile(str(keys_file(tmp_path, "nonsense\n")))


def test_a_changed_file_is_reloaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one, first), (two, second) = new_key("one", "viewer"), new_key("two", "admin")
    path = keys_file(tmp_path, first)
    file = KeyFile(str(path))
    assert file.find(one) and not file.find(two)
    path.write_text(f"{first}\n{second}")
    assert file.find(one) and file.find(two)
    path.write_text(f"{first}\nwrong\n")
    assert file.find(one) and file.find(two), "the last valid state stays in use"
    assert file.find(one), "logged once"
    assert [record.why for record in caplog.records] == ["line 2: expected name, scope and hash"]  # type: ignore[attr-defined]
    path.write_text(second)
    assert not file.find(one) and file.find(two)
    path.unlink()
    assert not file.find(two)
    keys_file(tmp_path, first)
    assert file.find(one)


def test_a_file_that_others_may_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = keys_file(tmp_path, "")
    KeyFile(str(path))
    assert not caplog.records
    path.chmod(0o640)
    KeyFile(str(path))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert os.fspath(path) == caplog.records[0].file  # type: ignore[attr-defined]


def test_an_admins_token_has_all_scopes_and_other_tokens_none() -> None:
    access = AdminAccess(verify, KeyFile(""))
    found = access.principal("Bearer admin", "::1")
    assert found == Principal("ann", "admin") and found.id == "ann"
    for shown, code in (
        ("Bearer agent", "FORBIDDEN"),
        ("", "AUTH_TOKEN_MISSING"),
        ("Bearer old", "AUTH_TOKEN_EXPIRED"),
    ):
        for _ in range(MAX_FAILURES + 1):  # these do not count as guesses
            with pytest.raises(RtError) as refused:
                access.principal(shown, "::1")
            assert refused.value.code == code


def test_a_valid_key_is_accepted_however_many_wrong_ones_its_address_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong keys get 429 after the tenth in a minute; a valid key or token from the same address never does."""
    clock = Clock()
    key, line = new_key("ops", "operator")
    access = AdminAccess(verify, KeyFile(str(keys_file(tmp_path, line))), clock)

    def refused(guess: str, address: str = "10.0.0.1") -> RtError:
        with pytest.raises(RtError) as why:
            access.principal(f"Bearer {guess}", address)
        return why.value

    for guess in range(MAX_FAILURES):
        assert refused(f"{'irt_' if guess % 2 else ''}{guess}").code == "AUTH_TOKEN_INVALID"
        assert access.principal(f"Bearer {key}", "10.0.0.1").name == "ops"
    assert [record.levelname for record in caplog.records] == ["WARNING"], "once, when the limit is reached"
    clock.ms += 500
    for guess in ("irt_wrong", "wrong"):
        why = refused(guess)
        assert (why.code, why.fields) == ("RATE_LIMITED", {"retryAfter": PER_S})
        assert access.principal(f"Bearer {key}", "10.0.0.1").name == "ops"
        assert access.principal("Bearer admin", "10.0.0.1").name == "ann"
    assert (refused("agent").code, refused("old").code) == ("FORBIDDEN", "AUTH_TOKEN_EXPIRED")
    assert refused("wrong", "10.0.0.2").code == "AUTH_TOKEN_INVALID"
    assert len(caplog.records) == 1, "requests over the limit are not logged"
    clock.ms += PER_S * 1000 - 500
    assert refused("wrong").code == "AUTH_TOKEN_INVALID"


def test_no_user_is_recorded_as_a_key_or_as_another_user() -> None:
    """The audit log has one text for the author, and a token's `sub` may be any text, also the name of a key."""
    names = ["ann", "backup", "key:backup", "user:ann", "user:key:backup", "key:", "user:", "user:user:ann", "KEY:x"]
    written = [Principal(name, "admin").id for name in names] + [
        Principal(name, "admin", is_key=True).id for name in ("ann", "backup")
    ]
    assert len(set(written)) == len(written)
    assert Principal("ann", "admin").id == "ann" and Principal("backup", "viewer", is_key=True).id == "key:backup"
    assert Principal("key:backup", "admin").id == "user:key:backup"
