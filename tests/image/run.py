"""Run the images and the manifests for Kubernetes under podman: `python tests/image/run.py DIST FOLDER`.

DIST has the archives of `make image`. FOLDER keeps podman's storage. The containers have no network but the loopback
that they share: an emulated IAM Roles Anywhere and a registrar run there, and a swtpm outside stands in for the node's
TPM. All are ordinary users with a read-only root and no capabilities. Needs root, podman and runc.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
import time
from importlib.metadata import distribution
from pathlib import Path

from hwsigner import __version__
from image.pods import REGISTRY, RESTRICTED, ROLE, Node, Podman, mounts, secret

MANIFESTS = Path(__file__).parents[2] / "packaging" / "kubernetes"
CALLER = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
SESSION = ROLE.replace("iam", "sts").replace("role/", "assumed-role/")
KEY = "tpm2:path=/node/web.tss2?tcti=swtpm:path=/tpm/socket"
MODULE = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"
TOKEN_KEY = f"pkcs11:token=web;object=key?module-path={MODULE}&pin-source=file:/p11-kit/pin"
BOTO3 = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")
# Prints shells and package managers, and programs that run as another user; then writes where it can't.
INSIDE = """
import os, pathlib, httptools, pkcs11, tpm2_pytss, uvloop
assert os.getuid() == os.getgid() == 29912
print([name for name in ("/bin/sh", "/usr/bin/apt", "/usr/bin/dpkg") if os.path.exists(name)])
files = [path for top in ("/opt", "/usr", "/var") for path in pathlib.Path(top).rglob("*")]
print([str(path) for path in files if path.lstat().st_mode & 0o6000])
pathlib.Path("/opt/hwsigner/new").touch()
"""
ALONE = ("--rm", "--network=none", *RESTRICTED)


def main(dist: str, folder: str) -> int:
    """Run everything and return the exit status."""
    podman = Podman(Path(folder).resolve() / "podman")
    with tempfile.TemporaryDirectory(prefix="hwsigner-image-") as temporary:
        _images(podman, Path(dist), Path(temporary))
        node = Node(podman, Path(temporary))
        with node.running():
            for check in (_alone, _token, _sidecar, _cert_manager, _daemon_set):
                begin = time.monotonic()
                check(podman, node)
                print(f"{check.__name__[1:]}: passed in {time.monotonic() - begin:.0f} s", flush=True)
    return 0


def _images(podman: Podman, dist: Path, folder: Path) -> None:
    """Load the images by the names of the manifests, and make an application with boto3."""
    for name in ("hwsigner", "hwsigner-credentials"):
        archives = list(dist.glob(f"{name}-[0-9]*.oci.tar"))
        if len(archives) != 1:
            raise SystemExit(f"{dist} must have one image {name}: run make image first")
        (archive,) = archives
        podman("load", "--quiet", "--input", archive)
        podman("tag", f"localhost/{name}:{__version__}", f"{REGISTRY}/{name}:{__version__}")
    application = folder / "application"
    for name in BOTO3:
        for file in distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                copy = application / "boto3" / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), copy)
    lines = (f"FROM {REGISTRY}/hwsigner:{__version__}", "COPY boto3 /boto3", "ENV PYTHONPATH=/boto3")
    (application / "Containerfile").write_text("\n".join((*lines, 'ENTRYPOINT ["/usr/bin/python3"]\n')))
    podman("build", "--quiet", "--pull=never", f"--tag={REGISTRY}/application:1", application)


def _alone(podman: Podman, node: Node) -> None:
    """The images have what hwsigner needs, no shell and no program with another user's rights."""
    version = podman("run", *ALONE, f"{REGISTRY}/hwsigner:{__version__}", "version", "--verbose")
    assert "canonicalisation: native" in version, version
    assert "tpm2-pytss: 3" in version, version
    image = f"{REGISTRY}/hwsigner:{__version__}"
    done = podman.run("run", *ALONE, "--entrypoint=/opt/hwsigner/bin/python", image, "-c", INSIDE)
    assert done.stdout == "[]\n[]\n", done
    assert "Read-only file system" in done.stderr, done
    image = f"{REGISTRY}/hwsigner-credentials:{__version__}"
    container, exported = podman("create", image).strip(), node.folder / "hwsigner-credentials.tar"
    podman("export", f"--output={exported}", container)
    podman("rm", container)
    with tarfile.open(exported) as files:
        assert {"hwsigner-credentials", "LICENSE", "NOTICE"} <= set(files.getnames()), files.getnames()
    client = podman.run("run", *ALONE, image, "--profile", "web")
    message = "no agent gave credentials, and can't run /hwsigner. Start the agent, or install hwsigner there"
    assert (client.returncode, client.stderr) == (1, f"hwsigner: {message}\n")


