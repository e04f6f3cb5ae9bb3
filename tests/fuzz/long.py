"""Messages of maximum length that repeat one unit. None may take much longer than an ordinary one of that length.

A decoder that is quick for 60 KB may still take a second for 1 MB, if it searches again for each unit or creates an
object for each. CPU time is compared with that of an ordinary event, so a slow machine is slow for both.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from random import Random

from insightdesk_rt.engine.errors import WireError
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import Call
from insightdesk_rt.engine.wire.engine import EngineSession, EngineSettings, Goodbye
from insightdesk_rt.engine.wire.engineio import decode_payload
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession
from insightdesk_rt.engine.wire.socketio import SocketIOCodec, SocketIOSession
from tests.fuzz.codecs import Found

SIZE = 990_000  # bytes; a message may have 1 MB
TIMES_PLAIN = 50  # so much CPU time of a plain event's; the worst needs 30, what was mended needed 125 and more
PLAIN_S = 0.002  # a plain event counts as this at least: below it, a pause of the machine is all that is seen
LOOKS = 3  # the quickest counts

# The text before the units, the unit, the text behind them; together they are an argument, or invalid.
UNITS: dict[str, tuple[str, str, str]] = {
    "lone surrogates": ('"', "\\ud800", '"'),
    "lone surrogates among pairs": ('"', "\\ud83d\\ude00\\udfff", '"'),
    "backslashes": ('"', "\\\\", '"'),
    "half an escape": ('"', "\\u", '"'),
    "escaped nothings": ('"', "\\u0000", '"'),
    "opening brackets": ("", "[", ""),
    "closing brackets": ("", "]", ""),
    "opening braces": ("", '{"a":', ""),
    "brackets in a text": ('"', "[", '"'),
    "empty arrays": ("[", "[],", "0]"),
    "empty objects": ("[", "{},", "0]"),
    "arrays as deep as may be": ("[", "[" * 60 + "]" * 60 + ",", "0]"),
    "placeholders": ("[", '{"_placeholder":true,"num":0},', "0]"),
    "a name again": ("{", '"_placeholder":true,', '"num":0}'),
    "numbers": ("[", "1,", "0]"),
    "digits": ("", "9", ""),
    "texts": ("[", '"",', '""]'),
    "commas": ("[", ",", "]"),
    "quotes": ("", '"', ""),
    "spaces": ("[", " ", "0]"),
    "separators": ('"', "\x1e", '"'),
    "separators and heartbeats": ('"', "\x1e3", '"'),
    "beyond a byte": ('"', "\U0001f600", '"'),
}


def plain(size: int = SIZE) -> str:
    """Return an argument as clients might send it: texts of a line each."""
    return made(("[", f'"{"a line of somebody" * 4}",', '""]'), size)


def made(parts: tuple[str, str, str], size: int = SIZE) -> str:
    before, unit, after = parts
    return before + unit * (size // len(unit.encode())) + after


def _read(received: object) -> None:
    """Decode the payload of a call as dispatch does."""
    for one in received if isinstance(received, list) else [received]:
        if isinstance(one, Call):
            json.loads(one.payload)


def _engine() -> EngineSession:
    session = EngineSession("sid", SocketIOSession(SocketIOCodec()), EngineSettings(), True)
    session.opened(0)
    session.receive('40/tickets,{"token":"x"}', 0)
    session.accept("/tickets")
    return session


def event(argument: str) -> None:
    _read(_engine().receive(f'42/tickets,7["ticket:subscribe",{argument}]', 0))


def binary(argument: str) -> None:
    session = _engine()
    session.receive(f'451-/tickets,["ticket:subscribe",{argument}]', 0)
    _read(session.receive(b"x", 0))


def auth(argument: str) -> None:
    _engine().receive(f'40/chat,{{"token":{argument}}}', 0)


def name(argument: str) -> None:
    _engine().receive(f"42/tickets,[{argument}]", 0)


def native(argument: str) -> None:
    session = NativeSession("/tickets", NativeCodec(), 25_000, 30_000)
    session.receive('{"event":"connect","data":{"token":"x"}}', 0)
    _read(session.receive(f'{{"event":"ticket:subscribe","data":{argument},"id":7}}', 0))


def polled(argument: str) -> None:
    session = _engine()
    for packet in decode_payload(f"42/tickets,[{argument}]", 1_000_000):
        _read(session.receive(packet, 0))


READERS: dict[str, Callable[[str], None]] = {
    each.__name__: each for each in (event, binary, auth, name, native, polled)
}


def cost_s(reader: Callable[[str], None], argument: str, enough_s: float = PLAIN_S) -> float:
    """Return the CPU time of reading: the least of several runs, or the first within `enough_s`.

    Without the garbage collector, which here would look through pytest, too; the server's own looks seldom.
    """
    least = float("inf")
    gc.disable()
    try:
        for _ in range(LOOKS):
            began = time.process_time()
            try:
                reader(argument)
            except (WireError, Goodbye, json.BadJson):
                pass
            least = min(least, time.process_time() - began)
            if least < enough_s:
                break
    finally:
        gc.enable()
    return least


@functools.cache
def bound_s(name: str) -> float:
    return TIMES_PLAIN * max(PLAIN_S, cost_s(READERS[name], plain()))


def look(name: str, argument: str) -> None:
    """Raises Found if it takes too long."""
    try:
        took_s = cost_s(READERS[name], argument, enough_s=bound_s(name))
    except Exception as why:
        raise Found(f"{name} of {argument[:80]!r}…: {type(why).__name__}: {why}") from why
    if took_s > bound_s(name):
        raise Found(f"{name} of {argument[:80]!r}…: {took_s * 1e3:.0f} ms, at most {bound_s(name) * 1e3:.0f}")


def mixed(random: Random) -> str:
    """Return an argument of several alternating units, within the texts around one of them."""
    first, *others = (random.choice(list(UNITS.values())) for _ in range(random.choice((1, 2, 2, 3))))
    before, unit, after = first
    return made((before, unit * random.choice((1, 1, 3)) + "".join(other for _, other, _ in others), after))
