"""The manifests in packaging/kubernetes, as a real API server takes them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube import Cluster
from cluster.sources import Source
from cluster.test_kubelet import until
from cluster.tokens import AUDIENCE
from pages import ROOT

FOLDER = ROOT / "packaging" / "kubernetes"
PODS, ADMISSION = FOLDER / "pods.yaml", FOLDER / "pods-admission.yaml"
REVIEWER = "hwsigner/hwsigner-pods"
SELECTED = {"hwsigner/credentials": "true"}
# Kinds that other projects add to a cluster.
FOREIGN = ("cert-manager.io/v1", "monitoring.coreos.com/v1")


def documents(manifest: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(manifest.read_text()) if one]


def is_manifest(path: Path) -> bool:
    kinds = {one["apiVersion"] for one in documents(path)} if path.name != "kustomization.yaml" else set()
    return not kinds <= {*FOREIGN}


MANIFESTS = [path for path in sorted(FOLDER.glob("**/*.yaml")) if is_manifest(path)]
KUSTOMIZATIONS = sorted({path.parent for path in (ROOT / "packaging").glob("**/kustomization.yaml")})


class Kubectl:
    """kubectl as the cluster's administrator."""

    def __init__(self, cluster: Cluster) -> None:
        self._environ = {"PATH": "/usr/bin:/bin", "HOME": str(cluster.folder)}
        self._config = f"--kubeconfig={cluster.folder / 'admin.kubeconfig'}"

    def __call__(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run it and return its output."""
        command = ["kubectl", self._config, *map(str, arguments)]
        done = subprocess.run(command, input=stdin, env=self._environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def kubectl(request: pytest.FixtureRequest) -> Kubectl:
    """kubectl, in a cluster with the namespaces of the manifests, whose `default` accounts a controller would make."""
    cluster, _ = request.getfixturevalue("_real")
    found = {one["metadata"].get("namespace", "default") for path in MANIFESTS for one in documents(path)}
    for namespace in sorted(found | {"hwsigner", "team-a"}):
        if cluster.api.ask("GET", f"/api/v1/namespaces/{namespace}").status == 404:
            cluster.api.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        if cluster.api.ask("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default").status == 404:
            cluster.api.make_account(f"{namespace}/default")
    return Kubectl(cluster)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_api_server_accepts_the_manifest(kubectl: Kubectl, manifest: Path) -> None:
    own = [one for one in documents(manifest) if one["apiVersion"] not in FOREIGN]
    assert own
    kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(own))


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_api_server_accepts_the_kustomization(kubectl: Kubectl, folder: Path) -> None:
    built = kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", folder)
    kubectl("apply", "--dry-run=server", "-f", "-", stdin=built)


@pytest.fixture
def rights(kubectl: Kubectl) -> Iterator[list[dict[str, Any]]]:
    """The account and the binding of pods.yaml, in the cluster."""
    kinds = ("ServiceAccount", "ClusterRoleBinding", "ClusterRole", "Role", "RoleBinding")
    found = [one for one in documents(PODS) if one["kind"] in kinds]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(found))
    yield found
    kubectl("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(found))


def statuses(source: Source) -> tuple[int, int]:
    """Return the answers to the two requests of `serve --pods`: a review, and the cluster's keys."""
    token = source.api.token(REVIEWER, "https://kubernetes.default.svc.cluster.local")
    review = source.api.review(source.tokens["good"], [AUDIENCE], by=token)
    return review.status, source.api.ask("GET", "/openid/v1/jwks", token=token, Accept="*/*").status


def test_rights_as_shipped_are_enough_and_none_can_be_left_out(
    kubectl: Kubectl, source: Source, rights: list[dict[str, Any]]
) -> None:
    assert statuses(source) == (201, 200)
    for right in rights:
        if right["kind"] != "ServiceAccount":
            kubectl("delete", "-f", "-", stdin=yaml.safe_dump(right))
            assert statuses(source)[0] == 403
            kubectl("apply", "-f", "-", stdin=yaml.safe_dump(right))
            assert statuses(source)[0] == 201


def test_rights_in_the_namespace_alone_are_not_enough(
    kubectl: Kubectl, source: Source, rights: list[dict[str, Any]]
) -> None:
    [binding] = [one for one in rights if one["kind"] == "ClusterRoleBinding"]
    kubectl("delete", "-f", "-", stdin=yaml.safe_dump(binding))
    narrow = {**binding, "kind": "RoleBinding", "metadata": {"name": "narrow", "namespace": "hwsigner"}}
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(narrow))
    assert statuses(source)[0] == 403
    kubectl("delete", "-f", "-", stdin=yaml.safe_dump(narrow))


