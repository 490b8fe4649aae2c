"""An API server as a Pod of hwsigner sees it: a real one, or one that gives recorded answers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import certs
from cluster.answers import Answers
from cluster.api import API, REVIEWS
from cluster.kube import Cluster
from cluster.pki import make_cluster_ca, write_server
from cluster.tokens import furnish, make_tokens
from kubelet import Volume
from pages import ROOT
from ports import reserve_port

# Where a Pod's containers find the token and the CA of its account.
MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Server(Protocol):
    """The process of an API server."""

    @property
    def api(self) -> API: ...

    def send(self, name: str, number: int) -> None:
        """Send a signal to the process `server`, and wait for its end if it has to end."""

    def start_server(self) -> None:
        """Start the process again, and wait until it is ready."""


class Source:
    """An API server and the tokens of its accounts.

    Attributes:
        tokens: the tokens of the cases, and those of reviewers, by name.
        account: the files of hwsigner's account: at first, those of `reviewer`.
        environ: the variables by which a Pod finds the API server.
    """

    def __init__(self, server: Server, ca: certs.Authority, tokens: dict[str, str], folder: Path) -> None:
        self.tokens = tokens
        files = {"namespace": b"hwsigner", "token": tokens["reviewer"].encode(), "ca.crt": ca.pem}
        self.account = Volume(folder / "account", files)
        self.environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.api.port)}
        self._server = server
        self._ca = ca

    @property
    def api(self) -> API:
        return self._server.api

    def hang(self) -> None:
        """Stop the API server, whose port stays open."""
        self._server.send("server", signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.send("server", signal.SIGCONT)

    def kill(self) -> None:
        """End the API server, whose port then is closed."""
        self._server.send("server", signal.SIGKILL)

    def start_again(self) -> None:
        self._server.start_server()

    def use(self, reviewer: str) -> None:
        """Give hwsigner's account another token, as the kubelet does when the former becomes old."""
        self.account.update({"token": self.tokens[reviewer].encode()})

    def renew_certificate(self, ca: certs.Authority | None = None) -> None:
        """Give the API server another certificate, and wait until it has it. Of its own CA, if no other is given."""
        folder = self.api.folder
        write_server(ca or self._ca, folder)
        (folder / "ca.crt").write_bytes((ca or self._ca).pem)
        end = time.monotonic() + 90
        while time.monotonic() < end:
            shown = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{self.api.port}", "-showcerts"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            ).stdout
            if (folder / "server.crt").read_text().strip() in shown:
                return
            time.sleep(0.2)
        raise AssertionError("the API server keeps its former certificate")

    @contextmanager
    def other_ca(self, ca: certs.Authority) -> Iterator[None]:
        """Let the API server have a certificate of another CA during the block. hwsigner's account has the former."""
        self.renew_certificate(ca)
        try:
            yield
        finally:
            self.renew_certificate()
            self.account.update({"ca.crt": self._ca.pem})

    def reviews(self) -> int:
        """Return how many TokenReviews were asked for."""
        log = self.api.folder / "requests.log"
        if log.exists():
            return log.read_text().splitlines().count(f"POST {REVIEWS}")
        metrics = self.api.ask("GET", "/metrics", Accept="text/plain").body
        counts = re.findall(r'^apiserver_request_total\{.*resource="tokenreviews".*\} (\d+)$', metrics, re.MULTILINE)
        return sum(map(int, counts))


class _ReplayServer:
    """The process that gives recorded answers."""

    def __init__(self, folder: Path) -> None:
        self.api = API(reserve_port(), folder)
        self._process: subprocess.Popen[bytes] | None = None

    def start_server(self) -> None:
        tests = ROOT / "tests"
        command = [sys.executable, "-m", "cluster.replay", str(self.api.folder), str(self.api.port)]
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{tests}"}
        self._process = subprocess.Popen(command, env=environ)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if self.api.ask("GET", "/readyz", token="").status == 200:
                    return
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise AssertionError("the server of recorded answers is not ready")

    def send(self, name: str, number: int) -> None:
        assert self._process
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(30)


@contextmanager
def recorded(folder: Path) -> Iterator[Source]:
    """Run a server that gives recorded answers."""
    ca = make_cluster_ca()
    write_server(ca, folder)
    (folder / "ca.crt").write_bytes(ca.pem)
    (folder / "requests.log").touch()
    server = _ReplayServer(folder)
    try:
        server.start_server()
        yield Source(server, ca, Answers().tokens, folder)
    finally:
        server.send("server", signal.SIGKILL)


@contextmanager
def real(program: Path, folder: Path) -> Iterator[tuple[Cluster, Source]]:
    """Run a cluster that has all accounts, Pods and tokens of the cases."""
    with Cluster(program, folder).running() as cluster:
        furnish(cluster.api)
        tokens = make_tokens(cluster.api, folder)
        yield cluster, Source(cluster, cluster.ca, tokens, folder)
