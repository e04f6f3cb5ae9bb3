"""The formulas of docs/scaling.md: they compute the cost of a cluster from measured figures and a load.

    .venv/bin/python -m tests.benchmarks.scaling_plan [FILE]

prints the tables of that page. FILE is the output of `bin/scaling --json`, by default the figures of the page itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FIGURES = Path(__file__).with_name("scaling.json")
MESSAGE_BYTES = 511  # on the wire, of an event with 300 bytes of payload in one room
SHARED_ROOMS = 4  # that each connection is in, besides its user's own room
WINDOW_S, OFFSETS_S, OFFSETS = 120, 3_600, 1_000  # how long ids and a room's offsets are kept, and how many
OUTAGE_S = 2.0
BUSY = 0.6  # of a core; above this load, waiting times grow


@dataclass(frozen=True)
class Load:
    nodes: int
    connections: int
    logged_per_s: float
    volatile_per_s: float
    members: int = 5  # of a room, anywhere in the cluster
    stay_s: float = 1_800.0

    @classmethod
    def of(cls, nodes: int) -> Load:
        """Return a load of 10,000 connections per node; each causes a logged and a volatile event in 100 seconds."""
        return cls(nodes, 10_000 * nodes, 100.0 * nodes, 100.0 * nodes)

    @property
    def interested(self) -> float:
        """The number of nodes that have a member of a room: k."""
        return self.nodes * (1 - (1 - 1 / self.nodes) ** self.members)

    @property
    def rooms(self) -> float:
        return self.connections * SHARED_ROOMS / self.members


class Plan:
    def __init__(self, figures: Mapping[str, float], load: Load) -> None:
        self.f, self.load = figures, load

    # ── Valkey, in cores ──────────────────────────────────────────────────────────────────────────────────────────

    def appends(self) -> float:
        return self.load.logged_per_s * self.f["append_many_aof"] / 1e6

    def volatile(self) -> float:
        return self.load.volatile_per_s * self.f["publish_0"] / 1e6

    def deliveries(self) -> float:
        events_per_s = self.load.logged_per_s + self.load.volatile_per_s
        return events_per_s * self.load.interested * self.f["delivery"] / 1e6

    def people(self) -> float:
        rooms = (1 + SHARED_ROOMS) * 2 * self.f["subscribe_first"]  # leaving a channel counts as entering it
        each = sum(self.f[key] for key in ("presence_come", "presence_go", "session_save", "session_end")) + rooms
        return self.load.connections / self.load.stay_s * each / 1e6

    def clocks(self) -> float:
        """When Valkey is idle, each command must wake it and costs ten times as much. Do not multiply that figure."""
        return self.load.nodes * (4 * self.f["probe"] + self.f["lease_1000"] + 3 * self.f["sweep"]) / 1e6

    def valkey(self) -> float:
        return self.appends() + self.volatile() + self.deliveries() + self.people() + self.clocks()

    def valkey_of_tickets(self) -> float:
        """The same if every logged event is a change of a ticket, which is also checked, stored and marked."""
        return self.valkey() - self.appends() + self.load.logged_per_s * self.f["push_valkey"] / 1e6

    # ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def output(self) -> float:
        """Bytes per second that Valkey sends."""
        events_per_s = self.load.logged_per_s + self.load.volatile_per_s
        return events_per_s * self.load.interested * MESSAGE_BYTES + self.load.nodes * self.f["idle_bytes"]

    def log(self) -> float:
        return self.load.logged_per_s * WINDOW_S * (self.f["entry_bytes"] + self.f["id_bytes"])

    def room_offsets(self) -> float:
        kept = min(OFFSETS, self.load.logged_per_s * OFFSETS_S / self.load.rooms)
        return self.load.rooms * (self.f["room_bytes"] + kept * self.f["offset_bytes"])

    def channels(self) -> float:
        shared = self.f["channel_first_bytes"] + (self.load.interested - 1) * self.f["channel_more_bytes"]
        return self.load.rooms * shared + self.load.connections * self.f["channel_first_bytes"]

    def records(self) -> float:
        return self.load.connections * (self.f["session_bytes"] + self.f["presence_bytes"])

    def links(self) -> float:
        return 2 * self.load.nodes * self.f["connection_bytes"]

    def memory(self) -> float:
        return self.log() + self.room_offsets() + self.channels() + self.records() + self.links()

    # ── a node ────────────────────────────────────────────────────────────────────────────────────────────────────

    def heard(self) -> float:
        """Events per second that one node receives."""
        return (self.load.logged_per_s + self.load.volatile_per_s) * self.load.interested / self.load.nodes

    def heard_if_sent_to_all(self) -> float:
        return self.load.logged_per_s + self.load.volatile_per_s

    def node(self) -> float:
        own_per_s = (self.load.logged_per_s + self.load.volatile_per_s) / self.load.nodes
        return (self.heard() * self.f["served"] + own_per_s * self.f["emit"] + self.f["idle_node"]) / 1e6

    def node_rooms(self) -> float:
        connections = self.load.connections / self.load.nodes
        return connections * (1 + SHARED_ROOMS * self.load.interested / self.load.members)

    def node_memory(self) -> float:
        return self.node_rooms() * self.f["room_node_bytes"]

    # ── after an outage ───────────────────────────────────────────────────────────────────────────────────────────

    def repair(self) -> float:
        """Seconds of Valkey's core until all nodes have read what was logged in OUTAGE_S. Each reads the whole log."""
        missed = self.load.logged_per_s * OUTAGE_S
        return self.load.nodes * missed * self.f["repair_10000_valkey"] / 1e6

    def resubscribe(self) -> float:
        return self.load.nodes * self.node_rooms() * self.f["resub_50000_valkey"] / 1e6


