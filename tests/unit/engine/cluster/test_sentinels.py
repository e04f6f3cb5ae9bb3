"""Which of several Sentinels' answers counts, and what is said if none helps."""

from __future__ import annotations

from insightdesk_rt.engine.cluster.sentinels import PrimaryNamed, SentinelAnswer, choose, why_none
from insightdesk_rt.engine.cluster.valkey_url import Host, parse

OLD, NEW = Host("10.0.0.1", 1), Host("10.0.0.2", 2)
URL = parse("valkey+sentinel://a:1,b:2,c:3/desk")


def named(sentinel: str, host: Host, epoch: int, name: str = "desk") -> SentinelAnswer:
    return SentinelAnswer(Host(sentinel, 1), {name: PrimaryNamed(host, epoch, 2, False)})


def test_the_latest_failover_counts_although_most_have_not_heard_of_it() -> None:
    chosen = choose("desk", [named("a", OLD, 3), named("b", NEW, 4), named("c", OLD, 3)])
    assert chosen is not None and chosen.host == NEW


def test_of_equal_epochs_most_sentinels_decide() -> None:
    chosen = choose("desk", [named("a", OLD, 3), named("b", NEW, 3), named("c", NEW, 3)])
    assert chosen is not None and chosen.host == NEW


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    answers = [named("a", OLD, 3, "other"), SentinelAnswer(Host("b", 2), {}, "nothing listens there")]
    assert choose("desk", answers) is None
    assert why_none(URL, answers) == "the Sentinels do not know a primary named desk; they watch other"


def test_unreachable_sentinels_are_named_with_their_reasons() -> None:
    answers = [SentinelAnswer(Host("a", 1), {}, "nothing listens there"), SentinelAnswer(Host("b", 2), {}, "too late")]
    assert why_none(URL, answers) == "no Sentinel answers (a:1: nothing listens there; b:2: too late)"
