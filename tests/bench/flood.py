"""How long a good client of `hwsigner serve` waits beside a flood: `python tests/bench/flood.py`, as root.

A process of another user opens 500 connections at once, again and again, and sends on each of them a request that is
refused, or half of one. Meanwhile a client of the server's own user sends fifty requests a second, for credentials and
for IMDS tokens in turn, on a connection that it keeps and on new ones. Nothing passes or fails here.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from bench.measure import table  # noqa: E402
from bench.serving import TTL, Target, targets  # noqa: E402

AT_ONCE, EVERY_SECONDS = 500, 0.02
_NOBODY = 65534
# What the flood sends on each connection, by its name in the table.
_HEAD = "GET /credentials/web HTTP/1.1\r\nHost: localhost\r\n"
FLOODS = {
    "nothing": "",
    "requests for tokens, by another user": f"PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\n{TTL}\r\n\r\n",
    "wrong tokens": f"{_HEAD}Authorization: {'x' * 43}\r\n\r\n",
    "1,400 headers": _HEAD + "".join(f"x{number}: y\r\n" for number in range(1400)) + "\r\n",
    "100 requests at once": (_HEAD + "\r\n") * 100,
    "partial requests": _HEAD[:-2],
}
# The end of a lot of connections in such a program: it waits a second at most for their responses.
AWAIT_RESPONSES = """\
    while selector.get_map() and time.monotonic() < last:
        for key, _ in selector.select(0.1):
            try:
                over = not key.fileobj.recv(65536)
            except OSError:
                over = True
            if over:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    selector.close()
"""
# A program, since the other user may not be able to read this file.
_ATTACK = (
    """
import selectors, socket, sys, time
port, at_once, end = int(sys.argv[1]), int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
data = sys.stdin.buffer.read()
while time.monotonic() < end:
    selector, last = selectors.DefaultSelector(), time.monotonic() + 1
    for _ in range(at_once):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(data)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
"""
    + AWAIT_RESPONSES
)


@contextmanager
def flood(port: int, data: str, seconds: float) -> Iterator[None]:
    """Flood a server from another user's process."""
    if not data:
        yield
        return
    command = ["/usr/bin/python3", "-I", "-c", _ATTACK, str(port), str(AT_ONCE), str(seconds + 1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, user=_NOBODY, cwd="/") as attacker:
        assert attacker.stdin
        attacker.stdin.write(data.encode())
        attacker.stdin.close()
        time.sleep(0.5)
        yield
        attacker.terminate()


def waits(port: int, container: Target, seconds: float) -> list[float]:
    """Return how long each response took, in milliseconds; end the program if one is a refusal."""
    name, _, value = container.headers[0].partition(": ")
    ttl, _, age = TTL.partition(": ")
    asked = [("GET", urlsplit(container.url).path, {name: value}), ("PUT", "/latest/api/token", {ttl: age})]
    kept, found, end = http.client.HTTPConnection("127.0.0.1", port), [], time.monotonic() + seconds
    while time.monotonic() < end:
        for method, path, headers in asked:
            for connection in (kept, http.client.HTTPConnection("127.0.0.1", port)):
                begin = time.monotonic()
                connection.request(method, path, headers=headers)
                answer = connection.getresponse()
                answer.read()
                found.append((time.monotonic() - begin) * 1000)
                if answer.status != 200:
                    raise SystemExit(f"{method} {path} was answered with {answer.status}")
                if connection is not kept:
                    connection.close()
                time.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - begin)))
    kept.close()
    return sorted(found)


def row(name: str, found: list[float]) -> list[str]:
    """Return a row of the table."""
    late = sum(wait > 100 for wait in found)
    figures = [statistics.median(found), found[int(len(found) * 0.99)], found[-1]]
    return [name, f"{len(found):,}", *(f"{figure:.0f}" for figure in figures), f"{late}"]


def main() -> None:
    """Flood in each way, and print how long the good client waited."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15)
    seconds = parser.parse_args().seconds
    if os.geteuid() != 0:
        raise SystemExit("Run this as root: the flood comes from another user")
    rows = []
    for name, data in FLOODS.items():
        with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder, targets(Path(folder)) as found:
            port = urlsplit(found[1].url).port or 0
            with flood(port, data, seconds):
                rows.append(row(name, waits(port, found[1], seconds)))
    print(table(["flood", "responses", "median, ms", "p99, ms", "worst, ms", "over 100 ms"], rows))


if __name__ == "__main__":
    main()
