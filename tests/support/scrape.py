"""What a real server says at /metrics, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from tests.support.server import ServerProcess


class Scrape:
    """One scrape. `families` are the names as they stand in `# TYPE`, with the `_total` of counters."""

    def __init__(self, text: str) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.families: set[str] = set()
        for family in text_string_to_metric_families(text):
            self.families.add(family.name + ("_total" if family.type == "counter" else ""))
            for sample in family.samples:
                self.values[sample.name, frozenset(sample.labels.items())] = sample.value

    def of(self, name: str, **labels: str) -> float:
        """Return the sum of the series that have these labels; 0.0 if there is none."""
        wanted = set(labels.items())
        full = name if name.startswith("process_") else "insightdesk_rt_" + name
        return sum(value for (each, has), value in self.values.items() if each == full and wanted <= has)

    def labels(self, name: str, label: str) -> set[str]:
        """Return the values a label has in the series of a name."""
        full = "insightdesk_rt_" + name
        return {dict(has)[label] for each, has in self.values if each == full}


async def fetch(server: ServerProcess, **headers: str) -> HTTPResponse:
    url = f"http://127.0.0.1:{server.admin_port}/metrics"
    return await AsyncHTTPClient().fetch(HTTPRequest(url, headers=headers, request_timeout=10), raise_error=False)


async def scrape(server: ServerProcess) -> Scrape:
    answer = await fetch(server)
    assert answer.code == 200, answer.body
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.body.decode())


async def scraped(server: ServerProcess, true: Callable[[Scrape], bool], what: str, deadline_s: float = 10.0) -> Scrape:
    """Return the first scrape of which something is true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not true(last := await scrape(server)):
        assert loop.time() < end, f"not within {deadline_s} s: {what}\n{last.values}"
        await asyncio.sleep(0.05)
    return last
