"""The tokens that a real kubelet writes for Pods, and what it may ask for."""

from __future__ import annotations

import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.kube import NODE, Cluster
from cluster.sources import Source
from cluster.tokens import AUDIENCE, parts


def until(is_so: Callable[[], Any], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it does not become so"
        time.sleep(0.05)


@pytest.fixture
def pod(cluster: Cluster, source: Source) -> Iterator[tuple[str, Path]]:
    """The UID of a new Pod, and the path of its token, which the kubelet writes."""
    uid = cluster.api.make_pod("team-a/new", "web")["metadata"]["uid"]
    path = cluster.volumes(uid) / "t" / "token"
    until(path.exists)
    yield uid, path
    if path.exists():
        cluster.api.delete("pods", "team-a", "new")


def is_valid(source: Source, token: str) -> bool:
    answer = source.api.review(token, [AUDIENCE], by=source.tokens["reviewer"])
    return bool(answer.json()["status"].get("authenticated"))


def test_token_of_the_kubelet_names_account_pod_and_node(pod: tuple[str, Path], source: Source) -> None:
    uid, path = pod
    token = path.read_text()
    header, claims = parts(token)
    assert header.keys() == {"alg", "kid"}
    assert (claims["aud"], claims["exp"] - claims["iat"]) == ([AUDIENCE], 600)
    bound = claims["kubernetes.io"]
    assert (bound["namespace"], bound["serviceaccount"]["name"], bound["node"]["name"]) == ("team-a", "web", NODE)
    assert bound["pod"] == {"name": "new", "uid": uid}
    assert is_valid(source, token)


def test_token_of_the_kubelet_is_a_link_into_a_folder_that_is_replaced(pod: tuple[str, Path]) -> None:
    path = pod[1]
    assert (path.readlink(), path.parent.joinpath("..data").is_symlink()) == (Path("..data/token"), True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_replaced_token_is_seen_by_its_name_only(cluster: Cluster, source: Source, pod: tuple[str, Path]) -> None:
    path = pod[1]
    before = path.read_text()
    with path.open() as held:
        cluster.send("node", signal.SIGKILL)
        cluster.start_node()  # A new kubelet gets new tokens at once, as it would at 80 % of their time.
        until(lambda: path.read_text() != before)
        assert held.read() == before
    assert is_valid(source, path.read_text())
    assert is_valid(source, before)


def test_token_ends_with_its_pod(cluster: Cluster, source: Source, pod: tuple[str, Path]) -> None:
    token = pod[1].read_text()
    cluster.api.delete("pods", "team-a", "new")
    assert not is_valid(source, token)
    until(lambda: not pod[1].exists())


@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [
        ("web-1", {}, ""),
        ("web-1", {"audiences": ["sts.example"]}, 'audience "sts.example" not found in pod spec volume'),
        ("web-1", {"uid": None}, "node requested token with a pod binding without a uid"),
        ("web-3", {}, "node requested token bound to a pod scheduled on a different node"),
        ("web-2", {}, "node requested token bound to a pod scheduled on a different node"),
    ],
)
def test_node_gets_tokens_for_its_own_pods_only(source: Source, name: str, instead: dict[str, Any], said: str) -> None:
    uid = source.api.ask("GET", f"/api/v1/namespaces/team-a/pods/{name}").json()["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": instead.get("uid", uid)}
    spec = {"audiences": instead.get("audiences", [AUDIENCE]), "expirationSeconds": 600, "boundObjectRef": reference}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = source.api.ask("POST", "/api/v1/namespaces/team-a/serviceaccounts/web/token", body, user=NODE)
    assert (answer.status, said in answer.json().get("message", "")) == (403 if said else 201, True)
