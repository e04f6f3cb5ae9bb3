"""GET /metrics: this node's counters as Prometheus text. The only file that knows prometheus_client.

The parts count in plain integers; a scrape reads them and names them here. There is no registry of the process's and no
work at import. Labels are bounded: namespaces, the server's own event names ("other" for all else), codes and reasons
of our tables; never a user, a room, an address. docs/operations.md says of each what it means; a test compares.

On a loopback address it is open, like /readyz: Prometheus on the same machine is the usual case. Elsewhere it needs a
bearer with scope viewer, and so does what a proxy on the same machine passes on: that comes from anywhere.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Scope
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.backend.feed.log import FeedLog
from insightdesk_rt.backend.hooks.breaker import BreakerState
from insightdesk_rt.backend.hooks.part import Hooks
from insightdesk_rt.backend.webhooks.webhooks import Webhooks
from insightdesk_rt.engine.addresses import FORWARDED, is_loopback
from insightdesk_rt.engine.cluster.backplane import ValkeyBackplane
from insightdesk_rt.engine.cluster.clock import ValkeyClock
from insightdesk_rt.engine.cluster.valkey import Valkey
from insightdesk_rt.engine.counters import Histogram
from insightdesk_rt.engine.dispatch.dispatch import Dispatch
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import Status
from insightdesk_rt.engine.transport.lag import LoopLag
from insightdesk_rt.helpdesk.presence.namespace import Presence
from insightdesk_rt.operations.views.health import Check, Checked, run_check
from insightdesk_rt.operations.views.node_stats import Clients, clients_of, this_process

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "insightdesk_rt_"
# Exported from the start, as 0: of a series that begins with its first increment Prometheus does not see the increase.
USUAL_REFUSALS = (
    "AUTH_TOKEN_MISSING",
    "AUTH_TOKEN_EXPIRED",
    "AUTH_TOKEN_INVALID",
    "AUTH_SESSION_REVOKED",
    "FORBIDDEN",
    "TOO_MANY_CONNECTIONS",
    "UNAVAILABLE",
    "INVALID_NAMESPACE",
)
OVER = (
    "max_payload_bytes",
    "max_connect_bytes",
    "max_fragments_per_message",
    "max_attachments_per_packet",
    "max_json_depth",
    "max_event_name_chars",
    "max_namespace_chars",
    "handshake_timeout_s",
    "body_timeout_s",
    "message_timeout_s",
    "upgrade_timeout_s",
    "unread_timeout_s",
)

Values = Mapping[Any, float]  # by the labels' values, a tuple


class Sources(NamedTuple):
    """The parts that count."""

    node_id: str
    version: str
    port: ClientPort
    dispatch: Dispatch
    hub: Hub
    valkey: Valkey
    clock: ValkeyClock
    backplane: ValkeyBackplane
    presence: Presence
    lag: LoopLag
    hooks: Hooks
    feed: FeedLog
    webhooks: Webhooks


class NodeCollector(Collector):
    """The metrics of one node at one moment. `checks` are the results of the readiness checks."""

    def __init__(self, sources: Sources, checks: Sequence[Checked]) -> None:
        self._from = sources
        self._checks = checks

    def collect(self) -> Iterator[Metric]:
        yield from self._node()
        clients = clients_of(self._from.port.registry)
        yield from self._clients(clients)
        yield from self._calls()
        yield from self._events()
        yield from self._outboxes(clients)
        yield from self._valkey()
        yield from self._hooks()
        yield from self._webhooks()
        yield from _process()

    def _node(self) -> Iterator[Metric]:
        sources = self._from
        python = platform.python_version()
        yield _gauge(
            "build_info",
            "Always 1; the labels are the version.",
            {(sources.version, python, sources.node_id): 1},
            ("version", "python", "node"),
        )
        ready = {(check.name,): float(check.ok) for check in self._checks}
        yield _gauge("ready", "1 if a readiness check passes, as in /readyz.", ready, ("check",))
        yield _gauge("loop_lag_max_seconds", "Greatest loop lag of the last 10 s.", {(): sources.lag.worst_s()})
        yield _histogram(
            "loop_lag_seconds",
            "How late the event loop ran a timer, measured ten times a second.",
            {(): sources.lag.seconds},
        )

    def _clients(self, clients: Clients) -> Iterator[Metric]:
        port, dispatch, hub = self._from.port, self._from.dispatch, self._from.hub
        registry = port.registry
        open_now = {(name,): clients.by_transport.get(name, 0) for name in ("polling", "websocket")}
        yield _gauge("connections", "Connected clients.", open_now, ("transport",))
        sockets = {(path,): len(hub.sockets(path)) for path in hub.sent}
        yield _gauge("sockets", "Clients in a namespace.", sockets, ("namespace",))
        rooms = {(path,): len(hub.rooms(path).names()) for path in hub.sent}
        yield _gauge("rooms", "Rooms with members on this node.", rooms, ("namespace",))
        opened = {(name,): registry.opened[name] for name in ("polling", "websocket")}
        yield _counter("connections_opened", "Clients that connected, by first transport.", opened, ("transport",))
        yield _counter("upgrades", "Clients that upgraded from polling to websocket.", {(): registry.upgraded})
        closed = {(why.value.replace(" ", "_"),): registry.closed[why] for why in CloseReason}
        yield _counter("connections_closed", "Closed clients, by reason.", closed, ("reason",))
        turned_away = {(code,): count for code, count in port.refused.items()}
        yield _counter("requests_refused", "Requests refused before a client existed.", turned_away, ("reason",))
        text = "Clients that broke the protocol before they joined anything, or speak another version of it."
        yield _counter("clients_not_understood", text, {(): registry.not_understood})
        over = {(name,): registry.over_limit[name] for name in OVER}
        over["max_json_depth",] += dispatch.calls.too_deep
        yield _counter(
            "over_limit", "What clients sent, or how long they took, over a limit, by its setting.", over, ("setting",)
        )
        connects = {(path,): dispatch.connected[path] for path in hub.sent}
        yield _counter("connects", "Accepted connects to a namespace.", connects, ("namespace",))
        usual = {(code, "") for code in USUAL_REFUSALS}
        refused = {key: dispatch.refused[key] for key in {*usual, *dispatch.refused}}
        text = "Connects into a namespace that were refused; of invalid tokens with what is wrong with them."
        yield _counter("connects_refused", text, refused, ("reason", "why"))
        text = "Limits of which other nodes use much; they count here, too."
        yield _gauge("limits_of_other_nodes", text, {(): dispatch.limits.others()})
        text = "Limits of which this node uses much, left out of a report to the other nodes because it was full."
        yield _counter("limits_not_reported", text, {(): dispatch.limits.not_reported})
        resumes = {("resumed",): dispatch.resumed, ("lost",): dispatch.not_resumed}
        yield _counter("resumes", "Clients that asked to resume a session.", resumes, ("outcome",))
        yield _counter("received_bytes", "Bytes of clients: frames and polling bodies.", {(): registry.bytes_in})
        yield _counter("sent_bytes", "Bytes to clients: frames and polling bodies.", {(): registry.bytes_out})

    def _calls(self) -> Iterator[Metric]:
        calls = self._from.dispatch.calls
        by_event = ("namespace", "event")
        counters = {(path, name): each for path, table in calls.counters.items() for name, each in table.items()}
        taken = {key: each.taken for key, each in counters.items()}
        yield _counter("events_in", "Events from clients, including refused ones.", taken, by_event)
        yield _histogram(
            "handler_seconds",
            "From an event's turn to its answer; without those that were over a rate limit.",
            {key: each.seconds for key, each in counters.items() if each.seconds.total},
            by_event,
        )
        limited = {key: calls.errors[*key, "RATE_LIMITED"] for key in counters}
        yield _counter("rate_limited", "Events refused by a rate limit.", limited, by_event)
        errors = {(*key, "INTERNAL"): 0 for key in counters} | calls.errors
        yield _counter("call_errors", "Events answered with an error.", errors, (*by_event, "code"))

    def _events(self) -> Iterator[Metric]:
        hub, presence = self._from.hub, self._from.presence
        sent = {(path, name): n for path, counts in hub.sent.items() for name, n in counts.by_name.items() if n}
        yield _counter(
            "events_out", "Events for clients of this node, once for each client.", sent, ("namespace", "event")
        )
        yield _histogram(
            "delivery_seconds",
            "From a logged event's publication to its last write to clients of this node, once for each event; "
            "events of one loop turn count as the oldest of them. Valkey's clock against this machine's, "
            "and the publication is known to the millisecond. Volatile events carry no time.",
            {(): self._from.port.registry.flusher.delivery},
        )
        changes = {(status,): presence.transitions[status] for status in get_args(Status)}
        yield _counter("presence_transitions", "Presence changes published here.", changes, ("status",))

    def _outboxes(self, clients: Clients) -> Iterator[Metric]:
        flusher = self._from.port.registry.flusher
        yield _counter("messages_queued", "Messages for clients, answers and pings too.", {(): flusher.queued})
        yield _counter("messages_written", "Messages written to a transport.", {(): flusher.written})
        dropped = {("behind",): flusher.dropped_behind, ("closed",): flusher.dropped_closed}
        yield _counter(
            "messages_dropped",
            "Messages that were not written: volatile ones of clients that are behind, and what closed clients left.",
            dropped,
            ("reason",),
        )
        yield _gauge("outbox_messages", "Messages waiting in outboxes.", {(): clients.outbox_messages})
        yield _gauge("outbox_bytes", "Bytes waiting in outboxes.", {(): clients.outbox_bytes})

    def _valkey(self) -> Iterator[Metric]:
        valkey, bus = self._from.valkey.counters, self._from.backplane.counters
        skew_s = self._from.clock.skew_ms / 1000
        yield _gauge("clock_skew_seconds", "How far this machine's clock is ahead of Valkey's.", {(): skew_s})
        up = self._from.valkey.available and not self._from.valkey.trouble
        yield _gauge("valkey_up", "1 if Valkey answers and accepts writes.", {(): float(up)})
        primaries = {(address,): float(works) for address, works in self._from.valkey.primaries.items()}
        text = "1 if this primary answers and accepts writes; in a cluster there are several."
        yield _gauge("valkey_primary_up", text, primaries, ("primary",))
        yield _counter("valkey_commands", "Commands sent.", {(): valkey["commands"]})
        yield _counter("valkey_commands_failed", "Commands that failed, or could not be sent.", {(): valkey["failed"]})
        yield _counter("valkey_connects", "Times the connection for commands came up.", {(): valkey["connects"]})
        yield _histogram(
            "valkey_pipeline_seconds",
            "From a pipeline's first command to all answers, the wait for the one before it included.",
            {(): self._from.valkey.seconds},
        )
        hears = float(self._from.backplane.subscribed)
        yield _gauge("subscription_up", "1 if this node receives all events.", {(): hears})
        yield _gauge("subscription_channels", "Channels this node listens to.", {(): bus["channels"]})
        for name, of, text in (
            ("subscription_connects", "connects", "Times the subscription came up."),
            ("subscription_messages", "received", "Messages that came through the subscription."),
            ("subscription_poison", "poison", "Messages that no node of ours could have sent; they were dropped."),
            ("subscription_duplicates", "duplicates", "Events received again and ignored."),
            ("subscription_gaps", "gaps", "Events whose predecessor had not arrived."),
            ("subscription_repairs", "repairs", "Times a log was read to fill a gap."),
            ("events_repaired", "repaired", "Logged events that were delivered by reading the log."),
            ("resyncs", "resyncs", "Times rooms had to reload because events are lost."),
            ("events_logged", "appended", "Logged events this node published."),
            ("events_log_failed", "failed", "Logged events this node could not publish or deliver."),
            ("events_published", "published", "Messages of volatile events to other nodes, one for each room."),
            (
                "log_reads_refused",
                "reads_refused",
                "Clients that waited too long for their turn to ask what they missed.",
            ),
            ("events_sent_again", "sent_again", "Logged events that Valkey had lost, and were given to it again."),
        ):
            yield _counter(name, text, {(): bus[of]})

    def _webhooks(self) -> Iterator[Metric]:
        feed, found = self._from.feed, self._from.webhooks.numbers()
        yield _counter("feed_entries", "Entries of the back end's feed that this node appended.", {(): feed.entries})
        text = "How long ago the entry happened that a webhook is delivering; 0: all are delivered. On the leader."
        yield _gauge("webhook_lag_seconds", text, {(one.id,): one.lag_s for one in found}, ("webhook",))
        failures = {(one.id,): float(one.failures) for one in found}
        yield _gauge("webhook_failures", "Failed attempts for that entry. On the leader.", failures, ("webhook",))
        parked = {(one.id,): float(one.parked) for one in found}
        yield _gauge(
            "webhook_parked", "1 if a webhook gave up and waits for an admin. On the leader.", parked, ("webhook",)
        )
        counts = {(one.id, "accepted"): one.delivered for one in found} | {
            (one.id, "failed"): one.failed for one in found
        }
        text = "Messages of webhooks that were accepted, and attempts that failed, of all leaders. On the leader."
        yield _counter("webhook_messages", text, counts, ("webhook", "result"))

    def _hooks(self) -> Iterator[Metric]:
        hooks = self._from.hooks
        outcomes = {(one.name, name): count for one in hooks.clients for name, count in one.outcomes.items()}
        text = "Questions to the back end, by hook and what came of them."
        yield _counter("hook_requests", text, outcomes, ("hook", "outcome"))
        yield _histogram(
            "hook_seconds",
            "From a question to the back end to its answer or failure, the wait for a turn included.",
            {(one.name,): one.seconds for one in hooks.clients},
            ("hook",),
        )
        states = {
            (one.name, each.value): float(one.breaker.state is each) for one in hooks.clients for each in BreakerState
        }
        yield _gauge("hook_breaker", "1 for the state that a hook's circuit breaker is in.", states, ("hook", "state"))
        access = hooks.access
        reads = {} if access is None else {("hit",): access.hits, ("miss",): access.misses}
        yield _counter("access_cache", "Answers of access_url found in memory, and asked for.", reads, ("outcome",))
        kept = {} if access is None else {(): access.cached}
        yield _gauge("access_cache_entries", "Answers of access_url in memory.", kept)


class MetricsHandler(Handler):
    def initialize(  # type: ignore[override]
        self, admin: Admin, sources: Sources, checks: Sequence[Check], open: bool
    ) -> None:
        super().initialize(admin)
        self.sources = sources
        self.checks = checks
        self.open = open

    def check(self, scope: Scope | None) -> None:
        # the socket's peer, whatever a trusted proxy says of others
        here = is_loopback(self.request.remote_ip or "") and not any(name in self.request.headers for name in FORWARDED)
        if self.open and here:
            self.check_host()  # a page in a browser on this machine could read it by a name of its own
        else:
            super().check(scope)

    @operation("viewer")
    async def get(self) -> Answer:
        """Return this node's metrics since its start, as Prometheus text."""
        checked = await asyncio.gather(*(run_check(check) for check in self.checks))
        registry = CollectorRegistry()
        registry.register(NodeCollector(self.sources, checked))
        return Answer(generate_latest(registry))

    def reply(self, answer: Answer) -> None:
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(answer.body)


