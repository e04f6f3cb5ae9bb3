"""python-socketio on uvicorn with uvloop: python -m tests.benchmarks.peers.socketio_uvicorn PORT SECRET"""

from __future__ import annotations

import sys
from typing import Any

import socketio
import ujson
import uvicorn

from tests.benchmarks.peers import socketio_app


def main(port: int, secret: str) -> None:
    server = socketio.AsyncServer(async_mode="asgi", ping_interval=25, ping_timeout=30)
    socketio_app.serve(server, secret)

    async def emit(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        await socketio_app.publish(server, ujson.loads(body))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    app = socketio.ASGIApp(server, other_asgi_app=emit)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="error",
        ws_per_message_deflate=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