def test_rights_as_shipped_are_reviews_alone(kubectl: Kubectl, rights: list[dict[str, Any]]) -> None:
    user = f"--as=system:serviceaccount:{REVIEWER.replace('/', ':')}"
    groups = ("--as-group=system:serviceaccounts", "--as-group=system:authenticated")
    rows = kubectl("auth", "can-i", "--list", "--namespace=team-a", "--no-headers", user, *groups).splitlines()
    resources = {row.split()[0] for row in rows if not row.startswith(" ")}
    anyone = {
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
        "selfsubjectrulesreviews.authorization.k8s.io",
    }
    assert resources - anyone == {
        "tokenreviews.authentication.k8s.io",
        "subjectaccessreviews.authorization.k8s.io",
    }


@pytest.fixture
def admission(kubectl: Kubectl, source: Source) -> Iterator[None]:
    """The admission policy, in force."""
    kubectl("apply", "-f", ADMISSION)

    def is_in_force() -> bool:
        return bool(tokens(made(kubectl, pod("probe", SELECTED))))

    until(is_in_force)
    yield
    kubectl("delete", "-f", ADMISSION)


def pod(name: str, labels: dict[str, str], **container: Any) -> dict[str, Any]:
    spec = {
        "serviceAccountName": "web",
        "automountServiceAccountToken": False,
        "containers": [{"name": "app", "image": "app", **container}, {"name": "other", "image": "other"}],
    }
    metadata = {"name": name, "namespace": "team-a", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def made(kubectl: Kubectl, document: dict[str, Any]) -> dict[str, Any]:
    """Return a Pod as the API server would store it."""
    out = kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=yaml.safe_dump(document))
    return dict(json.loads(out))


def tokens(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tokens of a Pod's volumes."""
    sources = [
        source
        for volume in document["spec"].get("volumes", ())
        for source in volume.get("projected", {}).get("sources", ())
    ]
    return [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]


@pytest.mark.parametrize("labels", [{}, {"hwsigner/credentials": "false"}, {"credentials": "true"}])
def test_admission_policy_leaves_other_pods_alone(kubectl: Kubectl, admission: None, labels: dict[str, str]) -> None:
    found = made(kubectl, pod("two", labels))
    assert tokens(found) == []
    assert all("env" not in one and "volumeMounts" not in one for one in found["spec"]["containers"])


def test_token_that_the_admission_policy_asked_for_is_good(
    kubectl: Kubectl, admission: None, cluster: Cluster, source: Source
) -> None:
    document = pod("three", SELECTED)
    document["spec"]["nodeName"] = "node1"
    kubectl("create", "-f", "-", stdin=yaml.safe_dump(document))
    uid = source.api.ask("GET", "/api/v1/namespaces/team-a/pods/three").json()["metadata"]["uid"]
    until(lambda: list(cluster.volumes(uid).glob("*/token")))
    [path] = cluster.volumes(uid).glob("*/token")
    answer = source.api.review(path.read_text(), [AUDIENCE], by=source.tokens["reviewer"])
    assert answer.json()["status"]["authenticated"]
    source.api.delete("pods", "team-a", "three")
