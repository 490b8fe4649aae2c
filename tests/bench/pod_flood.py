"""How long a Pod waits at `serve --pods` beside another Pod's flood: `python tests/bench/pod_flood.py`.

A process opens a hundred connections at once from one address, again and again, and sends a token that is refused on
each. Meanwhile Pods with other addresses send fifty requests a second: one with a token that was verified lately, and
each twenty-fifth with one that was not. Nothing passes or fails here.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

TESTS = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(TESTS), str(TESTS.parent)]  # Not this folder, whose serving.py hides tests/serving.

from bench.flood import AWAIT_RESPONSES, row  # noqa: E402
from bench.measure import table  # noqa: E402
from bench.pods import Servers, pod_token, servers  # noqa: E402
from serving.pods.api_server import RSA_ISSUER, bound  # noqa: E402

AT_ONCE, TOKENS = 100, 2000
EVERY_SECONDS, NEW_EVERY = 0.02, 25
_LIAR, _POD = "127.0.0.66", "127.0.0.5"
# Each connection gets the next of the tokens on stdin.
_ATTACK = (
    """
import itertools, selectors, socket, sys, time
source, port, at_once, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), time.monotonic() + float(sys.argv[4])
tokens = itertools.cycle(sys.stdin.read().split())
while time.monotonic() < end:
    selector, last = selectors.DefaultSelector(), time.monotonic() + 1
    for _ in range(at_once):
        sock = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        head = f"GET /v1/credentials HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nAuthorization: {next(tokens)}"
        sock.sendall(f"{head}\\r\\n\\r\\n".encode())
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
"""
    + AWAIT_RESPONSES
)


def floods() -> dict[str, list[str]]:
    """Return the tokens of each flood, by its name in the table."""
    text, _, signature = pod_token(1).rpartition(".")
    forged = [base64.urlsafe_b64encode(os.urandom(192)).decode() for _ in range(TOKENS)]
    elsewhere = RSA_ISSUER.token(**{"kubernetes.io": bound(node={"name": "node2"})})
    return {
        "nothing": [],
        "forged signatures, each another": [f"{text}.{one}" for one in forged],
        "the same forged token": [f"{text}.{forged[0][: len(signature)]}"],
        "a token of another node": [elsewhere],
        "8 KB of garbage": ["x" * 8192],
    }


@contextmanager
def flood(port: int, tokens: list[str], seconds: float) -> Iterator[None]:
    """Flood a server from one address."""
    if not tokens:
        yield
        return
    command = [sys.executable, "-I", "-c", _ATTACK, _LIAR, str(port), str(AT_ONCE), str(seconds + 1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdin
        attacker.stdin.write("\n".join(tokens))
        attacker.stdin.close()
        time.sleep(0.5)
        yield
        attacker.terminate()


def waits(found: Servers, seconds: float) -> list[float]:
    """Return how long each response took, in milliseconds; end the program if one is a refusal."""
    port = urlsplit(found.pods.url).port or 0
    known, waited, end = pod_token(), list[float](), time.monotonic() + seconds
    while time.monotonic() < end:
        is_new = len(waited) % NEW_EVERY == NEW_EVERY - 1
        token = pod_token(0, len(waited)) if is_new else known
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, source_address=(_POD, 0))
        connection.request("GET", "/v1/credentials", headers={"Authorization": token})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        waited.append((time.monotonic() - begin) * 1000)
        if answer.status != 200:
            raise SystemExit(f"a good token was answered with {answer.status}")
        time.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - begin)))
    return sorted(waited)


def main() -> None:
    """Flood in each way, and print how long the good Pods waited."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    seconds = parser.parse_args().seconds
    rows = []
    for name, tokens in floods().items():
        with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder, servers(Path(folder)) as found:
            waits(found, 0.1)  # The first session.
            before = len(found.api.reviews)
            with flood(urlsplit(found.pods.url).port or 0, tokens, seconds):
                rows.append([*row(name, waits(found, seconds)), f"{len(found.api.reviews) - before}"])
    print(table(["flood", "responses", "median, ms", "p99, ms", "worst, ms", "over 100 ms", "TokenReviews"], rows))


if __name__ == "__main__":
    main()
