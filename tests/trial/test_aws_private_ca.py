"""The questions about an AWS Private CA, with one that only issues what they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certs import Authority, make_ca
from hwsigner._aws.apis import ServiceClients
from hwsigner.emulator import Emulator
from hwsigner.errors import UsageError
from hwsigner.trial import TrialReport, Verdict
from trial.aws_trials import Flags, resources
from trial_aws.authority import OF_LEAF
from trial_aws.calls import TrialPace
from trial_aws.life import try_all

ARN = "arn:aws:acm-pca:eu-central-1:123456789012:certificate-authority/11111111-1111-4111-8111-111111111111"


class PrivateCA:
    """A client of AWS Private CA, as far as the questions use one. The first GetCertificate finds nothing."""

    def __init__(self, ca: Authority) -> None:
        self._ca = ca
        self._issued: list[bytes] = []
        self._asked = 0

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        assert parameters["CertificateAuthorityArn"] == ARN
        if operation == "describe_certificate_authority":
            return {
                "CertificateAuthority": {"CertificateAuthorityConfiguration": {"SigningAlgorithm": "SHA256WITHECDSA"}}
            }
        assert (operation, parameters["SigningAlgorithm"]) == ("issue_certificate", "SHA256WITHECDSA")
        request = x509.load_pem_x509_csr(parameters["Csr"])
        now = self._ca.certificate.not_valid_before_utc
        builder = x509.CertificateBuilder(
            self._ca.certificate.subject, request.subject, request.public_key(), x509.random_serial_number()
        )
        builder = builder.not_valid_before(now).not_valid_after(self._ca.certificate.not_valid_after_utc)
        for extension, critical in OF_LEAF:
            builder = builder.add_extension(extension, critical)
        self._issued.append(builder.sign(self._ca.key, SHA256()).public_bytes(Encoding.PEM))
        return {"CertificateArn": f"{ARN}/certificate/1"}

    def call_unless(self, codes: tuple[str, ...], operation: str, **_: Any) -> dict[str, Any] | None:
        assert (codes, operation) == (("RequestInProgressException",), "get_certificate")
        self._asked += 1
        chain = self._ca.pem.decode()
        return {"Certificate": self._issued[0].decode(), "CertificateChain": chain} if self._asked > 1 else None


def _verdicts(folder: Path) -> dict[str, tuple[Verdict, str]]:
    (path,) = folder.glob("*.json")
    return {each.id: (each.verdict, each.why) for each in TrialReport.from_json(path.read_text()).results}


def test_private_ca_is_asked_about_if_it_is_given(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = make_ca()
    emulator.world.private_cas[ARN] = ca.certificate
    monkeypatch.setattr(ServiceClients, "acm_pca", PrivateCA(ca))
    assert try_all(flags("--only", "private-ca.*", "--private-ca", ARN), pace) == 0
    assert {verdict for verdict, _ in _verdicts(tmp_path).values()} == {Verdict.EXPECTED}
    assert resources(emulator) == []


def test_private_ca_is_not_asked_about_and_no_trust_anchor_refers_to_one_if_none_is_given(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    assert try_all(flags("--only", "private-ca.*"), pace) == UsageError.exit_status
    assert set(_verdicts(tmp_path).values()) == {(Verdict.NOT_ASKED, "it needs an AWS Private CA")}
    assert {each.action for each in emulator.requests} <= {
        *("sts:GetCallerIdentity", "iam:ListRoles", "rolesanywhere:ListCrls", "rolesanywhere:ListProfiles"),
        "rolesanywhere:ListTrustAnchors",
    }
