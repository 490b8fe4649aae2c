"""A federation endpoint of the AWS console on loopback, which gives sign-in tokens for an emulator's credentials."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from hwsigner.emulator import Emulator

TOKEN = "a+sign/in=token"


class Federation:
    """The endpoint.

    Attributes:
        url: its URL.
        sessions: the credentials of each request, and the other fields.
        answer: the status and body for good credentials.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.sessions: list[dict[str, str]] = []
        self.answer = (200, json.dumps({"SigninToken": TOKEN}).encode())


@contextmanager
def federation(emulator: Emulator) -> Iterator[Federation]:
    """Serve an endpoint that knows an emulator's credentials."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode(), strict_parsing=True)
            session = json.loads(form.pop("Session")[0])
            found.sessions.append({**session, **{name: value for name, (value,) in form.items()}, "path": self.path})
            known = emulator._service.vault.find(session["sessionId"])
            is_known = known and (known.secret_access_key, known.session_token) == (
                session["sessionKey"],
                session["sessionToken"],
            )
            status, body = (
                found.answer if is_known and form["Action"] == ["getSigninToken"] else (400, self.requestline)
            )
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Federation(f"http://127.0.0.1:{server.server_address[1]}/federation")
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield found
        server.shutdown()
