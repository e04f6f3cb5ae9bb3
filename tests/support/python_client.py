"""The door of python-socketio's `AsyncClient`, over websocket or long-polling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import socketio  # type: ignore[import-untyped]

from tests.support.cable import Cable
from tests.support.clients import DEADLINE_S, Door, NotAnswered, Peer, Refused


class Shared:
    """One AsyncClient and the peers it serves: one for each namespace."""

    def __init__(self, auth: Any, reconnection: bool) -> None:
        self.auth = auth
        self.open = 0
        self.http = aiohttp.ClientSession()  # ours to close: the library forgets its own when a transport is lost
        self.client = socketio.AsyncClient(
            reconnection=reconnection,
            reconnection_delay=0.05,
            reconnection_delay_max=0.25,
            randomization_factor=0,
            handle_sigint=False,
            http_session=self.http,
        )

    async def close(self) -> None:
        await self.client.shutdown()
        if self.client.connected:  # a reconnect that was under way has come through meanwhile
            await self.client.shutdown()
        if self.client.eio.state == "connected":  # refused in "/", the client forgets the connection and leaves it open
            await self.client.eio.disconnect()
        async with asyncio.timeout(DEADLINE_S):
            await self.client.eio.wait()
        await self.http.close()


class PythonPeer(Peer):
    def __init__(self, shared: Shared, namespace: str, cable: Cable | None) -> None:
        super().__init__(namespace, cable)
        self._shared = shared
        self._closed = False
        shared.open += 1
        on: Callable[..., Any] = shared.client.on
        on("connect", self._connected, namespace=namespace)
        on("connect_error", self._refused, namespace=namespace)
        on("disconnect", self._out, namespace=namespace)
        on("*", lambda event, *args: self._heard(event, args), namespace=namespace)

    @property
    def transport(self) -> str:
        used: str = self._shared.client.transport()
        return used

    def _connected(self) -> None:
        self._in(self._shared.client.get_sid(self.namespace) or "", False)  # it knows no recovery

    def _refused(self, error: Any = None) -> None:
        if isinstance(error, dict):
            self._no(Refused(error["message"], error.get("data")))
        elif not self.connects:
            self._out(str(error))

    async def emit(self, event: str, *args: Any) -> None:
        await self._shared.client.emit(event, args, namespace=self.namespace)

    async def request(self, event: str, *args: Any, deadline_s: float = DEADLINE_S) -> list[Any]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def answered(*values: Any) -> None:
            if not answer.done():
                answer.set_result(list(values))

        await self._shared.client.emit(event, args, namespace=self.namespace, callback=answered)
        try:
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError:
            raise NotAnswered(f"{event}: no acknowledgement within {deadline_s} s") from None

    async def next_token(self, token: str) -> None:
        self._shared.auth = {"token": token}

    async def disconnect(self) -> None:
        await self._shared.client.disconnect()
        await self.gone()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._shared.open -= 1
        if not self._shared.open:
            await self._shared.close()
            if self._cable is not None:
                await self._cable.remove()


class PythonDoor(Door):
    def __init__(self, name: str, transport: str) -> None:
        self.name = name
        self._transport = transport

    async def _open(
        self, address: tuple[str, int], namespaces: Sequence[str], auth: Any, cable: Cable | None, reconnection: bool
    ) -> list[Peer]:
        shared = Shared(auth, reconnection)
        peers: list[Peer] = [PythonPeer(shared, namespace, cable) for namespace in namespaces]
        await shared.client.connect(
            f"http://{address[0]}:{address[1]}",
            auth=lambda: shared.auth,
            transports=[self._transport],
            namespaces=list(namespaces),
            wait=False,
        )
        return peers

    async def settle(self, peer: Peer) -> None:
        assert isinstance(peer, PythonPeer)
        assert peer.transport == self._transport
