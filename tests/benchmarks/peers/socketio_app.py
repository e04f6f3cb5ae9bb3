"""The application of both python-socketio peers: the five namespaces, tokens, rooms, one event with an ack."""

from __future__ import annotations

from typing import Any

import jwt
import socketio

NAMESPACES = ("/tickets", "/chat", "/notifications", "/presence", "/dashboard")


def serve(server: socketio.AsyncServer, secret: str) -> None:
    for namespace in NAMESPACES:
        _serve(server, namespace, secret)


def _serve(server: socketio.AsyncServer, namespace: str, secret: str) -> None:
    async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str]) -> None:
        try:
            claims = jwt.decode(auth["token"], secret, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            raise socketio.exceptions.ConnectionRefusedError("AUTH_TOKEN_INVALID") from None
        for room in (f"user:{claims['sub']}", f"role:{claims['role']}", f"team:{claims['teamId']}"):
            await server.enter_room(sid, room, namespace=namespace)

    async def unsubscribe(sid: str, ask: dict[str, str]) -> dict[str, bool]:
        return {"ok": True}

    server.on("connect", connect, namespace=namespace)
    server.on("presence:unsubscribe", unsubscribe, namespace=namespace)


async def publish(server: socketio.AsyncServer, ask: dict[str, Any]) -> None:
    await server.emit(ask["event"], ask["data"], to=ask["room"], namespace="/tickets")
