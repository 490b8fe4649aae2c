"""The PKI of OpenBao, as a program over TLS: tokens, AppRoles, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.x509.oid import SignatureAlgorithmOID

from enrolment.authority import Requested, requested
from enrolment.bao_servers import ROLE, Bao
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, IssuerSettings, open_issuer
from hwsigner.enrolment.testing import IssuerContract
from hwsigner.errors import CertificateError, HwsignerError, ServiceError, ServiceUnreachableError, UsageError
from ports import reserve_port


def issued(asked: Requested, settings: IssuerSettings) -> str:
    """Return the subject of what was issued, once it is checked."""
    answer = open_issuer("vault", settings).issue(asked.request)
    assert isinstance(answer, Issued)
    return check_issued(asked.request, answer, datetime.now(UTC)).leaf.subject


class TestVault(IssuerContract):
    NAME = "vault"
    URIS = ("spiffe://example.com/bamboo-01",)

    @pytest.fixture
    def issuer_settings(self, bao: Bao) -> IssuerSettings:
        return bao.settings()

    @pytest.fixture
    def refused_settings(self, bao: Bao) -> IssuerSettings:
        return bao.settings(secret="wrong-4711")


def test_token_gets_what_was_asked(asked: Requested, bao: Bao) -> None:
    assert issued(asked, bao.settings()) == "CN=bamboo-01,OU=devops"


def test_ml_dsa_key_is_certified(bao: Bao, tmp_path: Path) -> None:
    asked = requested(tmp_path, mldsa.MLDSA65PrivateKey.generate())
    assert issued(asked, bao.settings()) == "CN=bamboo-01,OU=devops"


@pytest.mark.parametrize("private", [None, mldsa.MLDSA44PrivateKey.generate()], ids=["P-256", "ML-DSA-44"])
def test_ca_with_an_ml_dsa_key_certifies_keys_of_each_kind(bao: Bao, tmp_path: Path, private: Any) -> None:
    mount = f"post-quantum-{'leaf' if private else 'ca'}"
    bao.write(f"sys/mounts/{mount}", type="pki")
    bao.write(f"{mount}/root/generate/internal", common_name="Example Root", key_type="mldsa", key_bits=65)
    bao.write(f"{mount}/roles/web", **ROLE)
    asked = requested(tmp_path, private)
    answer = open_issuer("vault", bao.settings(url=f"{bao.url}/v1/{mount}/sign/web")).issue(asked.request)
    assert isinstance(answer, Issued)
    leaf = check_issued(asked.request, answer, datetime.now(UTC)).leaf
    assert leaf.x509.signature_algorithm_oid == SignatureAlgorithmOID.ML_DSA_65


def test_app_role_gets_what_was_asked(asked: Requested, bao: Bao) -> None:
    role_id = bao.write("auth/approle/role/web/role-id")["data"]["role_id"]
    secret_id = bao.write("auth/approle/role/web/secret-id", metadata="{}")["data"]["secret_id"]
    assert issued(asked, bao.settings(user=role_id, secret=secret_id)) == "CN=bamboo-01,OU=devops"
    with pytest.raises(ServiceError, match=r"status 403: .*denied"):
        issued(asked, bao.settings("admins", user=role_id, secret=secret_id))


def test_wrong_secret_id_is_refused(asked: Requested, bao: Bao) -> None:
    with pytest.raises(ServiceError, match=r"status 400: .*The role ID or the secret ID is wrong") as caught:
        issued(asked, bao.settings(user="nobody", secret="hunter2"))
    assert "hunter2" not in str(caught.value)


def test_role_that_adds_a_name_is_an_error(asked: Requested, bao: Bao) -> None:
    with pytest.raises(CertificateError, match="another subject than the request: it adds OU=admins"):
        issued(asked, bao.settings("admins"))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"secret": "wrong"}, ServiceError, "status 403: .*permission denied"),
        ({"role": "missing"}, ServiceError, "status 400: unknown role: missing"),
        ({"role": "none"}, ServiceError, "status 400: .*not allowed by this role"),
        ({"secret": "two\nlines"}, UsageError, "a token for the issuer is empty or has characters other"),
        ({"ca_file": "/etc/hostname"}, UsageError, "--issuer-ca-file /etc/hostname"),
        ({"ca_file": ""}, ServiceUnreachableError, "certificate"),
    ],
)
def test_refusal_is_explained(
    asked: Requested, bao: Bao, changed: dict[str, Any], error: type[HwsignerError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        issued(asked, bao.settings(**changed))
    assert "wrong" not in str(caught.value)


def test_server_that_is_down_is_not_reached(asked: Requested, bao: Bao) -> None:
    with pytest.raises(ServiceUnreachableError):
        issued(asked, bao.settings(url=f"https://127.0.0.1:{reserve_port()}/v1/pki/sign/web"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "the issuer's URL is missing"),
        ("https://vault.example.com:8200", "does not name a role"),
        ("http://vault.example.com/v1/pki/sign/web", "http: is for this machine only"),
        ("https://user:hunter2@vault.example.com/v1/pki/sign/web", "is a URL with a user name"),
    ],
)
def test_url_that_can_t_be_right_is_a_usage_error(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_issuer("vault", IssuerSettings(url=url))
    assert "hunter2" not in str(caught.value)


def test_missing_token_is_a_usage_error(asked: Requested, bao: Bao) -> None:
    with pytest.raises(UsageError, match="the issuer needs a token, and none was given"):
        open_issuer("vault", replace(bao.settings(), secret=None)).issue(asked.request)
