"""Valkey: one interface for the stores, whatever stands behind it: one server, a primary with Sentinels, or a cluster.

A store names keys, and this file finds the primary that has them. One server and a primary behind Sentinels have all
keys. In a cluster each partition (the hash tag of its keys, see names.py) lies on one primary, and different ones may
lie on different primaries: `routes.py` keeps track of which. What holds for Valkey as a whole with one server holds for
each partition in a cluster: whether it can be used (`serves`), and which server has it (`watch`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from msgspec import Meta

from insightdesk_rt.engine.cluster.names import Key, Names
from insightdesk_rt.engine.cluster.primary import COMMAND_BOUNDS, Command, Pipe, Primary, PrimarySettings, cannot_serve
from insightdesk_rt.engine.cluster.resp import Arg, Script, load_script
from insightdesk_rt.engine.cluster.routes import ClusterRoutes, OneRoute, Route
from insightdesk_rt.engine.cluster.valkey_url import Endpoint, Topology, parse
from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.secret import SecretUrl
from insightdesk_rt.engine.settings import Help, SettingsPart

# Commands without a key. They go to the primary of the cluster's own partition, or of the key that the caller names.
KEYLESS = frozenset({"PING", "TIME", "INFO", "ECHO"})
KEY_SECOND = frozenset({"XINFO", "OBJECT", "MEMORY"})  # the key comes after a subcommand


class ValkeySettings(SettingsPart, frozen=True):
    """Which Valkey the nodes share."""

    valkey_url: Annotated[
        SecretUrl,
        Help("one server, Sentinels or a cluster (docs/deployment.md); empty: an embedded one"),
    ] = SecretUrl()
    valkey_password_file: Annotated[str, Help("file with Valkey's password, instead of one in valkey_url")] = ""
    sentinel_password_file: Annotated[str, Help("file with the password of the Sentinels themselves")] = ""
    valkey_prefix: Annotated[str, Help("prefix of every key and channel; one per environment")] = "insightdesk"
    durable: Annotated[bool, Help("acknowledge a chat message only when it is on disk")] = False
    # 0: a failover may lose the last events, which nodes then send again. More costs each publisher a round trip
    # between Valkey and its replicas.
    min_replicas_to_ack: Annotated[
        int, Meta(ge=0, le=10), Help("acknowledge an event only when so many replicas have it")
    ] = 0

    def connect_to(self, url: str, namespaces: Sequence[str]) -> Valkey:
        """Return the Valkey at a URL, with these settings; it is not started yet."""
        return Valkey(
            url,
            self.valkey_prefix,
            durable=self.durable,
            min_replicas=self.min_replicas_to_ack,
            password_file=self.valkey_password_file if url == self.valkey_url.reveal() else "",
            sentinel_password_file=self.sentinel_password_file,
            namespaces=namespaces,
        )


class Valkey:
    """The Valkey of a `url` (see valkey_url.py), with keys that begin with `prefix`.

    `on_up` listeners are called after each connect to a primary. Their argument says whether a partition is now served
    by another server than before: that one may lack what the former one confirmed. `watch` does the same for one key.
    `durable`: commands with that flag wait until they are on disk. `min_replicas`: commands with the flag `replicated`
    wait until so many replicas have them.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        deadline_ms: int = 1000,
        durable: bool = False,
        min_replicas: int = 0,
        password_file: str = "",
        sentinel_password_file: str = "",
        namespaces: Sequence[str] = (),
    ) -> None:
        self.url = url
        self.prefix = prefix
        self.names = Names(prefix)
        self.namespaces = tuple(namespaces)
        self.seconds = Histogram(COMMAND_BOUNDS)
        parsed = parse(url, password_file, sentinel_password_file)
        settings = PrimarySettings(parsed.topology, deadline_ms, durable, min_replicas)
        self.sharded = parsed.topology is Topology.CLUSTER
        tags = [
            part.tag
            for part in (
                self.names.cluster,
                self.names.feed,
                *self.names.sessions,
                *map(self.names.namespace, namespaces),
            )
        ]
        self.routes: OneRoute | ClusterRoutes = (
            ClusterRoutes(parsed, settings, self.seconds, tags)
            if self.sharded
            else OneRoute(parsed, settings, self.seconds, tags[0])
        )
        self._only = self.routes.only
        self._home = self.names.cluster.key("probe")

    @property
    def on_up(self) -> list[Callable[[bool], None]]:
        return self.routes.on_up

    @property
    def run_id(self) -> str:
        """The run id of the server that has the cluster's own partition; "" before the first connect."""
        return self._route(self._home).run_id

    @property
    def available(self) -> bool:
        """Do commands work on all primaries that are needed, as far as is known?"""
        return all(primary.available for primary in self.routes.primaries()) and not self.routes.missing()

    def serves(self, key: str) -> bool:
        """Do commands work for the keys of this one's partition, as far as is known?"""
        primary = self._route(key).primary
        return primary is not None and primary.available

    @property
    def trouble(self) -> str:
        """Why commands fail now, in words without secrets, and for which partitions; "" while they work."""
        return self.routes.trouble()

    async def fitness(self) -> str:
        """Return what is wrong with the servers, in words, or "". Each must take a write and must not evict data."""
        return await self.routes.fitness()

    @property
    def counters(self) -> dict[str, int]:
        """Sums since the start: commands, batches, failed commands, connects."""
        return self.routes.counters()

    @property
    def primaries(self) -> dict[str, bool]:
        """The address of each primary that is needed, and whether it answers and takes writes."""
        return {primary.address: primary.available and not primary.trouble for primary in self.routes.primaries()}

    def watch(self, key: str, up: Callable[[bool], None]) -> None:
        """Call `up(changed)` whenever the primary of a key's partition was connected to, or became another one.

        `changed`: it is another server than before, or the same one restarted.
        """
        self._route(key).watchers.append(up)

    async def where(self, key: str) -> Endpoint:
        """Return the server that has a key's partition, for a connection of one's own. Raises NoServer."""
        return await self.routes.where(key)

    def lost(self, key: str) -> None:
        """Note that a connection of one's own to a key's server has failed: another server may have taken over."""
        self.routes.lost(key)

    async def start(self) -> None:
        """Connect, and wait up to the deadline for it. Does not fail: `available` says whether it succeeded."""
        await self.routes.start()

    async def close(self) -> None:
        await self.routes.close()

    async def command(self, *args: Arg, durable: bool = False, costly: bool = False, near: str = "") -> Any:
        """Return the answer (text as str, lists, ints, None). `near`: for TIME and such, a key of the server to ask.

        Raises RtError UNAVAILABLE when Valkey is unreachable, too late or cannot serve now (the command may or may not
        have been executed); INTERNAL for a command that it refuses. A cancelled command may still be executed.
        """
        primary = self._only or self._primary(near or self._key_of(args))
        if costly:
            return await (await primary.for_costly()).put(Command(args))
        return await (primary.durable if durable else primary.main).put(Command(args))

    async def in_order(self, *commands: Sequence[Arg]) -> list[Any]:
        """Have one server execute commands in this order, and return their answers. Their keys are of one partition.

        Commands of others may come in between. Raises as `command` if one of them fails.
        """
        if self._only is None:
            primary = self._primary(self._key_of(commands[0]))
            commands = tuple(sharded(args) for args in commands)
        else:
            primary = self._only
        return await asyncio.gather(*[primary.main.put(command) for command in map(Command, commands)])

    async def call(
        self,
        script: Script,
        keys: Sequence[Key],
        args: Sequence[Arg],
        durable: bool = False,
        costly: bool = False,
        replicated: bool = False,
    ) -> Any:
        """Run a script; the same answers and errors as `command`. `keys`: all that it touches, of one partition."""
        primary = self._only
        if primary is None:
            primary, script = self._primary(keys[0]), script.sharded
        if costly:
            pipe = await primary.for_costly()
        else:
            pipe = primary.replicated if replicated else primary.durable if durable else primary.main
        pipe.learn(script)
        return await pipe.put(Command(("EVALSHA", script.sha, len(keys), *keys, *args), script))

    def begin(
        self, script: Script, keys: Sequence[Key], args: Sequence[Arg], durable: bool = False
    ) -> asyncio.Future[Any]:
        """Queue a script for this turn's pipeline. The future has what `call` returns or raises. Raises UNAVAILABLE.

        For many calls at once: a task for each would cost more than the call. All of the futures must be awaited.
        """
        primary = self._only
        if primary is None:
            primary, script = self._primary(keys[0]), script.sharded
        pipe = primary.durable if durable else primary.main
        pipe.learn(script)
        return pipe.put(Command(("EVALSHA", script.sha, len(keys), *keys, *args), script))

    def send(self, *args: Arg) -> bool:
        """Send a command without waiting for its answer. Returns False if Valkey is known to be unreachable. hot."""
        primary = self._only
        if primary is None:
            primary = self._route(self._key_of(args)).primary
            if primary is None:
                return False
            args = sharded(args)
        pipe = primary.main
        if pipe.up:
            pipe.post(Command(args))
        return pipe.up

    def _route(self, key: str) -> Route:
        return self.routes.of(key)

    def _primary(self, key: str) -> Primary:
        return self.routes.of(key).reachable()

    def _key_of(self, args: Sequence[Arg]) -> str:
        """Return the first key or channel of a command."""
        name = args[0]
        if name in KEYLESS:
            return self._home
        return str(args[2] if name in KEY_SECOND else args[1])


def sharded(args: Sequence[Arg]) -> tuple[Arg, ...]:
    """Return a command as a cluster needs it: its channels belong to slots, as keys do."""
    return ("SPUBLISH" if args[0] == "PUBLISH" else args[0], *args[1:])


__all__ = ["Arg", "Pipe", "Script", "Valkey", "cannot_serve", "load_script"]
