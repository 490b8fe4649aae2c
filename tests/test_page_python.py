"""The Python on pages runs as it is written, with what its reader is told to have."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

import certs
import hwsigner
import hwsigner.auth
import hwsigner.boto3
from attestation.chips import Chip, Vendor, chip, chips, vendors
from backends.pkcs11.tokens import remove_tokens
from cli.conftest import call, scene
from emulators import InProcessSoftHSM
from hwsigner import attestation
from hwsigner.backends import Backend
from hwsigner.emulator import Emulator
from hwsigner.errors import WrongPinError
from pages import block, python_block
from scene import Scene
from softhsm.yubikey import YKCS11, YubiKey

__all__ = ["call", "chip", "chips", "scene", "vendors"]

LIBRARY = "docs/how-to/library.md"
AUTH = "docs/how-to/auth.md"
EMULATOR = "docs/how-to/emulator.md"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a block with names that it expects, and returns all its names.

    `web` and `bamboo` are profiles. Hosts of AWS and the files in /etc are those of the test.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", scene.emulator.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    for name in ("web", "bamboo"):
        scene.call("profile", "add", name, *scene.flags(endpoint=None))

    def execute(code: str, **names: Any) -> dict[str, Any]:
        for service in ("bucket.s3", "dynamodb", "rolesanywhere"):
            code = code.replace(f"https://{service}.eu-west-1.amazonaws.com", scene.emulator.url)
        code = code.replace("eu-central-1", "us-east-1").replace("eu-west-1", "us-east-1")
        code = code.replace("/etc/pki/web.pem", str(scene.leaf)).replace("handle:0x81000100", str(scene.key))
        exec(compile(code, "page", "exec"), names)
        return names

    return execute


def test_first_request_of_the_library(run: Run, scene: Scene) -> None:
    run(python_block(LIBRARY, "# hwsigner in a Python program", "`bamboo` is a"))
    assert scene.emulator.requests[-1].accepted


def test_one_session_without_a_profile(run: Run, scene: Scene) -> None:
    arns = dict(zip(("TRUST_ANCHOR_ARN", "PROFILE_ARN", "ROLE_ARN"), arns_of(scene.emulator), strict=True))
    names = run(python_block(LIBRARY, "To create one session", "## Providers"), **arns)
    assert names["credentials"].access_key_id.startswith("ASIA")


def test_findings_of_doctor(run: Run, scene: Scene) -> None:
    run(python_block("docs/how-to/doctor.md", "## In a program", "Without a name"))
    assert scene.emulator.requests[-1].accepted


def test_life_of_a_key(run: Run, softhsm: InProcessSoftHSM, ca: certs.Authority) -> None:
    code = python_block(LIBRARY, "## A key's life", "These do what").replace("token=alpha", f"token={softhsm.label}")

    def issue(request: bytes) -> list[hwsigner.FoundCertificate]:
        public_key = x509.load_pem_x509_csr(request).public_key()
        return [hwsigner.FoundCertificate(certs.issue(ca, public_key).public_bytes(Encoding.DER), "leaf")]

    run(code, hwsigner=hwsigner, pin="1234", your_ca=issue)
    remove_tokens(softhsm, softhsm.label)


def test_provider_with_other_values(run: Run) -> None:
    assert run(python_block(LIBRARY, "## Providers", "| Situation | What a call does |"))["provider"]().access_key_id


def test_background_refresh(run: Run) -> None:
    assert b"ASIA" in run(python_block(LIBRARY, "## Background refresh", "| Situation | What happens |"))["reply"]


def test_logging(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("hwsigner")
    before = logger.level
    try:
        run(python_block(LIBRARY, "## Logging", "| Level |"))
        hwsigner.Provider.from_profile("web")()
    finally:
        logger.setLevel(before)
    assert "session created" in caplog.text


def test_request_signed_by_a_provider(run: Run, scene: Scene) -> None:
    names = run(python_block(AUTH, "# ", "The first argument is"))
    assert names["response"].json()["service"] == "s3"
    run(python_block(AUTH, "The first argument is", "| Keyword |"), **names)
    assert scene.emulator.requests[-1].accepted


def test_presigned_urls(run: Run) -> None:
    provider = hwsigner.Provider.from_profile("web")
    auth = hwsigner.auth.SigV4Auth(provider, "eu-west-1", "s3")
    names = run(python_block(AUTH, "## Presigned URLs", "Any client with the URL"), auth=auth)
    assert requests.put(names["url"], headers={"x-amz-acl": "private"}).json()["presigned"] is True


def test_request_signed_by_a_certificate(run: Run, scene: Scene) -> None:
    anchor, profile, role = arns_of(scene.emulator)
    arns = {"trustAnchorArn": anchor, "profileArn": profile, "roleArn": role}
    source = hwsigner.IdentitySource(str(scene.leaf), str(scene.key))
    code = python_block(AUTH, "## With a certificate", "Only IAM Roles Anywhere")
    run(code, hwsigner=hwsigner, requests=requests, source=source, arns=arns)
    assert scene.emulator.requests[-1].status == 201


def test_session_of_boto3(run: Run, scene: Scene) -> None:
    names = run(python_block("docs/how-to/boto3.md", "# ", "`web` is a"))
    assert names["s3"].meta.service_model.service_name == "s3"


def test_session_that_the_program_has(run: Run) -> None:
    names = run(python_block("docs/how-to/boto3.md", "## An existing session", "hwsigner is then tried"))
    try:
        assert ":assumed-role/" in names["boto3"].client("sts").get_caller_identity()["Arn"]
    finally:
        boto3.DEFAULT_SESSION = None


def test_decision_of_a_trust_policy(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    policy = block(EMULATOR, "json", "## Trust policies", "A certificate with the OU")
    (tmp_path / "trust-policy.json").write_text(policy)
    run(python_block(EMULATOR, "In Python, a `TrustPolicy` judges", "`Role(arn, trust_policy=policy)`"))
    assert "allowed=False" in capfd.readouterr().out


def arns_of(emulator: Emulator) -> tuple[str, str, str]:
    return emulator.trust_anchor_arn, emulator.profile_arn, emulator.role_arn


class Client:
    """A client of Roles Anywhere, which retries."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def __call__(self, url: str, *places: str) -> None:
        *ca_file, anchor, profile, role = places
        names = {"trust_anchor_arn": anchor, "profile_arn": profile, "role_arn": role, "endpoint": url}
        bundle = [f"--ca-file={path}" for path in ca_file]
        assert self.scene.credentials(*bundle, **names).status == 0


