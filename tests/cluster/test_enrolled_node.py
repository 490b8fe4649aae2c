"""The containers of pods.yaml, with their arguments, environment, volumes and capabilities, but without a runtime."""

from __future__ import annotations

import itertools
import json
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
from judges import needs_kustomize, needs_namespaces
from kubelet import Volume, read_only
from loopback import ServerCA
from pages import ROOT

__all__ = ["chips", "vendors"]

pytestmark = [pytest.mark.root, pytest.mark.slow, needs_namespaces]

MANIFEST = ROOT / "packaging" / "kubernetes" / "pods.yaml"
HTTPS = ROOT / "packaging" / "kustomize" / "pods-https"
HOST = "hwsigner-pods.hwsigner.svc"
SAN, OUT = f"subjectAltName=DNS:{HOST}", "-keyout tls.key -out tls.crt"
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
        text: the manifest.
        folder: for the volumes.
        volumes: the folders of volumes that are not made here, by name.
        environ: variables that all containers have.
    """

    def __init__(self, text: str, folder: Path, volumes: dict[str, Path], environ: dict[str, str]) -> None:
        documents = {each["kind"]: each for each in yaml.safe_load_all(text)}
        files = {name: content.encode() for name, content in documents["ConfigMap"]["data"].items()}
        self._pod = documents["DaemonSet"]["spec"]["template"]["spec"]
        self._environ = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            **environ,
        }
        self._volumes = {"state": folder / "state", "config": Volume(folder / "config", files).path, **volumes}
        self._volumes["run"] = folder / "run"
        for name in ("state", "run"):
            self._volumes[name].mkdir()

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
                assert len(found) == count, process.stderr.read()
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
        assert command[0] in (PYTHON, "/usr/bin/python3")
        environ = {**self._environ, "NODE_NAME": NODE}
        environ |= {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
        given = container.get("args", [])
        arguments = [each.replace("$(NODE_NAME)", NODE).replace("$(NODE_IP)", "127.0.0.1") for each in given]
        program = [sys.executable, "-P", *command[1:], *arguments]
        return {"args": ["unshare", "--mount", "sh", "-ec", script, "sh", *program], "env": environ}


@pytest.fixture
def emulator(ca: certs.Authority) -> Iterator[Emulator]:
    with Emulator(World.simple(ca.certificate, accept_role_session_name=True)) as emulator:
        yield emulator


@contextmanager
def enrolled(
    text: str, node: Node, emulator: Emulator, chip: Chip, ca: certs.Authority, tmp_path: Path
) -> Iterator[DaemonSet]:
    """Enrol an empty TPM at a registrar, as the init containers of a manifest do it."""
    site = Site(tmp_path, chip.trust, Issuer(ca))
    site.allow(machine(NODE, chip))
    [anchor], [profile], [role] = emulator.world.trust_anchors, emulator.world.profiles, emulator.world.roles
    with site.serving() as registrar:
        changes = {
            r"device:/dev/tpmrm0": chip.tpm.tcti,
            r"https://registrar.example.com:8443": url(registrar),
            # `renew` looks once, and ends.
            r"subprocess.run\(\[": "subprocess.run(check=True, args=[",
            r"time\.sleep\(900\)": "sys.exit()",
            r"arn:aws:rolesanywhere:\S+:trust-anchor/UUID": anchor,
            r"arn:aws:rolesanywhere:\S+:profile/UUID": profile,
            r"arn:aws:iam::\S+:role/web": role,
        }
        for old, new in changes.items():
            assert re.search(old, text), old
            text = re.sub(old, new, text)
        environ = {"AWS_ENDPOINT_URL": emulator.url, **node.source.environ}
        pod = DaemonSet(text, tmp_path, {"api": node.source.account.path, "tls": tmp_path}, environ)
        pod.run("enroll")
        pod.run("enroll")  # As after a restart of the Pod: the node has its certificate.
        pod.run("renew")
    yield pod


def test_pod_gets_credentials_from_the_nodes_chip(
    node: Node, emulator: Emulator, chips: tuple[Chip, Chip, Chip], ca: certs.Authority, tmp_path: Path
) -> None:
    # The kernel may have no dummy links, and this one is there already.
    text = MANIFEST.read_text().replace("[--keep, hwsigner, 169", "[--keep, pods, 169")
    with (
        enrolled(text, node, emulator, chips[0], ca, tmp_path) as pod,
        pod.running("address", "pods has ", 2),
        pod.running("serve", f"serving the Pods of {NODE} on http://", 2),
    ):
        for address in ("169.254.170.23", "[fd00:ec2::23]"):
            status, body = node.ask(node.source.tokens["good"], address)
            assert status == 200, body
            assert identity(body, emulator).endswith(f":assumed-role/hwsigner-demo/team-a.web.{NODE}")


@needs_kustomize
def test_pod_gets_credentials_by_https_at_a_service(
    node: Node, emulator: Emulator, chips: tuple[Chip, Chip, Chip], ca: certs.Authority, tmp_path: Path
) -> None:
    text = subprocess.run(["kustomize", "build", HTTPS], capture_output=True, text=True, check=True).stdout
    make = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=pods -addext {SAN} {OUT}"
    subprocess.run(make.split(), cwd=tmp_path, capture_output=True, check=True)
    with (
        enrolled(text, node, emulator, chips[1], ca, tmp_path) as pod,
        pod.running("serve", f"serving the Pods of {NODE} on https://{HOST}:8443", 1),
    ):
        ask = ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", str(tmp_path / "tls.crt")]
        service = ["--connect-to", f"{HOST}:443:127.0.0.1:8443", f"https://{HOST}/v1/credentials"]
        token = ["--header", f"Authorization: {node.source.tokens['good']}"]
        body = subprocess.run([*ask, *token, *service], capture_output=True, text=True, check=True).stdout
        assert identity(body, emulator).endswith(f":assumed-role/hwsigner-demo/team-a.web.{NODE}")


def test_boto3_does_not_use_its_ca_bundle_for_the_endpoint(tmp_path: Path) -> None:
    """As the page says: it would be the way to trust a private CA. If this fails, change the page."""
    loopback = ServerCA(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        server = threads.submit(handshakes, listener, loopback.context("127.0.0.1"))
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "AWS_CA_BUNDLE": str(loopback.path),
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"https://127.0.0.1:{listener.getsockname()[1]}/v1/credentials",
        }
        ask = "import boto3; boto3.Session().get_credentials()"
        done = subprocess.run([sys.executable, "-c", ask], env=environ, capture_output=True, text=True, check=False)
        listener.shutdown(socket.SHUT_RDWR)
        assert server.result(10)
    assert "certificate verify failed" in done.stderr


def handshakes(listener: socket.socket, context: ssl.SSLContext) -> list[str]:
    """Return why TLS handshakes failed, until the listener is shut down."""
    found = []
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except ssl.SSLError as error:
                found.append(str(error.reason))
    return found


def identity(body: str, emulator: Emulator) -> str:
    found = json.loads(body)
    keys = (found["AccessKeyId"], found["SecretAccessKey"], found["Token"])
    client = boto3.Session(*keys, region_name="us-east-1").client("sts", endpoint_url=emulator.url)
    return str(client.get_caller_identity()["Arn"])
