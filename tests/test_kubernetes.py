"""The manifests for Kubernetes are valid, restricted, and name the images of this version."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hwsigner import __version__
from hwsigner._cli import command_parser
from hwsigner._serving.pods.endpoint import ADDRESSES, PATH
from hwsigner._serving.pods.pod_policy import read_pod_policy
from judges import needs_kustomize
from pages import ROOT, block

FOLDER = ROOT / "packaging" / "kubernetes"
KUSTOMIZATION = FOLDER / "kustomization.yaml"
MANIFESTS = sorted(set(FOLDER.glob("*.yaml")) - {KUSTOMIZATION})
# Native sidecars are stable since 1.33.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
# Not of Kubernetes: nothing here has its schema.
FOREIGN = ("cert-manager.io/v1", "monitoring.coreos.com/v1")
# Stable, and on, since 1.36.
LATE = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
# The containers that have a capability, and run as root for it.
CAPABLE = {"prepare": ["CHOWN"], "address": ["NET_ADMIN"], "serve": ["NET_BIND_SERVICE"]}
# Those that run as root to share files with such a container.
WITH_ROOT = {"enroll", "renew"}


def documents(manifest: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(manifest.read_text()))


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the specifications of the Pods in documents."""
    owners = [each["spec"] for each in documents if each["kind"] in ("Pod", "Deployment", "DaemonSet")]
    return [owner["template"]["spec"] if "template" in owner else owner for owner in owners]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def all_containers() -> list[dict[str, Any]]:
    return [each for manifest in MANIFESTS for pod in pods(documents(manifest)) for each in containers(pod)]


