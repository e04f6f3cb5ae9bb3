"""A node that is cut off from Valkey but still runs: its users stay online, and a revocation names it as missing.

Also a node that dies together with Valkey: its users are shown as offline within the usual time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.aio import aio, until
from tests.support.cable import Cable
from tests.support.native_client import NativeDoor
from tests.support.own_valkey import OwnValkey
from tests.support.server import ServerProcess, free_port

DOOR = NativeDoor()
GONE_WITHIN_S = 15.0


class Site:
    """Nodes n1 and n2 on a Valkey; n2 reaches it through a cable that can be cut."""

    def __init__(self, folder: Path, valkey: OwnValkey, port: int, settings: dict[str, object]) -> None:
        self._settings = settings
        self.valkey = valkey
        self.cable = Cable("127.0.0.1", port)
        self._folder, self._port = folder, port
        self.one: ServerProcess
        self.two: ServerProcess

    async def start(self) -> None:
        common = {"valkey_prefix": "cut" + secrets.token_hex(3), "drain_seconds": 0, **self._settings}
        urls = [f"valkey://127.0.0.1:{port}" for port in (self._port, await self.cable.lay())]
        self.one, self.two = (
            ServerProcess(self._folder / name, node_id=name, valkey_url=url, **common)
            for name, url in zip(("n1", "n2"), urls, strict=True)
        )
        for server in (self.one, self.two):
            await asyncio.to_thread(server.start)

    async def nodes(self) -> list[str]:
        """Return the names of the living nodes, as n1 sees them."""
        _, answer = await self.one.push("GET", "/api/v1/nodes")
        return [node["node"] for node in answer["nodes"]]

    async def until_alone(self) -> None:
        """Wait until n1 has declared n2 dead."""
        end_s = time.monotonic() + GONE_WITHIN_S
        while await self.nodes() != ["n1"]:
            assert time.monotonic() < end_s, "n2 is not declared dead"
            await asyncio.sleep(0.1)

    async def until_two(self) -> None:
        end_s = time.monotonic() + GONE_WITHIN_S
        while await self.nodes() != ["n1", "n2"]:
            assert time.monotonic() < end_s, "n2 is not back"
            await asyncio.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@asynccontextmanager
async def a_site(folder: Path, **settings: object) -> AsyncIterator[Site]:
    port = free_port()
    with OwnValkey("--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes") as valkey:
        site = Site(folder, valkey, port, settings)
        try:
            await site.start()
            yield site
        finally:
            for server in (site.one, site.two):
                if server.process is not None and server.process.poll() is None:
                    server.kill()
            await site.cable.remove()


@aio
async def test_users_of_a_node_that_is_cut_off_from_valkey_stay_online_and_a_revocation_names_it(folder: Path) -> None:
    async with a_site(folder, presence_grace_ms=500) as site:
        watcher = await DOOR.open(site.one.address, "/presence", {"token": site.one.token("ann", "agent", "red")})
        bob = await DOOR.open(site.two.address, "/presence", {"token": site.one.token("bob", "agent", "red")})
        assert (await watcher.expect("presence:update", {"userId": "bob"}))["status"] == "online"
        watcher.forget()
        _, before = await site.one.push("GET", "/api/v1/nodes")
        (incarnation,) = [node["incarnation"] for node in before["nodes"] if node["node"] == "n2"]
        site.cable.hush()
        await site.until_alone()
        order = {"userId": "bob", "reason": "a test"}
        status, dry = await site.one.push("POST", "/api/v1/revocations", {**order, "dryRun": True})
        assert (status, dry["missing"]) == (200, [incarnation])
        status, done = await site.one.push("POST", "/api/v1/revocations", {**order, "userId": "carol"})
        assert (status, done["missing"]) == (201, [incarnation])
        await asyncio.sleep(4)  # many times the grace period after which a dead node's users are offline
        assert watcher.pending("presence:update", {"userId": "bob"}) == [], "bob flaps"
        status, done = await site.one.push("POST", "/api/v1/revocations", order)
        assert (status, done["count"], done["missing"]) == (201, 0, [incarnation])
        assert bob.connected, "the answer names it"
        site.cable.mend()
        await bob.gone()
        await site.until_two()

        async def missing() -> list[str]:
            _, answer = await site.one.push("POST", "/api/v1/revocations", order)
            found: list[str] = answer["missing"]
            return found

        end_s = time.monotonic() + GONE_WITHIN_S
        while await missing():
            assert time.monotonic() < end_s, "the node is back, but is still named"
            await asyncio.sleep(0.2)
        await watcher.close()


@aio
async def test_users_of_a_node_that_dies_while_it_is_cut_off_go_offline_and_it_is_not_named_any_more(
    folder: Path,
) -> None:
    async with a_site(folder, presence_grace_ms=500) as site:
        watcher = await DOOR.open(site.one.address, "/presence", {"token": site.one.token("ann", "agent", "red")})
        await DOOR.open(site.two.address, "/presence", {"token": site.one.token("bob", "agent", "red")})
        assert (await watcher.expect("presence:update", {"userId": "bob"}))["status"] == "online"
        site.cable.hush()
        await site.until_alone()
        site.two.kill()
        update = await watcher.expect("presence:update", {"userId": "bob"}, deadline_s=GONE_WITHIN_S)
        assert update["status"] == "offline"
        status, done = await site.one.push("POST", "/api/v1/revocations", {"userId": "bob", "reason": "a test"})
        assert (status, done["missing"]) == (201, [])
        await watcher.close()


@aio
async def test_users_of_a_node_that_dies_together_with_valkey_are_offline_within_fifteen_seconds(
    folder: Path,
) -> None:
    """After Valkey's return, no node is declared dead for a moment, because all leases look old; it must be short."""
    async with a_site(folder) as site:
        watcher = await DOOR.open(site.one.address, "/presence", {"token": site.one.token("ann", "agent", "red")})
        await DOOR.open(site.two.address, "/presence", {"token": site.one.token("bob", "agent", "red")})
        assert (await watcher.expect("presence:update", {"userId": "bob"}))["status"] == "online"
        began_s = time.monotonic()
        site.two.kill()
        site.valkey.kill()
        await asyncio.to_thread(site.valkey.start)
        update = await watcher.expect("presence:update", {"userId": "bob"}, deadline_s=GONE_WITHIN_S)
        assert update["status"] == "offline"
        print(f"offline {time.monotonic() - began_s:.1f} s after both died")
        await until(lambda: watcher.connected, "the watcher stays online")
        await watcher.close()
