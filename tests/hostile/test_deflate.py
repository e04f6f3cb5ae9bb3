"""permessage-deflate, if it is on: decompression bombs and broken streams."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from tests.hostile.kit import SOCKET, Target, memory_mb
from tests.support.aio import aio
from tests.support.door import RawSocket, frame
from tests.support.server import ServerProcess

OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate"}
RSV1 = 0x40


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


BROKEN = {
    "a bomb": frame(1, deflated(b"x" * 20_000_000), rsv=RSV1),
    "no deflate at all": frame(1, b"\xff\xff\xff\xff\xff", rsv=RSV1),
    "not UTF-8": frame(1, deflated(b"\xff\xfe"), rsv=RSV1),
    "RSV2": frame(1, b"x", rsv=0x20),
    "more than a megabyte": frame(1, b"4" + b"x" * 1_000_001),
}


@pytest.mark.parametrize("path", [SOCKET, "/rt/tickets"])
def test_a_broken_compressed_stream_closes_the_connection_without_a_server_error(tmp_path: Path, path: str) -> None:
    server = ServerProcess(tmp_path, websocket_deflate="true", drain_seconds=0)
    server.start()

    async def story() -> None:
        target = Target(server.port)
        before_mb = memory_mb(server)
        for name, data in BROKEN.items():
            socket = await target.socket(path, headers=OFFER)
            socket.send(data)
            assert await ends(socket), name
        assert memory_mb(server) < before_mb + 15
        await target.close()

    try:
        aio(story)()
    finally:
        assert server.stop() == 0
    server.assert_quiet()


async def ends(socket: RawSocket) -> bool:
    """Return whether the server closes the connection, after whatever it sends."""
    try:
        while (await socket.reader.read(65_536)) != b"":
            socket.send(frame(8))
    except ConnectionError:
        pass
    return True
