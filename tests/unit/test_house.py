"""The architecture, held by a test: floors, forbidden imports, one file per event name, a test beside each source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "insightdesk_rt"
TESTS = Path(__file__).parents[1]

# file or folder → floor; a file may import floors up to its own
FLOORS = {
    "ids": 0,
    "model": 0,
    "errors": 0,
    "addresses": 0,
    "origins": 0,
    "config": 0,
    "auth": 0,
    "limits": 0,
    "tally": 0,
    "wire": 0,
    "seldom": 1,
    "transport": 1,
    "hub": 2,
    "cluster": 3,
    "stores": 3,
    "keys": 3,
    "embedded": 3,
    "certificates": 3,
    "private_parts": 6,
    "folder": 3,
    "namespaces": 4,
    "drain": 4,
    "desk": 4,
    "moderation": 4,
    "emitter": 4,
    "demo": 4,
    "handlers": 5,
    "admin": 5,
    "observe": 5,
    "node_stats": 5,
    "pieces": 6,
    "server": 6,
    "clocks": 6,
    "listening": 6,
    "workers": 6,
    "process": 6,
    "cli": 6,
    "commands": 6,
    "operate": 6,
    "__main__": 6,
    "__init__": 0,
}

# library → where alone it may be imported (a prefix of the module's path inside the package)
ONLY_IN = {
    "tornado": ("transport", "handlers", "admin", "server", "clocks", "listening", "keys"),
    "valkey": ("cluster/valkey", "emitter"),
    "libvalkey": ("cluster/",),
    "ujson": ("wire/json",),
    "jwt": ("auth", "keys"),
    "prometheus_client": ("admin/metrics",),
    "cryptography": ("admin/sessions", "certificates"),
    "socket": (
        "transport",
        "cluster",
        "handlers/relay",
        "handlers/short_way",
        "handlers/visitor",
        "server",
        "listening",
        "workers",
        "process",
        "embedded",
    ),
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def floor_of(name: str) -> int:
    return FLOORS[name.split("/")[0]]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module.startswith("insightdesk_rt"):
                for alias in node.names:
                    yield f"{module}.{alias.name}", node.lineno
            else:
                yield module, node.lineno


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_arrows_only_point_down(path: Path) -> None:
    mine = floor_of(name_of(path))
    for module, line in imports(path):
        package, _, rest = module.partition(".")
        if package == "insightdesk_rt" and rest.split(".")[0] in FLOORS:
            assert floor_of(rest.split(".")[0]) <= mine, f"{path}:{line} imports {module} from a higher floor"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_libraries_stay_behind_their_door(path: Path) -> None:
    name = name_of(path)
    for module, line in imports(path):
        doors = ONLY_IN.get(module.split(".")[0])
        if doors is not None:
            assert name.startswith(doors), f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_each_file_says_what_it_owns(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "the first paragraph says what the file owns"


def test_floor_zero_is_pure() -> None:
    for path in sources():
        if floor_of(name_of(path)) == 0:
            tree = ast.parse(path.read_text())
            assert not any(isinstance(n, ast.AsyncFunctionDef | ast.Await) for n in ast.walk(tree)), path
            assert not {"time", "asyncio", "socket", "threading"} & {m for m, _ in imports(path)}, path


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_text_files_are_read_and_written_with_an_encoding(path: Path) -> None:
    """Without one Python takes the machine's: under zh_CN.GBK a Lua script with a typographic sign cannot be read."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert not _leaves_encoding_to_the_machine(node), f"{path}:{node.lineno}"


def _leaves_encoding_to_the_machine(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) <= (name == "write_text")
    if name == "fdopen" or (name == "open" and isinstance(call.func, ast.Name)):
        mode = call.args[1] if len(call.args) > 1 else keywords.get("mode")
        return "b" not in str(getattr(mode, "value", "r"))
    text = keywords.get("text") or keywords.get("universal_newlines")
    return isinstance(text, ast.Constant) and text.value is True


