"""Asks Sentinels which server is the primary now.

All Sentinels are asked at once, and the answer with the greatest configuration epoch counts, because that is the one
that the latest failover made. A Sentinel that was cut off during the failover still names the former primary, and
valkey-py's client would believe the first Sentinel that answers. Most Sentinels answering is enough; a silent one is
waited for only as long as the answers of the others are missing.

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
AGAIN_S = 1.0  # between two tries to reach a Sentinel


class PrimaryNamed(NamedTuple):
    """What one Sentinel says of a primary. `down`: it and the others agree that the primary does not answer."""

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


async def find_primary(url: ValkeyUrl, deadline_s: float) -> Endpoint:
    """Return where the primary is. Raises NoServer, which says what to change or what is wrong."""
    report = await ask_sentinels(url, deadline_s)
    primary = report.primary
    if primary is None:
        raise NoServer(why_none(url, report.answers))
    if primary.down and len(report.reachable) < primary.quorum:
        answer = f"{len(report.reachable)} of {len(url.hosts)} Sentinels do"
        raise NoServer(f"the primary {primary.host} does not answer, and {answer}; {primary.quorum} must agree")
    return url.endpoint(primary.host)


async def ask_sentinels(url: ValkeyUrl, deadline_s: float, all_of_them: bool = False) -> SentinelReport:
    """Ask the Sentinels of a URL; wait for `all_of_them`, or for as many as decide. Never raises for a silent one."""
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

    Without this a node would go on writing to the former primary while that one still runs: Sentinels make it a replica
    only eight seconds later, and what it took meanwhile is then discarded there.
    """

    def received(channel: bytes, message: bytes) -> None:
        if message.split(b" ")[0] == url.name.encode():
            switched()

    while True:
        try:
            await _watch_until_lost(url.sentinel(host), received, switched)
        except (OSError, TimeoutError):
            pass  # a Sentinel is unreachable; the others are watched too
        await asyncio.sleep(AGAIN_S)


async def _watch_until_lost(
    sentinel: Endpoint, received: Callable[[bytes, bytes], None], switched: Callable[[], None]
) -> None:
    ended = asyncio.Event()
    connection = await dial(sentinel, "rt-watch", received, lambda why: ended.set(), DEAD_S)
    try:
        if await connection.subscribe([b"+switch-master"]):
            switched()  # it may have happened before this subscription
            await ended.wait()
    finally:
        connection.abort("not needed any more")


async def _ask(url: ValkeyUrl, host: Host, deadline_s: float) -> SentinelAnswer:
    try:
        async with asyncio.timeout(deadline_s):
            (rows,) = await url.sentinel(host).ask([("SENTINEL", "MASTERS")], deadline_s)
        return SentinelAnswer(host, dict(_read(row) for row in rows))
    except NoServer as why:
        return SentinelAnswer(host, {}, str(why))
    except (ValkeyError, OSError, TimeoutError) as failed:
        return SentinelAnswer(host, {}, _in_words(failed))
    except (ValueError, KeyError, TypeError):
        return SentinelAnswer(host, {}, "what answers there is not a Sentinel")


def _read(row: Sequence[str]) -> tuple[str, PrimaryNamed]:
    fields = dict(zip(row[::2], row[1::2], strict=True))
    host = Host(fields["ip"], int(fields["port"]))
    down = "o_down" in fields["flags"].split(",")
    return fields["name"], PrimaryNamed(host, int(fields["config-epoch"]), int(fields["quorum"]), down)


def _in_words(failed: Exception) -> str:
    words = in_words(failed)
    if "unknown command" in str(failed):
        return "it is not a Sentinel; name the Sentinels' port (usually 26379), or write valkey:// for one server"
    if "password" in words:
        return f"{words}; Sentinels have their own: set sentinel_password_file"
    return words
