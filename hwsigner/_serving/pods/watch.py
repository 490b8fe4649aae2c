"""A look, every few seconds, at what Pods need: the listener at their address, and somebody who verifies tokens.

A probe that asks for `live` fails only if a restart may help: this process does not answer, or the address is gone.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hwsigner._http.address import host_and_port
from hwsigner._serving.pods.reviews import Reviews

if TYPE_CHECKING:
    from hwsigner._serving.server import HTTPServer

PATH = "/healthz"
# Between two looks, and for each answer.
LOOK_SECONDS = 5.0
DEADLINE_SECONDS = 2.0
# Without reviews for this time, a look causes one.
_QUIET_SECONDS = 10.0
# Much longer than a look at two listeners takes. It never waits for the API server.
_LATE_SECONDS = 30.0

LISTENING = ("loop", "address")
CAUSES = (*LISTENING, "own-token", "forbidden", "busy", "unreachable", "error")


class Watch:
    """The looks, in a thread of their own.

    `count` takes the result and the duration of each review of a token. `log` takes a line when a problem comes or
    goes.
    """

    def __init__(self, count: Callable[[str, float], None], log: Callable[[str], None]) -> None:
        self.reviews = Reviews(count)
        self._log = log
        self._problems: Mapping[str, str] = {"loop": "the server is starting"}
        self._looked = time.monotonic()

    def start(self, look: Callable[[], tuple[str, str] | None], try_out: Callable[[], None]) -> None:
        """Look from now on, with `problem_of` the listeners; `try_out` causes a review."""
        threading.Thread(target=self._run, args=(look, try_out), name="hwsigner-watch", daemon=True).start()

    def problems(self) -> Mapping[str, str]:
        """Return what keeps Pods from new credentials: texts for the log, by causes of CAUSES."""
        late = time.monotonic() - self._looked
        return {"loop": f"the last look is {late:.0f} s old"} if late > _LATE_SECONDS else self._problems

    def live(self) -> str:
        """Return why the listener does not answer, or an empty text."""
        return "; ".join(text for cause, text in self.problems().items() if cause in LISTENING)

    def ready(self) -> str:
        """Return why Pods get no new credentials, or an empty text."""
        return "; ".join(self.problems().values())

    def _run(self, look: Callable[[], tuple[str, str] | None], try_out: Callable[[], None]) -> None:
        trying = threading.Thread(target=try_out, daemon=True)
        while True:
            if self.reviews.age > _QUIET_SECONDS and not trying.is_alive():
                trying = threading.Thread(target=try_out, name="hwsigner-try-out", daemon=True)
                trying.start()
            found = look()
            problems = dict(one for one in (found, self.reviews.problem()) if one)
            if problems.keys() != self._problems.keys():
                text = "; ".join(problems.values())
                self._log(f"error: Pods get no new credentials: {text}" if text else "Pods can get credentials")
            self._problems, self._looked = problems, time.monotonic()
            time.sleep(LOOK_SECONDS)


def problem_of(server: HTTPServer, listeners: Sequence[socket.socket], *, has_tls: bool) -> tuple[str, str] | None:
    """Return the cause and the text if the server does not answer at its listeners' addresses, else None."""
    problem = _unanswered(listeners, has_tls=has_tls)
    is_running = server.is_running(DEADLINE_SECONDS)  # Another process may have answered.
    if server.is_stopped:
        return None
    if not is_running:
        return "loop", f"the event loop does nothing for {DEADLINE_SECONDS:g} s"
    return ("address", problem) if problem else None


def _unanswered(listeners: Sequence[socket.socket], *, has_tls: bool) -> str:
    for one in listeners:
        place = "a closed listener"
        try:
            host, port = one.getsockname()[:2]
            place = host_and_port(host, port)
            if not _is_answered(one.family, host, port, has_tls=has_tls):
                return f"a wrong answer at {place}"
        except OSError as error:
            return f"no answer at {place}: {error.strerror or error}"
    return ""


def _is_answered(family: socket.AddressFamily, host: str, port: int, *, has_tls: bool) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE_SECONDS)
        # From the address itself: without its link, the way would lead to another machine.
        connection.bind((host, 0))
        connection.connect((host, port))
        if has_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # It is this process.
            connection = context.wrap_socket(connection)
        with connection:
            connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: {host_and_port(host, port)}\r\n\r\n".encode())
            return connection.recv(12) == b"HTTP/1.1 204"
