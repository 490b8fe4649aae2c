"""An update of the DaemonSet: a new `serve --pods` starts beside the old one, at the same address, while SDKs ask."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from botocore.credentials import ContainerProvider

from cluster.network import ADDRESSES
from cluster.node import POLICY, Node
from judges import needs_namespaces
from serving.stage import Process

pytestmark = [pytest.mark.root, pytest.mark.slow, needs_namespaces]

UPDATES = 6
# Between two questions of a thread. A closed connection keeps its port for a minute, and there are 28,000.
PAUSE = 0.02


@contextmanager
def asking(ask: Callable[[], str], threads: int) -> Iterator[Counter[str]]:
    """Ask again and again in threads, and count what comes."""
    found: Counter[str] = Counter()
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(PAUSE):
            try:
                found[ask()] += 1
            except Exception as error:
                found[f"{type(error).__name__}: {error}"] += 1

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield found
    finally:
        is_over.set()
        for thread in running:
            thread.join()


@contextmanager
def server(node: Node, number: int) -> Iterator[Process]:
    """Run a server until its own probe says that it is ready, as the kubelet would."""
    path = f"{node.stage.folder}/{number}.sock"
    flags = (f"--pods={node.policy}", f"--metrics-listen=unix:{path}")
    with node.running("serve", *flags, account=node.source.account.path) as process:
        command = [sys.executable, "-m", "hwsigner._system.probe", path, "/ready"]
        end = time.monotonic() + 60
        while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            assert time.monotonic() < end, done.stdout
            time.sleep(0.2)
        yield process


@contextmanager
def updated_server(node: Node) -> Iterator[Callable[[], None]]:
    """Run a server, and give what replaces it: the new one is ready before the old one is told to end."""
    node.policy.write_text(POLICY)
    with ExitStack() as stack:
        processes = [stack.enter_context(server(node, 0))]

        def replace() -> None:
            processes.append(stack.enter_context(server(node, len(processes))))
            time.sleep(0.5)
            assert processes[-2].end(signal.SIGTERM) == 0

        yield replace
        assert processes[-1].end(signal.SIGTERM) == 0


def test_no_call_of_boto3_fails_during_updates(node: Node, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(node.source.tokens["good"])
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{ADDRESSES[0]}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
    }

    def ask() -> str:
        loaded = ContainerProvider(environ=environ).load()
        assert loaded is not None
        return "good" if loaded.get_frozen_credentials().access_key else "empty"

    with updated_server(node) as replace, asking(ask, 4) as found:
        for _ in range(UPDATES):
            replace()
    assert found["good"] > 100
    assert set(found) == {"good"}, found


def test_few_connections_are_reset_during_updates(node: Node) -> None:
    good = node.source.tokens["good"]

    def ask() -> str:
        connection = http.client.HTTPConnection(ADDRESSES[0], timeout=20)
        try:
            connection.request("GET", "/v1/credentials", headers={"Authorization": good})
            return str(connection.getresponse().status)
        finally:
            connection.close()

    with updated_server(node) as replace, asking(ask, 8) as found:
        for _ in range(UPDATES):
            replace()
    assert found["200"] > 1000
    bad = {name: count for name, count in found.items() if name != "200"}
    assert sum(bad.values()) <= UPDATES, found  # Each SDK asks again.
