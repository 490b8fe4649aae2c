"""hwsigner as `aws_signing_helper` on an EKS hybrid node: the command lines, files and unit of nodeadm."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificate

import certs
from hwsigner.emulator import Emulator, World
from hwsigner.trust_policy import TrustPolicy
from pages import ROOT, run_shell, shell_blocks
from softhsm.tpm import SoftTPM

AWS = "/usr/bin/aws"
PAGE = "docs/eks-hybrid-nodes.md"
LONGEST_NAME = "n" * 64
_SECONDS = 60


@dataclass(frozen=True)
class Node:
    """A machine that nodeadm has set up, in a folder in place of `/`.

    Attributes:
        environ: the only variables that kubelet passes on. HOME is not among them.
    """

    root: Path
    emulator: Emulator
    environ: dict[str, str]
    name: str = "node-01"
    proxy: bool = False

    @property
    def program(self) -> Path:
        return self.root / "usr" / "local" / "bin" / "aws_signing_helper"

    @property
    def key(self) -> Path:
        return self.root / "etc" / "iam" / "pki" / "server.key"

    @property
    def certificate(self) -> Path:
        return self.key.with_suffix(".crt")

    @property
    def credentials_file(self) -> Path:
        return self.root / "eks-hybrid" / ".aws" / "credentials"

    @property
    def flags(self) -> list[str]:
        """The flags that nodeadm writes, in its order."""
        pairs = {
            "certificate": self.certificate,
            "private-key": self.key,
            "trust-anchor-arn": self.emulator.trust_anchor_arn,
            "profile-arn": self.emulator.profile_arn,
            "role-arn": self.emulator.role_arn,
            "role-session-name": self.name,
        }
        return [word for flag, value in pairs.items() for word in (f"--{flag}", str(value))]

    @property
    def _proxy(self) -> list[str]:
        return ["--with-proxy"] if self.proxy else []

    @property
    def role(self) -> str:
        """What the ARN of the node's sessions ends with."""
        return f":assumed-role/{self.emulator.role_arn.rpartition('/')[2]}/{self.name}"

    def put_program(self, *, link: bool = False) -> None:
        """Install the program as the page says, or as a symbolic link."""
        self.program.parent.mkdir(parents=True, exist_ok=True)
        installed = Path(sys.executable).with_name("hwsigner")
        if link:
            self.program.symlink_to(installed)
            return
        [command] = re.findall(
            r"^install -m 755 .*$", shell_blocks(PAGE, "## On the node", "## Upgrades"), re.MULTILINE
        )
        words = command.replace("/opt/hwsigner/bin/hwsigner", str(installed))
        run_shell(words.replace("/usr/local/bin", str(self.program.parent)), self.root, {})

    def write_config(self) -> Path:
        """Write the SDKs' config file of the node, `/etc/aws/hybrid/config`."""
        line = shlex.join([str(self.program), "credential-process", *self.flags, *self._proxy])
        sections = [
            f"[profile {name}]\nregion = us-east-1\ncredential_process = {line}\n" for name in ("default", "hybrid")
        ]
        path = self.root / "etc" / "aws" / "hybrid" / "config"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(sections))
        return path

    def write_unit(self) -> Path:
        """Write the unit that keeps the credentials file fresh."""
        command = [str(self.program), "update", *self.flags, "--region", "us-east-1", *self._proxy]
        broken = " ".join(command).replace(" --", " \\\n        --")
        path = self.root / "aws_signing_helper_update.service"
        path.write_text(
            "[Unit]\nDescription=Keeps the AWS credentials of the node fresh\n\n"
            f"[Service]\nUser=root\nEnvironment=AWS_SHARED_CREDENTIALS_FILE={self.credentials_file}\n"
            f"ExecStart={broken}\nStandardOutput=journal\nStandardError=journal\nRestart=always\nRestartSec=10\n"
            "CPUAccounting=true\nMemoryAccounting=true\n\n[Install]\nWantedBy=multi-user.target\n"
        )
        return path

    @contextmanager
    def service(self, unit: Path) -> Iterator[subprocess.Popen[str]]:
        """Run a unit's program with its environment until it has written the file."""
        text = unit.read_text().replace("\\\n", " ")
        [command] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        variables = dict(line.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.MULTILINE))
        with subprocess.Popen(
            shlex.split(command),
            env={**self.environ, "HOME": str(self.root), **variables},
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stderr
                line = process.stderr.readline()
                assert line.startswith(f"hwsigner: wrote [default] of {self.credentials_file}, good until "), line
                yield process
            finally:
                process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc" / "iam" / "pki").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def service(ca: certs.Authority) -> Iterator[Emulator]:
    """A service whose role has the trust policy of the page."""
    [arn] = World.simple(ca.certificate).trust_anchors
    world = World.simple(ca.certificate, accept_role_session_name=True, trust_policy=page_policy(arn))
    with Emulator(world) as emulator:
        yield emulator


def page_policy(trust_anchor_arn: str) -> TrustPolicy:
    [text] = re.findall(r"```json\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    return TrustPolicy(json.loads(text.replace("TRUST-ANCHOR-ARN", trust_anchor_arn)))


def environment(root: Path, emulator: Emulator, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "XDG_STATE_HOME": str(root / "state"),
        "AWS_ENDPOINT_URL_ROLESANYWHERE": emulator.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        **more,
    }


@pytest.fixture
def file_node(root: Path, service: Emulator, ca: certs.Authority) -> Node:
    """A node with a key in a file."""
    node = Node(root, service, environment(root, service))
    key = ec.generate_private_key(ec.SECP256R1())
    certs.write_key(node.key, key)
    node.certificate.write_bytes(certs.pem(certs.issue(ca, key.public_key(), certs.Shape(node.name))))
    return node


@pytest.fixture
def tpm_node(root: Path, service: Emulator, ca: certs.Authority, swtpm: SoftTPM) -> Node:
    """A node with a TSS2 key file. The key and the certificate are made by the commands of the page."""
    node = Node(root, service, environment(root, service, TPM2_TCTI=swtpm.tcti))
    certs.write_key(root / "ca.key", ca.key)
    (root / "ca.pem").write_bytes(ca.pem)
    script = shell_blocks(PAGE, "### A key in the TPM", "### Renewal")
    issued = "openssl x509 -req -in node.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -out node.pem 2>/dev/null\n"
    script = script.replace("hwsigner install-certificate", f"{issued}hwsigner install-certificate")
    run_shell(script.replace("/etc/iam/pki", str(node.key.parent)), root, {"TPM2_TCTI": swtpm.tcti})
    return node


class HybridNode:
    """What a node's programs expect, whatever the key is."""

    @pytest.mark.slow
    def test_aws_cli_gets_credentials_by_the_config_file(self, node: Node) -> None:
        node.put_program()
        command = [AWS, "sts", "get-caller-identity", f"--endpoint-url={node.emulator.url}"]
        environ = {**node.environ, "AWS_CONFIG_FILE": str(node.write_config())}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_SECONDS)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["Arn"].endswith(node.role)

    @pytest.mark.slow
    def test_credentials_file_is_there_for_root_alone_and_survives_restarts(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node.put_program()
        unit, file = node.write_unit(), node.credentials_file
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        with node.service(unit) as process:
            assert caller(node).endswith(node.role)
            status = file.stat()
            assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())
            folder, first = file.parent.stat().st_ino, file.read_text()
            process.kill()
        assert file.read_text() == first
        with node.service(unit) as process:
            # A pod has mounted the folder, which must stay the same.
            assert file.parent.stat().st_ino == folder
            assert file.read_text() != first
            process.send_signal(signal.SIGTERM)
            assert process.wait(_SECONDS) == 0
        assert caller(node).endswith(node.role)


class TestFileKey(HybridNode):
    @pytest.fixture
    def node(self, file_node: Node) -> Node:
        return file_node


class TestTpmKey(HybridNode):
    @pytest.fixture
    def node(self, tpm_node: Node) -> Node:
        return tpm_node

    def test_key_path_is_a_file_that_only_this_tpm_can_use(self, node: Node) -> None:
        assert node.key.read_text().startswith("-----BEGIN TSS2 PRIVATE KEY-----")


@pytest.mark.parametrize("profile", ["default", "hybrid"])
@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_line_of_the_config_file_gives_credentials(
    file_node: Node, profile: str, proxy: bool, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = replace(file_node, proxy=proxy)
    node.put_program(link=link)
    for name, value in {**node.environ, "AWS_CONFIG_FILE": str(node.write_config())}.items():
        monkeypatch.setenv(name, value)
    assert caller(node, profile).endswith(node.role)


@pytest.mark.parametrize("proxy", [False, True])
def test_systemd_accepts_the_unit(file_node: Node, proxy: bool) -> None:
    node = replace(file_node, proxy=proxy)
    node.put_program()
    done = subprocess.run(
        ["systemd-analyze", "verify", str(node.write_unit())],
        env={"PATH": "/usr/bin:/bin", "HOME": str(node.root), "XDG_RUNTIME_DIR": str(node.root)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_upgrade_replaces_the_program_and_the_command_of_the_page_puts_it_back(file_node: Node) -> None:
    file_node.put_program()
    ours = file_node.program.read_bytes()
    file_node.program.unlink()
    file_node.program.write_bytes(b"\x7fELF: the other program")
    file_node.put_program()
    assert file_node.program.read_bytes() == ours
    assert os.access(file_node.program, os.X_OK)


def test_longest_name_of_a_node_is_accepted(file_node: Node, ca: certs.Authority) -> None:
    node = replace(file_node, name=LONGEST_NAME)
    certificate = load_pem_x509_certificate(node.certificate.read_bytes())
    node.certificate.write_bytes(certs.pem(certs.issue(ca, certificate.public_key(), certs.Shape(LONGEST_NAME))))
    status, err = credential_process(node)
    assert (status, err) == (0, "")


def test_node_can_not_take_the_name_of_another(file_node: Node) -> None:
    assert credential_process(file_node) == (0, "")
    status, err = credential_process(replace(file_node, name="node-02"))
    assert status == 5
    assert "Unable to assume role" in err


def caller(node: Node, profile: str = "default") -> str:
    """Return the caller's ARN, for the files that the environment names."""
    client = boto3.Session(profile_name=profile, region_name="us-east-1").client("sts", endpoint_url=node.emulator.url)
    arn: str = client.get_caller_identity()["Arn"]
    return arn


def credential_process(node: Node) -> tuple[int, str]:
    node.put_program()
    done = subprocess.run(
        [str(node.program), "credential-process", *node.flags], env=node.environ, capture_output=True, text=True
    )
    return done.returncode, done.stderr
