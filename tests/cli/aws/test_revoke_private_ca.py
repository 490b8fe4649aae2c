"""`hwsigner aws revoke` for a trust anchor with AWS Private CA, which moto plays, as well as its certificates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from moto import mock_aws
from moto.acmpca.models import acmpca_backends

import certs
from emulator import planes
from revocations import Account, account, interrupted
from scene import Outcome

pytestmark = pytest.mark.slow

__all__ = ["account"]


class PrivateCA:
    """A CA in moto, and a certificate that it issued."""

    anchor: dict[str, Any]

    def __init__(self, folder: Path) -> None:
        self.api = boto3.client("acm-pca", region_name=planes.REGION)
        subject = {"CommonName": "Private CA"}
        settings: Any = {"KeyAlgorithm": "RSA_2048", "SigningAlgorithm": "SHA256WITHRSA", "Subject": subject}
        made = self.api.create_certificate_authority(
            CertificateAuthorityConfiguration=settings, CertificateAuthorityType="ROOT"
        )
        self.arn = made["CertificateAuthorityArn"]
        csr = self.api.get_certificate_authority_csr(CertificateAuthorityArn=self.arn)["Csr"]
        template = "arn:aws:acm-pca:::template/RootCACertificate/V1"
        own = self.issue(csr.encode(), TemplateArn=template)
        self.api.import_certificate_authority_certificate(CertificateAuthorityArn=self.arn, Certificate=own)
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(certs.subject("bamboo-01"))
        self.leaf = folder / "leaf.pem"
        self.leaf.write_bytes(self.issue(request.sign(key, SHA256()).public_bytes(Encoding.PEM)))

    def issue(self, csr: bytes, **more: Any) -> bytes:
        validity: Any = {"Value": 9, "Type": "DAYS"}
        arn = self.api.issue_certificate(
            CertificateAuthorityArn=self.arn, Csr=csr, SigningAlgorithm="SHA256WITHRSA", Validity=validity, **more
        )["CertificateArn"]
        found = self.api.get_certificate(CertificateAuthorityArn=self.arn, CertificateArn=arn)
        return str(found["Certificate"]).encode()

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.leaf.read_bytes()).serial_number

    def revoked(self) -> dict[int, str]:
        """Return the reasons of the revoked certificates, by serial number."""
        account_id = self.arn.split(":")[4]
        found = acmpca_backends[account_id][planes.REGION].certificate_authorities[self.arn].revoked_certificates
        return {int(text.replace(":", ""), 16): each["revocation_reason"] for text, each in found.items()}


@pytest.fixture
def private_ca(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateCA]:
    """A CA of AWS Private CA. GetTrustAnchor shows it as that of the emulator's trust anchor."""
    with mock_aws():
        found = PrivateCA(account.folder)
        original = BaseClient._make_api_call

        def make(client: Any, name: str, parameters: Any) -> Any:
            if name == "GetTrustAnchor":
                return {"trustAnchor": {**anchor, "trustAnchorArn": parameters["trustAnchorId"], "name": "pca"}}
            return original(client, name, parameters)

        anchor: dict[str, Any] = {"source": {"sourceType": "AWS_ACM_PCA", "sourceData": {"acmPcaArn": found.arn}}}
        found.anchor = anchor
        monkeypatch.setattr(BaseClient, "_make_api_call", make)
        yield found


def revoke(account: Account, *arguments: str | Path, ca_key: str | None = None) -> Outcome:
    return account.revoke(*arguments, ca=None, ca_key=ca_key, endpoint=None)


def test_certificate_is_revoked_by_the_ca_with_its_reason(account: Account, private_ca: PrivateCA) -> None:
    outcome = revoke(account, private_ca.leaf, "--reason=keyCompromise")
    assert (outcome.status, outcome.err) == (0, "")
    assert private_ca.revoked() == {private_ca.serial: "KEY_COMPROMISE"}


