"""Texts of clients are printed without characters that control the terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from insightdesk_rt.app.cli import main as cli
from tests.support.answering import answering

EVIL = "\x1b]0;owned\x07\u202emoc.elpmaxe\r\nroot"
ROW = {
    "sid": "s" * 20,
    "node": "n1",
    "user": {"id": "ann", "name": EVIL},
    "role": None,
    "ip": "192.0.2.1",
    "agent": EVIL * 20,
    "transport": None,
    "namespaces": [EVIL],
    "connectedAt": "2026-11-23T04:01:00.125Z",
    "closedAt": "2026-11-23T04:02:30.125Z",
    "closeReason": EVIL,
    "outboxBytes": 1234,
}


@pytest.mark.parametrize("words", [(), ("--closed",), ("--json",)])
def test_terminal_control_characters_are_not_printed(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    with answering() as admin:
        admin.answer = json.dumps({"items": [ROW], "next": None, "missing": [EVIL], "total": 1}).encode()
        key = tmp_path / "key"
        key.write_text("k3y")
        assert cli.main(["connections", *words, "--admin-port", admin.port, "--key-file", str(key)]) == 0
    said = capsys.readouterr()
    assert "ann" in said.out and "did not answer" in said.err
    for text in (said.out, said.err):
        assert all(char.isprintable() or char == "\n" for char in text)
    if words != ("--json",):
        assert "1.2 kB" in said.out or words
        assert max(map(len, said.out.splitlines())) <= 220 and "…" in said.out
