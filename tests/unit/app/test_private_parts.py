"""The table of private parts is complete and correct, and the server refuses to start if one is missing."""

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
# Private names of Python itself: of namedtuple, argparse, os and abc.
PYTHONS = {"_replace", "_asdict", "_actions", "_ArgumentGroup", "_exit", "_abc_impl", "_is_protocol"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_the_installed_libraries_have_all_private_parts() -> None:
    assert lacking() == ""


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        (
            Part("tornado", "6.6.1", "tornado.web", "RequestHandler", ("_log", "_gone")),
            "tornado.web.RequestHandler._gone",
        ),
        (Part("tornado", "6.6.1", "tornado.nowhere", "X", ("_log",)), "tornado.nowhere.X"),
        (Part("tornado", "6.6.1", "tornado.web", "Nobody", ("_log",)), "tornado.web.Nobody"),
        (
            Part("valkey", "6.2.0", "valkey.asyncio.connection", "Connection", (), (("disconnect", "later"),)),
            "valkey.asyncio.connection.Connection.disconnect(later)",
        ),
    ],
)
def test_the_error_for_a_missing_part_names_the_version_to_install(part: Part, gone: str) -> None:
    said = lacking((part,))
    assert gone in said and "\n" not in said
    assert said.endswith(f"install {wanted(part.library)}") and "<" in wanted(part.library)


def test_the_server_refuses_to_start_if_a_part_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        private_parts, "PARTS", (Part("tornado", "6.6.1", "tornado.web", "RequestHandler", ("_gone",)),)
    )
    assert process.run(load([], {})) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("insightdesk-rt: tornado ") and "RequestHandler._gone" in line


def test_every_private_name_of_a_library_is_in_the_table() -> None:
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


def test_tornados_private_names_are_used_in_one_file() -> None:
    names = {name for part in PARTS if part.library == "tornado" for name in part.names}
    places: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in names:
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                if not own:
                    places.setdefault(node.attr, set()).add(path.relative_to(PACKAGE).as_posix())
    assert {file for files in places.values() for file in files} == {"engine/transport/tornado_private.py"}


def subclasses() -> Iterator[tuple[type, list[type]]]:
    """Yield each class of ours that derives from a class of a library, with those bases."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "insightdesk_rt."):
        if module.name.endswith("__main__"):
            continue
        for each in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(each) and each.__module__ == module.name:
                bases = [base for base in each.__mro__[1:] if base.__module__.split(".")[0] in LIBRARIES]
                if bases:
                    yield each, bases


def test_every_private_name_that_a_subclass_uses_is_in_the_table() -> None:
    """Names that a class of ours overrides, sets or reads of a library's class from which it derives."""
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
