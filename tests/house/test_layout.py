"""Tests of the package's layout: wings, allowed imports, budgets, unique names.

    engine ← api ← helpdesk ← backend ← operations ← demo ← app

A file imports files of its own wing and of the wings to the left of it. The folders of the engine have an order, too.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "insightdesk_rt"
TESTS = ROOT / "tests"

WINGS = ("engine", "api", "helpdesk", "backend", "operations", "demo", "app")
ENGINE = ("wire", "transport", "hub", "cluster", "dispatch", "doors")

# Lines of Python and Lua, docstrings included. Raise one in the commit that needs it, with the reason.
BUDGETS = {
    # its parts declare their settings and the hooks of features, with their docstrings and helps; joins that start
    # again after a recheck of access, for all features and for clients that return; tokens of several
    # issuers; partitions of Valkey's keys; Sentinel and Valkey Cluster: URLs, finding and leaving primaries, routes;
    # limits that count once per cluster: windows, buckets and caps that know of other nodes, and their exchange
    "engine": 19_300,
    "api": 1_950,
    # access is asked of the host's Python check, of its back end, or both; all keys of each script are named
    "helpdesk": 8_900,
    # the hooks: a client with its breaker, questions about access with their cache
    # the feed and the webhooks
    "backend": 5_200,
    "operations": 4_800,
    "demo": 1_100,
    "app": 4_150,
}
MAX_FUNCTION_LINES = 40
HAVE_A_CLOCK = {"engine/periodic", "engine/seldom", "engine/tasks"}

# Imports and functions that still break a rule. Rows may only be removed; a row that no longer applies fails its test.
ARROWS_TO_TURN: set[tuple[str, str]] = set()
CIRCLES_TO_BREAK: list[list[str]] = []
FUNCTIONS_TO_SHORTEN: set[str] = set()

# Who starts a task by itself, and why OwnedTasks (engine/tasks.py) does not own it.
STARTS_TASKS = {
    "engine/tasks": "it is the home of tasks",
    "engine/periodic": "a turn that has begun goes on to its end, also when the work is stopped",
    "engine/cluster/node_calls": "the function that starts the task waits for it, and cancels it",
    "engine/cluster/primary": "its tasks live as long as the connection, which ends them in order",
    "engine/cluster/sentinels": "the function that starts the tasks waits for them, and cancels them",
    "engine/transport/stream": "one for each connection, which ends it; a set for each would cost memory",
    "helpdesk/tickets/audience": "the function that starts the tasks waits for them, and cancels them",
}

# Library → the only paths in the package (by their beginning) that may import it.
ONLY_IN = {
    "tornado": (
        "engine/transport",
        "engine/doors",
        "engine/periodic",
        "engine/published_keys",
        "api",
        "operations",
        "demo/routes",
        "feed",
        "backend/webhooks",
        "app/server",
        "app/private_parts",
    ),
    "valkey": ("engine/cluster/", "emitter", "app/config", "app/cli"),
    "libvalkey": ("engine/cluster/",),
    "ujson": ("engine/wire/json",),
    "jwt": ("engine/tokens",),
    "aiohttp": ("backend/",),
    "standardwebhooks": ("backend/",),
    "prometheus_client": ("operations/views/metrics",),
    "cryptography": ("operations/console/sessions", "app/certificates"),
    "socket": ("engine/transport", "engine/cluster", "engine/doors", "backend/webhooks/addresses", "app"),
}


@cache
def sources() -> tuple[Path, ...]:
    return tuple(sorted(PACKAGE.rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


@cache
def modules() -> dict[str, Path]:
    """Return dotted name → file of every module in the package."""
    return {name_of(path).removesuffix("/__init__").replace("/", "."): path for path in sources()}


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Return (imported module, line) of a file, including imports for type checking and inside functions."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return tuple(found)


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (module of this package, line) of what a file imports."""
    for name, line in imports(path):
        package, _, inner = name.partition(".")
        while package == "insightdesk_rt" and inner:
            if inner in modules():
                yield inner, line
                break
            inner = inner.rpartition(".")[0]


