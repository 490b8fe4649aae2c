"""Opens a secret URL in the user's browser.

Other users can read a browser's command line. So it gets the URL of a server on loopback, which redirects requests of
this user only.
"""

from __future__ import annotations

import os
import secrets
import socketserver
import threading
import time
import webbrowser
from http.server import BaseHTTPRequestHandler

from hwsigner._system.loopback import find_owner
from hwsigner._system.support import require_linux
from hwsigner.errors import HwsignerError

_WAIT_SECONDS = 30.0
# Some desktops ask for a URL themselves, to choose a program by the answer, before the browser does.
_LATER_SECONDS = 2.0
_HINT = "Leave out --open, and open the URL that is printed"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print no traceback: browsers break connections off, and so may other users."""


def open_in_browser(url: str) -> None:
    """Open a URL in the user's browser, and return once the browser has it.

    If the browser does not ask for it in time, this is an error.
    """
    require_linux("--open", _HINT)
    path = f"/{secrets.token_urlsafe(32)}"
    is_fetched = threading.Event()

    class Redirect(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            if self.path != path or not self._is_this_user():
                self.send_error(404)
                return
            self.send_response(302)
            for name, value in (("Location", url), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer")):
                self.send_header(name, value)
            self.end_headers()
            is_fetched.set()

        def log_message(self, format: str, *args: object) -> None:
            """Write no log: it would have the path."""

        def _is_this_user(self) -> bool:
            try:
                return find_owner(self.client_address, self.connection.getsockname()) == os.geteuid()
            except OSError:
                return False

    with _Server(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            if not webbrowser.open(f"http://127.0.0.1:{server.server_address[1]}{path}"):
                raise HwsignerError("no browser was started", _HINT)
            if not is_fetched.wait(_WAIT_SECONDS):
                raise HwsignerError(f"the browser did not ask for the URL within {_WAIT_SECONDS:g} s", _HINT)
            time.sleep(_LATER_SECONDS)
        finally:
            server.shutdown()
