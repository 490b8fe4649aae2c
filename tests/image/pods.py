"""A node for Pods under podman: a TPM, a CA, a service that trusts it, and manifests as podman can run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hwsigner import __version__
from softhsm.token import SoftHSM
from softhsm.vendor import TPMVendor

REGISTRY = "registry.example.com"
ROLE = "arn:aws:iam::123456789012:role/web"
RESTRICTED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
# Of the image hwsigner.
USER = 29912
_UUID = "0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
_ARN = "arn:aws:rolesanywhere:eu-central-1:123456789012"
_WORLD = f"""
[[trust_anchor]]
arn = "{_ARN}:trust-anchor/{_UUID}"
certificates = ["ca.pem"]
[[profile]]
arn = "{_ARN}:profile/{_UUID}"
roles = ["{ROLE}"]
[[role]]
arn = "{ROLE}"
"""
_NODE = "node-01"
_TCTI = "swtpm:path=/tpm/socket"
_ISSUE = "openssl x509 -req -days 2 -copy_extensions copy -CA /node/ca.pem -CAkey /node/ca.key"


class Podman:
    """podman with a storage of its own. A call returns what it prints.

    Args:
        folder: for the storage; kept.
    """

    def __init__(self, folder: Path) -> None:
        folders = (f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}", f"--tmpdir={folder / 'tmp'}")
        self._command = ("podman", *folders, "--runtime=runc", "--cgroup-manager=cgroupfs")

    def __call__(self, *arguments: str | Path) -> str:
        done = self.run(*arguments)
        if done.returncode:
            command = " ".join(map(str, arguments))
            raise SystemExit(f"podman {command}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run podman, and return its status and what it printed."""
        environment = {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
        command = [*self._command, *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


class Node:
    """A node, with a TPM, and the services that its Pods reach: AWS, emulated, and a registrar.

    The services are containers without a network. The Pods join their network namespace.

    Args:
        podman: runs the containers.
        folder: for files.
    """

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.podman = podman
        self.folder = folder
        self._network = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make the CA, and run the TPM and the services."""
        self.folder.chmod(0o755)
        flags = ["-x509", "-quiet", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=ca"]
        files = ["-keyout", str(self.folder / "ca.key"), "-out", str(self.folder / "ca.pem")]
        self.openssl("req", *flags, "-addext", "keyUsage=critical,keyCertSign", "-days", "2", *files)
        (self.folder / "ca.key").chmod(0o644)
        (self.folder / "world.toml").write_text(_WORLD)
        vendor = TPMVendor(self.folder / "vendor")
        with vendor.make(self.folder / "tpm") as tpm:
            for socket in (tpm.socket, Path(f"{tpm.socket}.ctrl")):
                socket.chmod(0o666)
            try:
                self._start_services(vendor.roots)
                yield
            finally:
                self.podman("rm", "--force", "--time=0", "--ignore", "aws", "registrar")

    @contextmanager
    def p11_kit(self) -> Iterator[Path]:
        """Serve a token `web`, as the user of the containers, on a socket in a folder that has its PIN too."""
        softhsm = SoftHSM(self.folder / "softhsm")
        softhsm.make()
        softhsm.add_token("web")
        (softhsm.folder / "pin").write_text(softhsm.pin)
        for path in (softhsm.folder, *softhsm.folder.rglob("*")):
            os.chown(path, USER, USER)
        socket = softhsm.folder / "socket"
        command = ["p11-kit", "server", "--foreground", f"--name={socket}", f"--provider={softhsm.module}"]
        environment = {"PATH": "/usr/bin", "XDG_RUNTIME_DIR": str(softhsm.folder), **softhsm.env}
        command.append("pkcs11:token=web")
        null = subprocess.DEVNULL
        with subprocess.Popen(command, env=environment, user=USER, group=USER, extra_groups=[], stdout=null) as server:
            try:
                while not socket.exists():
                    if server.poll() is not None:
                        raise SystemExit("p11-kit did not start")
                    time.sleep(0.1)
                yield softhsm.folder
            finally:
                server.terminate()

    def hwsigner(self, *arguments: str) -> str:
        """Run hwsigner in a container that has the TPM and, as /node, the folder."""
        volumes = (f"--volume={self.folder / 'tpm'}:/tpm", f"--volume={self.folder}:/node")
        image = f"{REGISTRY}/hwsigner:{__version__}"
        return self.podman("run", "--rm", "--network=none", "--user=0", *RESTRICTED, *volumes, image, *arguments)

    def openssl(self, *arguments: str) -> None:
        """Run openssl, outside of containers."""
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def issue(self, request: str, out: str) -> None:
        """Issue a certificate for a request in the folder."""
        names = ["-in", str(self.folder / request), "-out", str(self.folder / out)]
        self.openssl(*_ISSUE.replace("/node", str(self.folder)).split()[1:], *names)

    @contextmanager
    def pod(self, manifest: Path, *more: dict[str, Any]) -> Iterator[str]:
        """Run a manifest, with more documents, and yield the name of its Pod."""
        documents = [*more, *self._adapted(manifest)]
        file = self.folder / manifest.name
        file.write_text(yaml.safe_dump_all(documents))
        played = self.podman("kube", "play", f"--network={self._network}", file)
        [name] = re.findall(r"^Pod:\n([0-9a-f]+)$", played, re.MULTILINE)
        try:
            yield self.podman("pod", "inspect", "--format={{.Name}}", name).strip()
        except BaseException:
            print(self.podman.run("pod", "logs", name), file=sys.stderr)
            raise
        finally:
            self.podman("kube", "down", file)

    def _start_services(self, roots: Path) -> None:
        run = ("run", "--detach", f"--volume={self.folder}:/node:ro", f"--volume={roots}:/roots:ro", *RESTRICTED)
        image = f"{REGISTRY}/hwsigner:{__version__}"
        service = ("emulator", "--config=/node/world.toml", "--port=8080")
        self.podman(*run, "--network=none", "--name=aws", image, *service)
        process = self.podman("inspect", "--format={{.State.Pid}}", "aws").strip()
        self._network = f"ns:/proc/{process}/ns/net"
        chip = self.hwsigner("attest", "--ek", f"--tcti={_TCTI}").split()[0]
        policy = "--policy=/node/registrar.toml"
        self.hwsigner("registrar", "allow", chip, f"--subject=CN={_NODE},OU=web", policy)
        self.hwsigner("registrar", "rotate-keys", "--keys=/node/sealing-keys")
        for name in ("registrar.toml", "sealing-keys"):
            os.chown(self.folder / name, USER, USER)
        flags = ("--roots=/roots", "--keys=/node/sealing-keys", policy, f"--issuer-command={_ISSUE}")
        self.podman(*run, f"--network={self._network}", "--name=registrar", image, "registrar", *flags)

    def _adapted(self, manifest: Path) -> list[dict[str, Any]]:
        """Return the documents of a manifest as podman can run them here.

        podman knows no native sidecars, no device plugins, no fsGroup and no fieldRef of the node, and an emptyDir in
        memory is not shared by the containers. Here, there are no TPM, no cert-manager and no AWS.
        """
        text = manifest.read_text().replace("/UUID", f"/{_UUID}").replace("device:/dev/tpmrm0", _TCTI)
        text = text.replace("https://registrar.example.com:8443", "http://127.0.0.1:8443").replace("$(NODE)", _NODE)
        for path in ("/run/hwsigner", "/var/lib/hwsigner-node"):
            text = text.replace(f"{{path: {path},", f"{{path: {self.folder}/{Path(path).parent.name},")
        documents = [each for each in yaml.safe_load_all(text) if each["kind"] != "Certificate"]
        [owner] = [each["spec"] for each in documents if "spec" in each]
        spec = owner["template"]["spec"] if "template" in owner else owner
        spec.pop("nodeSelector", None)
        starting = spec.get("initContainers", [])
        spec["initContainers"] = [each for each in starting if "restartPolicy" not in each]
        spec["containers"] = [each for each in starting if "restartPolicy" in each] + spec["containers"]
        for container in spec["initContainers"] + spec["containers"]:
            _adapt(container)
        for volume in spec["volumes"]:
            volume.get("emptyDir", {}).pop("medium", None)
        if spec["securityContext"].pop("fsGroup", None):
            spec["securityContext"]["runAsGroup"] = 0  # Its files belong to root's group.
        spec["terminationGracePeriodSeconds"] = 1
        spec["volumes"].append({"name": "tpm", "hostPath": {"path": str(self.folder / "tpm"), "type": "Directory"}})
        return documents


def _adapt(container: dict[str, Any]) -> None:
    container.pop("restartPolicy", None)
    container["resources"]["limits"].pop("githedgehog.com/tpmrm", None)
    variables = [each for each in container.get("env", []) if "valueFrom" not in each]
    container["env"] = [*variables, {"name": "AWS_ENDPOINT_URL", "value": "http://127.0.0.1:8080"}]
    container["volumeMounts"] = [*container["volumeMounts"], {"name": "tpm", "mountPath": "/tpm"}]
    if container["name"] == "application":
        container["args"] = ["-c", "import time; time.sleep(600)"]


def secret(name: str, **files: Path) -> dict[str, Any]:
    """Return a Secret with the content of files. In their names, `_` stands for a dot."""
    data = {key.replace("_", "."): path.read_text() for key, path in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def mounts(podman: Podman, container: str) -> dict[str, str]:
    """Return where on this machine the volumes of a container are, by where it sees them."""
    found = json.loads(podman("inspect", "--format={{json .Mounts}}", container))
    return {each["Destination"]: each["Source"] for each in found}
