"""python-socketio on Tornado: python -m tests.benchmarks.peers.socketio_tornado PORT SECRET"""

from __future__ import annotations

import asyncio
import logging
import sys

import socketio
import ujson
from tornado.web import Application, RequestHandler

from tests.benchmarks.peers import socketio_app


async def main(port: int, secret: str) -> None:
    server = socketio.AsyncServer(async_mode="tornado", ping_interval=25, ping_timeout=30)
    socketio_app.serve(server, secret)

    class Emit(RequestHandler):
        async def post(self) -> None:
            await socketio_app.publish(server, ujson.loads(self.request.body))
            self.finish("{}")

    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    Application([(r"/socket.io/", socketio.get_tornado_handler(server)), (r"/emit", Emit)]).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