def limit(figures: Mapping[str, float], term: Callable[[Plan], float], bound: float) -> int:
    """Return the largest number of nodes with which a term stays within its bound."""
    low, high = 1, 1_000_000
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if term(Plan(figures, Load.of(middle))) <= bound else (low, middle - 1)
    return low


def number(value: float) -> str:
    """Return a value with two significant digits."""
    if value >= 99.5:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


SIZES = (10, 100, 1_000)
ROWS: tuple[tuple[str, Callable[[Plan], float]], ...] = (
    ("connections", lambda p: p.load.connections),
    ("logged events, and as many volatile ones, per second (M, V)", lambda p: p.load.logged_per_s),
    ("nodes that receive a room's events (k)", lambda p: p.load.interested),
    ("**Valkey, cores**: appends", Plan.appends),
    ("deliveries to nodes", Plan.deliveries),
    ("volatile events", Plan.volatile),
    ("connects and disconnects", Plan.people),
    ("periodic work of the nodes", Plan.clocks),
    ("**sum, cores**", Plan.valkey),
    ("(if every logged event is a change of a ticket)", Plan.valkey_of_tickets),
    ("**Valkey, output**, MB/s", lambda p: p.output() / 1e6),
    ("**Valkey, memory**, GB: log and ids of two minutes", lambda p: p.log() / 1e9),
    ("rooms' offsets", lambda p: p.room_offsets() / 1e9),
    ("channels and subscriptions", lambda p: p.channels() / 1e9),
    ("sessions and presence", lambda p: p.records() / 1e9),
    ("**sum, GB**", lambda p: p.memory() / 1e9),
    ("**Connections to Valkey**", lambda p: 2 * p.load.nodes),
    ("**A node**: events received per second", Plan.heard),
    ("(if every event were sent to every node)", Plan.heard_if_sent_to_all),
    ("share of a core", Plan.node),
    ("rooms it is subscribed to", Plan.node_rooms),
    ("their memory, MB", lambda p: p.node_memory() / 1e6),
    ("**After an outage of 2 s**, seconds of Valkey's core: subscribing again", Plan.resubscribe),
    ("reading what was missed", Plan.repair),
)
LIMITS: tuple[tuple[str, str, Callable[[Plan], float], float], ...] = (
    ("Valkey's CPU, if every logged event is a change of a ticket", "60 % of a core", Plan.valkey_of_tickets, BUSY),
    ("Valkey's CPU, if all are only appended", "60 % of a core", Plan.valkey, BUSY),
    ("reading what was missed in an outage of 2 s", "10 s of a core", Plan.repair, 10),
    ("subscribing again", "10 s of a core", Plan.resubscribe, 10),
    ("Valkey's output", "1 GB/s, a link of 10 Gbit", Plan.output, 1e9),
    ("Valkey's memory", "32 GB", Plan.memory, 32e9),
    ("connections to Valkey", "10,000, its default `maxclients`", lambda p: 2 * p.load.nodes, 10_000),
)


def tables(figures: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Return the lines of the table of sizes and of the table of limits."""
    plans = [Plan(figures, Load.of(nodes)) for nodes in SIZES]
    sizes = ["| | " + " | ".join(f"{nodes:,} nodes" for nodes in SIZES) + " |", "|---" * 4 + "|"]
    sizes += [f"| {what} | " + " | ".join(number(term(plan)) for plan in plans) + " |" for what, term in ROWS]
    found = ["| term | limit | largest number of nodes |", "|---" * 3 + "|"]
    for what, said, term, bound in LIMITS:
        found.append(f"| {what} | {said} | {number(limit(figures, term, bound))} |")
    return sizes, found


def figures_table(path: Path = FIGURES) -> list[str]:
    lines = ["| figure | median | least … greatest | |", "|---" * 4 + "|"]
    for one in json.loads(path.read_text(encoding="utf-8"))["figures"].values():
        runs = f"{number(min(one['runs']))} … {number(max(one['runs']))}"
        lines.append(f"| {one['what']} | {number(one['median'])} | {runs} | {one['unit']} |")
    return lines


def read(path: Path = FIGURES) -> dict[str, float]:
    """Return the medians by key."""
    return {key: one["median"] for key, one in json.loads(path.read_text(encoding="utf-8"))["figures"].items()}


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if sys.argv[1:] else FIGURES
    for table in (*tables(read(chosen)), figures_table(chosen)):
        print("\n".join(table), end="\n\n")