@pytest.mark.parametrize(
    ("code", "leaves"),
    [
        ("p.read_text()", True),
        ("p.read_text('utf-8')", False),
        ("p.write_text(t)", True),
        ("p.write_text(t, encoding='utf-8')", False),
        ("open(p)", True),
        ("open(p, 'rb')", False),
        ("os.fdopen(f, 'w')", True),
        ("subprocess.run(c, text=True)", True),
        ("self.open(p)", False),
    ],
)
def test_the_search_for_missing_encodings_finds_them(code: str, leaves: bool) -> None:
    """The test above must be able to fail."""
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call) and _leaves_encoding_to_the_machine(call) is leaves


def test_an_event_name_stands_in_its_namespaces_files_only() -> None:
    """A grep for "ticket:updated" finds namespaces/ticket*.py and nothing else in the package."""
    event = re.compile(r"(ticket|chat|notification|presence|metrics|session|server):[a-z][A-Za-z]*")
    where: dict[str, set[str]] = {}
    for path in sources():
        if name_of(path).startswith("demo/"):  # the demo's robots are clients
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and event.fullmatch(node.value):
                where.setdefault(node.value, set()).add(re.sub(r"(s|_\w+)$", "", name_of(path)))
    assert where
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_each_source_has_its_test() -> None:
    """tests/unit mirrors the package; what can only be tested with real parts around it is named here."""
    elsewhere = {
        "__main__": "integration/test_process.py",
        "process": "integration/test_process.py",
        "server": "integration/test_process.py",
        "desk": "integration/test_process.py",
        "workers": "integration/test_workers.py",
        "handlers/relay": "integration/test_relay.py",
        "admin/nodes": "integration/test_nodes.py",
        "admin/clients": "integration/test_connections.py",
        "admin/connections": "integration/test_connections.py",
        "admin/users": "integration/test_connections.py",
        "admin/helpdesk": "integration/test_helpdesk_admin.py",
        "admin/stream": "integration/test_watch.py",
        "admin/watch": "integration/test_watch.py",
        "cluster/tap": "integration/test_watch.py",
        "admin/metrics": "integration/test_metrics.py",
        "operate": "unit/test_cli.py",
        "embedded": "integration/test_embedded.py",
        "demo": "integration/test_demo.py",
        "handlers/base": "integration/test_engineio_http.py",
        "handlers/port": "integration/test_engineio_http.py",
        "handlers/visitor": "unit/handlers/test_short_way.py",
        "transport/unread": "unit/test_listening.py",
        "handlers/framing": "hostile/test_limits.py",
        "handlers/engineio": "integration/test_engineio_http.py",
        "handlers/native": "contract/test_transport.py",
        "handlers/demo": "integration/test_demo.py",
        "transport/base": "contract/test_transport.py",
        "transport/client": "contract/test_transport.py",
        "transport/stream": "contract/test_transport.py",
        "transport/polling": "contract/test_transport.py",
        "hub/backplane": "contract/test_backplane.py",
        "cluster": "contract/test_backplane.py",
        "namespaces/calls": "unit/namespaces/test_dispatch.py",
        "namespaces/expiry": "unit/namespaces/test_dispatch.py",
        "admin/audit": "integration/test_admin.py",
        "admin/console": "console/test_sessions.py",
        "admin/routes": "integration/test_admin.py",
        "admin/push": "unit/admin/test_push.py",
        "admin/whom": "hostile/test_separate_ids.py",
        "admin/moderation": "integration/test_moderation.py",
        "admin/rechecks": "integration/test_moderation.py",
        "stores/readers": "unit/namespaces/test_host_access.py",
        "namespaces/ticket_audience": "unit/namespaces/test_host_access.py",
        "admin/notices": "integration/test_moderation.py",
        "admin/tuning": "integration/test_moderation.py",
        "moderation": "integration/test_moderation.py",
        "commands": "integration/test_commands.py",
        "stores/rules": "unit/moderation/test_rules.py",
        "wire/codec": "unit/wire/test_socketio.py",
        "wire/unfinished": "unit/wire/test_frames.py",
        "wire/limits": "hostile/test_wire_limits.py",
    }
    missing = []
    for path in sources():
        name = name_of(path)
        if path.name == "__init__.py":
            continue
        folder, _, stem = name.rpartition("/")
        mirrored = TESTS / "unit" / folder / f"test_{stem}.py"
        place = elsewhere.get(name) or elsewhere.get(folder, "nowhere")
        if not mirrored.exists() and not (TESTS / place).exists():
            missing.append(name)
    assert missing == []