def assert_valid(documents: list[dict[str, Any]], version: str) -> None:
    for document in documents:
        is_known = document["kind"] not in LATE or version != VERSIONS[0]
        if is_known and document["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifest_fits_the_schemas_of_kubernetes(manifest: Path, version: str) -> None:
    assert_valid(documents(manifest), version)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_containers_are_restricted(manifest: Path) -> None:
    for spec in pods(documents(manifest)):
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in containers(spec):
            context = {**spec["securityContext"], **container["securityContext"]}
            name, capabilities = container["name"], context["capabilities"]
            is_root = context.get("runAsUser") == 0
            may_add = CAPABLE.get(name, []) if is_root else []
            assert capabilities.get("add", []) == may_add, name
            may_be_root = name in CAPABLE or (name in WITH_ROOT and manifest.name == "pods.yaml")
            assert may_be_root if is_root else context["runAsNonRoot"], name
            assert capabilities["drop"] == ["ALL"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert {"requests", "limits"} <= container["resources"].keys()


def test_images_have_this_version() -> None:
    for path in (*MANIFESTS, ROOT / "docs" / "how-to" / "kubernetes.md"):
        text = path.read_text()
        is_used = "/hwsigner:" in text
        assert set(re.findall(r"[a-z]/hwsigner:(\d\S+)", text)) == ({__version__} if is_used else set()), path


@pytest.mark.parametrize("name", ["daemonset.yaml", "pods.yaml"])
def test_program_in_python_ends_at_sigterm(name: str) -> None:
    """The kernel sends a container's first program only signals that it handles: without it, a Pod ends 30 s later."""
    [pod] = pods(documents(FOLDER / name))
    [program] = [each["command"][2] for each in pod["containers"] if "command" in each]
    waiting = "import subprocess, time\nsubprocess.run, sleep = print, time.sleep\n"
    waiting += "time.sleep = lambda seconds: (print('asleep', flush=True), sleep(seconds))\n"
    with subprocess.Popen([sys.executable, "-c", waiting + program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert b"asleep\n" in iter(process.stdout.readline, b"")
        process.terminate()
        assert process.wait() == 0


def test_servers_have_probes() -> None:
    servers = [each for each in all_containers() if "ports" in each and each["name"] != "registrar"]
    assert len(servers) == 3
    for server in servers:
        # One role that can't be had must not take the others from the Pods of a Service.
        ready = "/metrics" if "--pods=/etc/hwsigner/pods.toml" in server["args"] else "/health"
        assert server["readinessProbe"]["httpGet"]["path"] == ready
        assert server["livenessProbe"]["httpGet"]["path"] == "/metrics"


def test_arguments_are_those_of_the_command_line() -> None:
    commands = [each["args"] for each in all_containers() if "hwsigner:" in each["image"] and "command" not in each]
    assert {command[0] for command in commands} >= {"serve", "agent", "enroll"}
    for command, *arguments in commands:
        known = {f"--{flag.name}" for flag in command_parser(command)[1].flags}
        assert {each.partition("=")[0] for each in arguments if each.startswith("--")} <= known, command


def test_node_has_its_addresses_and_profile() -> None:
    """The server listens where the init container and the policy say, with the key and certificate of `enroll`."""
    [pod] = pods(documents(FOLDER / "pods.yaml"))
    [address, enroll] = pod["initContainers"]
    assert address["args"] == ["--keep", "hwsigner", *ADDRESSES]
    assert address["restartPolicy"] == "Always"  # Other init containers do not run again.
    assert tuple(address["startupProbe"]["exec"]["command"][-2:]) == ADDRESSES
    [data] = [each["data"] for each in documents(FOLDER / "pods.yaml") if each["kind"] == "ConfigMap"]
    profile = tomllib.loads(data["config.toml"])["profile"]["web"]
    assert f"--private-key={profile['private-key']}" in enroll["args"]
    assert profile["certificate"] in profile["private-key"].replace(".tss2", ".crt")
    assert f"http://{ADDRESSES[0]}{PATH}" in (FOLDER / "pods-admission.yaml").read_text()


def test_server_of_an_update_can_start_beside_the_old_one() -> None:
    [owner] = [each["spec"] for each in documents(FOLDER / "pods.yaml") if each["kind"] == "DaemonSet"]
    assert owner["updateStrategy"] == {"rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 0}}
    pod = owner["template"]["spec"]
    # With hostNetwork, a declared port is one of the node's, which the old Pod has.
    assert not [each["name"] for each in containers(pod) if "ports" in each]


def test_probes_ask_the_process_of_their_own_pod() -> None:
    [pod] = pods(documents(FOLDER / "pods.yaml"))
    [serve] = [each for each in pod["containers"] if each["name"] == "serve"]
    path = "/run/hwsigner/probe.sock"
    assert f"--metrics-listen=unix:{path}" in serve["args"]
    found = {name: serve[f"{name}Probe"]["exec"]["command"][-2:] for name in ("startup", "readiness", "liveness")}
    assert found == {"startup": [path, "/live"], "readiness": [path, "/ready"], "liveness": [path, "/live"]}


def test_policy_of_the_config_map_is_valid(tmp_path: Path) -> None:
    [data] = [each["data"] for each in documents(FOLDER / "pods.yaml") if each["kind"] == "ConfigMap"]
    (tmp_path / "pods.toml").write_text(data["pods.toml"])
    policy = read_pod_policy(str(tmp_path / "pods.toml"), "node1")
    assert policy.profile_of("team-a", "web") in tomllib.loads(data["config.toml"])["profile"]


def test_only_the_server_gets_the_token_of_the_api_server() -> None:
    [pod] = pods(documents(FOLDER / "pods.yaml"))
    mounts = {each["name"]: [mount["name"] for mount in each.get("volumeMounts", [])] for each in containers(pod)}
    assert [name for name, names in mounts.items() if "api" in names] == ["serve"]
    assert mounts["address"] == []


def test_server_may_review_tokens_and_nothing_else() -> None:
    found = [each for each in documents(FOLDER / "pods.yaml") if "rbac" in each["apiVersion"]]
    [binding] = found
    assert binding["kind"] == "ClusterRoleBinding"
    assert binding["roleRef"]["name"] == "system:auth-delegator"


@needs_kustomize
@pytest.mark.parametrize(
    "folder", [FOLDER, ROOT / "packaging" / "kustomize" / "pods-https"], ids=lambda path: path.name
)
def test_kustomization_is_built(folder: Path) -> None:
    built = kustomized(folder)
    assert_valid(built, VERSIONS[1])
    kinds = [each["kind"] for each in built]
    assert {"DaemonSet", *LATE} <= set(kinds)


@needs_kustomize
def test_base_of_kustomize_has_the_manifests_as_they_are() -> None:
    written = [*documents(FOLDER / "pods.yaml"), *documents(FOLDER / "pods-admission.yaml")]
    built = kustomized(FOLDER)
    assert sorted(map(canonical, built)) == sorted(map(canonical, written))


@needs_kustomize
def test_server_behind_a_service_has_no_part_in_the_nodes_network() -> None:
    built = kustomized(ROOT / "packaging" / "kustomize" / "pods-https")
    [pod] = pods(built)
    assert "hostNetwork" not in pod
    assert not [each for each in containers(pod) if each["securityContext"]["capabilities"].get("add")]
    [serve] = [each for each in pod["containers"] if each["name"] == "serve"]
    assert not [each for each in serve["args"] if "127.0.0.1" in each]
    [service] = [each["spec"] for each in built if each["kind"] == "Service"]
    assert service["internalTrafficPolicy"] == "Local"
    [port] = [each for each in serve["ports"] if each["name"] == service["ports"][0]["targetPort"]]
    assert f"--port={port['containerPort']}" in serve["args"]
    [tls] = [each["secret"] for each in pod["volumes"] if "secret" in each]
    assert tls["defaultMode"] == 0o400  # Otherwise serve warns of a key that others can read.
    [host] = [each.partition("=")[2] for each in serve["args"] if each.startswith("--host-name=")]
    [policy] = [each for each in built if each["kind"] == LATE[0]]
    assert policy["spec"]["variables"][0]["expression"] == f"'https://{host}{PATH}'"


@needs_kustomize
def test_overlay_of_the_page_changes_what_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "hwsigner").symlink_to(ROOT)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    written = block("docs/how-to/pods.md", "yaml", "An overlay has what is yours", "Helm installs into")
    (overlay / "kustomization.yaml").write_text(written)
    [config] = [each for each in documents(FOLDER / "pods.yaml") if each["kind"] == "ConfigMap"]
    config["data"] = {"config.toml": "", "pods.toml": "[accounts]\n"}
    (overlay / "config.yaml").write_text(yaml.safe_dump(config))
    built = kustomized(overlay)
    assert [each["data"] for each in built if each["kind"] == "ConfigMap"] == [config["data"]]
    [pod] = pods(built)
    assert {each["image"] for each in containers(pod)} == {f"registry.internal/hwsigner:{__version__}"}
    assert pod["initContainers"][1]["args"][-1] == "--issuer-url=https://registrar.internal:8443"


def canonical(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def kustomized(folder: Path) -> list[dict[str, Any]]:
    built = subprocess.run(["kustomize", "build", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(built.stdout))
