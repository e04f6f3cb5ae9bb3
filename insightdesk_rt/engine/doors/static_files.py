"""Public files of the package on the client port: the browser client, /rt/client.js."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from tornado.web import RequestHandler

from insightdesk_rt.engine.doors.handlers import QuietHandler

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".js": "text/javascript; charset=UTF-8",
    ".css": "text/css; charset=UTF-8",
    ".html": "text/html; charset=UTF-8",
    ".ts": "text/plain; charset=UTF-8",
}

Route = tuple[str, type[RequestHandler], dict[str, Any]]


@cache
def _read(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


class StaticFileHandler(QuietHandler):
    """One file. Browsers revalidate it each time, and get 304 while it is unchanged."""

    path = Path()

    def initialize(self, path: Path) -> None:
        self.path = path

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-cache")

    def get(self) -> None:
        content, tag = _read(self.path)
        self.set_header("Content-Type", TYPES[self.path.suffix])
        self.set_header("Etag", tag)
        if self.check_etag_header():
            self.set_status(304)
            self.finish()
        else:
            self.finish(content)

    head = get


class ClientScriptHandler(StaticFileHandler):
    """The browser client. Front ends on any origin may load it, because it contains no user data."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")


def client_script_routes() -> list[Route]:
    return [(f"/rt/{name}", ClientScriptHandler, {"path": STATIC / name}) for name in ("client.js", "client.d.ts")]
