"""The manifest's registrar, with its arguments, volumes and user, as the kubelet and a container's runtime start it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import certs
from attestation.chips import Chip, Vendor, chips, vendors
from enrolment.registrar.pods import GROUP, MOUNTS, RegistrarPod, node, template
from enrolment.registrar.sites import table
from hwsigner.enrolment.registrar.policy import Machine
from hwsigner.errors import ServiceError
from judges import needs_namespaces
from kubelet import Volume, read_only
from loopback import ServerCA
from pages import ROOT

__all__ = ["chips", "vendors"]

NOT_ALLOWED = "policy does not give this chip"


class Volumes:
    """The volumes of the registrar's Pod."""

    def __init__(self, folder: Path, ca: certs.Authority, roots: Path) -> None:
        tls_ca = ServerCA(folder)
        tls_ca.context("127.0.0.1")
        pair = (folder / "127.0.0.130.pem").read_bytes()
        key = certs.write_key(folder / "ca.key", ca.key)
        certificates = {path.name: path.read_bytes() for path in roots.iterdir()}
        self.policy = Volume(folder / "policy", {"registrar.toml": b""}, group=GROUP)
        found = {
            "policy": self.policy,
            "roots": Volume(folder / "roots", certificates, group=GROUP),
            "tls": Volume(folder / "tls", {"tls.crt": pair, "tls.key": pair}, mode=0o440, group=GROUP),
            "ca": Volume(folder / "ca", {"tls.crt": ca.pem, "tls.key": key.read_bytes()}, mode=0o440, group=GROUP),
            "keys": Volume(folder / "keys", {}, group=GROUP),  # An emptyDir has the same mode.
        }
        self.pod = RegistrarPod({name: volume.path for name, volume in found.items()}, tls_ca.path)

    def allow(self, *machines: Machine) -> None:
        """Change the ConfigMap."""
        self.policy.update({"registrar.toml": "".join(map(table, machines)).encode()})


@pytest.fixture
def volumes(
    vendors: tuple[Vendor, Vendor], chips: tuple[Chip, Chip, Chip], ca: certs.Authority, tmp_path: Path
) -> Volumes:
    return Volumes(tmp_path, ca, vendors[0].roots)


@pytest.mark.root
@pytest.mark.slow
@needs_namespaces
def test_nodes_come_and_go_by_the_config_map_without_a_restart(
    volumes: Volumes, chips: tuple[Chip, Chip, Chip]
) -> None:
    one, two = node("node-1", chips[0]), node("node-2", chips[1])
    volumes.allow(one)
    pod = volumes.pod
    with pod.running():
        for _ in range(3):
            pod.probe()
        leaf = pod.enrol(chips[0], one)
        assert leaf.subject.rfc4514_string() == "CN=node-1,OU=pods"
        issued = pod.wait_for("issued", 1)
        assert int(issued["serial"], 16) == leaf.serial_number
        assert issued["expires"] == f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        with pytest.raises(ServiceError, match=NOT_ALLOWED):
            pod.enrol(chips[1], two)

        volumes.allow(one, two)
        read = pod.wait_for("read", 1)
        assert (read["machines"], len(read["policy"])) == (2, 64)
        assert pod.enrol(chips[1], two).subject.rfc4514_string() == "CN=node-2,OU=pods"

        volumes.policy.update({"registrar.toml": b"[machine"})
        assert "registrar.toml is not TOML" in pod.wait_for("kept", 1)["reason"]
        pod.enrol(chips[1], two)

        volumes.allow(one)
        assert pod.wait_for("read", 2)["machines"] == 1
        with pytest.raises(ServiceError, match=NOT_ALLOWED):
            pod.enrol(chips[1], two)
    decisions = {json.loads(line)["decision"] for line in pod.lines}  # And none of the probes.
    assert decisions == {"received", "challenged", "proven", "issued", "refused", "read", "kept"}
    assert sum('"refused"' in line for line in pod.lines) == 2


@pytest.mark.root
@pytest.mark.slow
@needs_namespaces
def test_registrar_does_not_start_with_a_config_map_that_is_broken(volumes: Volumes) -> None:
    volumes.policy.update({"registrar.toml": b"[machine"})
    with pytest.raises(AssertionError, match=r"registrar\.toml is not TOML"), volumes.pod.running():
        pass


def test_issuer_of_the_manifest_reads_the_ca_from_the_secret() -> None:
    [issuer] = [one for one in template()["spec"]["containers"][0]["args"] if one.startswith("--issuer-command=")]
    words = shlex.split(issuer.partition("=")[2])
    assert (words[0], words[words.index("-CA") + 1]) == ("openssl", str(MOUNTS / "ca" / "tls.crt"))
    assert words[words.index("-CAkey") + 1] == str(MOUNTS / "ca" / "tls.key")


@pytest.mark.slow
@needs_namespaces
@pytest.mark.parametrize("is_volume", [True, False])
def test_roots_that_others_can_write_are_read_only_if_their_folder_is_mounted_read_only(
    is_volume: bool, ca: certs.Authority, tmp_path: Path
) -> None:
    """Not if the folder is below such a mount, as in a unit with ProtectSystem=strict."""
    (tmp_path / "etc").mkdir()
    roots = Volume(tmp_path / "etc" / "roots", {"ca.pem": ca.pem}).path
    mounted, folder = (roots, "mount") if is_volume else (roots.parent, "mount/roots")
    read = "import sys; from hwsigner._cli.documents import read_trust; read_trust(sys.argv[1])"
    script = f'{read_only(mounted, tmp_path / "mount")}; exec {sys.executable} -c "{read}" {tmp_path / folder}'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == is_volume, done.stderr
    assert is_volume or f"{tmp_path / folder} has mode 0777: other users can write it" in done.stderr
