"""The manifest's registrar, with its arguments, volumes and user, as the kubelet and a container's runtime start it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

import certs
from attestation.chips import Chip, Vendor, chips, vendors
from enrolment.registrar import sites
from enrolment.registrar.sites import table, tpm
from hwsigner._identity.certificate_request import sign_certificate_request
from hwsigner.enrolment.registrar.policy import Machine
from hwsigner.errors import ServiceError
from hwsigner.key import open_key
from judges import needs_namespaces
from kubelet import Volume, read_only
from loopback import ServerCA
from pages import ROOT
from scene import Outcome

__all__ = ["chips", "vendors"]

pytestmark = [pytest.mark.root, pytest.mark.slow, needs_namespaces]

USER = GROUP = 29912
MOUNTS = Path("/run/registrar")


def manifest() -> dict[str, Any]:
    """Return the specification of the registrar's Pod."""
    documents = yaml.safe_load_all((ROOT / "packaging" / "kubernetes" / "registrar.yaml").read_text())
    [deployment] = [one for one in documents if one["kind"] == "Deployment"]
    return dict(deployment["spec"]["template"]["spec"])


class Cluster:
    """What the registrar's Pod gets: its volumes, and the lines that it logs."""

    def __init__(self, folder: Path, ca: certs.Authority, roots: Path) -> None:
        self.tls_ca = ServerCA(folder)
        self.tls_ca.context("127.0.0.1")
        pair = (folder / "127.0.0.130.pem").read_bytes()
        key = certs.write_key(folder / "ca.key", ca.key)
        self.policy = Volume(folder / "policy", {"registrar.toml": b""}, group=GROUP)
        certificates = {path.name: path.read_bytes() for path in roots.iterdir()}
        self.volumes = {
            "policy": self.policy,
            "roots": Volume(folder / "roots", certificates, group=GROUP),
            "tls": Volume(folder / "tls", {"tls.crt": pair, "tls.key": pair}, mode=0o440, group=GROUP),
            "ca": Volume(folder / "ca", {"tls.crt": ca.pem, "tls.key": key.read_bytes()}, mode=0o440, group=GROUP),
            "keys": Volume(folder / "keys", {}, group=GROUP),  # An emptyDir has the same mode.
        }
        self.lines: list[str] = []

    def allow(self, *machines: Machine) -> None:
        """Change the ConfigMap."""
        self.policy.update({"registrar.toml": "".join(map(table, machines)).encode()})

    def command(self, container: dict[str, Any], *more: str) -> list[str]:
        """Return the command that runs a container of the Pod, in a mount namespace of its own."""
        script = ["mount -t tmpfs tmpfs /run"]
        for mount in container["volumeMounts"]:
            path = Path(mount["mountPath"])
            assert path.parent == MOUNTS
            script.append(read_only(self.volumes[mount["name"]].path, path))
            if not mount.get("readOnly"):
                script.append(f"mount -o remount,bind,rw {path}")
        script.append(f'exec setpriv --reuid={USER} --regid={GROUP} --groups={GROUP} --bounding-set=-all "$@"')
        program = [sys.executable, "-P", "-m", "hwsigner", *container["args"], *more]
        return ["unshare", "--mount", "sh", "-ec", "; ".join(script), "sh", *program]

    @contextmanager
    def registrar(self) -> Iterator[str]:
        """Run the Pod, and yield the registrar's URL."""
        spec = manifest()
        environment = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        [keys], [server] = spec["initContainers"], spec["containers"]
        subprocess.run(self.command(keys), env=environment, check=True, capture_output=True)
        command = self.command(server, "--address=127.0.0.1", "--port=0")  # Loopback only.
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            first = process.stderr.readline()
            found = re.fullmatch(r"hwsigner: registrar on (\S+)\n", first)
            assert found, first + process.stderr.read()
            reader = threading.Thread(target=lambda: self.lines.extend(process.stderr or ()))
            reader.start()
            try:
                yield found[1]
            finally:
                process.terminate()
                process.wait(60)
                reader.join(60)

    def wait_for(self, decision: str, count: int) -> dict[str, Any]:
        """Return the last line with a decision, once there are so many."""
        for _ in itertools.repeat(None, 600):
            found = [line for line in map(json.loads, list(self.lines)) if line["decision"] == decision]
            if len(found) == count:
                return dict(found[-1])
            time.sleep(0.1)
        raise AssertionError(f"{decision}: {self.lines}")


@pytest.fixture
def cluster(vendors: tuple[Vendor, Vendor], ca: certs.Authority, tmp_path: Path) -> Cluster:
    for folder in (tmp_path, *tmp_path.parents[:2]):  # pytest makes them for root alone.
        folder.chmod(folder.stat().st_mode | 0o055)
    return Cluster(tmp_path, ca, vendors[0].roots)


def node(name: str, chip: Chip, call: Callable[..., Outcome]) -> Machine:
    digits = call("attest", "--ek", chip.key).out.strip()
    return tpm(digits, name, f"CN={name},OU=web")


def enrolled(url: str, chip: Chip, machine: Machine, cluster: Cluster) -> x509.Certificate:
    with open_key(chip.key) as opened:
        request = sign_certificate_request(opened, machine.subject)
    return sites.enrolled(url, chip.key, request, ca_file=str(cluster.tls_ca.path))


def test_nodes_come_and_go_by_the_config_map_without_a_restart(
    cluster: Cluster, chips: tuple[Chip, Chip, Chip], call: Callable[..., Outcome]
) -> None:
    one, two = node("node-1", chips[0], call), node("node-2", chips[1], call)
    cluster.allow(one)
    with cluster.registrar() as url:
        leaf = enrolled(url, chips[0], one, cluster)
        assert leaf.subject.rfc4514_string() == "CN=node-1,OU=web"
        issued = cluster.wait_for("issued", 1)
        assert int(issued["serial"], 16) == leaf.serial_number
        assert issued["expires"] == f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        with pytest.raises(ServiceError, match="policy does not give this chip"):
            enrolled(url, chips[1], two, cluster)

        cluster.allow(one, two)
        read = cluster.wait_for("read", 1)
        assert (read["machines"], len(read["policy"])) == (2, 64)
        assert enrolled(url, chips[1], two, cluster).subject.rfc4514_string() == "CN=node-2,OU=web"

        cluster.policy.update({"registrar.toml": b"[machine"})
        assert "registrar.toml is not TOML" in cluster.wait_for("kept", 1)["reason"]
        assert enrolled(url, chips[1], two, cluster).serial_number

        cluster.allow(one)
        assert cluster.wait_for("read", 2)["machines"] == 1
        with pytest.raises(ServiceError, match="policy does not give this chip"):
            enrolled(url, chips[1], two, cluster)
    assert [line for line in cluster.lines if not line.startswith("{")] == []


def test_registrar_does_not_start_with_a_config_map_that_is_broken(cluster: Cluster) -> None:
    cluster.policy.update({"registrar.toml": b"[machine"})
    with pytest.raises(AssertionError, match=r"registrar\.toml is not TOML"), cluster.registrar():
        pass


def test_manifests_issuer_reads_the_ca_from_the_secret() -> None:
    [issuer] = [one for one in manifest()["containers"][0]["args"] if one.startswith("--issuer-command=")]
    words = shlex.split(issuer.partition("=")[2])
    assert words[words.index("-CA") + 1] == str(MOUNTS / "ca" / "tls.crt")
    assert os.path.basename(words[0]) == "openssl"
