"""A TLS server that gives a real API server's recorded answers: `python -m cluster.replay FOLDER PORT`.

FOLDER has its certificate, `server.crt` and `server.key`, which it reads again for each connection. It appends a line
for each request to `requests.log`.
"""

from __future__ import annotations

import socket
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cluster.answers import Answers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Replay

    def setup(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        folder = self.server.folder
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self) -> None:
        if self.path == "/readyz":
            return self._send(200, {"Content-Type": "text/plain"}, "ok")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with (self.server.folder / "requests.log").open("a") as log:
            log.write(f"{self.command} {self.path}\n")
        try:
            self._send(*self.server.answers.find(self.command, self.path, headers, body))
        except KeyError as error:  # No client takes this for an answer.
            self._send(500, {"Content-Type": "text/plain"}, str(error))

    do_POST = do_GET  # noqa: N815

    def _send(self, status: int, headers: dict[str, str], body: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body.encode()))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: Any) -> None:
        pass


class Replay(ThreadingHTTPServer):
    """The server. A connection that is closed without a request is none of its business."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.answers = Answers()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    Replay(Path(sys.argv[1]), int(sys.argv[2])).serve_forever()
