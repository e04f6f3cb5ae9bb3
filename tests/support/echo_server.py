"""A process that echoes on the native endpoint's own handler and transport: what the Autobahn cases are run against.

`python -m tests.support.echo_server` prints its port and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from msgspec import Raw
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from insightdesk_rt.engine.doors.client_port import ClientPort, PortSettings
from insightdesk_rt.engine.doors.native import native_handlers
from insightdesk_rt.engine.errors import CloseReason
from insightdesk_rt.engine.transport.client import Client
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.transport.registry import ClientSettings
from insightdesk_rt.engine.transport.wheel import Wheel
from insightdesk_rt.engine.wire.codec import Ack, Call, Connect, Encoded, Inbound
from insightdesk_rt.engine.wire.frames import binary_frame, encoded
from insightdesk_rt.engine.wire.native import NativeSession

LIMIT_BYTES = 32 * 1024 * 1024  # the cases of group 9 send 16 MB, and 4 MB in 65,536 fragments


class EchoSession(NativeSession):
    """Passes every message up as it is."""

    max_message_bytes = LIMIT_BYTES

    def receive(self, message: str | bytes, now_ms: int) -> Sequence[Inbound]:
        if isinstance(message, str):
            return (Call("", message, Raw()),)
        return (Call("", "", Raw(), attachments=(message,)),)


class Echo:
    def call_received(self, client: Client, call: Call) -> None:
        if call.attachments:
            client.send(Encoded("", binary_frame(call.attachments[0])))
        else:
            client.send(encoded(call.event))

    def connect_received(self, client: Client, ask: Connect) -> None: ...

    def ack_received(self, client: Client, ack: Ack) -> None: ...

    def leave_received(self, client: Client, namespace: str) -> None: ...

    def client_ended(self, client: Client, why: CloseReason) -> None: ...


class EchoPort(ClientPort):
    def make_native_session(self, namespace: str) -> NativeSession:
        made = super().make_native_session(namespace)
        return EchoSession(namespace, made.codec, 600_000, 600_000)  # type: ignore[arg-type]


async def main() -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(50, lambda: int(loop.time() * 1000))
    registry = ClientRegistry(
        wheel,
        limits=OutboxLimits(LIMIT_BYTES * 4, 1_000_000, LIMIT_BYTES),
        settings=ClientSettings(connect_timeout_s=600, max_unfinished_bytes_per_user=0),
    )
    port = EchoPort(registry, Echo(), PortSettings(max_payload_bytes=LIMIT_BYTES, max_fragments_per_message=100_000))
    routes = native_handlers(port, ["/echo"])
    # The cases are run against the root of an address.
    server = HTTPServer(Application([*routes, ("/", *routes[0][1:])]))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    ended = loop.run_in_executor(None, sys.stdin.read)
    while not ended.done():
        await asyncio.sleep(0.05)
        wheel.turn()


if __name__ == "__main__":
    asyncio.run(main())
