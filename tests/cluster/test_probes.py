"""The probes and metrics of `serve --pods` in the outages that Pods have: each is made, seen, and mended."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.network import ADDRESSES, give_addresses
from cluster.node import POLICY, Node
from hwsigner._system import probe
from judges import needs_namespaces
from serving.stage import Process

pytestmark = [pytest.mark.root, pytest.mark.slow, needs_namespaces]

# hwsigner that looks often and has little patience. On SIGUSR1, its event loop does nothing for some seconds.
_WATCHFUL = """if True:
    import signal, sys, time
    from hwsigner._serving.pods import cluster, reviews, watch

    watch.LOOK_SECONDS, watch._QUIET_SECONDS, watch.DEADLINE_SECONDS = 0.1, 0, 0.5
    reviews.PATIENCE_SECONDS = 2
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(8))
    from hwsigner._cli import main

    sys.exit(main(sys.argv[2:]))
"""


class Probed:
    """A server whose probes are asked."""

    def __init__(self, node: Node, process: Process) -> None:
        self.process = process
        self._socket = str(node.stage.folder / "probe.sock")

    def probe(self, path: str) -> tuple[int, str]:
        """Return the exit status and the output of a probe."""
        command = [sys.executable, "-m", "hwsigner._system.probe", self._socket, path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return done.returncode, done.stdout

    def until(self, path: str, status: int) -> str:
        """Ask until a probe has this exit status, and return its output."""
        end = time.monotonic() + 30
        while (found := self.probe(path))[0] != status:
            assert time.monotonic() < end, found
            time.sleep(0.1)
        return found[1]

    def problems(self) -> set[str]:
        """Return the causes that the metrics have for Pods without credentials."""
        return set(re.findall(r'^hwsigner_pods_problem\{cause="([^"]+)"\} 1$', self.metrics(), re.MULTILINE))

    def metrics(self) -> str:
        time.sleep(1.1)  # They are rendered once a second.
        return subprocess.run(
            ["curl", "--silent", "--unix-socket", self._socket, "http://localhost/metrics"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout


@contextmanager
def probed(node: Node) -> Iterator[Probed]:
    node.policy.write_text(POLICY)
    flags = (f"--pods={node.policy}", f"--metrics-listen=unix:{node.stage.folder}/probe.sock")
    wrapper = (sys.executable, "-c", _WATCHFUL, "--")
    with node.running("serve", *flags, account=node.source.account.path, wrapper=wrapper[:-1]) as process:
        found = Probed(node, process)
        found.until("/ready", 0)
        assert found.problems() == set()
        yield found


@pytest.fixture
def own_token(node: Node) -> Iterator[None]:
    """Give hwsigner's account its first token again after the test."""
    yield
    node.source.use("reviewer")


@pytest.mark.parametrize(
    ("reviewer", "cause", "said"),
    [("stale reviewer", "own-token", "401"), ("powerless reviewer", "forbidden", "system:auth-delegator")],
)
def test_server_whose_own_token_does_not_do_is_live_and_not_ready(
    node: Node, own_token: None, reviewer: str, cause: str, said: str
) -> None:
    with probed(node) as server:
        node.source.use(reviewer)
        assert said in server.until("/ready", 1)
        assert server.problems() == {cause}
        assert server.probe("/live") == (0, "")
        server.process.read_until("error: Pods get no new credentials: ")
        node.source.use("next reviewer")
        server.until("/ready", 0)
        assert server.problems() == set()


@pytest.mark.parametrize("way", ["hangs", "is gone"])
def test_server_is_live_and_not_ready_when_the_api_server_stays_away(node: Node, way: str) -> None:
    source = node.source
    with probed(node) as server:
        source.hang() if way == "hangs" else source.kill()
        try:
            assert "the API server" in server.until("/ready", 1) or way == "is gone"
            assert server.problems() == {"unreachable"}
            assert server.probe("/live") == (0, "")
        finally:
            source.go_on() if way == "hangs" else source.start_again()
        server.until("/ready", 0)


def test_server_without_its_link_is_not_live_until_the_link_is_back(node: Node) -> None:
    with probed(node) as server:
        subprocess.run(["ip", "link", "delete", "pods"], check=True)
        try:
            assert "80: Cannot assign requested address" in server.until("/live", 1)
            assert server.problems() == {"address"}
        finally:
            give_addresses()
        server.until("/live", 0)
        assert node.ask(node.source.tokens["good"])[0] == 200
        assert server.process.end(signal.SIGTERM) == 0


def test_server_whose_event_loop_is_blocked_is_not_live(node: Node) -> None:
    with probed(node) as server:
        server.process.process.send_signal(signal.SIGUSR1)
        assert "the event loop does nothing for 0.5 s" in server.until("/live", 1)
        assert server.problems() == {"loop"}
        server.until("/live", 0)


def test_server_that_is_stopped_answers_no_probe_in_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.5)
    with probed(node) as server:
        server.process.process.send_signal(signal.SIGSTOP)
        try:
            statuses = (probe.main(str(node.stage.folder / "probe.sock"), "/live") for _ in range(10))
            assert any(statuses)  # It may take a moment until it is stopped.
        finally:
            server.process.process.send_signal(signal.SIGCONT)


def test_pods_see_no_reasons(node: Node, own_token: None) -> None:
    with probed(node) as server:
        node.source.use("stale reviewer")
        server.until("/ready", 1)
        command = ["curl", "--silent", "--write-out", "%{http_code}", f"http://{ADDRESSES[0]}/healthz"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "204"


def test_metrics_count_responses_and_reviews(node: Node) -> None:
    with probed(node) as server:
        assert node.ask(node.source.tokens["good"])[0] == 200
        assert node.ask("not.a.token")[0] == 401
        found = server.metrics()
        assert 'hwsigner_responses_total{code="200"} 1\n' in found
        assert 'hwsigner_responses_total{code="401"} 1\n' in found
        assert 'hwsigner_token_reviews_total{result="valid"} 1\n' in found
        assert "hwsigner_token_review_duration_seconds_bucket" in found
        assert "hwsigner_token_review_answered_timestamp_seconds 1" in found
        assert "hwsigner_policy_current 1\n" in found
        node.policy.write_text("[accounts")
        server.process.read_until("the policy did not change")
        found = server.metrics()
        assert "hwsigner_policy_current 0\n" in found
        assert "hwsigner_policy_reload_failures_total 1\n" in found
