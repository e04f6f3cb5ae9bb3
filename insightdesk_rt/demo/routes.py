"""/demo with its files and tokens, only if the server was started with `--demo`.

The demo gives a token to everybody who asks, so that a newcomer sees everything without signing in. Therefore it
answers on this machine only. The settings refuse it on any other address. Each request must come from a loopback
address, and must name one as its Host, so that a page of another site whose name resolves to this machine cannot read
the tokens. It must have no header that a proxy adds. A proxy on this machine that adds no header and calls us by a
loopback name looks like a browser here. Therefore the tokens use the demo's own secret, and open only the demo's client
port. The pages contain no inline script or style, and their policy lets them load nothing from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from tornado.web import RequestHandler

from insightdesk_rt.demo import Demo
from insightdesk_rt.engine.addresses import FORWARDED, parse_address
from insightdesk_rt.engine.doors.handlers import QuietHandler
from insightdesk_rt.engine.doors.static_files import Route, StaticFileHandler
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import TicketIdText
from insightdesk_rt.engine.origins import is_loopback_host
from insightdesk_rt.engine.wire import json

STATIC = Path(__file__).parent / "static"
MAX_BODY = 16_384


class LoopbackOnly(RequestHandler):
    """Mixin for handlers that give tokens away or act without one: they answer browsers on this machine only.

    A proxy may add no header: nginx with `proxy_pass` alone calls the server by the loopback address it was given. But
    it opens a connection for each request (HTTP/1.0, or `Connection: close`), which no browser does.
    """

    def prepare(self) -> None:
        host, origin = self.request.headers.get("Host", ""), self.request.headers.get("Origin", "")
        own = {f"http://{host}", f"https://{host}", ""}
        address = parse_address(self.request.remote_ip or "")
        local = address is not None and address.is_loopback
        once = self.request.version == "HTTP/1.0" or "close" in self.request.headers.get("Connection", "").lower()
        forwarded = once or any(name in self.request.headers for name in FORWARDED)
        if forwarded or not (local and is_loopback_host(host) and origin in own):
            self.set_status(403)
            self.finish("The demo answers on this machine only.")


class DemoFileHandler(LoopbackOnly, StaticFileHandler):
    def set_default_headers(self) -> None:
        super().set_default_headers()
        # For older Safaris 'self' does not include websockets. The page is only sent if the host is a loopback name.
        host = self.request.headers.get("Host", "")
        sockets = f" ws://{host} wss://{host}" if is_loopback_host(host) else ""
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")


class DemoHandler(LoopbackOnly, QuietHandler):
    """Base of the handlers that answer with JSON of the demo's small back end."""

    def initialize(self, demo: Demo) -> None:
        self.demo = demo

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def answer(self, value: object, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(json.dumps(value))


class DeskHandler(DemoHandler):
    """GET: the visitor's people with their tokens, and the current tickets."""

    def get(self) -> None:
        self.answer(self.demo.desk())


class Act(Struct):
    """What the visitor does to a ticket as the agent or the customer of the page: comment on it, or set its fields."""

    actor: str
    ticketId: TicketIdText
    text: Annotated[str, Meta(max_length=2000)] = ""
    note: bool = False
    status: str = ""
    priority: str = ""


_act = msgspec.json.Decoder(Act)


class ActHandler(DemoHandler):
    """POST: makes the calls that a helpdesk's back end would make."""

    async def post(self) -> None:
        # A form of another site can send text/plain without a preflight request, but not this type.
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            self.answer({"error": {"code": "BAD_REQUEST", "message": "The body must be application/json."}}, 400)
            return
        try:
            if len(self.request.body) > MAX_BODY:
                raise RtError("PAYLOAD_TOO_LARGE")
            await self._do(json.decode(_act, self.request.body))
        except json.BadJson as bad:
            self.answer({"error": {"code": "BAD_REQUEST", "message": bad.why, "field": bad.field}}, 400)
        except RtError as refused:
            self.answer({"error": refused.as_dict()}, refused.kind.http)

    async def _do(self, act: Act) -> None:
        if act.text.strip():
            await self.demo.comment(act.actor, act.ticketId, act.text.strip(), note=act.note)
        if act.status or act.priority:
            await self.demo.change(act.actor, act.ticketId, status=act.status, priority=act.priority)
        self.answer({"ok": True})


def demo_routes(demo: Demo | None) -> list[Route]:
    """Return the routes of the demo's page; none without a demo."""
    if demo is None:
        return []
    return [
        ("/demo/?", DemoFileHandler, {"path": STATIC / "demo.html"}),
        ("/demo/demo.js", DemoFileHandler, {"path": STATIC / "demo.js"}),
        ("/demo/demo.css", DemoFileHandler, {"path": STATIC / "demo.css"}),
        ("/demo/desk", DeskHandler, {"demo": demo}),
        ("/demo/act", ActHandler, {"demo": demo}),
    ]