def metrics_routes(
    admin: Admin, sources: Sources, checks: Sequence[Check], *, open: bool
) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the route of this file for a Tornado Application. `open`: no token is asked of this machine."""
    return [(r"/metrics", MetricsHandler, {"admin": admin, "sources": sources, "checks": checks, "open": open})]


# ── families ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _counter(name: str, text: str, values: Values, labels: Iterable[str] = ()) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, text, labels=tuple(labels))
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, text: str, values: Values, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, text, labels=tuple(labels))
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, text: str, values: Mapping[Any, Histogram], labels: Iterable[str] = ()
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + name, text, labels=tuple(labels))
    for key, histogram in values.items():
        below, buckets = 0, []
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(key, buckets, histogram.sum)
    return family


def _process() -> Iterator[Metric]:
    """The figures of prometheus_client's own collector, which needs /proc/stat, hidden by our systemd unit."""
    here = this_process()
    cpu = CounterMetricFamily("process_cpu_seconds", "User and system CPU time.")
    cpu.add_metric((), here.cpu_s)
    yield cpu
    for name, text, value in (
        ("process_resident_memory_bytes", "Resident memory.", here.rss_bytes),
        ("process_virtual_memory_bytes", "Virtual memory.", here.virtual_bytes),
        ("process_start_time_seconds", "When the process was started, in Unix time.", here.started_s),
        ("process_open_fds", "Open file descriptors; every connection is one.", here.open_files),
        ("process_max_fds", "Maximum of open file descriptors.", here.max_files),
    ):
        gauge = GaugeMetricFamily(name, text)
        gauge.add_metric((), value)
        yield gauge
