"""Helm itself reads the chart, and installs the manifests: its library for Go, in a package for Python."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from test_helm import CHART, VALUES, written

# The package has Helm for these machines only, as a library.
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="no Helm for this machine")

PROGRAM = """
import json, sys
import helm_python as helm
chart, values = sys.argv[1], json.loads(sys.argv[2])
try:
    findings = helm.lint(chart, values, strict=True)
    with helm.Chart.load(chart) as loaded:
        rendered = loaded.render(values, name="pods", namespace="hwsigner")
except helm.HelmError as error:
    sys.exit(str(error))
print(json.dumps([findings, rendered]))
"""


def helm(installed: Path, **values: Any) -> subprocess.CompletedProcess[str]:
    command = [str(installed / "python" / "bin" / "python"), "-c", PROGRAM, str(CHART), json.dumps(values)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def documents(installed: Path, **values: Any) -> list[dict[str, Any]]:
    """Return what Helm would install. Its linter has nothing to say but that an icon would be nice."""
    done = helm(installed, **values)
    assert done.returncode == 0, done.stderr
    findings, rendered = json.loads(done.stdout)
    assert [each["error"] for each in findings["messages"]] == ["icon is recommended"]
    assert findings["errors"] == []
    return [each for text in rendered.values() for each in yaml.safe_load_all(text) if each]


def canonical(documents: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in documents)


def test_helm_installs_the_manifests(installed: Path) -> None:
    assert canonical(documents(installed, monitor={"enabled": True})) == canonical(written())


def test_helm_installs_what_the_values_say(installed: Path) -> None:
    enroll = ["--issuer-ca-file=/etc/hwsigner/registrar-ca.pem", "--issuer=registrar"]
    files = {**VALUES["files"], "registrar-ca.pem": "-----BEGIN CERTIFICATE-----\n"}
    admission = {"enabled": True, "url": "http://[fd00:ec2::23]/v1/credentials", "region": ""}
    found = {
        each["kind"]: each
        for each in documents(installed, enroll=enroll, files=files, admission=admission, tolerations=[], link="lo")
    }
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["initContainers"][1]["args"] == ["enroll", "node", "--no-aws-config", *enroll]
    assert pod["initContainers"][0]["args"] == ["--keep", "lo", "169.254.170.23", "fd00:ec2::23"]
    assert pod["tolerations"] == []
    assert found["ConfigMap"]["data"] == files
    url = found["MutatingAdmissionPolicy"]["spec"]["variables"][0]
    assert url == {"name": "url", "expression": f"'{admission['url']}'"}


def test_helm_installs_no_admission_policy_if_told_so(installed: Path) -> None:
    kinds = [each["kind"] for each in documents(installed, admission={"enabled": False})]
    assert sorted(kinds) == ["ClusterRoleBinding", "ConfigMap", "DaemonSet", "ServiceAccount"]


def test_helm_refuses_a_value_that_the_chart_does_not_know(installed: Path) -> None:
    done = helm(installed, registrar="https://registrar.example.com:8443")
    assert done.returncode == 1
    assert "additional properties 'registrar' not allowed" in done.stderr
