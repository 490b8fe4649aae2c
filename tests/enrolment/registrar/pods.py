"""The Pod of the manifest's registrar: its arguments, mounts and user, without a container's runtime. Needs root."""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from cryptography import x509

from attestation.chips import Chip
from enrolment.registrar import sites
from enrolment.registrar.sites import tpm
from hwsigner import attestation
from hwsigner._identity.certificate_request import sign_certificate_request
from hwsigner.enrolment.registrar.policy import Machine
from hwsigner.key import open_key
from kubelet import read_only
from pages import ROOT

MANIFEST = ROOT / "packaging" / "kubernetes" / "registrar.yaml"
MOUNTS = Path("/run/registrar")
USER = GROUP = 29912


def template() -> dict[str, Any]:
    """Return the template of the registrar's Pod."""
    [deployment] = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Deployment"]
    return dict(deployment["spec"]["template"])


class RegistrarPod:
    """The Pod.

    Args:
        volumes: the folders of its volumes, by name.
        tls_ca: the path of the CA of its TLS certificate.
    """

    def __init__(self, volumes: Mapping[str, Path], tls_ca: Path) -> None:
        self.lines: list[str] = []
        self._volumes = volumes
        self._tls_ca = tls_ca
        self._url = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the Pod, on loopback."""
        spec = template()["spec"]
        environment = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        [keys], [server] = spec["initContainers"], spec["containers"]
        subprocess.run(self._command(keys), env=environment, check=True, capture_output=True)
        command = self._command(server, "--address=127.0.0.1", "--port=0")
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            first = process.stderr.readline()
            found = re.fullmatch(r"hwsigner: registrar on (\S+)\n", first)
            assert found, first + process.stderr.read()
            self._url = found[1]
            reader = threading.Thread(target=lambda: self.lines.extend(process.stderr or ()))
            reader.start()
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)
                reader.join(60)

    def probe(self) -> None:
        """Connect, and say nothing, as the kubelet's probe does."""
        address = urlsplit(self._url)
        socket.create_connection((address.hostname, address.port or 0), 30).close()

    def enrol(self, chip: Chip, machine: Machine) -> x509.Certificate:
        """Return the certificate that it gives to a node's key."""
        with open_key(chip.key) as opened:
            request = sign_certificate_request(opened, machine.subject)
        return sites.enrolled(self._url, chip.key, request, ca_file=str(self._tls_ca))

    def wait_for(self, decision: str, count: int) -> dict[str, Any]:
        """Return the last line with a decision, once there are so many."""
        for _ in itertools.repeat(None, 1200):
            found = [line for line in map(json.loads, list(self.lines)) if line["decision"] == decision]
            if len(found) == count:
                return dict(found[-1])
            time.sleep(0.1)
        raise AssertionError(f"{decision}: {self.lines}")

    def _command(self, container: dict[str, Any], *more: str) -> list[str]:
        """Return the command that runs a container, in a mount namespace of its own."""
        script = ["mount -t tmpfs tmpfs /run"]
        for mount in container["volumeMounts"]:
            path = Path(mount["mountPath"])
            assert path.parent == MOUNTS
            script.append(read_only(self._volumes[mount["name"]], path))
            if not mount.get("readOnly"):
                script.append(f"mount -o remount,bind,rw {path}")
        script.append(f'exec setpriv --reuid={USER} --regid={GROUP} --groups={GROUP} --bounding-set=-all "$@"')
        program = [sys.executable, "-P", "-m", "hwsigner", *container["args"], *more]
        return ["unshare", "--mount", "sh", "-ec", "; ".join(script), "sh", *program]


def node(name: str, chip: Chip) -> Machine:
    """Return the machine that a policy names for a node."""
    digits = attestation.claimed_endorsement_key(chip.statement())
    return tpm(digits, name, f"CN={name},OU=pods")
