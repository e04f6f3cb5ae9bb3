"""Commands of Valkey as bytes, and scripts that are called by their hash."""

from __future__ import annotations

import hashlib

import pytest

from insightdesk_rt.engine.cluster.resp import Script, load_script, pack


def test_a_command_is_an_array_of_strings_counted_in_bytes() -> None:
    assert pack(("SET", "k", "ü", 7, b"\xff\r\n")) == (
        b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xc3\xbc\r\n$1\r\n7\r\n$3\r\n\xff\r\n\r\n"
    )


def test_lone_surrogates_are_sent_as_question_marks() -> None:
    assert pack(("\ud800",)) == b"*1\r\n$1\r\n?\r\n"


def test_a_script_is_called_by_the_hash_of_its_text() -> None:
    assert Script("x", "return 1").sha == hashlib.sha1(b"return 1").hexdigest()


def test_a_script_is_read_from_the_folder_of_its_package() -> None:
    assert "XADD" in load_script("insightdesk_rt.engine.cluster", "append").source


def test_the_error_for_a_missing_script_names_it() -> None:
    with pytest.raises(FileNotFoundError, match="no_such_script"):
        load_script("insightdesk_rt.engine.cluster", "no_such_script")
