"""What Kubernetes itself allows and refuses: the facts on the page about threats, asked of a real API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.api import Answer
from cluster.kube import ISSUER, NODE, Cluster
from cluster.node import Node
from judges import needs_namespaces

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


@pytest.fixture(scope="module")
def served(node: Node) -> Iterator[None]:
    with node.serving('[accounts]\n"threats/web" = "web"\n', cache_seconds=1):
        yield


@pytest.mark.root
@needs_namespaces
def test_right_to_make_tokens_is_enough_for_a_role_while_the_pod_lives(
    served: None, node: Node, cluster: Cluster, namespace: str
) -> None:
    api = cluster.api
    api.make_pod(f"{namespace}/victim", "web")
    rbac, names = "rbac.authorization.k8s.io", {"metadata": {"name": "minter", "namespace": namespace}}
    api.make_account(f"{namespace}/minter")
    rules = [{"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}]
    api.make({"apiVersion": f"{rbac}/v1", "kind": "Role", **names, "rules": rules})
    ref = {"apiGroup": rbac, "kind": "Role", "name": "minter"}
    subjects = [{"kind": "ServiceAccount", "name": "minter", "namespace": namespace}]
    api.make({"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", **names, "roleRef": ref, "subjects": subjects})
    ten_years = 315_360_000
    pod = {"kind": "Pod", "apiVersion": "v1", "name": "victim"}
    spec = {"audiences": ["hwsigner"], "expirationSeconds": ten_years, "boundObjectRef": pod}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/web/token"
    minted = api.ask("POST", path, {"spec": spec}, token=api.token(f"{namespace}/minter", ISSUER))
    assert minted.status == 201, minted.body
    token = minted.json()["status"]["token"]
    status, body = node.ask(token)
    assert (status, node.role(body).rpartition("/")[2]) == (200, "threats.web.node1")
    api.delete("pods", namespace, "victim")
    until_refused(node, token)


@pytest.mark.root
@needs_namespaces
def test_account_that_is_made_again_has_the_role_of_its_name(
    served: None, node: Node, cluster: Cluster, namespace: str
) -> None:
    tokens = []
    for pod in ("before", "after"):
        cluster.api.make_pod(f"{namespace}/{pod}", "web")
        tokens.append(cluster.api.token(f"{namespace}/web", "hwsigner", bound_to=pod))
        assert node.ask(tokens[-1])[0] == 200
        cluster.api.delete("serviceaccounts", namespace, "web")
        cluster.api.make_account(f"{namespace}/web")
    for token in tokens:
        until_refused(node, token)


def until_refused(node: Node, token: str) -> None:
    """Ask until the answers of the API server, which it keeps for 10 s, and those of hwsigner have ended."""
    end = time.monotonic() + 30
    while (status := node.ask(token)[0]) == 200 and time.monotonic() < end:
        time.sleep(0.5)
    assert status == 401
