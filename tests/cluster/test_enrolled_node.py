"""The containers of pods.yaml, with their arguments, environment, volumes and capabilities, but without a runtime."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

import certs
from attestation.chips import Chip, chips, vendors
from cluster.kube import NODE
from cluster.node import Node
from enrolment.registrar.pods import node as machine
from enrolment.registrar.sites import Issuer, Site, url
from hwsigner.emulator import Emulator, World
from judges import needs_namespaces
from kubelet import Volume, read_only
from pages import ROOT

__all__ = ["chips", "vendors"]

pytestmark = [pytest.mark.root, pytest.mark.slow, needs_namespaces]

MANIFEST = ROOT / "packaging" / "kubernetes" / "pods.yaml"
PYTHON = "/opt/hwsigner/bin/python"
# The root file system of the container: nothing can be written, and the folders of this machine are hidden.
ROOT_SCRIPT = """
mount -t tmpfs tmpfs /run
mkdir /run/etc
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /etc/ld.so.cache /etc/ssl /run/etc
mount --bind /run/etc /etc
mount -t tmpfs tmpfs /var/lib
"""


class DaemonSet:
    """The Pod of the DaemonSet on a node. Its state is kept from container to container.

    Args:
        folder: for the volumes.
        account: the files of its service account.
        changes: what differs from the manifest here, by what is written there.
        environ: variables that all containers have.
    """

    def __init__(self, folder: Path, account: Path, changes: dict[str, str], environ: dict[str, str]) -> None:
        text = MANIFEST.read_text()
        for old, new in changes.items():
            assert re.search(old, text), old
            text = re.sub(old, new, text)
        documents = {each["kind"]: each for each in yaml.safe_load_all(text)}
        files = {name: content.encode() for name, content in documents["ConfigMap"]["data"].items()}
        self._pod = documents["DaemonSet"]["spec"]["template"]["spec"]
        self._environ = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), **environ}
        self._volumes = {"state": folder / "state", "config": Volume(folder / "config", files).path, "api": account}
        self._volumes["state"].mkdir()

    def run(self, name: str) -> str:
        """Run a container to its end, and return what it says."""
        done = subprocess.run(**self._process(name), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    @contextmanager
    def running(self, name: str, line: str, count: int) -> Iterator[None]:
        """Run a container, once its log has so many lines with a text."""
        with subprocess.Popen(**self._process(name), stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr
                found = list(itertools.islice((read for read in process.stderr if line in read), count))
                assert len(found) == count
                yield
            finally:
                process.terminate()
                assert process.wait(30) == 0

    def _process(self, name: str) -> dict[str, Any]:
        [container] = [each for each in self._pod["initContainers"] + self._pod["containers"] if each["name"] == name]
        script = ROOT_SCRIPT
        for mount in container.get("volumeMounts", []):
            source, target = self._volumes[mount["name"]], mount["mountPath"]
            bind = f"mkdir -p {target}; mount --bind {source} {target}"
            script += f"{read_only(source, Path(target)) if mount.get('readOnly') else bind}\n"
        added = [f"+{each.lower()}" for each in container["securityContext"]["capabilities"].get("add", [])]
        capabilities = ",".join(["-all", *added])
        script += "mount -o remount,bind,ro /\nmount -o remount,ro /run\n"
        script += f'exec setpriv --no-new-privs --inh-caps=-all --bounding-set={capabilities} "$@"\n'
        command = container.get("command", [PYTHON, "-m", "hwsigner"])
        assert command[0] == PYTHON
        environ = {**self._environ, "NODE_NAME": NODE}
        environ |= {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
        arguments = [each.replace("$(NODE_NAME)", NODE) for each in container["args"]]
        program = [sys.executable, "-P", *command[1:], *arguments]
        return {"args": ["unshare", "--mount", "sh", "-ec", script, "sh", *program], "env": environ}


@pytest.fixture
def emulator(ca: certs.Authority) -> Iterator[Emulator]:
    with Emulator(World.simple(ca.certificate, accept_role_session_name=True)) as emulator:
        yield emulator


def test_pod_gets_credentials_from_the_nodes_chip(
    node: Node, emulator: Emulator, chips: tuple[Chip, Chip, Chip], ca: certs.Authority, tmp_path: Path
) -> None:
    """An empty TPM is enrolled by the registrar, and its key then signs for a Pod of team-a/web."""
    site = Site(tmp_path, chips[0].trust, Issuer(ca))
    site.allow(machine(NODE, chips[0]))
    [anchor], [profile], [role] = emulator.world.trust_anchors, emulator.world.profiles, emulator.world.roles
    with site.serving() as registrar:
        changes = {
            r"\[hwsigner, 169": "[pods, 169",  # The kernel may have no dummy links, and this one is there already.
            r"device:/dev/tpmrm0": chips[0].tpm.tcti,
            r"https://registrar.example.com:8443": url(registrar),
            r"arn:aws:rolesanywhere:\S+:trust-anchor/UUID": anchor,
            r"arn:aws:rolesanywhere:\S+:profile/UUID": profile,
            r"arn:aws:iam::\S+:role/web": role,
        }
        environ = {"AWS_ENDPOINT_URL": emulator.url, **node.source.environ}
        pod = DaemonSet(tmp_path, node.source.account.path, changes, environ)
        assert pod.run("address").splitlines() == ["pods has 169.254.170.23", "pods has fd00:ec2::23"]
        pod.run("enroll")
        pod.run("enroll")  # As after a restart of the Pod: the node has its certificate.
    with pod.running("serve", f"serving the Pods of {NODE} on http://", 2):
        for address in ("169.254.170.23", "[fd00:ec2::23]"):
            status, body = node.ask(node.source.tokens["good"], address)
            assert status == 200, body
            assert identity(body, emulator).endswith(f":assumed-role/hwsigner-demo/team-a.web.{NODE}")


def identity(body: str, emulator: Emulator) -> str:
    found = json.loads(body)
    keys = (found["AccessKeyId"], found["SecretAccessKey"], found["Token"])
    client = boto3.Session(*keys, region_name="us-east-1").client("sts", endpoint_url=emulator.url)
    return str(client.get_caller_identity()["Arn"])
