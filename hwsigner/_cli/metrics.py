"""Metrics and health checks of a command that stays: on a listener of their own, and in a file."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from hwsigner._cli.parser import Arguments
from hwsigner._config.flags import Flag, switch
from hwsigner.errors import HwsignerError, UsageError

if TYPE_CHECKING:
    from hwsigner._monitoring.log import Log
    from hwsigner._monitoring.metrics import Metrics
    from hwsigner._serving.responses import HTTPResponse

METRICS = (
    Flag(
        "metrics-listen",
        "serve /metrics and /health on this address of the machine, such as 127.0.0.1:9912, or a socket; repeatable",
        "IP:PORT|unix:PATH",
        many=True,
    ),
    switch("metrics-remote", "let other machines read the metrics too"),
    Flag("metrics-textfile", "write the metrics into this file, for node_exporter", "FILE"),
)
_MAX_CONNECTIONS = 32
_HOP_LIMIT = 64
# Rendering thousands of profiles takes a while: not for each of many requests.
_KEEP_SECONDS = 1.0


@contextmanager
def metrics_output(
    arguments: Arguments, metrics: Metrics, log: Log, checks: Mapping[str, Callable[[], str]] | None = None
) -> Iterator[None]:
    """Serve the metrics, and write them to a file, as the flags say, inside the `with` statement.

    An address that other machines can reach needs `--metrics-remote`. `checks` are further paths, by functions that
    return what is wrong, which only clients of a Unix socket see, or an empty text. With them, two processes may listen
    at one address.
    """
    with ExitStack() as stack:
        for place in arguments.metrics_listen:
            stack.enter_context(_served(place, arguments.metrics_remote, metrics, log, checks or {}))
        if arguments.metrics_textfile:
            from hwsigner._monitoring.metrics import Textfile

            textfile = Textfile(os.path.abspath(arguments.metrics_textfile), metrics.render, log.note)
            textfile.start()
            stack.callback(textfile.stop)
        yield


@contextmanager
def _served(
    place: str, is_remote: bool, metrics: Metrics, log: Log, checks: Mapping[str, Callable[[], str]]
) -> Iterator[None]:
    from hwsigner._monitoring.metrics import MEDIA_TYPE
    from hwsigner._serving.application import Application
    from hwsigner._serving.responses import JSON, response
    from hwsigner._serving.server import HTTPServer

    with _listener(place, is_remote, is_shared=bool(checks)) as (listener, names):
        application = Application(names, log.refused)
        text = _kept(metrics.render)

        def health() -> HTTPResponse:
            is_healthy, body = metrics.health()
            return response(body.encode(), JSON, status=HTTPStatus.OK if is_healthy else HTTPStatus.SERVICE_UNAVAILABLE)

        application.add("/metrics", lambda: response(text().encode(), MEDIA_TYPE.encode()))
        application.add("/health", health)
        for path, check in checks.items():
            application.add(path, partial(_checked, check, is_open=listener.family == socket.AF_UNIX))
        server = HTTPServer(application, [listener], log=log.refused, most=_MAX_CONNECTIONS)
        thread = threading.Thread(target=server.run, name="hwsigner-metrics", daemon=True)
        thread.start()
        log.note(f"metrics on {_url(listener)}")
        try:
            yield
        finally:
            server.stop()
            thread.join()  # An interpreter that ends under a running event loop may crash.


def _checked(check: Callable[[], str], *, is_open: bool) -> HTTPResponse:
    from hwsigner._serving.responses import TEXT, response

    problem = check()
    status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
    text = (problem if is_open else "failing") if problem else "ok"
    return response(f"{text}\n".encode(), TEXT, status=status)


def _kept(make: Callable[[], str]) -> Callable[[], str]:
    """Return a function that makes a text once a second at most. For one thread."""
    last, text = -_KEEP_SECONDS, ""

    def get() -> str:
        nonlocal last, text
        now = time.monotonic()
        if now - last >= _KEEP_SECONDS:
            last, text = now, make()
        return text

    return get


@contextmanager
def _listener(place: str, is_remote: bool, *, is_shared: bool) -> Iterator[tuple[socket.socket, list[str] | None]]:
    """Listen, and give the socket with what clients may call the server, or None for anything."""
    from hwsigner._http.address import ip_address, is_loopback
    from hwsigner._serving.listener import listen, names_of

    kind, _, path = place.partition(":")
    if kind == "unix":
        with _unix_socket(path) as listener:
            yield listener, ["localhost"]
        return
    address, _, port = place.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not (ip_address(address) and port.isascii() and port.isdigit() and int(port[:6]) < 65536):
        problem = f"--metrics-listen is {place[:100]!r}, which is neither IP:PORT nor unix:PATH"
        raise UsageError(problem, "Write 127.0.0.1:9912, for example")
    if not is_remote and not is_loopback(address):
        hint = "Give 127.0.0.1, or add --metrics-remote to let them"
        raise UsageError(f"other machines can reach {address[:100]!r}", hint)
    with listen(address, int(port), _HOP_LIMIT, is_shared=is_shared) as listener:
        yield listener, None if is_remote else names_of(listener, ["localhost"])


@contextmanager
def _unix_socket(path: str) -> Iterator[socket.socket]:
    """Make a socket in place of a dead one, for all users who can reach it, and remove it at the end."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
                probe.settimeout(1.0)
                probe.connect(path)
                raise HwsignerError(f"another program listens on {path}", "Give another path with --metrics-listen")
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):  # Any other file stays, and is an error.
                    os.unlink(path)
            before = os.umask(0o111)  # Nothing in the metrics is secret.
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            listener.listen()
        except OSError as error:
            problem = f"can't listen on {path[:200]}: {error.strerror or error}"
            raise HwsignerError(problem, "Give another path with --metrics-listen") from error
        try:
            yield listener
        finally:
            with suppress(OSError):
                os.unlink(path)


def _url(listener: socket.socket) -> str:
    from hwsigner._http.address import host_and_port

    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    return f"http://{host_and_port(*listener.getsockname()[:2])}/metrics"
