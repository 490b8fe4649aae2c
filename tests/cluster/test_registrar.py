"""A registrar with the volumes of a real kubelet, and its page's commands at a real API server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import certs
from attestation.chips import Chip, Vendor, chips, vendors
from cluster.kube import NODE, Cluster
from enrolment.registrar.pods import RegistrarPod, node, template
from hwsigner.enrolment.registrar.sealing import read_keys
from hwsigner.errors import ServiceError
from pages import ROOT, shell_blocks

__all__ = ["chips", "vendors"]

PAGE = "docs/how-to/registrar-in-a-cluster.md"
NAMESPACE = "hwsigner-registrar"
_KINDS = {"configMap": "configmap", "secret": "secret", "emptyDir": "empty-dir"}


class Shell:
    """An administrator's shell, in a folder with the CA and the roots."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {"PATH": path, "HOME": str(folder), "KUBECONFIG": str(cluster.folder / "admin.kubeconfig")}
        self._folder = folder

    def run(self, script: str) -> str:
        command = ["sh", "-ec", script.replace("packaging/kubernetes", str(ROOT / "packaging" / "kubernetes"))]
        done = subprocess.run(
            command, env=self._environment, cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def start_pod(cluster: Cluster, shell: Shell) -> dict[str, Path]:
    """Make the Pod that the Deployment would make, on the node, and return its volumes once the kubelet has written."""
    given = template()
    spec = {**given["spec"], "nodeName": NODE}
    cluster.api.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
    shell.run(f"kubectl label node {NODE} node-restriction.kubernetes.io/hwsigner-registrar=true")
    pod = {"metadata": {"name": "registrar", **given["metadata"]}, "spec": spec}
    answer = cluster.api.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
    assert answer.status == 201, answer
    folder = cluster.pods / answer.json()["metadata"]["uid"] / "volumes"
    kinds = {one["name"]: next(kind for kind in _KINDS if kind in one) for one in spec["volumes"]}
    found = {name: folder / f"kubernetes.io~{_KINDS[kind]}" / name for name, kind in kinds.items()}
    expected = [path if name == "keys" else path / "..data" for name, path in found.items()]
    wait(lambda: all(path.exists() for path in expected))
    return found


def wait(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_page_takes_two_nodes_to_their_certificates(
    cluster: Cluster,
    vendors: tuple[Vendor, Vendor],
    chips: tuple[Chip, Chip, Chip],
    ca: certs.Authority,
    tmp_path: Path,
) -> None:
    one, two = node("node-1", chips[0]), node("node-2", chips[1])
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    certs.write_key(tmp_path / "ca.key", ca.key)
    (tmp_path / "roots").symlink_to(vendors[0].roots)
    shell = Shell(cluster, tmp_path)
    script = shell_blocks(PAGE, "You need a CA", "## A new node").replace("9f86…", one.chip)
    shell.run(script.replace("DNS:registrar.hwsigner-registrar.svc", "IP:127.0.0.1"))
    pod = RegistrarPod(start_pod(cluster, shell), tmp_path / "tls.crt")
    with pod.running():
        assert pod.enrol(chips[0], one).subject.rfc4514_string() == one.subject
        with pytest.raises(ServiceError, match="policy does not give this chip"):
            pod.enrol(chips[1], two)
        new = shell_blocks(PAGE, "The last two need no visit", "The registrar needs no restart")
        printed = shell.run(new.replace("4c1e…", two.chip))
        assert printed.splitlines()[-1].split() == [pod.wait_for("read", 1)["policy"], "registrar.toml"]
        assert pod.enrol(chips[1], two).subject.rfc4514_string() == two.subject
        (tmp_path / "registrar.toml").write_text("[machine")
        shell.run(new[new.index("kubectl") :])
        assert "registrar.toml is not TOML" in pod.wait_for("kept", 1)["reason"]
        pod.enrol(chips[0], one)


def test_sealing_keys_of_the_page_are_a_secret(cluster: Cluster, tmp_path: Path) -> None:
    shell = Shell(cluster, tmp_path)
    shell.run(f"kubectl create namespace {NAMESPACE} --dry-run=client -o yaml | kubectl apply -f -")
    shell.run(shell_blocks(PAGE, "One registrar is enough", "Mount it with"))
    assert len(read_keys(str(tmp_path / "keys")).keys) == 1
    assert cluster.api.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/registrar-keys").status == 200
