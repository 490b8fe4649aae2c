"""What Kubernetes itself allows and refuses: the facts on the page about threats, asked of a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import Answer
from cluster.kube import NODE, Cluster

NAMESPACE = "threats"


def as_node(cluster: Cluster, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Return the answer to the kubelet's certificate, as a thief of the node has it."""
    return cluster.api.ask(method, path, body, user=NODE, **headers)


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace with an account."""
    for path, name in (("namespaces", NAMESPACE), (f"namespaces/{NAMESPACE}/serviceaccounts", "web")):
        assert cluster.api.ask("POST", f"/api/v1/{path}", {"metadata": {"name": name}}).status in (201, 409)
    return NAMESPACE


@pytest.mark.parametrize(
    ("label", "status"),
    [
        ("hwsigner/tpm", 200),
        ("node-restriction.kubernetes.io/hwsigner-registrar", 403),
        ("node-role.kubernetes.io/control-plane", 403),
    ],
)
def test_node_can_give_itself_only_labels_that_are_not_reserved(cluster: Cluster, label: str, status: int) -> None:
    change = {"metadata": {"labels": {label: "stolen"}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert as_node(cluster, "PATCH", f"/api/v1/nodes/{NODE}", change, **merge).status == status


def test_node_can_not_change_its_taints(cluster: Cluster) -> None:
    change = {"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert as_node(cluster, "PATCH", f"/api/v1/nodes/{NODE}", change, **merge).status == 403


def test_node_can_not_make_a_pod_of_a_service_account(cluster: Cluster, namespace: str) -> None:
    uid = cluster.api.ask("GET", f"/api/v1/nodes/{NODE}").json()["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": uid, "controller": True}
    mirror = {"name": "x", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]}
    spec = {"nodeName": NODE, "serviceAccountName": "web", "containers": [{"name": "c", "image": "x"}]}
    for metadata, reason in (
        (mirror, "a mirror pod may not reference service accounts"),
        ({"name": "x"}, "can only create mirror pods"),
    ):
        answer = as_node(cluster, "POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": metadata, "spec": spec})
        assert answer.status == 403
        assert reason in answer.json()["message"]


def test_node_can_read_the_secrets_of_its_pods_and_no_others(cluster: Cluster, namespace: str) -> None:
    for name in ("mounted", "other"):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}}
        cluster.api.make(secret)
    spec = {
        "nodeName": NODE,
        "serviceAccountName": "web",
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "x"}],
        "volumes": [{"name": "s", "secret": {"secretName": "mounted"}}],
    }
    metadata = {"name": "reader", "namespace": namespace}
    cluster.api.make({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    path = f"/api/v1/namespaces/{namespace}/secrets"
    assert [as_node(cluster, "GET", f"{path}/{name}").status for name in ("mounted", "other")] == [200, 403]


@pytest.mark.parametrize(
    ("role", "can_make"),
    [
        ("view", set()),
        ("edit", {"pods", "pods/exec", "pods/attach", "serviceaccounts", "serviceaccounts/token"}),
        ("admin", {"rolebindings"}),  # Beside what edit has.
    ],
)
def test_roles_of_a_namespace_can_make_what_the_page_says(cluster: Cluster, role: str, can_make: set[str]) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregate-to-{role}"
    rules = cluster.api.ask("GET", path).json()["rules"]
    made = {resource for rule in rules if "create" in rule["verbs"] for resource in rule.get("resources", ())}
    asked = {"pods", "pods/exec", "pods/attach", "pods/ephemeralcontainers", "rolebindings"}
    asked |= {"serviceaccounts", "serviceaccounts/token"}
    assert made & asked == can_make
