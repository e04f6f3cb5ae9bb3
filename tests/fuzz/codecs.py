"""Feeds the decoders of all external input with malformed data. Each must raise only its own error, and quickly."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.cluster import envelope
from insightdesk_rt.engine.errors import RtError, WireError
from insightdesk_rt.engine.model import offset_key
from insightdesk_rt.engine.wire.engine import EngineSession, EngineSettings, Goodbye
from insightdesk_rt.engine.wire.engineio import decode_payload, jsonp_payload
from insightdesk_rt.engine.wire.frames import FrameReader
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession
from tests.fuzz import mutate
from tests.fuzz.heads import heads

SLOW_S = 0.5  # CPU; the longest inputs have 60,000 bytes and take a few milliseconds; those of a megabyte: long.py
KEY = auth.secret_key(b"x" * 32, ("HS256",))
TOKEN = auth.sign({"sub": "ann", "role": "agent", "iat": 1, "exp": 4_100_000_000}, KEY).encode()


class Found(AssertionError):
    """A decoder raised another error or was too slow."""


def frames(random: Random) -> None:
    reader = FrameReader(100_000)
    data = b"".join(mutate.frame(random, mutate.text(random)) for _ in range(random.randrange(1, 6)))
    for part in mutate.pieces(random, data):
        reader.feed(part)


def socketio(random: Random) -> None:
    session = EngineSession("sid", SocketIOSession(SocketIOCodec()), EngineSettings(), True)
    session.opened(0)
    session.receive('40/tickets,{"token":"x"}', 0)
    session.accept("/tickets")
    for _ in range(random.randrange(1, 6)):
        data = mutate.text(random)
        session.receive(data if random.random() < 0.2 else data.decode("utf-8", "replace"), 0)


def native(random: Random) -> None:
    session = NativeSession("/tickets", NativeCodec(), 25_000, 30_000)
    session.receive('{"event":"connect","data":{"token":"x"}}', 0)
    for _ in range(random.randrange(1, 6)):
        session.receive(mutate.text(random).decode("utf-8", "replace"), 0)


def polling(random: Random) -> None:
    texts = [mutate.text(random).decode("utf-8", "replace") for _ in range(random.randrange(1, 4))]
    body = "\x1e".join(texts)
    list(decode_payload(body, 200_000))
    jsonp_payload(f"d={body}")


def bus(random: Random) -> None:
    """Messages that somebody with write access to Valkey could send to all nodes."""
    valid = (b'1-1\x00{"o":"n1"}\x00x', envelope.call("1 mac", '{"t":"ask"}').encode(), mutate.text(random))
    data = bytearray(random.choice(valid))
    for _ in range(random.randrange(4)):
        data = mutate.broken(random, data)
    envelope.read(bytes(data))


def tokens(random: Random) -> None:
    data = bytearray(TOKEN)
    for _ in range(random.randrange(1, 4)):
        data = mutate.broken(random, data)
    token = bytes(data).decode("utf-8", "replace")
    if token != TOKEN.decode() and auth.verify(token, auth.VerificationKeys((KEY,)), 1_800_000_000.0):
        raise Found(f"a token that was broken is believed: {token[:200]!r}")


def offsets(random: Random) -> None:
    offset_key(mutate.text(random).decode("utf-8", "replace"))


READERS: dict[str, Callable[[Random], None]] = {
    each.__name__: each for each in (frames, socketio, native, polling, bus, tokens, offsets, heads)
}
# The errors that each may raise. Any other error, or a long time, is a finding.
ALLOWED: dict[str, tuple[type[Exception], ...]] = {
    **dict.fromkeys(("frames", "socketio", "native", "polling"), (WireError, Goodbye)),
    "bus": (envelope.Poison,),
    "tokens": (RtError,),
    "offsets": (ValueError,),
    "heads": (),
}


def one(name: str, seed: int) -> None:
    """Feed one decoder with the input of a seed. Raises Found."""
    began = time.process_time()
    try:
        READERS[name](Random(seed))
    except Found:
        raise
    except ALLOWED[name]:
        pass
    except Exception as why:
        raise Found(f"{name} {seed}: {type(why).__name__}: {why}") from why
    took = time.process_time() - began
    if took > SLOW_S:
        raise Found(f"{name} {seed}: took {took:.2f} s")
