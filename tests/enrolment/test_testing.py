"""IssuerContract finds the mistakes that an issuer's authors make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

import certs
from enrolment.authority import Answer, certified
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment import issuers
from hwsigner.enrolment.issuers import Issued, Issuer, IssuerSettings
from hwsigner.enrolment.testing import IssuerContract
from hwsigner.errors import HwsignerError, ServiceError, UsageError

RIGHT, WRONG = "right-4711", "wrong-4712"


class Contract(IssuerContract):
    NAME = "faulty"

    # Called by name below, not collected.
    __test__ = False


@dataclass(frozen=True)
class Correct:
    """An issuer without a mistake. The subclasses have one each."""

    ca: certs.Authority
    settings: IssuerSettings

    def secret(self) -> str:
        assert self.settings.secret
        return self.settings.secret()

    def issue(self, request: CertificateRequest) -> Issued:
        if self.secret() != RIGHT:
            raise ServiceError("the CA refused the secret", "Check --issuer-secret")
        return self.certify(request)

    def certify(self, request: CertificateRequest) -> Issued:
        return Issued((certified(self.ca, request),))


class AddsNames(Correct):
    def certify(self, request: CertificateRequest) -> Issued:
        return Issued((certified(self.ca, request, Answer(subject="CN=bamboo-01,OU=admins")),))


class ReadsSecretEarly(Correct):
    def __init__(self, ca: certs.Authority, settings: IssuerSettings) -> None:
        super().__init__(ca, settings)
        self.secret()


class IsWithoutHint(Correct):
    def issue(self, request: CertificateRequest) -> Issued:
        if self.secret() != RIGHT:
            raise ServiceError("refused")
        return self.certify(request)


class PrintsSecret(Correct):
    def issue(self, request: CertificateRequest) -> Issued:
        if (secret := self.secret()) != RIGHT:
            raise ServiceError(f"the CA refused {secret}", "Check it")
        return self.certify(request)


class ChainsSecret(Correct):
    def issue(self, request: CertificateRequest) -> Issued:
        if (secret := self.secret()) != RIGHT:
            raise ServiceError("the CA refused the secret", "Check it") from ValueError(secret)
        return self.certify(request)


class ShowsSecret(Correct):
    def __repr__(self) -> str:
        return f"CA({self.secret()})"


class IssuesToAnybody(Correct):
    def issue(self, request: CertificateRequest) -> Issued:
        return self.certify(request)


class IssuesOnce(Correct):
    issued: ClassVar[set[bytes]] = set()

    def certify(self, request: CertificateRequest) -> Issued:
        if request.der in self.issued:
            raise UsageError("it was issued already", "Make another request")
        self.issued.add(request.der)
        return super().certify(request)


SETTINGS, REFUSED = IssuerSettings(secret=lambda: RIGHT), IssuerSettings(secret=lambda: WRONG)
TESTS: dict[str, Callable[[Contract, Path], None]] = {
    "as requested": lambda contract, folder: contract.test_certificate_is_as_requested(SETTINGS, folder, "P-256"),
    "sent again": lambda contract, folder: contract.test_same_request_can_be_sent_again(SETTINGS, folder),
    "secret later": lambda contract, folder: contract.test_secret_is_not_read_before_it_is_needed(SETTINGS),
    "refusal": lambda contract, folder: contract.test_refusal_says_what_is_wrong_and_what_to_do(REFUSED, folder),
    "no secret": lambda contract, folder: contract.test_no_secret_is_printed(REFUSED, folder),
}
FAULTS: list[tuple[type[Correct], str]] = [
    (AddsNames, "as requested"),
    (IssuesOnce, "sent again"),
    (ReadsSecretEarly, "secret later"),
    (IsWithoutHint, "refusal"),
    (IssuesToAnybody, "refusal"),
    (PrintsSecret, "no secret"),
    (ChainsSecret, "no secret"),
    (ShowsSecret, "no secret"),
]


@pytest.fixture
def use(ca: certs.Authority, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Correct]], None]:
    """A function that makes a class the issuer `faulty`."""

    def register(kind: type[Correct]) -> None:
        def open_issuer(settings: IssuerSettings) -> Issuer:
            return kind(ca, settings)

        monkeypatch.setitem(sys.modules, "faulty_issuer", SimpleNamespace(open_issuer=open_issuer))
        monkeypatch.setitem(issuers.ISSUERS, "faulty", "faulty_issuer")

    return register


@pytest.mark.parametrize("test", TESTS)
def test_issuer_without_a_mistake_passes(use: Callable[[type[Correct]], None], tmp_path: Path, test: str) -> None:
    use(Correct)
    TESTS[test](Contract(), tmp_path)


@pytest.mark.parametrize(("kind", "test"), FAULTS)
def test_mistake_is_found(use: Callable[[type[Correct]], None], tmp_path: Path, kind: type[Correct], test: str) -> None:
    use(kind)
    with pytest.raises((AssertionError, HwsignerError, pytest.fail.Exception)):
        TESTS[test](Contract(), tmp_path)