def _token(podman: Podman, node: Node) -> None:
    """A container makes a key in the node's PKCS #11 token, and signs with it, through p11-kit's socket."""
    with node.p11_kit() as folder:
        flags = ("--env=P11_KIT_SERVER_ADDRESS=unix:path=/p11-kit/socket", f"--volume={folder}:/p11-kit:ro")
        run = ("run", *ALONE, *flags, f"{REGISTRY}/hwsigner:{__version__}")
        podman(*run, "keygen", TOKEN_KEY)
        request = podman(*run, "csr", TOKEN_KEY, "--subject=CN=web")
    assert "BEGIN CERTIFICATE REQUEST" in request, request


def _sidecar(podman: Podman, node: Node) -> None:
    """An application gets credentials by the agent's socket, from a key in the TPM."""
    node.hwsigner("keygen", KEY)
    node.hwsigner("csr", KEY, "--subject=CN=web,OU=devops", "--out=/node/web.csr")
    node.issue("web.csr", "web.pem")
    key = secret("web-key", web_tss2=node.folder / "web.tss2", web_pem=node.folder / "web.pem")
    with node.pod(MANIFESTS / "sidecar.yaml", key) as pod:
        _calls(podman, f"{pod}-application")
        socket = mounts(podman, f"{pod}-application")["/run/hwsigner"] + "/agent"  # The subPath.
        _client(podman, socket, "10001", status=0, wanted='"SessionToken"')
        _client(podman, socket, "10002", status=7, wanted="is not for user 10002")
        # In a user namespace of its own: the agent sees the user that stands for all that are not mapped.
        _client(podman, socket, "10001", "--uidmap=0:200000:65536", status=7, wanted="is not for user 210001")


def _cert_manager(podman: Podman, node: Node) -> None:
    """An application gets credentials from the container endpoint; the key is in a Secret."""
    key, request = node.folder / "tls.key", node.folder / "tls.csr"
    flags = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/OU=devops/CN=web"]
    usage = ["-addext", "keyUsage=critical,digitalSignature"]
    node.openssl("req", *flags, *usage, "-keyout", str(key), "-out", str(request))
    node.issue("tls.csr", "tls.crt")
    certificate = secret("web-certificate", tls_key=key, tls_crt=node.folder / "tls.crt")
    with node.pod(MANIFESTS / "cert-manager.yaml", certificate) as pod:
        _calls(podman, f"{pod}-application")
        log = podman.run("logs", f"{pod}-credentials").stderr
        assert '"level": "warning"' not in log, log


def _daemon_set(podman: Podman, node: Node) -> None:
    """A node's TPM is enrolled with the registrar, and a Pod gets credentials from the node's agent."""
    for name in ("run", "lib"):
        (node.folder / name).mkdir()
    with node.pod(MANIFESTS / "daemonset.yaml"), node.pod(MANIFESTS / "client.yaml") as pod:
        _calls(podman, f"{pod}-application")


def _calls(podman: Podman, container: str) -> None:
    """Call AWS in an application's container, once its sidecar is ready: podman starts both at once."""
    end = time.monotonic() + 60
    while (done := podman.run("exec", container, "/usr/bin/python3", "-c", CALLER)).returncode:
        assert time.monotonic() < end, done
        time.sleep(1)
    assert done.stdout.startswith(SESSION), done


def _client(podman: Podman, socket: str, user: str, *flags: str, status: int, wanted: str) -> None:
    """Run the image that has nothing but the client, with the agent's socket."""
    volume = f"--volume={socket}:/run/hwsigner:ro"
    image = f"{REGISTRY}/hwsigner-credentials:{__version__}"
    done = podman.run("run", *ALONE, *flags, f"--user={user}:{user}", volume, image, "--profile", "web")
    assert done.returncode == status, done
    assert wanted in done.stdout + done.stderr, done


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
