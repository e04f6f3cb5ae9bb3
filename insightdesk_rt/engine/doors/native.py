"""/rt/<namespace>: the JSON protocol's door, one WebSocketHandler subclass per namespace.

The classes differ in their names and namespaces only, so they are made from the list of namespaces; their names are
what a person reads in a traceback or a profile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from insightdesk_rt.engine.doors.admission import ClientPort
from insightdesk_rt.engine.doors.handlers import SocketHandler
from insightdesk_rt.engine.transport.websocket import WebSocketTransport


class NativeHandler(SocketHandler):
    namespace = ""
    coded = True

    def prepare(self) -> None:
        if not self.origin_allowed():
            self.port.refused["FORBIDDEN"] += 1
            self.port.say_refused_page(self.request)
            self.set_status(403)
            self.finish("This page may not connect.")
        else:
            self.turned_away()

    def opened(self, transport: WebSocketTransport, leftover: bytes) -> None:
        address, authorization = self.port.peer(self.request).address, self.request.headers.get("Authorization", "")
        client = self.port.native_client(self.namespace, address, self.agent(), authorization)
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
