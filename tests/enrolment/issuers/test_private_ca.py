"""AWS Private CA, with moto in the place of the service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from enrolment.authority import Requested, requested
from enrolment.private_cas import PrivateCAs
from hwsigner._identity.certificate_request import sign_certificate_request
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending, open_issuer, private_ca
from hwsigner.enrolment.testing import IssuerContract
from hwsigner.errors import CertificateError, ConfigError, HwsignerError, ServiceError, ServiceUnreachableError
from hwsigner.key import open_key
from ports import reserve_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCAs]:
    service = PrivateCAs(tmp_path_factory.mktemp("private-ca"))
    yield service
    service.stop()


@pytest.fixture
def service(running: PrivateCAs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrivateCAs:
    """The service without faults, an administrator's credentials, and short pauses."""
    running.clear_faults()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(private_ca, "_FIRST_PAUSE", 0.01)
    return running


def issue(asked: Requested, service: PrivateCAs, **values: Any) -> Issued | Pending:
    settings = IssuerSettings(**{"arn": service.arn, "url": service.url, **values})
    return open_issuer("private-ca", settings).issue(asked.request)


class TestPrivateCA(IssuerContract):
    NAME = "private-ca"

    @pytest.fixture
    def issuer_settings(self, service: PrivateCAs) -> IssuerSettings:
        return IssuerSettings(arn=service.arn, url=service.url)

    @pytest.fixture
    def refused_settings(self, service: PrivateCAs) -> IssuerSettings:
        return IssuerSettings(
            arn=f"{service.arn[:-1]}0" if service.arn[-1] != "0" else f"{service.arn[:-1]}1", url=service.url
        )


def test_service_issues_what_was_asked(asked: Requested, service: PrivateCAs) -> None:
    answer = issue(asked, service)
    assert isinstance(answer, Issued)
    assert check_issued(asked.request, answer, datetime.now(UTC)).leaf.subject == "CN=bamboo-01,OU=devops"
    sent = service.calls[0]
    assert sent["TemplateArn"] == "arn:aws:acm-pca:::template/EndEntityClientAuthCertificate/V1"
    assert sent["SigningAlgorithm"] == "SHA256WITHRSA"
    assert sent["Validity"] == {"Value": 7, "Type": "DAYS"}  # moto's CA is one for short-lived certificates.


def test_ml_dsa_key_is_certified(service: PrivateCAs, tmp_path: Path) -> None:
    """By moto, whose CA has an RSA key."""
    asked = requested(tmp_path, mldsa.MLDSA44PrivateKey.generate())
    answer = issue(asked, service)
    assert isinstance(answer, Issued)
    assert check_issued(asked.request, answer, datetime.now(UTC)).leaf.subject == "CN=bamboo-01,OU=devops"


def test_certificate_is_waited_for(asked: Requested, service: PrivateCAs) -> None:
    service.misbehave(in_progress=3)
    assert isinstance(issue(asked, service), Issued)
    assert [one["call"] for one in service.calls] == ["IssueCertificate", *["GetCertificate"] * 4]


def test_certificate_that_takes_too_long_is_pending_and_not_issued_twice(asked: Requested, service: PrivateCAs) -> None:
    service.misbehave(in_progress=1000)
    assert issue(asked, service, timeout=0.05) == Pending()
    service.misbehave()
    with open_key(str(asked.key)) as key:  # After a restart: another signature, by the same key for the same names.
        names = {"dns_names": ["bamboo-01.example.com"], "uris": ["spiffe://example.com/bamboo-01"]}
        again = sign_certificate_request(key, "CN=bamboo-01,OU=devops", **names)
    assert again.der != asked.request.der
    assert isinstance(issue(Requested(again, asked.key), service), Issued)
    assert len({one["answer"] for one in service.calls if one["call"] == "IssueCertificate"}) == 1


def test_throttled_call_is_retried(asked: Requested, service: PrivateCAs) -> None:
    service.misbehave(throttled=1)
    assert isinstance(issue(asked, service), Issued)


def test_certificate_of_another_key_is_an_error(asked: Requested, service: PrivateCAs, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    issue(requested(tmp_path / "other"), service)
    service.misbehave(answer=service.calls[0]["answer"])
    answer = issue(asked, service)
    assert isinstance(answer, Issued)
    with pytest.raises(CertificateError, match="is for another key"):
        check_issued(asked.request, answer, datetime.now(UTC))


def test_missing_permission_is_named(asked: Requested, service: PrivateCAs) -> None:
    service.misbehave(denied=1)
    with pytest.raises(ServiceError, match="lacks acm-pca:IssueCertificate on arn:aws:acm-pca"):
        issue(asked, service)


def test_unknown_ca_is_an_error(asked: Requested, service: PrivateCAs) -> None:
    arn = service.arn[:-1] + ("0" if service.arn[-1] != "0" else "1")
    with pytest.raises(ServiceError, match="ResourceNotFoundException"):
        issue(asked, service, arn=arn)


def test_service_that_is_down_is_not_reached(asked: Requested, service: PrivateCAs) -> None:
    with pytest.raises(ServiceUnreachableError):
        issue(asked, service, url=f"http://127.0.0.1:{reserve_port()}")


def test_missing_credentials_are_an_error(
    asked: Requested, service: PrivateCAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no credentials for the AWS APIs"):
        issue(asked, service)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the ARN of the private CA is missing"),
        ({"arn": "arn:aws:iam::123456789012:role/web"}, "--issuer-arn is 'arn:aws:iam"),
        (
            {
                "arn": "arn:aws:acm-pca:eu-central-1:123456789012:certificate-authority/1f",
                "url": "http://example.com",
            },
            "http: is for this machine only",
        ),
    ],
)
def test_settings_that_can_t_be_right_are_a_usage_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(HwsignerError, match=message) as caught:
        open_issuer("private-ca", IssuerSettings(**values))
    assert caught.value.exit_status == 2