@pytest.mark.slow
def test_emulator_in_python(run: Run, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    code = python_block(EMULATOR, "## In Python", "A record has")

    def client(url: str, ca_file: Path, *arns: str) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_file))
        Client(scene)(url, *arns)

    run(code, ca_pem=scene.ca.pem, call_your_client=client)


def test_control_plane_in_python(run: Run, scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.pem").write_bytes(scene.ca.pem)
    now = datetime.now(UTC)
    crl = x509.CertificateRevocationListBuilder(scene.ca.certificate.subject, now - certs.DAY, now + certs.DAY)
    (tmp_path / "crl.pem").write_bytes(crl.sign(scene.ca.key, SHA256()).public_bytes(Encoding.PEM))
    code = python_block(EMULATOR, "In Python:", "A caller reaches")
    run(code, call_your_client=Client(scene))
    assert "CN=" in capfd.readouterr().out


def test_requests_to_other_services(run: Run, scene: Scene) -> None:
    code = python_block(EMULATOR, "## Requests to other services", "The response is 200")
    auth = hwsigner.auth.SigV4Auth(hwsigner.Provider.from_profile("web"), "eu-west-1", "s3")
    run(code, emulator=scene.emulator, requests=requests, your_auth=auth)


def test_iam_in_python(run: Run, tmp_path: Path) -> None:
    policy = block(EMULATOR, "json", "## Trust policies", "A certificate with the OU")
    (tmp_path / "trust-policy.json").write_text(policy)
    with Emulator(hwsigner.emulator.World()) as emulator:
        names = run(
            python_block(EMULATOR, "## IAM", "The actions are CreateRole"), emulator=emulator, boto3=boto3, Path=Path
        )
        assert names["iam"].get_role(RoleName="web")


def test_attestation_for_programs(run: Run, chip: Chip, vendors: tuple[Vendor, Vendor]) -> None:
    code = python_block("docs/how-to/attestation.md", "## For programs", "The other side calls")
    code = code.replace("/etc/hwsigner/roots", str(vendors[0].roots))
    challenged, answered = code.split("# Send")
    certified: list[bytes] = []
    request = hwsigner.sign_certificate_request
    with hwsigner.open_key(chip.key) as key:
        csr = request(key, "CN=web").pem
    statement = attestation.make_statement(chip.key, csr=csr)
    names = run(challenged, received=statement.to_json().encode(), certify=certified.append)
    answer = attestation.answer_challenge(chip.key, names["challenge"])
    run(f"# {answered}", **{**names, "received": answer.to_json().encode()})
    assert len(certified) == 1


def test_backend_of_another_package(run: Run) -> None:
    code = python_block("docs/how-it-works/architecture.md", "## Writing a backend", "- `uri` is the parsed key URI")
    assert isinstance(run(code)["BACKEND"], Backend)


def test_issuer_of_another_package(run: Run) -> None:
    code = python_block(
        "docs/how-it-works/architecture.md", "## Writing an issuer", "- `IssuerSettings` has the values"
    )
    assert "open_issuer" in run(code)


def test_wrong_pin_of_the_emulated_yubikey(run: Run, yubikey: YubiKey) -> None:
    code = python_block("docs/how-to/test-hardware.md", "In a test:", "- The fixtures are")
    names = {"pytest": pytest, "WrongPinError": WrongPinError, "open_key": hwsigner.open_key, "YKCS11": YKCS11}
    run(code, YubiKey=YubiKey, **names)["test_a_wrong_pin_is_sent_once"](yubikey)
