"""The table of private parts is complete, all of them are there, and a start without one is refused in one line."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import insightdesk_rt
from insightdesk_rt.app import private_parts, process
from insightdesk_rt.app.config import load
from insightdesk_rt.app.private_parts import PARTS, Part, lacking, wanted

PACKAGE = Path(insightdesk_rt.__file__).parent
KNOWN = {name for part in PARTS for name in part.names}
LIBRARIES = ("tornado", "valkey")
# Names of Python's own, which are not a library's: namedtuple, argparse, os, abc.
PYTHONS = {"_replace", "_asdict", "_actions", "_ArgumentGroup", "_exit", "_abc_impl", "_is_protocol"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_all_private_parts_are_there() -> None:
    assert lacking() == ""


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        (Part("tornado", "tornado.web", "RequestHandler", ("_log", "_gone")), "tornado.web.RequestHandler._gone"),
        (Part("tornado", "tornado.nowhere", "X", ("_log",)), "tornado.nowhere.X"),
        (Part("tornado", "tornado.web", "Nobody", ("_log",)), "tornado.web.Nobody"),
        (
            Part("valkey", "valkey.asyncio.connection", "Connection", (), (("disconnect", "later"),)),
            "valkey.asyncio.connection.Connection.disconnect(later)",
        ),
    ],
)
def test_a_part_that_is_gone_is_named_with_what_to_install(part: Part, gone: str) -> None:
    said = lacking((part,))
    assert gone in said and "\n" not in said
    assert said.endswith(f"install {wanted(part.library)}") and "<" in wanted(part.library)


def test_the_server_does_not_start_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(private_parts, "PARTS", (Part("tornado", "tornado.web", "RequestHandler", ("_gone",)),))
    assert process.run(load([], {})) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("insightdesk-rt: tornado ") and "RequestHandler._gone" in line


def test_every_private_name_that_is_not_ours_is_in_the_table() -> None:
    used: dict[str, str] = {}
    ours: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                own = isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
                if own:
                    ours.add(node.attr)
                else:
                    used[node.attr] = f"{path.name}:{node.lineno}"
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value):
                ours.add(node.value)  # __slots__
    assert {name: place for name, place in used.items() if name not in ours | KNOWN | PYTHONS} == {}


def subclasses() -> Iterator[tuple[type, list[type]]]:
    """Yield our classes that have bases of the libraries, with those."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "insightdesk_rt."):
        if module.name.endswith("__main__"):
            continue
        for each in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(each) and each.__module__ == module.name:
                bases = [base for base in each.__mro__[1:] if base.__module__.split(".")[0] in LIBRARIES]
                if bases:
                    yield each, bases


def test_every_private_name_that_a_subclass_touches_is_in_the_table() -> None:
    """What a class of ours overrides, sets or reads of a library's class that it derives from."""
    missing = set()
    for each, bases in subclasses():
        theirs = set().union(*(private_parts._names_of(base) for base in bases))
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | vars(each).keys()
        missing |= {
            f"{each.__qualname__}.{name}" for name in touched & theirs if is_private(name) and name not in KNOWN
        }
    # set by the decorator `stream_request_body`, which is public
    assert {name for name in missing if name.split(".")[1] not in PYTHONS | {"_stream_request_body"}} == set()
