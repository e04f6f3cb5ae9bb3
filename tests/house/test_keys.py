"""Keys in Valkey belong to a partition, and a script touches only keys that it was given, as far as the code shows it.

`tests/contract/test_partitions.py` shows the same of what runs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.test_layout import name_of, sources, tree
from tests.house.test_lua import composed, files, is_library

NAMES = "engine/cluster/names"  # makes every name
# Where a Key is made of a text that is not a partition's key with a suffix, and why.
KEYS_FROM_TEXT = {
    ("engine/cluster/sessions", "listed_in"): "a key that session_save.lua stored in the record",
    ("helpdesk/chat/store", "answer[1:]"): "keys that a script asks for, made of the partition's own",
}
KEYLESS = {"TIME", "PING", "INFO", "PUBLISH", "SPUBLISH", "PUBSUB", "SCRIPT", "WAITAOF"}
# Scripts that touch a key that they were not given: (script, key expression) → reason. It must have the same hash tag.
UNDECLARED: dict[tuple[str, str], str] = {}
# Functions of chat_lib.lua that raise an error for a key that was not declared.
CHECKED = ("key", "own", "queue_of", "open_of", "person", "open_of_customer")


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def text_of(node: ast.AST) -> str:
    return ast.unparse(node)


def is_text(node: ast.AST) -> bool:
    """Is it a text that is written or put together here?"""
    return isinstance(node, ast.JoinedStr | ast.BinOp) or (isinstance(node, ast.Constant) and type(node.value) is str)


def extends_a_key(node: ast.AST) -> bool:
    """Is it `f"{self.base}…"`, a key of a partition with a suffix?"""
    return isinstance(node, ast.JoinedStr) and text_of(node.values[0]).strip("f'\"") == "{self.base}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_key_is_made_by_a_partition(path: Path) -> None:
    """mypy refuses a plain text in a script's keys; here are the ways around it, and the keys of single commands."""
    if name_of(path) == NAMES or name_of(path).startswith("app/cli/"):  # the command line sends HTTP requests
        return
    wrong = []
    for call in calls(path):
        named = call.func.attr if isinstance(call.func, ast.Attribute) else text_of(call.func)
        made = (
            call.args[:1]
            if named == "Key"
            else call.args[1:]
            if text_of(call.args[0] if call.args else call) == "Key"
            else []
        )
        for text in made:
            if not extends_a_key(text) and (name_of(path), text_of(text)) not in KEYS_FROM_TEXT:
                wrong.append(f"line {call.lineno}: Key of {text_of(text)}")
        if named in ("command", "send") and len(call.args) > 1 and is_text(call.args[1]):
            command = text_of(call.args[0]).strip("'")
            if command not in KEYLESS | {"XINFO"}:  # XINFO names its key behind a subcommand
                wrong.append(f"line {call.lineno}: {command} of {text_of(call.args[1])}")
        if named == "Partition":
            wrong.append(f"line {call.lineno}: a partition of its own")
    assert wrong == []


def test_each_exception_is_still_needed() -> None:
    found = {(name_of(path), text_of(arg)) for path in sources() for call in calls(path) for arg in call.args}
    assert KEYS_FROM_TEXT.keys() <= found


# ── Lua ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def argument(source: str, start: int) -> str:
    """Return the argument of a call that begins here."""
    depth = 0
    for at in range(start, len(source)):
        if source[at] in "([{":
            depth += 1
        elif source[at] in ")]}" and depth:
            depth -= 1
        elif source[at] in ",)" and not depth:
            return source[start:at].strip()
    raise AssertionError("the call has no end")


def keys_used(source: str) -> Iterator[str]:
    """Yield the key expression of each command in a script, as it is written."""
    for found in re.finditer(r"redis\.p?call\(", source):
        command = argument(source, found.end())
        if command.strip("'") not in KEYLESS:
            yield argument(source, source.index(command, found.end()) + len(command) + 1)


def is_made(expression: str) -> bool:
    """Is it put together from texts or arguments, instead of taken from KEYS?"""
    checked = re.fullmatch(rf"(?:{'|'.join(CHECKED)})\(.*\)", expression)
    return not checked and bool(re.search(r"\.\.|'|\"|ARGV|string\.|\barg\(", expression))


def assigned(source: str, name: str) -> Iterator[str]:
    """Yield what a local name stands for, each time it is declared alone or in a list."""
    for names, values in re.findall(r"^\s*(?:local )?([\w, ]+) = ([^\n]*)$", source, re.MULTILINE):
        split = [each.strip() for each in names.split(",")]
        if name in split and "unpack(" not in values:
            parts, rest = [], values + ")"
            while rest:
                part = argument(rest, 0)
                parts.append(part)
                rest = rest[rest.index(part) + len(part) + 1 :]
            yield parts[split.index(name)] if len(parts) == len(split) else values


@pytest.mark.parametrize("name", sorted(files()))
def test_a_script_takes_its_keys_from_those_it_was_given(name: str) -> None:
    if is_library(name):
        return
    source = re.sub(r"--[^\n]*", "", composed()[name])
    wrong = set()
    for used in keys_used(source):
        for meant in (used, *(assigned(source, used) if re.fullmatch(r"\w+", used) else ())):
            if is_made(meant) and (name, meant) not in UNDECLARED:
                wrong.add(meant)
    assert wrong == set()


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("redis.call('GET', KEYS[1])", True),
        ("local log = KEYS[1]\nredis.call('XADD', log, '*', 'a', ARGV[1])", True),
        ("local a, b = KEYS[1], KEYS[2]\nredis.call('GET', b)", True),
        ("redis.call('GET', own('-queue:' .. team))", True),
        ("redis.call('TIME')", True),
        ("redis.call('GET', KEYS[1] .. ':x')", False),
        ("local marks = log .. ':marks'\nredis.call('RPUSH', marks, id)", False),
        ("local a, b = KEYS[1], ARGV[1]\nredis.call('GET', b)", False),
        ("redis.call('GET', string.format('%s', base))", False),
        ("redis.call('GET', 'name')", False),
    ],
)
def test_the_check_of_scripts_finds_a_key_that_was_made(source: str, right: bool) -> None:
    made = [
        meant
        for used in keys_used(source)
        for meant in (used, *(assigned(source, used) if re.fullmatch(r"\w+", used) else ()))
        if is_made(meant)
    ]
    assert (made == []) is right
