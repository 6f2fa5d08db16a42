"""A web server on this machine whose first answer breaks off half-way."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serve one directory; the first answer for each file of ``cut`` ends after half of it."""

    requests: list[str | None]
    directory: Path
    cut: set[str]

    def do_GET(self) -> None:
        """Answer with the file, or what follows the first byte of a Range."""
        name = self.path.lstrip("/").partition("?")[0]
        path = self.directory / name
        if not path.exists():
            self.send_error(404)
            return
        content, wanted = path.read_bytes(), self.headers["Range"]
        self.requests.append(wanted)
        start = int(wanted[len("bytes=") :].rstrip("-")) if wanted else 0
        end = len(content) // 2 if name in self.cut else None
        self.cut.discard(name)
        self.send_response(206 if wanted else 200)
        self.end_headers()
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@contextlib.contextmanager
def serve(directory: Path, *cut: str) -> Iterator[tuple[str, type[RangeHandler]]]:
    """Serve ``directory``; give the address and the handler class, which notes the requests."""
    handler = type(
        "Handler", (RangeHandler,), {"requests": [], "directory": directory, "cut": set(cut)}
    )
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", handler
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
