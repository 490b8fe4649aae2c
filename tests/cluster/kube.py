"""A real Kubernetes: etcd, an API server and a kubelet, whose container runtime may be a fake."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import certs
from cluster.api import API
from cluster.pki import make_cluster_ca, write_client, write_server
from ports import reserve_port

NODE = "node1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority: {folder}/ca.crt}}}}]
users: [{{name: u, user: {{client-certificate: {folder}/{user}.crt, client-key: {folder}/{user}.key}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


class Cluster:
    """A running cluster on 127.0.0.1.

    Attributes:
        folder: has its keys, certificates, logs and data.
        ca: what signs its certificates.
        api: the API server as its administrator sees it.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self.folder = folder
        self.ca = make_cluster_ca()
        self.api = API(reserve_port(), folder)
        self._program = program
        self._signing_keys: tuple[str, ...] = ("sa",)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd_port = reserve_port()

    @contextmanager
    def running(self) -> Iterator[Cluster]:
        """Run all parts until the end of the block."""
        self._write_files()
        try:
            self._start_etcd()
            self.start_server()
            self.start_node()
            yield self
        finally:
            for name in reversed(self._processes):
                self.send(name, signal.SIGKILL)

    @property
    def pods(self) -> Path:
        """The kubelet's folder of the Pods' volumes."""
        return self.folder / "node" / "pods"

    def volumes(self, uid: str) -> Path:
        """Return the kubelet's folder of a Pod's projected volumes, by their names."""
        return self.pods / uid / "volumes" / "kubernetes.io~projected"

    def start_server(self) -> None:
        """Start the API server, and wait until it is ready."""
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "secure-port": self.api.port,
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "endpoint-reconciler-type": "none",
            "service-cluster-ip-range": "10.0.0.0/24",
            "tls-cert-file": self.folder / "server.crt",
            "tls-private-key-file": self.folder / "server.key",
            "client-ca-file": self.folder / "client-ca.crt",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-account-issuer": ISSUER,
            "service-account-signing-key-file": self.folder / f"{self._signing_keys[0]}.key",
        }
        valid = [f"--service-account-key-file={self.folder / name}.pub" for name in self._signing_keys]
        self._start("server", str(self._program), *(f"--{name}={value}" for name, value in flags.items()), *valid)
        self._wait("server", lambda: self.api.ask("GET", "/readyz").status == 200)

    def sign_with(self, *names: str) -> None:
        """Start the API server again with other signing keys: the first signs, all are valid. New ones are ES256."""
        for name in names:
            if not (self.folder / f"{name}.key").exists():
                self._write_signing_key(name, ec.generate_private_key(ec.SECP256R1()))
        self._signing_keys = names
        self.send("server", signal.SIGKILL)
        self.start_server()

    def start_node(self) -> None:
        """Start the kubelet, and wait until its node is ready."""
        kubeconfig = self.folder / f"{NODE}.kubeconfig"
        command = (self._program, "node", "--name", NODE, "--kubeconfig", kubeconfig, "--dir", self.folder / "node")
        self._start("node", *map(str, command))
        self._wait("node", self._is_node_ready)

    def send(self, name: str, number: int) -> None:
        """Send a signal to a process; wait for its end if it has to end."""
        process = self._processes[name]
        process.send_signal(number)
        if number in (signal.SIGTERM, signal.SIGKILL):
            process.send_signal(signal.SIGCONT)
            process.wait(30)

    def _write_files(self) -> None:
        folder = self.folder
        for name in ("ca.crt", "client-ca.crt"):
            (folder / name).write_bytes(self.ca.pem)
        write_server(self.ca, folder)
        for name, user, group in (("admin", "admin", "system:masters"), (NODE, f"system:node:{NODE}", "system:nodes")):
            write_client(self.ca, folder, name, user, group)
            text = _KUBECONFIG.format(port=self.api.port, folder=folder, user=name)
            (folder / f"{name}.kubeconfig").write_text(text)
        self._write_signing_key("sa", rsa.generate_private_key(65537, 2048))

    def _write_signing_key(self, name: str, key: Any) -> None:
        certs.write_key(self.folder / f"{name}.key", key)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.folder / f"{name}.pub").write_bytes(public)

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{reserve_port()}"
        client = f"http://127.0.0.1:{self._etcd_port}"
        flags = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
        }
        self._start("etcd", "etcd", "--unsafe-no-fsync", *(f"--{name}={value}" for name, value in flags.items()))

    def _start(self, name: str, *command: str) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "GOMAXPROCS": "2"}
        # As it deletes a Pod, a kubelet with a fake runtime removes the files of the folder it was started in: it takes
        # them for a container's logs, whose path is empty there.
        empty = self.folder / f"{name}-empty"
        empty.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=environ, cwd=empty, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if is_ready():
                    return
            except OSError:
                pass
            log = self.folder / f"{name}.log"
            assert self._processes[name].poll() is None, f"{name} has ended: {log.read_text()[-2000:]}"
            time.sleep(0.1)
        raise AssertionError(f"{name} is not ready after 60 s")

    def _is_node_ready(self) -> bool:
        answer = self.api.ask("GET", f"/api/v1/nodes/{NODE}")
        conditions = answer.json()["status"]["conditions"] if answer.status == 200 else ()
        return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)
