"""The door of the native protocol: one websocket for each namespace at /rt/<namespace>, JSON text frames."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.cable import Cable
from tests.support.clients import DEADLINE_S, Door, NotAnswered, Peer, Refused


class NativePeer(Peer):
    def __init__(self, namespace: str, cable: Cable | None = None) -> None:
        super().__init__(namespace, cable)
        self._socket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[list[Any]]] = {}
        self._error: dict[str, Any] | None = None
        self.pid = ""

    async def start(self, address: tuple[str, int], auth: Any, headers: dict[str, str] | None = None) -> None:
        url = f"ws://{address[0]}:{address[1]}/rt{self.namespace}"
        self._socket = await connect(url, compression=None, ping_interval=None, additional_headers=headers)
        self._reading = asyncio.create_task(self._read())
        await self.send({"event": "connect", "data": auth})

    async def send(self, frame: Any) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(frame))

    async def emit(self, event: str, *args: Any) -> None:
        await self.send({"event": event, **_data(args)})

    async def request(self, event: str, *args: Any, deadline_s: float = DEADLINE_S) -> list[Any]:
        call = next(self._ids)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._calls[call] = answer
        await self.send({"event": event, **_data(args), "id": call})
        try:
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError:
            raise NotAnswered(f"{event}: no acknowledgement within {deadline_s} s") from None

    async def disconnect(self) -> None:
        assert self._socket is not None
        await self._socket.close()
        await self.gone()

    async def close(self) -> None:
        if self._socket is not None and self._reading is not None:
            await self._socket.close()
            await self._reading
            self._socket = None
        if self._cable is not None:
            await self._cable.remove()

    async def _read(self) -> None:
        assert self._socket is not None
        try:
            async for text in self._socket:
                assert isinstance(text, str), "the native protocol has text frames only"
                self._said(json.loads(text))
        except ConnectionClosed:
            pass  # how it ended is told below, whatever it was
        code = self._socket.close_code
        assert code is not None
        if self._error is not None:
            self._no(Refused(self._error["code"], self._error, code))
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(NotAnswered(f"the connection ended with {code}"))
        self._out(code)

    def _said(self, frame: dict[str, Any]) -> None:
        if "ack" in frame:
            answer = self._calls.pop(frame["ack"])
            if not answer.done():
                answer.set_result([frame["data"]] if "data" in frame else [])
        elif frame["event"] == "connect":
            self.pid = frame["data"].get("pid", "")
            self._in(frame["data"]["sid"], frame["data"].get("recovered", False))
        elif frame["event"] == "connect_error":
            self._error = frame["data"]  # the close code that follows belongs to it
        else:
            extra = [frame["offset"]] if "offset" in frame else []
            self._heard(frame["event"], [frame.get("data"), *extra])


class NativeDoor(Door):
    name = "native"
    reconnects = False

    async def _open(
        self, address: tuple[str, int], namespaces: Sequence[str], auth: Any, cable: Cable | None, reconnection: bool
    ) -> list[Peer]:
        assert not reconnection, "this client does not come back by itself"
        peers = [NativePeer(namespace, cable) for namespace in namespaces]
        for peer in peers:
            await peer.start(address, auth)
        return list(peers)

    async def settle(self, peer: Peer) -> None:
        assert isinstance(peer, NativePeer)  # there is but one transport


def _data(args: Sequence[Any]) -> dict[str, Any]:
    assert len(args) <= 1, "the native protocol has one payload"
    return {"data": args[0]} if args else {}
