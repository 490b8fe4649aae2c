"""A node: `hwsigner serve --pods` in a network of its own, with an API server, two AWS accounts and Pods' tokens."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

import certs
from cluster.kube import NODE
from cluster.network import ADDRESSES
from cluster.sources import MOUNTED, Source
from hwsigner._config.profiles import add_profile
from hwsigner.emulator import Emulator, World
from serving.stage import Process, Stage

# The profiles, each of an AWS account of its own.
ACCOUNTS = {"web": "111111111111", "batch": "222222222222"}
POLICY = '[accounts]\n"team-a/web" = "web"\n"team-b/batch" = "batch"\n'
# Goes before a program: gives it the files of a Pod's service account, at their place in each container.
_IN_A_POD = """
mount -t tmpfs tmpfs /run
mkdir -p "$1"
mount --bind "$0" "$1"
shift
exec "$@"
"""
# hwsigner with an API server's answers that are used for some seconds, by a clock that a file sets ahead, and with less
# patience for that server.
_HASTY = """if True:
    import sys, time
    from pathlib import Path
    from hwsigner._serving.pods import cluster, endpoint, verification

    ahead = Path(sys.argv[2])
    verification.CACHE_SECONDS, cluster.SECONDS, endpoint.PodEndpoint.RECENT_SECONDS = float(sys.argv[1]), 2, 0
    verification.Answers.__init__.__defaults__ = lambda: time.monotonic() + float(ahead.read_text()), time.time
    from hwsigner._cli import main

    sys.exit(main(sys.argv[4:]))
"""


@dataclass(frozen=True)
class Node:
    """A node whose Pods get credentials.

    Attributes:
        source: the API server.
        stage: a home folder with the profiles, and the emulated AWS.
    """

    source: Source
    stage: Stage

    @property
    def policy(self) -> Path:
        return self.stage.folder / "pods.toml"

    @property
    def audit(self) -> Path:
        return self.stage.folder / "audit.log"

    @contextmanager
    def serving(self, policy: str = POLICY, *, cache_seconds: float | None = None) -> Iterator[Process]:
        """Run `serve --pods` with a policy, in hwsigner's Pod, whose cached answers may end sooner than otherwise."""
        self.policy.write_text(policy)
        self.advance(0)
        hasty = (
            (sys.executable, "-c", _HASTY, str(cache_seconds), str(self._ahead)) if cache_seconds is not None else ()
        )
        flags = (f"--pods={self.policy}", f"--audit-log={self.audit}")
        with self.running("serve", *flags, account=self.source.account.path, wrapper=hasty) as process:
            yield process

    @contextmanager
    def running(self, *arguments: str, account: Path, wrapper: tuple[str, ...] = ()) -> Iterator[Process]:
        """Run hwsigner as in a Pod, with the files of its service account, until it serves both addresses.

        As in pods.yaml, it is root with one capability.
        """
        in_pod = ("unshare", "--mount", "sh", "-ec", _IN_A_POD, str(account), str(MOUNTED))
        alone = ("setpriv", "--bounding-set=-all,+net_bind_service", "--inh-caps=-all", "--no-new-privs")
        environ: dict[str, Any] = {**self.source.environ, "NODE_NAME": NODE}
        with self.stage.start(*arguments, wrapper=(*in_pod, *alone, *wrapper), **environ) as process:
            for _ in ADDRESSES:
                process.read_until("serving the Pods of node1 on http://")
            yield process

    @property
    def _ahead(self) -> Path:
        return self.stage.folder / "ahead"

    def advance(self, seconds: int) -> None:
        """Let cached answers be so much older. A server must have been told how long to use them."""
        new = self._ahead.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._ahead)

    def ask(self, token: str, address: str = ADDRESSES[0]) -> tuple[int, str]:
        """Return the status and body of the response to a token."""
        connection = http.client.HTTPConnection(address, timeout=20)
        try:
            connection.putrequest("GET", "/v1/credentials")
            connection.putheader("Authorization", token)
            connection.endheaders()
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def until(self, status: int, token: str = "good") -> str:
        """Ask with a token until the response has a status, and return its body."""
        end = time.monotonic() + 30
        while True:
            found, body = self.ask(self.source.tokens[token])
            if found == status:
                return body
            assert time.monotonic() < end, (found, body)
            time.sleep(0.05)

    def role(self, credentials: str) -> str:
        """Return the ARN of the session of a response's credentials."""
        found: dict[str, Any] = json.loads(credentials)
        [arn] = {one["session_arn"] for one in self.audited() if one["access_key_id"] == found["AccessKeyId"]}
        return str(arn)

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@contextmanager
def make_node(source: Source, folder: Path) -> Iterator[Node]:
    """Make a node, and emulate both accounts of AWS."""
    ca, key, world = certs.make_ca(), ec.generate_private_key(ec.SECP256R1()), World()
    parts = {}
    for name, account in ACCOUNTS.items():
        parts[name] = part = World.simple(ca.certificate, account=account, accept_role_session_name=True)
        world.trust_anchors |= part.trust_anchors
        world.profiles |= part.profiles
        world.roles |= part.roles
    leaf = folder / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    for name in ("run", "home"):
        (folder / name).mkdir(mode=0o700)
    with Emulator(world) as emulator:
        stage = Stage(emulator, folder, leaf, certs.write_key(folder / "leaf.key", key))
        for name, part in parts.items():
            arns = {
                "trust-anchor-arn": next(iter(part.trust_anchors)),
                "profile-arn": next(iter(part.profiles)),
                "role-arn": next(iter(part.roles)),
                "endpoint": emulator.url,
            }
            add_profile(name, {"certificate": str(leaf), "private-key": str(stage.key), **arns}, stage.environ())
        yield Node(source, stage)
