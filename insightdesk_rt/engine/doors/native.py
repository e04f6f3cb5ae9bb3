"""Tornado's handlers of /rt/<namespace>: the JSON protocol, with one WebSocketHandler subclass per namespace.

The classes differ only in their names and namespaces, so they are made from the list of namespaces. Their names appear
in tracebacks and profiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from insightdesk_rt.engine.doors.admission import Refusal, RequestHead
from insightdesk_rt.engine.doors.client_port import ClientPort
from insightdesk_rt.engine.doors.handlers import SocketHandler
from insightdesk_rt.engine.transport.websocket import WebSocketTransport


class NativeHandler(SocketHandler):
    """A websocket of the JSON protocol, in one namespace."""

    namespace = ""
    coded = True

    def prepare(self) -> None:
        asked = self.request
        self.request_head = RequestHead(
            asked.method or "", self.namespace, True, "websocket", "", "", asked.query, asked.headers
        )
        verdict = self.decide(self.request_head)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)

    def opened(self, transport: WebSocketTransport, leftover: bytes) -> None:
        client = self.port.native_client(self.request_head, self.peer())
        client.start(transport)
        transport.start(client, leftover)


def native_handlers(
    port: ClientPort, namespaces: Iterable[str]
) -> list[tuple[str, type[NativeHandler], dict[str, Any]]]:
    """Return the routes of the namespaces ("/tickets" → /rt/tickets, TicketsHandler) for a tornado Application.

    "/" is at /rt/ and, for clients and proxies that drop a slash at the end, at /rt/main.
    """
    routes = []
    for namespace in namespaces:
        name = (namespace.strip("/") or "main").title() + "Handler"
        handler = type(name, (NativeHandler,), {"namespace": namespace, "__doc__": f"A websocket in {namespace}."})
        paths = ("/rt/", "/rt/main") if namespace == "/" else (f"/rt{namespace}",)
        routes += [(path, handler, {"port": port}) for path in paths]
    return routes
