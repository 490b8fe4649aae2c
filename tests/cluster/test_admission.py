"""The admission policy in a real API server, with Pods of many shapes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster.api import API
from cluster.kube import Cluster
from pages import ROOT

POLICY = ROOT / "packaging" / "kubernetes" / "pods-admission.yaml"
URL = {"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": "http://169.254.170.23/v1/credentials"}
FILE = {"name": "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "value": "/var/run/secrets/hwsigner/token"}
MOUNT = {"name": "hwsigner-token", "mountPath": "/var/run/secrets/hwsigner", "readOnly": True}
TOKEN = {"serviceAccountToken": {"audience": "hwsigner", "expirationSeconds": 3600, "path": "token"}}
VOLUME = {"name": "hwsigner-token", "projected": {"sources": [TOKEN], "defaultMode": 0o644}}
REGION, DEFAULT_REGION = ({"name": name, "value": "eu-central-1"} for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
ADDED = [URL, FILE, REGION, DEFAULT_REGION]
OWN = {"name": "B", "value": "b"}
ELSEWHERE = {"name": "AWS_REGION", "value": "us-east-1"}
TWICE = [OWN, {"name": "B", "value": "c"}]


@pytest.fixture(scope="module")
def api(request: pytest.FixtureRequest) -> Iterator[API]:
    """The API server with the policy, once it is in force."""
    cluster: Cluster = request.getfixturevalue("_real")[0]
    policy, binding = yaml.safe_load_all(POLICY.read_text())
    for document in (policy, binding):
        cluster.api.make(document)
    end = time.monotonic() + 30
    while "volumes" not in made(cluster.api, [{"name": "a", "image": "a"}]):
        assert time.monotonic() < end, "the policy did not come into force"
        time.sleep(0.1)
    yield cluster.api
    group = "/apis/admissionregistration.k8s.io/v1"
    for kind, document in (("mutatingadmissionpolicybindings", binding), ("mutatingadmissionpolicies", policy)):
        assert cluster.api.ask("DELETE", f"{group}/{kind}/{document['metadata']['name']}").status == 200


def made(api: API, containers: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    """Return the specification of a labelled Pod, as the API server would store it."""
    metadata = {"generateName": "shape-", "namespace": "team-a", "labels": {"hwsigner/credentials": "true"}}
    whole = {"serviceAccountName": "web", "automountServiceAccountToken": False, "containers": containers, **spec}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}
    answer = api.ask("POST", "/api/v1/namespaces/team-a/pods?dryRun=All", document)
    assert answer.status == 201, answer.body
    return dict(answer.json()["spec"])


@pytest.mark.parametrize(
    ("container", "env", "mounts"),
    [
        ({}, ADDED, [MOUNT]),
        ({"env": []}, ADDED, [MOUNT]),
        ({"env": [OWN]}, [OWN, *ADDED], [MOUNT]),
        ({"env": [ELSEWHERE]}, [ELSEWHERE, URL, FILE, DEFAULT_REGION], [MOUNT]),
        ({"env": TWICE}, [*TWICE, *ADDED], [MOUNT]),
        ({"env": [{**URL, "value": "http://127.0.0.1:9911/credentials/web"}]}, None, []),
        ({"env": [{**FILE, "value": "/mine"}]}, None, []),
        ({"env": [URL, FILE]}, None, []),
        ({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, ADDED, [{"name": "v", "mountPath": "/v"}, MOUNT]),
        (
            {"volumeMounts": [{"name": "v", "mountPath": MOUNT["mountPath"]}]},
            ADDED,
            [{"name": "v", "mountPath": MOUNT["mountPath"]}],
        ),
        ({"ports": [{"containerPort": 53, "protocol": each} for each in ("TCP", "UDP")]}, ADDED, [MOUNT]),
        ({"ports": [{"containerPort": 80, "name": each} for each in ("a", "b")]}, ADDED, [MOUNT]),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_container_gets_what_it_lacks(
    api: API, kind: str, container: dict[str, Any], env: list[dict[str, str]] | None, mounts: list[dict[str, Any]]
) -> None:
    shape = {"name": "shape", "image": "shape", **container}
    plain = {"name": "plain", "image": "plain"}
    own = [{"name": "v", "emptyDir": {}}]
    init = [shape, {**plain, "name": "sidecar", "restartPolicy": "Always"}] if kind == "initContainers" else []
    spec = made(api, [plain] if init else [plain, shape], **({"initContainers": init} if init else {}), volumes=own)
    found = {each["name"]: each for each in spec["containers"] + spec.get("initContainers", [])}
    assert found["shape"].get("env", []) == (container.get("env", []) if env is None else env)
    assert found["shape"].get("volumeMounts", []) == mounts
    for name in found.keys() - {"shape"}:
        assert (found[name]["env"], found[name]["volumeMounts"]) == (ADDED, [MOUNT])
    assert spec["volumes"] == [*own, VOLUME]


def test_pod_without_volumes_gets_one(api: API) -> None:
    assert made(api, [{"name": "a", "image": "a"}])["volumes"] == [VOLUME]


def test_volume_of_this_name_is_left_as_it_is(api: API) -> None:
    own = [{"name": "hwsigner-token", "emptyDir": {}}]
    assert made(api, [{"name": "a", "image": "a"}], volumes=own)["volumes"] == own


def test_pod_has_the_same_after_a_second_time(api: API) -> None:
    """As it is if a webhook changes the Pod and the API server asks again."""
    first = made(api, [{"name": "a", "image": "a"}], initContainers=[{"name": "i", "image": "i"}])
    again = made(api, first["containers"], initContainers=first["initContainers"], volumes=first["volumes"])
    assert [again[name] for name in ("containers", "initContainers", "volumes")] == [
        first[name] for name in ("containers", "initContainers", "volumes")
    ]
