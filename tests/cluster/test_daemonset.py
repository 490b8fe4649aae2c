"""The Pod of pods.yaml, with the volumes that a real kubelet makes for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube import NODE, Cluster
from cluster.node import Node
from cluster.test_kubelet import until
from cluster.test_manifests import PODS, Kubectl, documents, kubectl
from cluster.test_pods import BATCH, WEB
from hwsigner._system import probe

__all__ = ["kubectl"]

# Made by Kubernetes' controllers, which are not here.
CA_MAP = "kube-root-ca.crt"


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [one for one in documents(PODS) if one["kind"] == kind]
    return found


@pytest.fixture
def volumes(kubectl: Kubectl, cluster: Cluster) -> Iterator[Path]:
    """The volumes of the DaemonSet's Pod. It has those that hwsigner reads, and not the node's folder and TPM."""
    made = [one for one in documents(PODS) if one["kind"] in ("ServiceAccount", "ClusterRoleBinding", "ConfigMap")]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(made))
    kubectl("create", "configmap", CA_MAP, "--namespace=hwsigner", f"--from-file=ca.crt={cluster.folder / 'ca.crt'}")
    kubectl("label", "node", NODE, "hwsigner/tpm=true")
    template = of_kind("DaemonSet")["spec"]["template"]
    spec = {**template["spec"], "nodeName": NODE, "initContainers": []}
    spec["volumes"] = [one for one in spec["volumes"] if not {"hostPath", "emptyDir"} & one.keys()]
    spec["containers"] = [one for one in spec["containers"] if one["name"] == "serve"]
    [serve] = spec["containers"]
    serve["volumeMounts"] = [one for one in serve["volumeMounts"] if one["name"] not in ("state", "run")]
    serve["resources"] = {}
    metadata = {"name": "serve", "namespace": "hwsigner", **template["metadata"]}
    uid = cluster.api.make({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})["metadata"]["uid"]
    folder = cluster.pods / uid / "volumes"
    files = ("kubernetes.io~projected/api/token", "kubernetes.io~projected/api/ca.crt")
    until(lambda: all((folder / name).exists() for name in (*files, "kubernetes.io~configmap/config/pods.toml")))
    yield folder
    cluster.api.delete("pods", "hwsigner", "serve")
    kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(made))
    kubectl("delete", "configmap", CA_MAP, "--namespace=hwsigner")


def test_pod_as_shipped_gives_the_pods_of_its_node_their_roles(
    kubectl: Kubectl, cluster: Cluster, node: Node, volumes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [container] = [
        one for one in of_kind("DaemonSet")["spec"]["template"]["spec"]["containers"] if one["name"] == "serve"
    ]
    config, account = volumes / "kubernetes.io~configmap" / "config", volumes / "kubernetes.io~projected" / "api"
    places = {"/etc/hwsigner": str(config), "/run/hwsigner": str(node.stage.folder), "$(NODE_IP)": "127.0.0.1"}
    arguments = container["args"]
    for written, place in places.items():
        arguments = [one.replace(written, place) for one in arguments]
    with node.running(*arguments, account=account) as process:
        web, batch = node.source.tokens["good"], node.source.tokens["another account"]
        assert node.ask(web)[0] == 200
        assert WEB in process.read_until("credentials given")
        assert node.ask(batch)[0] == 403
        new = of_kind("ConfigMap")
        new["data"]["pods.toml"] += '"team-b/batch" = "batch"\n'
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(new))
        until(lambda: (config / "pods.toml").read_text() == new["data"]["pods.toml"], 100)
        node.until(200, "another account")
        process.read_until(BATCH)
        before = (account / "token").read_text()
        cluster.send("node", signal.SIGKILL)
        cluster.start_node()
        until(lambda: (account / "token").read_text() != before)
        assert node.ask(node.source.tokens["two audiences"])[0] == 200
        probe_socket = str(node.stage.folder / "probe.sock")
        until(lambda: probe.main(probe_socket, "/ready") == 0, 30)
        kubectl("delete", "clusterrolebinding", "hwsigner-pods")
        until(lambda: probe.main(probe_socket, "/ready") == 1, 30)
        assert "system:auth-delegator" in capsys.readouterr().out
        assert probe.main(probe_socket, "/live") == 0
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(of_kind("ClusterRoleBinding")))
        until(lambda: probe.main(probe_socket, "/ready") == 0, 30)
        assert process.end(signal.SIGTERM) == 0
