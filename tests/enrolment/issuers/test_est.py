"""EST against libest's server, and against a server that misbehaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

import certs
from enrolment.authority import Requested, requested
from enrolment.est_servers import EstServer
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending, open_issuer
from hwsigner.enrolment.testing import IssuerContract
from hwsigner.errors import HwsignerError, ServiceError, ServiceUnreachableError, UsageError
from judges import needs_openssl_3_5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(estserver: Callable[..., EstServer]) -> EstServer:
    return estserver()


@pytest.fixture
def settings(server: EstServer, ca: certs.Authority, tmp_path: Path) -> Callable[..., IssuerSettings]:
    """A function that returns settings that work, or others."""
    ca_file = tmp_path / "est-ca.pem"
    ca_file.write_bytes(ca.pem)

    def make(**values: Any) -> IssuerSettings:
        password = values.pop("password", "estpwd")
        defaults = {"url": server.url, "ca_file": str(ca_file), "user": "estuser", "secret": lambda: password}
        return IssuerSettings(**{**defaults, **values})

    return make


def issue(asked: Requested, settings: IssuerSettings) -> Issued | Pending:
    return open_issuer("est", settings).issue(asked.request)


class TestEst(IssuerContract):
    NAME = "est"
    URIS = ("spiffe://example.com/bamboo-01",)

    @pytest.fixture
    def issuer_settings(self, settings: Callable[..., IssuerSettings]) -> IssuerSettings:
        return settings()

    @pytest.fixture
    def refused_settings(self, settings: Callable[..., IssuerSettings]) -> IssuerSettings:
        return settings(password="wrong-4711")


@needs_openssl_3_5
def test_ml_dsa_key_is_certified(settings: Callable[..., IssuerSettings], tmp_path: Path) -> None:
    asked = requested(tmp_path, mldsa.MLDSA65PrivateKey.generate())
    answer = issue(asked, settings())
    assert isinstance(answer, Issued)
    assert check_issued(asked.request, answer, datetime.now(UTC)).leaf.subject == "OU=devops,CN=bamboo-01"


@needs_openssl_3_5
def test_request_that_is_too_long_for_the_server_is_refused(
    settings: Callable[..., IssuerSettings], tmp_path: Path
) -> None:
    """libest's server takes 8 KiB."""
    asked = requested(tmp_path, mldsa.MLDSA87PrivateKey.generate())
    with pytest.raises(ServiceError, match="status 413"):
        issue(asked, settings())


@pytest.mark.parametrize("path", ["", "/", "/.well-known/est", "/.well-known/est/"])
def test_user_gets_what_was_asked(
    asked: Requested, server: EstServer, settings: Callable[..., IssuerSettings], path: str
) -> None:
    answer = issue(asked, settings(url=server.url + path))
    assert isinstance(answer, Issued)
    assert len(answer.certificates) == 2  # With the CA, of cacerts. The server changes the subject's order.
    assert check_issued(asked.request, answer, datetime.now(UTC)).leaf.subject == "OU=devops,CN=bamboo-01"


def test_answer_202_says_how_long_to_wait(
    asked: Requested, estserver: Callable[..., EstServer], settings: Callable[..., IssuerSettings]
) -> None:
    url = estserver("-m", "2").url
    assert issue(asked, settings(url=url)) == Pending(3600.0)
    assert isinstance(issue(asked, settings(url=url)), Issued)


def test_tampered_request_is_refused(asked: Requested, settings: Callable[..., IssuerSettings]) -> None:
    der = asked.request.der.replace(b"bamboo-01.", b"bamboo-02.")
    with pytest.raises(ServiceError, match="status 400"):
        issue(Requested(CertificateRequest(der), asked.key), settings())


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"password": "hunter2"}, ServiceError, r"status 401.*Check --issuer-user"),
        ({"user": ""}, ServiceError, r"status 401.*Check --issuer-user"),
        ({"user": "a:b"}, UsageError, "--issuer-user has a colon"),
        ({"secret": None}, UsageError, "needs a password, and none was given"),
        ({"ca_file": ""}, ServiceUnreachableError, "certificate"),
    ],
)
def test_refusal_is_explained(
    asked: Requested,
    settings: Callable[..., IssuerSettings],
    changed: dict[str, Any],
    error: type[HwsignerError],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        issue(asked, settings(**changed))
    assert "hunter2" not in str(caught.value)


def test_unknown_path_is_explained(
    asked: Requested, server: EstServer, settings: Callable[..., IssuerSettings]
) -> None:
    with pytest.raises(ServiceError, match=re.escape("/.well-known/est, with the CA's label")):
        issue(asked, settings(url=f"{server.url}/est"))
