"""The seal of calls between nodes covers text, channel, time and key, and is accepted once."""

from __future__ import annotations

import time

import pytest

from insightdesk_rt.engine.cluster.seal import FRESH_MS, NotSealed, Seal, derived_key, fingerprint

KEY = derived_key(b"a secret of 32 bytes, or of more, for all nodes")
NOW_MS = 1_800_000_000_000
CHANNEL, TEXT = "desk:nodes:all", '{"t":"ask"}'


def check(stamp: str, *, key: bytes = KEY, channel: str = CHANNEL, text: str = TEXT, now_ms: int = NOW_MS) -> None:
    Seal(key, lambda: now_ms).check(channel.encode(), stamp.encode(), text.encode())


def test_a_call_with_the_clusters_key_is_accepted() -> None:
    check(Seal(KEY, lambda: NOW_MS).stamp(CHANNEL, TEXT))
    check(Seal(KEY, lambda: NOW_MS - FRESH_MS).stamp(CHANNEL, TEXT))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": derived_key(b"another secret")}, "another key"),
        ({"channel": "desk:node:n1.12"}, "another key"),
        ({"text": TEXT + " "}, "another key"),
        ({"now_ms": NOW_MS + FRESH_MS + 1}, "too old"),
        ({"now_ms": NOW_MS - FRESH_MS - 1}, "too old"),
    ],
)
def test_a_changed_call_is_refused(change: dict[str, object], why: str) -> None:
    stamp = Seal(KEY, lambda: NOW_MS).stamp(CHANNEL, TEXT)
    with pytest.raises(NotSealed, match=why):
        check(stamp, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("stamp", ["", " ", "1", "x y", "-1 00", "1" * 17 + " 00", f"{NOW_MS} é", f"{NOW_MS} "])
def test_an_invalid_stamp_is_refused(stamp: str) -> None:
    with pytest.raises(NotSealed):
        check(stamp)


def test_a_repeated_call_is_refused_and_old_stamps_are_forgotten() -> None:
    now = [NOW_MS]
    seal = Seal(KEY, lambda: now[0])
    for step in range(20):
        now[0] = NOW_MS + step * FRESH_MS // 2
        text = f"{step}"
        stamp = seal.stamp(CHANNEL, text).encode()
        seal.check(CHANNEL.encode(), stamp, text.encode())
        with pytest.raises(NotSealed, match="before"):
            seal.check(CHANNEL.encode(), stamp, text.encode())
    assert len(seal._seen) + len(seal._seen_before) < 12


def test_neither_the_derived_key_nor_the_fingerprint_reveals_the_secret() -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    assert secret not in derived_key(secret) and fingerprint(secret) != fingerprint(secret + b"!")
    assert fingerprint(secret) != derived_key(secret)[:8].hex() and len(fingerprint(secret)) == 16


def test_a_seal_takes_microseconds() -> None:
    """A call has some hundred bytes, and its seal must be cheap."""
    seal, text = Seal(KEY), "x" * 500
    began_s = time.perf_counter()
    for _ in range(1_000):
        seal.stamp(CHANNEL, text)
    assert time.perf_counter() - began_s < 0.5