def test_serial_number_is_enough(account: Account, private_ca: PrivateCA) -> None:
    shown = json.loads(revoke(account, f"--serial={private_ca.serial}", "--json").out)
    assert shown["revoked"] == [f"{private_ca.serial:x}"]
    assert shown["certificateAuthorityArn"] == private_ca.arn
    assert private_ca.revoked() == {private_ca.serial: "UNSPECIFIED"}


@pytest.mark.parametrize(("reads", "words"), [(False, "does not read the CA's CRLs"), (True, "30 minutes")])
def test_what_the_trust_anchor_needs_is_said(account: Account, private_ca: PrivateCA, reads: bool, words: str) -> None:
    private_ca.anchor["crlDpRevocationEnabled"] = reads
    assert words in revoke(account, private_ca.leaf).out


def test_plan_revokes_nothing(account: Account, private_ca: PrivateCA) -> None:
    outcome = revoke(account, private_ca.leaf, "--plan")
    assert (outcome.status, private_ca.arn in outcome.out, private_ca.revoked()) == (0, True, {})


def test_key_of_the_ca_is_refused(account: Account, private_ca: PrivateCA) -> None:
    outcome = revoke(account, private_ca.leaf, ca_key="/ca.key")
    assert (outcome.status, outcome.out, private_ca.revoked()) == (2, "", {})
    assert "Omit --ca-key" in outcome.err


def test_certificate_of_another_ca_is_refused(account: Account, private_ca: PrivateCA) -> None:
    outcome = revoke(account, account.machine("stranger").path)
    assert (outcome.status, outcome.out, private_ca.revoked()) == (4, "", {})
    assert "was issued by CN=Example CA" in outcome.err


def test_revoked_certificate_is_said_to_be(account: Account, private_ca: PrivateCA) -> None:
    with interrupted("RevokeCertificate", refusal("RequestAlreadyProcessedException")):
        outcome = revoke(account, private_ca.leaf)
    assert (outcome.status, outcome.err) == (0, "")
    assert "was revoked already" in outcome.out
    assert "done: revoke" not in outcome.out


def test_missing_permission_is_named(account: Account, private_ca: PrivateCA) -> None:
    with interrupted("RevokeCertificate", refusal("AccessDeniedException")):
        outcome = revoke(account, private_ca.leaf)
    assert (outcome.status, outcome.out) == (5, "")
    assert "acm-pca:RevokeCertificate" in outcome.err


def test_interruption_says_what_was_revoked_before(account: Account, private_ca: PrivateCA) -> None:
    with interrupted("RevokeCertificate", KeyboardInterrupt(), skip=1):
        outcome = revoke(account, "--serial=1000", "--serial=1001")
    assert (outcome.status, outcome.out) == (130, "")
    words = "interrupted while 03:E9 (decimal 1001) was being revoked. Revoked before that: 03:E8 (decimal 1000)"
    assert words in outcome.err


def test_failure_says_what_was_revoked_before(account: Account, private_ca: PrivateCA) -> None:
    with interrupted("RevokeCertificate", refusal("AccessDeniedException"), skip=1):
        outcome = revoke(account, "--serial=1000", "--serial=1001")
    assert (outcome.status, outcome.out) == (5, "")
    assert "Revoked before that: 03:E8 (decimal 1000)" in outcome.err


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {}}, "RevokeCertificate")


def test_retire_revokes_if_asked(
    account: Account, private_ca: PrivateCA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    flags = (f"--certificate={private_ca.leaf}", f"--private-key={account.machine('web').key}")
    account.call("profile", "add", "web", f"--trust-anchor-arn={account.emulator.trust_anchor_arn}", *flags)
    outcome = account.call("retire", "web", "--yes", "--revoke")
    assert (outcome.status, outcome.err) == (0, "")
    assert private_ca.revoked() == {private_ca.serial: "UNSPECIFIED"}
