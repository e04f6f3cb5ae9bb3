"""Asks Sentinels which server is the primary now, and notices when it is another one.

All Sentinels are asked at once, and the answer with the greatest configuration epoch counts, because that is the one
that the latest failover made. Sentinels learn of a failover one after the other, so others still name the former
primary, and valkey-py's client would believe the first that answers. The greatest epoch seen so far is remembered: a
node that has found the new primary does not go back. Otherwise the answers of most Sentinels are enough.

The caller connects to that server and checks that it is a primary. If a failover is under way it tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from valkey.exceptions import ValkeyError

from insightdesk_rt.engine.cluster.outage import NoServer, in_words
from insightdesk_rt.engine.cluster.subscription import dial
from insightdesk_rt.engine.cluster.valkey_url import Endpoint, Host, ValkeyUrl

DEAD_S = 1.0
# The first comes from the Sentinel that leads a failover, as soon as the new primary accepts writes.
SWITCHED = (b"+promoted-slave", b"+switch-master")
# Sentinels learn from each other every two seconds. A primary that none of them names for longer is from a failover
# that was given up.
FORGET_S = 5.0
AGAIN_S = 1.0  # between two tries to reach a Sentinel


class PrimaryNamed(NamedTuple):
    """What one Sentinel says of a primary. `down`: the primary does not answer it."""

    host: Host
    epoch: int
    quorum: int
    down: bool


class SentinelAnswer(NamedTuple):
    """What one Sentinel answered: the primaries that it watches, by name; or why it did not answer, in words."""

    sentinel: Host
    primaries: dict[str, PrimaryNamed]
    why: str = ""


class SentinelReport(NamedTuple):
    """What all Sentinels answered. `primary` is None if none of them knows the name."""

    primary: PrimaryNamed | None
    answers: list[SentinelAnswer]

    @property
    def reachable(self) -> list[Host]:
        return [answer.sentinel for answer in self.answers if not answer.why]


class SentinelFinder:
    """Finds the primary of a URL. `latest` is what the latest failover made, as far as any Sentinel has said."""

    def __init__(self, url: ValkeyUrl, deadline_s: float) -> None:
        self._url = url
        self._deadline_s = deadline_s
        self._latest: PrimaryNamed | None = None
        self._named_s = 0.0  # when a Sentinel named it last

    async def find(self, all_of_them: bool = False) -> Endpoint:
        """Return where the primary is. Raises NoServer, which says what to change or what is wrong."""
        url = self._url
        report = await ask_sentinels(url, self._deadline_s, all_of_them)
        primary = report.primary
        if primary is None:
            raise NoServer(why_none(url, report.answers))
        now_s = asyncio.get_running_loop().time()
        if self._latest is not None and self._latest.epoch > primary.epoch and now_s - self._named_s < FORGET_S:
            primary = self._latest
        else:
            self._latest, self._named_s = primary, now_s
        if primary.down and len(report.reachable) < primary.quorum:
            answer = f"{len(report.reachable)} of {len(url.hosts)} Sentinels do"
            raise NoServer(f"the primary {primary.host} does not answer, and {answer}; {primary.quorum} must agree")
        return url.endpoint(primary.host)


async def ask_sentinels(url: ValkeyUrl, deadline_s: float, all_of_them: bool = False) -> SentinelReport:
    """Ask the Sentinels of a URL; wait for `all_of_them`, or for most. Never raises for a silent one."""
    tasks = [asyncio.create_task(_ask(url, host, deadline_s)) for host in url.hosts]
    answers: list[SentinelAnswer] = []
    try:
        for done in asyncio.as_completed(tasks):
            answers.append(await done)
            named = sum(url.name in answer.primaries for answer in answers)
            if named > len(url.hosts) / 2 and not all_of_them:
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return SentinelReport(choose(url.name, answers), answers)


def choose(name: str, answers: Sequence[SentinelAnswer]) -> PrimaryNamed | None:
    """Return the primary that the latest failover made. Pure."""
    named = [answer.primaries[name] for answer in answers if name in answer.primaries]
    return max(named, key=lambda primary: (primary.epoch, sum(one.host == primary.host for one in named)), default=None)


def why_none(url: ValkeyUrl, answers: Sequence[SentinelAnswer]) -> str:
    """Return why no Sentinel named a primary, and what to change. Pure."""
    known = sorted({name for answer in answers for name in answer.primaries})
    if any(not answer.why for answer in answers):
        watched = f"they watch {', '.join(known)}" if known else "they watch none"
        return f"the Sentinels do not know a primary named {url.name}; {watched}"
    said = "; ".join(sorted({f"{answer.sentinel}: {answer.why}" for answer in answers}))
    return f"no Sentinel answers ({said})"


async def watch_sentinel(url: ValkeyUrl, host: Host, switched: Callable[[], None]) -> None:
    """Call `switched` when a Sentinel says that another server has become the primary. Runs until it is cancelled.

    Without this a node would go on writing to the former primary while that one still runs. Sentinels make it a replica
    some seconds later, and what it took meanwhile is then discarded there.
    """
    while True:
        try:
            await _watch_until_lost(url.sentinel(host), switched)
        except (OSError, TimeoutError):
            pass  # a Sentinel is unreachable; the others are watched too
        await asyncio.sleep(AGAIN_S)


async def _watch_until_lost(sentinel: Endpoint, switched: Callable[[], None]) -> None:
    ended = asyncio.Event()
    connection = await dial(sentinel, "rt-watch", lambda channel, message: switched(), lambda why: ended.set(), DEAD_S)
    try:
        if await connection.subscribe(SWITCHED):
            switched()  # it may have happened before this subscription
            await ended.wait()
    finally:
        connection.abort("not needed any more")


async def _ask(url: ValkeyUrl, host: Host, deadline_s: float) -> SentinelAnswer:
    try:
        async with asyncio.timeout(deadline_s):
            asked = ("SENTINEL", "MASTERS"), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.name)
            rows, address = await url.sentinel(host).ask(asked, deadline_s)
        primaries = dict(_read(row) for row in rows)
        if address and url.name in primaries:
            # The Sentinel that leads a failover names the promoted server here first.
            primaries[url.name] = primaries[url.name]._replace(host=Host(address[0], int(address[1])))
        return SentinelAnswer(host, primaries)
    except NoServer as why:
        return SentinelAnswer(host, {}, str(why))
    except (ValkeyError, OSError, TimeoutError) as failed:
        return SentinelAnswer(host, {}, _in_words(failed))
    except (ValueError, KeyError, TypeError):
        return SentinelAnswer(host, {}, "what answers there is not a Sentinel")


def _read(row: Sequence[str]) -> tuple[str, PrimaryNamed]:
    fields = dict(zip(row[::2], row[1::2], strict=True))
    host = Host(fields["ip"], int(fields["port"]))
    down = not {"s_down", "o_down"}.isdisjoint(fields["flags"].split(","))
    return fields["name"], PrimaryNamed(host, int(fields["config-epoch"]), int(fields["quorum"]), down)


def _in_words(failed: Exception) -> str:
    words = in_words(failed)
    if "unknown command" in str(failed):
        return "it is not a Sentinel; name the Sentinels' port (usually 26379), or write valkey:// for one server"
    if "password" in words:
        return f"{words}; Sentinels have their own: set sentinel_password_file"
    return words
