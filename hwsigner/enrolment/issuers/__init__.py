"""The issuers: what turns a certificate request into certificates.

An issuer is a module with one function, `open_issuer(settings) -> Issuer`, and a row in ISSUERS. The module is imported
when it is used. It talks to one kind of CA and passes on what that returns. It does not judge it:
`hwsigner.enrolment.checking` does, for all issuers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from hwsigner.errors import UsageError, suggestion
from hwsigner.identity.certificate_request import CertificateRequest
from hwsigner.key.management import KeyAccess

ISSUERS = {
    "command": "hwsigner.enrolment.issuers.command",
    "est": "hwsigner.enrolment.issuers.est",
    "registrar": "hwsigner.enrolment.issuers.registrar",
    "vault": "hwsigner.enrolment.issuers.vault",
    "private-ca": "hwsigner.enrolment.issuers.private_ca",
}


@dataclass(frozen=True)
class Issued:
    """What an issuer returned, not checked yet.

    Attributes:
        certificates: the DER certificates, in any order; the leaf may have CAs and strangers beside it.
    """

    certificates: tuple[bytes, ...]


@dataclass(frozen=True)
class Pending:
    """The issuer took the request and has no certificate yet. The same request is to be sent again later.

    Attributes:
        retry_after: how long the issuer asks to wait, in seconds; 0.0 if it does not say.
    """

    retry_after: float = 0.0


class Issuer(Protocol):
    """A CA, or a service in front of one."""

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        """Send a request and return the answer. Sending the same request again is safe.

        Raises:
            UsageError: a setting is missing or invalid.
            CertificateError: the answer has no certificates.
            ServiceError: the issuer refused.
            ServiceUnreachableError: it gave no complete answer in time.
        """
        ...


@dataclass(frozen=True)
class IssuerSettings:
    """How to reach an issuer. Each uses some of these.

    Attributes:
        url: its URL.
        command: the program of a command, and its arguments, quoted as for a shell.
        ca_file: a PEM file with the CAs of its TLS certificate; empty for the system's.
        user: the user of HTTP Basic, or the role ID of an AppRole.
        secret: returns the password, token or secret ID; called when it is needed. None if there is none.
        arn: the ARN of a private CA.
        timeout: the seconds for one request and its answer.
        certificate: the path of the certificate in use, in PEM, to log in with; empty to log in otherwise.
        key: the request's key, for an issuer that wants more of it than the request's signature.
        vendor_certificates: the DER of certificates that the key's chip does not hold, for an issuer that wants proof.
    """

    url: str = ""
    command: str = ""
    ca_file: str = ""
    user: str = ""
    secret: Callable[[], str] | None = field(default=None, repr=False)
    arn: str = ""
    timeout: float = 60.0
    certificate: str = ""
    key: KeyAccess | None = None
    vendor_certificates: tuple[bytes, ...] = ()


def open_issuer(name: str, settings: IssuerSettings) -> Issuer:
    """Return an issuer. Nothing is sent yet.

    Args:
        name: its name in ISSUERS.
        settings: how to reach it.

    Raises:
        UsageError: there is no such issuer, or a setting that it needs is missing or invalid.
    """
    module = ISSUERS.get(name)
    if module is None:
        hint = suggestion(name, ISSUERS, f"Use one of {', '.join(ISSUERS)}")
        raise UsageError(f"there is no issuer {name[:40]!r}", hint)
    opened: Issuer = importlib.import_module(module).open_issuer(settings)
    return opened
