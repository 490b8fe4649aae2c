"""hwsigner as `aws_signing_helper` on an EKS hybrid node: the command lines, files and unit of nodeadm."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificate

import certs
from attestation.chips import Chip, chip, chips, vendors
from enrolment.authority import Answer, certified
from enrolment.registrar.sites import Issuer, Site
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.emulator import Emulator, World
from hwsigner.enrolment.issuers import Issued, Pending
from hybrid_nodes import Node, environment, one_line, page_policy
from judges import needs_systemd
from pages import ROOT, run_shell, shell_blocks
from softhsm.tpm import SoftTPM

__all__ = ["chip", "chips", "vendors"]

AWS = "/usr/bin/aws"
PAGE = "docs/how-to/eks-hybrid-nodes.md"
LONGEST_NAME = "n" * 64
_SECONDS = 60


class Lasting(Issuer):
    """An issuer that a test tells how long its certificates last."""

    days = 2

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        end = datetime.now(UTC) + timedelta(days=self.days)
        return Issued((certified(self.ca, request, Answer(alternatives=(), end=end)),))


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
    run_shell(node.here(script), root, {"TPM2_TCTI": swtpm.tcti})
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

    @pytest.mark.slow
    def test_check_of_the_page_finds_only_that_there_is_no_profile(self, node: Node) -> None:
        node.put_program()
        config = node.write_config().parent
        script = shell_blocks(PAGE, "To check the node's credentials", "## Upgrades")
        environ = {**node.environ, "AWS_ENDPOINT_URL": node.emulator.url}
        del environ["PATH"]  # That of the shell, which has hwsigner.
        script = script.replace("/etc/aws/hybrid", str(config)).strip()
        printed = run_shell(f"{script} || true", node.root, environ)
        assert node.role in printed
        assert "1 finding: no profile" in printed


class TestTpmKey(HybridNode):
    @pytest.fixture
    def node(self, tpm_node: Node) -> Node:
        return tpm_node

    def test_key_path_is_a_file_that_only_this_tpm_can_use(self, node: Node) -> None:
        assert "\n-----BEGIN TSS2 PRIVATE KEY-----\n" in node.key.read_text()


@pytest.mark.slow
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
@needs_systemd
def test_systemd_accepts_the_unit(file_node: Node, proxy: bool) -> None:
    node = replace(file_node, proxy=proxy)
    node.put_program()
    done = subprocess.run(
        ["systemd-analyze", "verify", str(node.write_unit())],
        env={"PATH": "/usr/bin:/bin", "HOME": str(node.root), "XDG_RUNTIME_DIR": str(node.root)},
        capture_output=True,
        text=True,
    )
    # Newer systemd says that it ignores CPUAccounting=, which nodeadm's unit has.
    problems = [line for line in done.stderr.splitlines() if "CPUAccounting=" not in line]
    assert (done.returncode, done.stdout, problems) == (0, "", [])


def test_program_is_ours_again_after_the_upgrade_of_the_page(file_node: Node) -> None:
    file_node.put_program()
    ours = file_node.program.read_bytes()
    binaries = file_node.root / "bin"
    binaries.mkdir()
    upgrade = f"rm {file_node.program}; echo another > {file_node.program}"
    for name, script in (("nodeadm", upgrade), ("systemctl", 'echo "$@"')):
        (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
        (binaries / name).chmod(0o755)
    script = file_node.here(shell_blocks(PAGE, "## Upgrades", "`nodeadm uninstall`"))
    printed = run_shell(f"PATH={binaries}:$PATH\n{script}", file_node.root, {})
    assert printed == "try-restart aws_signing_helper_update\n"
    assert file_node.program.read_bytes() == ours
    assert os.access(file_node.program, os.X_OK)


def test_longest_name_of_a_node_is_accepted(file_node: Node, ca: certs.Authority) -> None:
    node = replace(file_node, name=LONGEST_NAME)
    certificate = load_pem_x509_certificate(node.certificate.read_bytes())
    node.certificate.write_bytes(certs.pem(certs.issue(ca, certificate.public_key(), certs.Shape(LONGEST_NAME))))
    status, err = credential_process(node)
    assert (status, err) == (0, "")


@pytest.mark.slow
def test_node_can_not_take_the_name_of_another(file_node: Node) -> None:
    assert credential_process(file_node) == (0, "")
    status, err = credential_process(replace(file_node, name="node-02"))
    assert status == 5
    assert "Unable to assume role" in err


@pytest.mark.slow
def test_enrolled_node_gets_credentials_and_renews_its_certificate(
    root: Path, service: Emulator, chip: Chip, ca: certs.Authority, tmp_path: Path
) -> None:
    node = Node(root, service, environment(root, service, TPM2_TCTI=chip.tpm.tcti))
    site = Site(tmp_path, chip.trust, issuer := Lasting(ca))
    site.allow()
    [enroll] = re.findall(r"^hwsigner enroll .*$", one_line((ROOT / PAGE).read_text()), re.M)
    pairs = zip(("trust-anchor", "profile", "role"), node.flags[5:10:2], strict=True)
    for kind, arn in pairs:
        enroll = enroll.replace(f"--{kind}-arn ARN", f"--{kind}-arn {arn}")
    enroll = node.here(enroll).replace(" --system", " --no-aws-config")
    allow = f'hwsigner registrar allow "$(hwsigner attest --ek)" --subject CN=node-01 --policy {site.policy}'
    with site.serving() as server:
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        enroll = enroll.replace("https://registrar.example.com:8443", url)
        environ = {**node.environ, "XDG_CONFIG_HOME": str(root / "config")}
        del environ["PATH"]
        run_shell(f"{allow}\n{enroll}", root, environ)
        first = node.certificate.read_bytes()
        assert credential_process(node) == (0, "")
        issuer.days = 3
        run_shell("hwsigner renew node", root, environ)
    assert node.certificate.read_bytes() != first
    assert credential_process(node) == (0, "")


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
