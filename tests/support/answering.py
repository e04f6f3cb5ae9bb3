"""An HTTP server in a thread that answers what the test says: the admin port, as a command line sees it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answering:
    """Answers as it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status, self.answer = 200, b"{}"
        self.answers: dict[str, bytes] = {}  # by path, for what is not answered like everything else
        self.asked: list[tuple[str, str, dict[str, Any] | None, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                outer.asked.append((self.command, self.path, body, self.headers.get("Authorization", "")))
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                answer = outer.answers.get(self.path, outer.answer)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = str(self.server.server_port)


@contextmanager
def answering() -> Iterator[Answering]:
    port = Answering()
    thread = threading.Thread(target=port.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield port
    finally:
        port.server.shutdown()
        thread.join(5)
        port.server.server_close()
