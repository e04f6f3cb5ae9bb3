"""Routes: which primary has which partition now.

`OneRoute` is for one server and for a primary that Sentinels name: it has everything. `ClusterRoutes` is for a Valkey
Cluster. It keeps the cluster's map of slots and a `Primary` for each server that owns a partition of ours. The map is
read again when a server answers that keys have moved (MOVED, ASK, TRYAGAIN, CLUSTERDOWN), when a connection is lost,
and every half minute. Until the map shows a primary that can be reached, commands for its partitions fail with
UNAVAILABLE, as they do while a single server is unreachable; those for other partitions go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from insightdesk_rt.engine.cluster.outage import NoServer
from insightdesk_rt.engine.cluster.primary import Primary, PrimarySettings
from insightdesk_rt.engine.cluster.sentinels import SentinelFinder, watch_sentinel
from insightdesk_rt.engine.cluster.slots import SlotMap, ask_for_map, slot_of
from insightdesk_rt.engine.cluster.valkey_url import Endpoint, Host, Topology, ValkeyUrl
from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.tasks import OwnedTasks

log = logging.getLogger(__name__)

LOOK_S = 30.0  # between two looks at the map while everything works
# Between two looks while something does not work. A failover is to be found at once, but in a long outage of a primary,
# or a long migration, a hundred nodes should not ask the other servers all the time.
SOON_S, SELDOM_S = 0.1, 2.0
ASK_PART = 0.5  # of a command's deadline: how long Sentinels and cluster servers may take to answer
MAX_TAGS = 10_000  # remembered tags of keys; ours are some twenty, and a mistake must not fill the memory


class Route:
    """Where one partition is. `run_id`: of the server that served it last, or ""."""

    __slots__ = ("primary", "run_id", "slot", "tag", "watchers")

    def __init__(self, tag: str, primary: Primary | None = None) -> None:
        self.tag = tag
        self.slot = slot_of(tag)
        self.primary = primary
        self.run_id = ""
        self.watchers: list[Callable[[bool], None]] = []

    def reachable(self) -> Primary:
        """Return the primary. Raises RtError UNAVAILABLE if the cluster has none for this partition."""
        if self.primary is None:
            raise RtError("UNAVAILABLE")
        return self.primary

    def served_by(self, run_id: str) -> bool:
        """Note which server serves the partition now, and call the watchers. Returns whether it is another one."""
        changed = self.run_id not in ("", run_id)
        self.run_id = run_id
        call_all(self.watchers, changed)
        return changed


def call_all(listeners: Iterable[Callable[[bool], None]], changed: bool) -> None:
    for call in listeners:
        try:
            call(changed)
        except Exception:
            log.exception("a listener for Valkey's connect failed")


def counted(primaries: Iterable[Primary]) -> Counter[str]:
    sums = Counter[str](commands=0, batches=0, failed=0, connects=0)
    for primary in primaries:
        for name in sums:
            sums[name] += getattr(primary.main, name)
    return sums


class OneRoute:
    """All partitions lie on one primary. Sentinels, if there are any, are asked for it before each connect."""

    def __init__(self, url: ValkeyUrl, settings: PrimarySettings, seconds: Histogram, tag: str) -> None:
        self.url = url
        self._finder = SentinelFinder(url, settings.deadline_ms / 1000 * ASK_PART)
        self.only: Primary = Primary(self._where, settings, self, seconds)
        self.on_up: list[Callable[[bool], None]] = []
        self._route = Route(tag, self.only)
        self._looking = False
        self._tasks = OwnedTasks(log)

    def of(self, key: str) -> Route:
        return self._route

    def primaries(self) -> list[Primary]:
        return [self.only]

    def missing(self) -> list[str]:
        return []

    def trouble(self) -> str:
        return self.only.trouble

    async def fitness(self) -> str:
        return await self.only.fitness(probe_key(self._route))

    def counters(self) -> dict[str, int]:
        return dict(counted([self.only]))

    async def where(self, key: str) -> Endpoint:
        return await self._where()

    def lost(self, key: str) -> None:
        pass  # it is looked up before each connect

    async def start(self) -> None:
        await self.only.start()
        if self.url.topology is Topology.SENTINEL:
            for host in self.url.hosts:
                self._tasks.spawn(watch_sentinel(self.url, host, self._switched), "watching a Sentinel")

    async def close(self) -> None:
        await self._tasks.close()
        await self.only.close()

    async def _where(self) -> Endpoint:
        if self.url.topology is Topology.SENTINEL:
            return await self._finder.find()
        return self.url.endpoint()

    def _switched(self) -> None:
        if not self._looking:
            self._looking = True
            self._tasks.spawn(self._leave_former(), "looking for the primary")

    async def _leave_former(self) -> None:
        """Leave the present server if the Sentinels name another one."""
        self.only.retry()
        try:
            named = await self._finder.find(all_of_them=True)
        except NoServer:
            return
        finally:
            self._looking = False
        at = self.only.main.endpoint
        if at is not None and (named.host, named.port) != (at.host, at.port):
            self.only.leave(f"the Sentinels name another primary, {named}")

    # ── what the primary reports ──────────────────────────────────────────────────────────────────────────────────

    def came_up(self, primary: Primary) -> None:
        call_all(self.on_up, self._route.served_by(primary.run_id))

    def went_down(self, primary: Primary) -> None:
        pass

    def redirected(self, primary: Primary, why: str) -> None:
        pass  # a server that is made a cluster's while it runs refuses everything; the next connect says so


class ClusterRoutes:
    """Partitions lie on several primaries. `tags` are the partitions that must be served from the start."""

    only: Primary | None = None

    def __init__(self, url: ValkeyUrl, settings: PrimarySettings, seconds: Histogram, tags: Sequence[str]) -> None:
        self.url = url
        self._settings = settings
        self._seconds = seconds
        self.on_up: list[Callable[[bool], None]] = []
        self.map = SlotMap((), -1, False)
        self._why = "the cluster's map is not known yet"  # "" once it is
        self._primaries: dict[Host, Primary] = {}
        self._routes = {tag: Route(tag) for tag in tags}
        self._by_key: dict[str, Route] = {}
        self._closed: Counter[str] = counted([])  # what closed primaries counted
        self._look = asyncio.Event()  # set: look at the map
        self._moved = asyncio.Event()  # set: look at the map now, it has certainly changed
        self._tasks = OwnedTasks(log)

    # ── what the facade asks ──────────────────────────────────────────────────────────────────────────────────────

    def of(self, key: str) -> Route:
        """Return the route of a key's or channel's partition. hot: once per command."""
        start = key.find("{") + 1
        end = key.find("}", start)
        tag = key[start:end] if 0 < start < end else key
        return self._routes.get(tag) or self._new(tag)

    def primaries(self) -> list[Primary]:
        return list(self._primaries.values())

    def missing(self) -> list[str]:
        """Return the tags of partitions that no primary has, as far as is known."""
        return [route.tag for route in self._routes.values() if route.primary is None]

    def by_tag(self) -> dict[str, Route]:
        return dict(self._routes)

    def partitions_of(self, primary: Primary) -> list[str]:
        return [route.tag for route in self._routes.values() if route.primary is primary]

    def trouble(self) -> str:
        if self._why and not self._primaries:
            return self._why
        whys = [
            f"the primary {primary.name} with {listed(self.partitions_of(primary))}: {primary.trouble}"
            for primary in self._primaries.values()
            if primary.trouble
        ]
        if missing := self.missing():
            whys.append(f"no primary of the cluster has {listed(missing)}")
        return "; ".join(whys)

    async def fitness(self) -> str:
        if self.missing() or not all(primary.available for primary in self._primaries.values()):
            return self.trouble()
        routes = {route.primary: route for route in self._routes.values() if route.primary is not None}
        found = await asyncio.gather(*(primary.fitness(probe_key(route)) for primary, route in routes.items()))
        return "; ".join(
            f"the primary {primary.name} with {listed(self.partitions_of(primary))}: {why}"
            for primary, why in zip(routes, found, strict=True)
            if why
        )

    def counters(self) -> dict[str, int]:
        now = counted(self._primaries.values())
        return {name: self._closed[name] + total for name, total in now.items()}

    async def where(self, key: str) -> Endpoint:
        route = self.of(key)
        host = self.map.owner(route.slot)
        if host is None:
            raise NoServer(self._why or f"no primary of the cluster has {listed([route.tag])}")
        return self.url.endpoint(host)

    def lost(self, key: str) -> None:
        self._look.set()

    async def start(self) -> None:
        """Read the map and connect to the primaries; wait up to the deadline for both."""
        await self._read_map()
        self._tasks.spawn(self._keep_looking(), "the cluster's map")
        await asyncio.gather(*(primary.soon_up() for primary in self._primaries.values()))

    async def close(self) -> None:
        await self._tasks.close()
        await asyncio.gather(*(primary.close() for primary in self._primaries.values()))

    # ── what the primaries report ─────────────────────────────────────────────────────────────────────────────────

    def came_up(self, primary: Primary) -> None:
        self._serve([route for route in self._routes.values() if route.primary is primary], primary.run_id)

    def went_down(self, primary: Primary) -> None:
        self._look.set()

    def redirected(self, primary: Primary, why: str) -> None:
        self._look.set()
        if why.startswith("MOVED "):
            self._moved.set()

    # ── the map ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _new(self, tag: str) -> Route:
        if len(self._routes) > MAX_TAGS:
            raise RtError("INTERNAL")
        route = self._routes[tag] = Route(tag)
        self._assign([route])
        return route

    async def _keep_looking(self) -> None:
        pause_s = SOON_S
        while True:
            await asyncio.sleep(SOON_S)
            await happens(self._moved, pause_s - SOON_S)
            idle = not self._troubled and not await happens(self._look, LOOK_S)
            before = self.map
            await self._read_map()
            pause_s = SOON_S if idle or self.map != before else min(pause_s * 1.5, SELDOM_S)

    @property
    def _troubled(self) -> bool:
        return bool(self._why) or not all(primary.main.up for primary in self._primaries.values())

    async def _read_map(self) -> None:
        self._look.clear()
        self._moved.clear()
        try:
            deadline_s = self._settings.deadline_ms / 1000 * ASK_PART
            found = await ask_for_map(self.url, self.map.servers, deadline_s)
        except NoServer as why:
            self._why = str(why)
            return
        except Exception:
            log.exception("the cluster's map could not be read")  # it is tried again
            return
        self._why = ""
        # An older map is from a server that has missed a failover. If nothing else can be had, it is better than none.
        if found.epoch >= self.map.epoch or self.trouble():
            self.map = found
            self._assign(list(self._routes.values()))

    def _assign(self, routes: Sequence[Route]) -> None:
        """Give the routes the primaries of the map; connect to new ones, and close those that have nothing of ours."""
        moved: list[Route] = []
        for route in routes:
            host = self.map.owner(route.slot)
            primary = self._primary(host) if host is not None else None
            if primary is not route.primary:
                if route.primary is not None and primary is not None:
                    log.info("a partition has moved", extra={"partition": route.tag, "to": primary.name})
                for either in (route.primary, primary):
                    if either is not None:
                        either.forget_refusals()  # those of the migration are over
                route.primary = primary
                moved.append(route)
        for route in moved:
            if route.primary is not None and route.primary.main.up:
                self._serve([route], route.primary.run_id)
        used = {route.primary for route in self._routes.values()}
        for host, primary in list(self._primaries.items()):
            if primary not in used:
                del self._primaries[host]
                self._closed.update(counted([primary]))
                self._tasks.spawn(primary.close(), "closing a connection")

    def _primary(self, host: Host) -> Primary:
        primary = self._primaries.get(host)
        if primary is None:
            primary = Primary(partial(self._at, host), self._settings, self, self._seconds, str(host))
            self._primaries[host] = primary
            self._tasks.spawn(primary.start(), "connecting to a primary")
        return primary

    async def _at(self, host: Host) -> Endpoint:
        return self.url.endpoint(host)

    def _serve(self, routes: Sequence[Route], run_id: str) -> None:
        changed = [route.served_by(run_id) for route in routes]
        if changed:
            call_all(self.on_up, any(changed))


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait for an event. Returns whether it came within so many seconds."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def probe_key(route: Route) -> str:
    """Return the key that readiness writes to test the server of a partition."""
    return f"{{{route.tag}}}:probe"


def listed(tags: Sequence[str]) -> str:
    """Return partitions in a short form for people: insightdesk/chat, insightdesk:sessions-2, -6, -10."""
    named = sorted((tag for tag in tags if ":sessions-" not in tag), key=lambda tag: ("/" not in tag, tag))
    sessions = sorted(tag.rpartition("-") for tag in tags if ":sessions-" in tag)
    numbers = ", ".join(f"-{number}" for _, _, number in sorted(sessions, key=lambda parts: int(parts[2])))
    if sessions:
        named.append(sessions[0][0] + numbers)
    return ", ".join(named) or "nothing of ours"
