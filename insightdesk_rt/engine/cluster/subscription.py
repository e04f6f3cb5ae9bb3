"""Subscription: the connection that receives messages of channels. Our own code on libvalkey's reader.

valkey-py's PubSub times out on quiet channels, reconnects silently and loses what was published meanwhile, never
notices a frozen server, and costs four times as much. Here `lost` is called once, at once, and nothing is repaired
silently: the backplane decides what to do about the gap.

In a cluster channels are *sharded*: they belong to slots, and one connection subscribes to channels of one partition.
If the slot moves to another primary, the server unsubscribes its channels by itself. That ends the connection here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import libvalkey

from insightdesk_rt.engine.cluster.resp import pack
from insightdesk_rt.engine.cluster.valkey_url import Endpoint

BATCH = 512  # channels per SUBSCRIBE: 0.5 µs each, against 1.2 µs one by one

_MORE = object()


class Subscription(asyncio.Protocol):
    """One connection. Calls `received(channel, message)` for each message, and `lost(why)` once, when it ends.

    The futures it returns give False instead of raising if the connection ends before they are fulfilled.
    """

    def __init__(
        self, received: Callable[[bytes, bytes], None], lost: Callable[[str], None], sharded: bool = False
    ) -> None:
        letter = b"s" if sharded else b""
        self._message, self._subscribed, self._unsubscribed = (
            letter + word for word in (b"message", b"subscribe", b"unsubscribe")
        )
        self._sharded = sharded
        self._leaving: Counter[bytes] = Counter()  # channels that this side unsubscribed, until the server confirms it
        self._received = received
        self._lost = lost
        self._why = "closed by the server"
        self._over = False
        self._transport: asyncio.Transport | None = None
        # Bytes, not text: a message that is not UTF-8 is dropped and must not end the connection.
        self._reader = libvalkey.Reader(notEnoughData=_MORE)
        self._greeting: list[asyncio.Future[bool]] = []
        self._acks: dict[bytes, _Acks] = {}
        self.bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _MORE:
                if type(reply) is list and reply and reply[0] == self._message:
                    self._received(reply[1], reply[2])
                else:
                    self._answered(reply)
        except libvalkey.ProtocolError as broken:
            self.abort(f"not RESP: {broken}")

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error) if error else self._why)

    def abort(self, why: str) -> None:
        """End it now; `lost` is called before this returns."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def login(self, endpoint: Endpoint, name: str) -> asyncio.Future[bool]:
        commands: list[Sequence[str]] = [("CLIENT", "SETNAME", name)]
        if endpoint.password:
            commands.insert(0, ("AUTH", *filter(None, (endpoint.username, endpoint.password))))
        answers = [asyncio.get_running_loop().create_future() for _ in commands]
        self._greeting += answers
        self._write(b"".join(map(pack, commands)))
        return answers[-1]

    def subscribe(self, channels: Iterable[bytes]) -> asyncio.Future[bool]:
        """Subscribe to the channels. The future is fulfilled when the server has confirmed each."""
        wanted = tuple(channels)
        acks = _Acks(len(wanted), asyncio.get_running_loop().create_future())
        if self._over or not wanted:
            acks.future.set_result(not self._over)
            return acks.future
        for channel in wanted:
            self._acks[channel] = acks
        for start in range(0, len(wanted), BATCH):
            self._write(pack((self._subscribed, *wanted[start : start + BATCH])))
        return acks.future

    def subscribe_pattern(self, pattern: bytes) -> asyncio.Future[bool]:
        """Subscribe to all channels that match. The future is fulfilled when the server has confirmed it."""
        acks = self._acks[pattern] = _Acks(1, asyncio.get_running_loop().create_future())
        self._write(pack((b"PSUBSCRIBE", pattern)))
        return acks.future

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        wanted = tuple(channels)
        if self._sharded:
            self._leaving.update(wanted)
        for start in range(0, len(wanted), BATCH):
            self._write(pack((self._unsubscribed, *wanted[start : start + BATCH])))

    def _write(self, data: bytes) -> None:
        if not self._over and self._transport is not None:
            self._transport.write(data)

    def _answered(self, reply: Any) -> None:
        if isinstance(reply, libvalkey.ReplyError):
            self.abort(str(reply))  # wrong password, or no permission for a channel: it cannot go on
        elif isinstance(reply, list):
            if reply[0] == b"pmessage":
                self._received(reply[2], reply[3])
            elif reply[0] in (self._subscribed, b"psubscribe"):
                if acks := self._acks.pop(reply[1], None):
                    acks.count_down()
            elif reply[0] == b"sunsubscribe":
                self._left(reply[1])
        elif self._greeting:
            self._greeting.pop(0).set_result(True)

    def _left(self, channel: bytes) -> None:
        """Take the end of a sharded subscription, which one side or the other has wanted."""
        self._leaving[channel] -= 1
        if self._leaving[channel] < 0:
            self.abort("the server has given the channels to another one")
        elif not self._leaving[channel]:
            del self._leaving[channel]

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        for future in [*self._greeting, *(acks.future for acks in self._acks.values())]:
            if not future.done():
                future.set_result(False)
        self._lost(why)


class _Acks:
    __slots__ = ("future", "missing")

    def __init__(self, missing: int, future: asyncio.Future[bool]) -> None:
        self.missing = missing
        self.future = future

    def count_down(self) -> None:
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(True)


async def dial(
    endpoint: Endpoint,
    name: str,
    received: Callable[[bytes, bytes], None],
    lost: Callable[[str], None],
    deadline_s: float,
    sharded: bool = False,
) -> Subscription:
    """Connect and log in. The host name is resolved each time, because it may point to another server by now.

    Raises OSError, TimeoutError. `lost` may have been called before this returns or raises.
    """
    loop = asyncio.get_running_loop()
    made = Subscription(received, lost, sharded)
    async with asyncio.timeout(deadline_s):
        try:
            if endpoint.path:
                await loop.create_unix_connection(lambda: made, endpoint.path)
            else:
                await loop.create_connection(lambda: made, endpoint.host, endpoint.port, ssl=endpoint.tls_context())
            if not await made.login(endpoint, name):
                raise ConnectionError("refused at the login")
        except BaseException:
            made.abort("could not log in")
            raise
    return made
