"""An endpoint on this machine that lists no models; what it does with a request is up to the test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint(BaseHTTPRequestHandler):
    """Answers requests for the list of models; a subclass has ``do_POST``."""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, text: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Retry-After", "50")
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self.answer(200, b'{"data": []}')


@contextlib.contextmanager
def serving(handler: type[Endpoint]) -> Iterator[str]:
    """The address of a server in this process that answers by ``handler``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
