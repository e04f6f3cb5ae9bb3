"""A robot's client in one namespace. It speaks the native protocol to the server of this process, without a network.

To the server it looks like a websocket: a transport whose other end is this object. So a robot has the same token
checks, limits and rules as every client, and cannot get anything that a browser would not get.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from insightdesk_rt.engine.errors import CloseReason, RtError
from insightdesk_rt.engine.transport.client import Client, Receiver
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.wire import json
from insightdesk_rt.engine.wire.codec import Encoded
from insightdesk_rt.engine.wire.native import NativeCodec, NativeSession

PING_MS = 25_000
ANSWER_S = 10.0

Hear = Callable[[str, Any], None]


class InProcessClient:
    """Calls `hear` with every event; after `connect` rooms must be joined again. Reconnects by itself."""

    name = "demo"  # as a transport
    max_messages = 0
    unfinished = 0
    writable = True

    def __init__(
        self,
        registry: ClientRegistry,
        receiver: Receiver,
        namespace: str,
        token: Callable[[], str],
        hear: Hear | None = None,
    ) -> None:
        self._registry = registry
        self._receiver = receiver
        self._namespace = namespace
        self._token = token
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._awaited: dict[str, list[asyncio.Future[Any]]] = {}
        self._ids = 0
        self._retry: asyncio.TimerHandle | None = None
        self._hung_up = False
        self.offset: str | None = None  # of the last logged event that it received
        self._connect()

    def _connect(self) -> None:
        session = NativeSession(self._namespace, NativeCodec(), PING_MS, PING_MS)
        self._client = Client(session, self._receiver, self._registry, address="127.0.0.1", agent="demo")
        self._client.start(self)
        self._send({"event": "connect", "data": {"token": self._token()}})

    def hang_up(self) -> None:
        self._hung_up = True
        if self._retry is not None:
            self._retry.cancel()
        self._client.close(CloseReason.CLIENT_LEFT)

    async def ask(self, event: str, **data: Any) -> Any:
        """Send an event and return its ack. Raises the server's error as RtError; UNAVAILABLE without an answer."""
        self._ids += 1
        ack_id, answer = self._ids, self._loop.create_future()
        self._answers[ack_id] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._ready.wait()
                self._send({"event": event, "data": data, "id": ack_id})
                ack = await answer
        except TimeoutError:
            raise RtError("UNAVAILABLE", f"No answer to {event}.") from None
        finally:
            del self._answers[ack_id]
        if not ack["ok"]:
            raise RtError(ack["error"]["code"], ack["error"]["message"])
        return ack

    async def heard(self, event: str, within_s: float) -> Any:
        """Wait for the next event of this name and return its payload; None if there is none in time."""
        found = self._loop.create_future()
        waiting = self._awaited.setdefault(event, [])
        waiting.append(found)
        try:
            async with asyncio.timeout(within_s):
                return await found
        except TimeoutError:
            return None
        finally:
            waiting.remove(found)

    def _send(self, frame: dict[str, Any]) -> None:
        if not self._client.gone:
            self._client.heard()
            self._client.received(self, json.dumps(frame))

    # ── the interface of a transport ───────────────────────────────────────────────────────────────────────

    def write(self, messages: list[Encoded]) -> int:
        for message in messages:
            self._loop.call_soon(self._read, message.text)
        return 0

    def close(self, why: CloseReason, code: int = 0) -> None:
        self._ready.clear()
        if not self._hung_up:
            self._retry = self._loop.call_later(random.uniform(1, 3), self._connect)

    def _read(self, text: str) -> None:
        if not text:  # a ping: any message answers it
            self._client.heard()
            return
        frame = json.loads(text)
        if "ack" in frame:
            answer = self._answers.get(frame["ack"])
            if answer is not None and not answer.done():
                answer.set_result(frame["data"])
            return
        event, data = frame["event"], frame.get("data")
        if event == "connect":
            self._ready.set()
        self.offset = frame.get("offset") or self.offset
        for found in self._awaited.get(event, ()):
            if not found.done():
                found.set_result(data)
        if self._hear is not None:
            self._hear(event, data)
