"""`hwsigner serve --pods` as a process, whose tokens a test makes: `namespace/serviceaccount/pod/uid`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.raw import Client, Response
from serving.stage import Clock, Process, Stage

NODE = "node1"

# Goes before hwsigner: tokens are believed, and the endpoint looks for changes, and for a key that failed, at once.
BELIEVING = """if True:
    import sys, time
    from hwsigner._refresh import shared_identity
    from hwsigner._serving.pods.token import PodIdentity
    from hwsigner._serving.pods.sessions import Sessions
    from hwsigner._serving.pods.verification import Verification

    def check(self, token, address):
        return PodIdentity(*token.decode().split("/"), "node1", time.time() + 600)

    Verification.__init__ = Verification.configure = lambda self, *_, **__: None
    Verification.check, Verification.try_out = check, lambda self: None
    shared_identity.PAUSE_SECONDS = 0.1
    Sessions.LOOK_SECONDS, Sessions.IDLE_SECONDS = 0.05, 0.5
"""
# Goes before that: the clock by which sessions expire is set ahead by a file.
CLOCKED = """if True:
    import time
    from pathlib import Path
    from hwsigner._system import clocks

    ahead, boot_time = Path({file!r}), clocks.boot_time
    clocks.boot_time = lambda: boot_time() + float(ahead.read_text())
    clocks.Clocks.__init__.__defaults__ = clocks.utc_now, clocks.boot_time, time.sleep

    from hwsigner._refresh import timer

    timer.LOOK_SECONDS = 0.05
"""
RUN = """
    from hwsigner._cli import main

    sys.exit(main(sys.argv[2:]))
"""


@dataclass
class ServedPods:
    """A running `serve --pods`.

    Attributes:
        process: the process.
        port: its port.
        policy: the path of its policy.
    """

    process: Process
    port: int
    policy: Path

    def ask(self, account: str, pod: str = "pod-1", uid: str = "1") -> Response:
        """Ask as a Pod, on a connection of its own."""
        with Client(self.port) as client:
            return client.ask("GET", "/v1/credentials", {"Authorization": f"{account}/{pod}/{uid}"})

    def credentials(self, account: str, pod: str = "pod-1", uid: str = "1") -> dict[str, Any]:
        """Return the credentials that a Pod gets."""
        response = self.ask(account, pod, uid)
        assert response.status == 200, response.body
        found: dict[str, Any] = json.loads(response.body)
        return found

    def refusal(self, account: str) -> tuple[int, str]:
        """Return the status and the message that a Pod gets."""
        response = self.ask(account)
        return response.status, json.loads(response.body)["message"]

    def until_status(self, account: str, status: int) -> None:
        """Ask again and again until a status comes."""
        deadline = time.monotonic() + 60
        while (found := self.ask(account).status) != status:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def until_changed(self, account: str, before: dict[str, Any]) -> bool:
        """Ask again and again until other credentials come."""
        deadline = time.monotonic() + 60
        while self.credentials(account) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return True

    def write_policy(self, text: str) -> None:
        """Replace the policy."""
        write_policy(self.policy, text)


def write_policy(path: Path, text: str) -> None:
    """Replace a policy in one step, as the kubelet does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@contextmanager
def serve_pods(
    stage: Stage, policy: str, *arguments: str, more: str = "", clock: Clock | None = None
) -> Iterator[ServedPods]:
    """Serve Pods on loopback. `more` is Python that runs before."""
    path = stage.folder / "pods.toml"
    write_policy(path, policy)
    clocked = CLOCKED.format(file=str(clock.file)) if clock else ""
    wrapper = (sys.executable, "-c", clocked + BELIEVING + more + RUN)
    flags = ["--pods", str(path), "--address=127.0.0.1", "--port=0", "--node-name", NODE, *arguments]
    with stage.start("serve", *flags, wrapper=wrapper) as process:
        line = process.read_until("serving the Pods of node1 on http://127.0.0.1:")
        port = int(line.rpartition(":")[2].partition("/")[0])
        yield ServedPods(process, port, path)