def rank(module: str) -> tuple[int, int]:
    """Return the position of a module in the order of allowed imports."""
    wing, *inner = module.split(".")
    if module in ("emitter", "feed"):
        return WINGS.index("helpdesk"), 0  # what other programs import: what they publish and read is the helpdesk's
    if wing not in WINGS:
        return len(WINGS), 0  # the package itself, and python -m insightdesk_rt
    if wing != "engine":
        return WINGS.index(wing), 0
    if not inner or inner[0] not in ENGINE:
        # they make the cluster's key, and fetch keys: not pure
        above = module in ("engine.signing_keys", "engine.published_keys")
        return 0, ENGINE.index("dispatch") if above else 0
    return 0, ENGINE.index(inner[0]) + (0 if inner[0] == "wire" else 1)


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_file_imports_its_own_wing_and_those_to_the_left(path: Path) -> None:
    mine = name_of(path).removesuffix("/__init__").replace("/", ".")
    wrong = {(mine, module) for module, _ in own_imports(path) if rank(module) > rank(mine)}
    assert wrong == {arrow for arrow in ARROWS_TO_TURN if arrow[0] == mine}, f"imports to the right: {sorted(wrong)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {name: {module for module, _ in own_imports(path)} - {name} for name, path in modules().items()}
    found = [sorted(circle) for circle in circles(arrows)]
    assert found == CIRCLES_TO_BREAK, (
        f"these files import each other: {found}. Pass a function instead of importing the module; a route that needs "
        "its namespace belongs in backend/push, and a feature imports its own routes inside routes()"
    )


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or indirectly."""
    reached = {name: set(goals) for name, goals in arrows.items()}
    grown = True
    while grown:
        grown = False
        for goals in reached.values():
            more = set().union(*(reached[goal] for goal in goals)) - goals
            goals |= more
            grown = grown or bool(more)
    found = {frozenset(other for other in goals if name in reached[other]) for name, goals in reached.items()}
    return sorted((set(circle) for circle in found if len(circle) > 1), key=len)


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    name = name_of(path)
    for module, line in imports(path):
        places = ONLY_IN.get(module.split(".")[0])
        if places is not None:
            assert name.startswith(places), f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_every_file_has_a_docstring_about_what_it_owns(path: Path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(path)), "the first paragraph says what the file owns"


def test_no_wing_exceeds_its_budget() -> None:
    sizes: dict[str, int] = defaultdict(int)
    for path in (*sources(), *PACKAGE.rglob("*.lua")):
        wing = path.relative_to(PACKAGE).parts[0]
        sizes[wing] += len(path.read_text(encoding="utf-8").splitlines())
    over = {wing: sizes[wing] for wing, budget in BUDGETS.items() if sizes[wing] > budget}
    assert not over, f"split, shorten, or raise the budget with a reason: {over}"


def test_no_function_is_longer_than_forty_lines() -> None:
    long = {
        f"{name_of(path)} {node.name}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == FUNCTIONS_TO_SHORTEN, f"longer than {MAX_FUNCTION_LINES} lines: {sorted(long)}"


def test_a_class_name_occurs_once() -> None:
    """So a class name identifies its class."""
    where: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(name_of(path))
    twice = {name: files for name, files in where.items() if len(files) > 1}
    assert not twice, f"rename one of each: {twice}"


def test_the_pure_core_has_no_await_no_clock_and_no_socket() -> None:
    """The wire, the model, the errors, the tokens and the rate limits get bytes and times as arguments."""
    pure = [path for path in sources() if rank(name_of(path).replace("/", ".")) == (0, 0)]
    assert len(pure) > 15
    for path in pure:
        if name_of(path) in HAVE_A_CLOCK:
            continue
        assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree(path))), path
        assert not {"time", "asyncio", "socket", "threading"} & {module for module, _ in imports(path)}, path


def test_a_background_task_has_an_owner_that_ends_it_and_logs_its_failure() -> None:
    started = {
        name_of(path)
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future")
    }
    assert started == set(STARTS_TASKS), "use OwnedTasks, or give the reason here"


def test_an_event_name_occurs_only_in_its_features_folder() -> None:
    """A search for "ticket:updated" finds helpdesk/tickets/ and nothing else in the package."""
    event = re.compile(r"(ticket|chat|notification|presence|metrics|session|server):[a-z][A-Za-z]*")
    where: dict[str, set[str]] = defaultdict(set)
    for path in sources():
        if name_of(path).startswith("demo/"):  # the demo's robots are clients
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and event.fullmatch(node.value):
                where[node.value].add(path.parent.relative_to(PACKAGE).as_posix())
    assert where
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_the_architecture_page_names_every_file_once() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z_/]+\.py)` \|", page, re.MULTILINE)
    files = [f"{name_of(path)}.py" for path in sources() if path.name not in ("__init__.py", "__main__.py")]
    missing, gone = sorted(set(files) - set(listed)), sorted(set(listed) - set(files))
    assert not missing and not gone, f"add rows for {missing}, remove those of {gone}"
    assert len(listed) == len(set(listed))
