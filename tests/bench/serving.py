"""The rate of `hwsigner serve` beside bare uvicorn, and its memory: `python tests/bench/serving.py`.

wrk sends requests over 16 connections to each server in turn, in one run: to the container endpoint and IMDS with their
tokens, and to uvicorn with an application that only sends as many bytes; over connections that are kept, and over a new
one for each request. Then memory: through a million tokens, with 500 connections that send half a request, and after
bursts of connections. Nothing passes or fails here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

import certs  # noqa: E402
from bench.measure import table, verdict  # noqa: E402
from hwsigner.emulator import Emulator, World  # noqa: E402

CONNECTIONS, HALF_OPEN = 16, 500
BURSTS, BURST = 3, 900
LEAST_RATIO, LEAST_NEW, MOST_P99 = 1.2, 8500, 1.0
TTL = "X-aws-ec2-metadata-token-ttl-seconds: 21600"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass
class Target:
    """What wrk requests, and the figures of each round.

    Attributes:
        name: what the table calls it.
        pid: the server's process.
        url: the URL.
        headers: the request's headers.
        is_new: whether each request has a new connection.
    """

    name: str
    pid: int
    url: str
    headers: tuple[str, ...] = ()
    is_new: bool = False
    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def measure(self, seconds: int) -> None:
        """Send requests for some seconds."""
        begin = processor_seconds(self.pid)
        out = wrk(self.url, (*self.headers, *(["Connection: close"] if self.is_new else [])), seconds)
        self.costs.append((processor_seconds(self.pid) - begin) / requests(out))
        self.rates.append(_rate(out))
        self.medians.append(_percentile(out, 50))
        self.p99s.append(_percentile(out, 99))

    def forget(self) -> None:
        """Forget the figures so far."""
        for figures in (self.rates, self.medians, self.p99s, self.costs):
            figures.clear()

    def row(self, bare: Target) -> list[str]:
        """Return its row of the table, with the ratios to bare uvicorn."""
        rate, p99 = statistics.median(self.rates), statistics.median(self.p99s)
        cells = [self.name, f"{rate:,.0f}"]
        if self is bare:
            cells += ["1", "1", ""]
        else:
            ratio = statistics.median(a / b for a, b in zip(self.rates, bare.rates, strict=True))
            by_processor = statistics.median(b / a for a, b in zip(self.costs, bare.costs, strict=True))
            bounds = f"at least {LEAST_RATIO:g} times bare: {verdict(ratio >= LEAST_RATIO)}; "
            if self.is_new:
                bounds += f"at least {LEAST_NEW:,}/s: {verdict(rate >= LEAST_NEW)}"
            else:
                bounds += f"p99 under {MOST_P99:g} ms: {verdict(p99 < MOST_P99)}"
            cells += [f"{ratio:.2f}", f"{by_processor:.2f}", bounds]
        median = statistics.median(self.medians)
        return [*cells[:4], f"{median:.2f}", f"{p99:.2f}", f"{resident(self.pid) / 1024:.0f}", cells[4]]


def wrk(url: str, headers: tuple[str, ...], seconds: int, *more: str) -> str:
    """Run wrk and return what it prints."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--latency", *more]
    for header in headers:
        command += ["-H", header]
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"{url} failed: {done.stdout}")
    return done.stdout


def _rate(out: str) -> float:
    return float(re.search(r"Requests/sec:\s+([0-9.]+)", out)[1])  # type: ignore[index]  # wrk prints it


def _percentile(out: str, percent: int) -> float:
    match = re.search(rf"\s{percent}%\s+([0-9.]+)(us|ms|s)\s", out)
    return float(match[1]) * _UNITS[match[2]]  # type: ignore[index]  # wrk prints it


def requests(out: str) -> int:
    """Return how many requests wrk made."""
    return int(re.search(r"([0-9]+) requests in", out)[1])  # type: ignore[index]  # wrk prints it


