"""Stock Tornado, the protocol of /rt/…: python -m tests.benchmarks.peers.tornado_websocket PORT SECRET"""

from __future__ import annotations

import asyncio
import logging
import sys

import jwt
import ujson
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler


async def main(port: int, secret: str) -> None:
    rooms: dict[str, set[WebSocketHandler]] = {}

    class Socket(WebSocketHandler):
        joined: tuple[str, ...] = ()

        def on_message(self, text: str | bytes) -> None:
            message = ujson.loads(text)
            if message["event"] != "connect":
                self.write_message(ujson.dumps({"ack": message["id"], "data": {"ok": True}}))
                return
            try:
                claims = jwt.decode(message["data"]["token"], secret, algorithms=["HS256"])
            except jwt.InvalidTokenError:
                self.close(4401)
                return
            self.joined = (f"user:{claims['sub']}", f"role:{claims['role']}", f"team:{claims['teamId']}")
            for room in self.joined:
                rooms.setdefault(room, set()).add(self)
            self.write_message(ujson.dumps({"event": "connect", "data": {"sid": claims["sub"]}}))

        def on_close(self) -> None:
            for room in self.joined:
                rooms[room].discard(self)
                if not rooms[room]:
                    del rooms[room]

    class Emit(RequestHandler):
        def post(self) -> None:
            ask = ujson.loads(self.request.body)
            text = ujson.dumps({"event": ask["event"], "data": ask["data"]})
            for handler in rooms.get(ask["room"], ()):
                handler.write_message(text)
            self.finish("{}")

    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    app = Application(
        [(r"/rt/[a-z]+", Socket), (r"/emit", Emit)], websocket_ping_interval=25, websocket_ping_timeout=20
    )
    app.listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
