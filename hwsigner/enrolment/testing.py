"""Tests that every issuer must pass, for pytest. An issuer's test file inherits them and says how to reach a CA::

    from hwsigner.enrolment.issuers import IssuerSettings
    from hwsigner.enrolment.testing import IssuerContract

    class TestAcme(IssuerContract):
        NAME = "acme"

        @pytest.fixture
        def issuer_settings(self, acme_server):
            return IssuerSettings(url=acme_server.url, secret=lambda: "right-4711")

        @pytest.fixture
        def refused_settings(self, acme_server):
            return IssuerSettings(url=acme_server.url, secret=lambda: "wrong-4711")

With `refused_settings`, the CA refuses every request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hwsigner._identity.certificate import Chain
from hwsigner._identity.certificate_request import CertificateRequest, sign_certificate_request
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, Issuer, IssuerSettings, Pending, open_issuer
from hwsigner.errors import HwsignerError
from hwsigner.key import open_key

_LONGEST_WAIT = 30.0
_PAUSE = 0.1


class IssuerContract:
    """What every issuer must do. Subclasses set NAME and define `issuer_settings` and `refused_settings`.

    Attributes:
        NAME: the issuer's name, as `--issuer` takes it.
        SUBJECT: a subject that the CA of `issuer_settings` certifies.
        DNS_NAMES: DNS names that it certifies with it.
        URIS: URIs that it certifies with it.
    """

    NAME: ClassVar[str]
    SUBJECT: ClassVar[str] = "CN=bamboo-01,OU=devops"
    DNS_NAMES: ClassVar[tuple[str, ...]] = ("bamboo-01.example.com",)
    URIS: ClassVar[tuple[str, ...]] = ()

    def make_request(self, folder: Path, kind: str) -> CertificateRequest:
        """Return a request by a new key, P-256 or RSA-2048."""
        is_rsa = kind == "RSA-2048"
        key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = folder / "requested.key"
        path.touch(0o600)
        path.write_bytes(pem)
        with open_key(str(path)) as opened:
            return sign_certificate_request(opened, self.SUBJECT, dns_names=self.DNS_NAMES, uris=self.URIS)

    @pytest.mark.parametrize("kind", ["P-256", "RSA-2048"])
    def test_certificate_is_as_requested(self, issuer_settings: IssuerSettings, tmp_path: Path, kind: str) -> None:
        _issue(open_issuer(self.NAME, issuer_settings), self.make_request(tmp_path, kind))

    def test_same_request_can_be_sent_again(self, issuer_settings: IssuerSettings, tmp_path: Path) -> None:
        request = self.make_request(tmp_path, "P-256")
        for _ in range(2):
            _issue(open_issuer(self.NAME, issuer_settings), request)

    def test_secret_is_not_read_before_it_is_needed(self, issuer_settings: IssuerSettings) -> None:
        def fail() -> str:
            raise AssertionError("the secret was read")

        open_issuer(self.NAME, replace(issuer_settings, secret=fail))

    def test_refusal_says_what_is_wrong_and_what_to_do(self, refused_settings: IssuerSettings, tmp_path: Path) -> None:
        with pytest.raises(HwsignerError) as caught:
            _issue(open_issuer(self.NAME, refused_settings), self.make_request(tmp_path, "P-256"))
        assert caught.value.message
        assert caught.value.hint

    def test_no_secret_is_printed(self, refused_settings: IssuerSettings, tmp_path: Path) -> None:
        secrets: list[str] = []
        settings = replace(refused_settings, secret=_noting(refused_settings.secret, secrets))
        issuer = open_issuer(self.NAME, settings)
        with pytest.raises(HwsignerError) as caught:
            _issue(issuer, self.make_request(tmp_path, "P-256"))
        error: BaseException | None = caught.value
        while error is not None:
            shown = f"{issuer!r} {error!r} {error}"
            assert not [secret for secret in set(secrets) if secret in shown]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _noting(secret: Callable[[], str] | None, noted: list[str]) -> Callable[[], str] | None:
    """Return a source of the same secret that notes what it returns."""
    if secret is None:
        return None

    def read() -> str:
        noted.append(secret())
        return noted[-1]

    return read


def _issue(issuer: Issuer, request: CertificateRequest) -> Chain:
    """Have a request answered, and check the answer as an enrolment does."""
    end = time.monotonic() + _LONGEST_WAIT
    while isinstance(answer := issuer.issue(request), Pending):
        assert time.monotonic() < end, f"no certificate in {_LONGEST_WAIT:g} s"
        time.sleep(_PAUSE)
    assert isinstance(answer, Issued)
    return check_issued(request, answer, datetime.now(UTC))