def processor_seconds(pid: int) -> float:
    """Return how long a process has run on a processor, in its own code and in the kernel's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return a process's resident memory, in KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def serve_bare(size: int) -> None:
    """Serve this number of bytes with bare uvicorn on httptools and uvloop, at its fastest settings."""
    import uvicorn
    import uvloop

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    body = {"type": "http.response.body", "body": b"x" * size}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send(body)

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        answer,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve([listener]))


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the end of the block."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def targets(folder: Path) -> Iterator[list[Target]]:
    """Start both servers; yield bare uvicorn, the container endpoint, IMDS, and the first two by new connections."""
    ca, key = certs.make_ca(), ec.generate_private_key(ec.SECP256R1())
    leaf = folder / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    with ExitStack() as stack:
        service = stack.enter_context(Emulator(World.simple(ca.certificate)))
        flags = [
            f"--certificate={leaf}",
            f"--private-key={certs.write_key(folder / 'leaf.key', key)}",
            f"--trust-anchor-arn={service.trust_anchor_arn}",
            f"--profile-arn={service.profile_arn}",
            f"--role-arn={service.role_arn}",
            f"--endpoint={service.url}",
            f"--token-folder={folder}",
            "--port=0",
        ]
        program = str(Path(sys.executable).parent / "hwsigner")
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        ours = stack.enter_context(running([program, "serve", *flags], stderr=subprocess.PIPE, env=environ))
        urls = announced(ours)
        role = service.role_arn.rpartition("/")[2]
        token = (folder / f"{role}.token").read_text()
        container = Target("container", ours.pid, urls[1], (f"Authorization: {token}",))
        imds_token = ask(f"{urls[0]}latest/api/token", TTL, "PUT")
        path = f"{urls[0]}latest/meta-data/iam/security-credentials/{role}"
        imds = Target("IMDSv2", ours.pid, path, (f"X-aws-ec2-metadata-token: {imds_token}",))
        size = len(ask(container.url, container.headers[0]))
        bare_command = [sys.executable, __file__, f"--bare={size}"]
        bare = stack.enter_context(running(bare_command, stdout=subprocess.PIPE))
        assert bare.stdout
        uvicorn = Target("uvicorn, bare", bare.pid, f"http://127.0.0.1:{int(bare.stdout.readline())}/")
        new = [Target(f"{one.name}, new", one.pid, one.url, one.headers, is_new=True) for one in (uvicorn, container)]
        yield [uvicorn, container, imds, *new]


def announced(process: subprocess.Popen[str]) -> list[str]:
    """Return the URLs that a server announces, once it has credentials."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line.strip())
        if "session created" in line:
            break
    return [line.partition("=")[2] for line in lines if line.startswith("export ") and "http:" in line]


def ask(url: str, header: str, method: str = "GET") -> str:
    """Return the body of the response to a request with one header."""
    name, _, value = header.partition(": ")
    with urlopen(Request(url, method=method, headers={name: value})) as answer:
        text: str = answer.read().decode()
        return text


def memory_rows(container: Target, token_url: str, tokens: int) -> list[list[str]]:
    """Return the server's memory after this number of tokens, with unfinished requests, and after bursts of them."""
    rows = [["at start", "", f"{resident(container.pid) / 1024:.1f}", ""]]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write('wrk.method = "PUT"\n')
        script.flush()
        taken = 0
        while taken < tokens:
            out = wrk(token_url, (TTL,), 10, "-s", script.name)
            taken += requests(out)
    rows.append([f"after {taken:,} tokens", f"{_rate(out):,.0f}", f"{resident(container.pid) / 1024:.1f}", ""])
    port = int(container.url.split(":")[2].partition("/")[0])
    with half_open(port):
        out = wrk(container.url, container.headers, 10)
        size = f"{resident(container.pid) / 1024:.1f}"
    rows.append(
        [f"with {HALF_OPEN} partial requests of 4 KB", f"{_rate(out):,.0f}", size, f"{_percentile(out, 99):.2f}"]
    )
    for _ in range(BURSTS):
        burst = [socket.create_connection(("127.0.0.1", port)) for _ in range(BURST)]
        for sock in burst:
            sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 16000)
        for sock in burst:
            sock.close()
        time.sleep(2)
    rows.append(
        [f"after {BURSTS} bursts of {BURST} partial requests of 16 KB", "", f"{resident(container.pid) / 1024:.1f}", ""]
    )
    return rows


@contextmanager
def half_open(port: int) -> Iterator[None]:
    """Hold connections that have sent half a request of 4 KB; replace those that the server closes."""
    stop = threading.Event()
    with selectors.DefaultSelector() as selector:

        def connect() -> None:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 4000)
            selector.register(sock, selectors.EVENT_READ)

        def replace() -> None:
            while not stop.is_set():
                for key, _ in selector.select(0.1):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]  # a socket
                    connect()

        for _ in range(HALF_OPEN):
            connect()
        thread = threading.Thread(target=replace)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # a socket


def main() -> None:
    """Send requests to each server in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--bare", type=int, metavar="BYTES", help="serve these with bare uvicorn")
    arguments = parser.parse_args()
    if arguments.bare is not None:
        serve_bare(arguments.bare)
        return
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder, targets(Path(folder)) as found:
        for target in found:  # Once without counting.
            target.measure(1)
            target.forget()
        for _ in range(arguments.rounds):
            for target in found:
                target.measure(arguments.seconds)
        print(f"Python {sys.version.split()[0]}, uvicorn {metadata.version('uvicorn')}; ", end="")
        print(f"wrk, {CONNECTIONS} connections, {arguments.rounds} rounds of {arguments.seconds} s, medians\n")
        head = ["response", "requests/s", "to bare", "by processor time", "p50, ms", "p99, ms", "RSS, MB", "bound"]
        bare = {target.is_new: target for target in found if target.name.startswith("uvicorn")}
        print(table(head, [target.row(bare[target.is_new]) for target in found]), flush=True)
        token_url = found[2].url.partition("latest/")[0] + "latest/api/token"
        rows = memory_rows(found[1], token_url, arguments.tokens)
        print(f"\n{table(['memory of the server', 'requests/s', 'RSS, MB', 'p99, ms'], rows)}")


if __name__ == "__main__":
    main()
