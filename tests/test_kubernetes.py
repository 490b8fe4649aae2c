"""The manifests for Kubernetes are valid, restricted, and name the images of this version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hwsigner import __version__
from pages import ROOT

MANIFESTS = sorted((ROOT / "packaging" / "kubernetes").glob("*.yaml"))
# Native sidecars are stable since 1.33.
VERSIONS = ("1.33", kubernetes_validate.latest_version())


def documents(manifest: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(manifest.read_text()))


def pod(manifest: Path) -> dict[str, Any]:
    """Return the specification of the manifest's Pod."""
    [owner] = [each["spec"] for each in documents(manifest) if each["kind"] in ("Pod", "Deployment", "DaemonSet")]
    return dict(owner["template"]["spec"]) if "template" in owner else dict(owner)


def containers(manifest: Path) -> list[dict[str, Any]]:
    spec = pod(manifest)
    return [*spec["initContainers"], *spec["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifest_fits_the_schemas_of_kubernetes(manifest: Path, version: str) -> None:
    for document in documents(manifest):
        if document["apiVersion"] != "cert-manager.io/v1":  # Not of Kubernetes: nothing here has its schema.
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_containers_are_restricted(manifest: Path) -> None:
    spec = pod(manifest)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in containers(manifest):
        context = {**spec["securityContext"], **container["securityContext"]}
        is_root = context.get("runAsUser") == 0
        added = context["capabilities"].get("add", [])
        assert (is_root, added) in ((False, []), (True, ["CHOWN"])), container["name"]
        assert not is_root or container["name"] == "prepare"
        assert is_root or context["runAsNonRoot"], container["name"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert {"requests", "limits"} <= container["resources"].keys()


@pytest.mark.parametrize("path", [*MANIFESTS, ROOT / "docs" / "how-to" / "kubernetes.md"], ids=lambda path: path.name)
def test_images_have_this_version(path: Path) -> None:
    assert set(re.findall(r"[a-z]/hwsigner:(\d\S+)", path.read_text())) == {__version__}


def test_programs_in_python_end_at_sigterm() -> None:
    """The kernel sends a container's first program only signals that it handles: without it, a Pod ends 30 s later."""
    [program] = [each["command"][2] for path in MANIFESTS for each in pod(path)["containers"] if "command" in each]
    waiting = "import subprocess, time\nsubprocess.run, sleep = print, time.sleep\n"
    waiting += "time.sleep = lambda seconds: (print('asleep', flush=True), sleep(seconds))\n"
    with subprocess.Popen([sys.executable, "-c", waiting + program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert b"asleep\n" in iter(process.stdout.readline, b"")
        process.terminate()
        assert process.wait() == 0


def test_servers_have_probes() -> None:
    servers = [each for path in MANIFESTS for each in containers(path) if "ports" in each and path.stem != "registrar"]
    assert len(servers) == 3
    for server in servers:
        assert server["readinessProbe"]["httpGet"]["path"] == "/health"
        assert server["livenessProbe"]["httpGet"]["path"] == "/metrics"
