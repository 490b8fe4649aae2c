"""The issuers: what turns a certificate request into certificates.

An issuer is a module with one function, `open_issuer(settings) -> Issuer`, and a row in ISSUERS; or a package of its
own adds one through the entry-point group `hwsigner.issuers`. The module is imported when it is used. It talks to one
kind of CA and passes on what that returns. It does not judge it: `hwsigner.enrolment.checking` does, for all issuers.
"""

from __future__ import annotations

import binascii
import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.errors import CertificateError, UsageError, suggestion
from hwsigner.key.management import KeyAccess

__all__ = [*("Issued", "Issuer", "IssuerSettings", "KeyAccess", "OpensIssuer", "Pending", "open_issuer")]
ENTRY_POINTS = "hwsigner.issuers"
ISSUERS = {
    "command": "hwsigner.enrolment.issuers.command",
    "est": "hwsigner.enrolment.issuers.est",
    "registrar": "hwsigner.enrolment.issuers.registrar",
    "vault": "hwsigner.enrolment.issuers.vault",
    "private-ca": "hwsigner.enrolment.issuers.private_ca",
}
MOST_CERTIFICATES = 64  # More would make looking for the chain slow.
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]{1,65536})-----END CERTIFICATE-----")


@dataclass(frozen=True)
class Issued:
    """What an issuer returned, not checked yet.

    Attributes:
        certificates: the DER certificates, in any order; the leaf may have CAs and strangers beside it.
    """

    certificates: tuple[bytes, ...]

    @classmethod
    def from_pem(cls, answer: bytes, source: str) -> Issued:
        """Return the certificates in a text. Anything between the PEM blocks is ignored, as openssl writes it.

        Args:
            answer: the text.
            source: what it is, for messages, such as `the output of the issuer's command`.

        Raises:
            CertificateError: as `from_der`, or the base64 of one is broken.
        """
        try:
            found = [binascii.a2b_base64(b"".join(block.split())) for block in _BLOCK.findall(answer)]
        except binascii.Error as error:
            problem = f"{source} has a certificate that is not base64"
            raise CertificateError(problem, "Ask the issuer's administrator") from error
        return cls.from_der(found, source)

    @classmethod
    def from_der(cls, certificates: Sequence[bytes], source: str) -> Issued:
        """Return the certificates of an answer.

        Raises:
            CertificateError: there is none, or there are too many.
        """
        if not certificates:
            raise CertificateError(f"{source} has no certificate", "It must have the certificate and its chain, in PEM")
        if len(certificates) > MOST_CERTIFICATES:
            problem = f"{source} has {len(certificates)} certificates, more than {MOST_CERTIFICATES}"
            raise CertificateError(problem, "It must have the certificate and its chain alone")
        return cls(tuple(certificates))


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


class OpensIssuer(Protocol):
    """The module of an issuer, or what an entry point names."""

    def open_issuer(self, settings: IssuerSettings) -> Issuer:
        """Return the issuer. Nothing is sent yet, and no secret is read.

        Raises:
            UsageError: a setting is missing or invalid.
        """
        ...


def open_issuer(name: str, settings: IssuerSettings) -> Issuer:
    """Return an issuer. Nothing is sent yet.

    Entry points are read only for a name that is not built in.

    Args:
        name: its name in ISSUERS, or that of an entry point.
        settings: how to reach it.

    Raises:
        UsageError: there is no such issuer, or a setting that it needs is missing or invalid.
        PluginError: an entry point can't be loaded, or failed.
    """
    if name not in ISSUERS:
        return _PluginIssuer(name, settings)
    module: OpensIssuer = importlib.import_module(ISSUERS[name])
    return module.open_issuer(settings)


class _PluginIssuer:
    """An issuer from a package of its own: what it raises or returns against the rules is a PluginError."""

    def __init__(self, name: str, settings: IssuerSettings) -> None:
        from importlib.metadata import entry_points

        from hwsigner.backends.plugins import Plugin

        found = list(entry_points(group=ENTRY_POINTS, name=name))
        if not found:
            hint = suggestion(name, ISSUERS, f"Use {', '.join(ISSUERS)}, or install the package that adds it")
            raise UsageError(f"there is no issuer {name[:40]!r}", hint)
        self._plugin = Plugin(ENTRY_POINTS, name, found[0].module, f"the issuer {name}")
        with self._plugin.blamed():
            opens: OpensIssuer = found[0].load()
            self._issuer = opens.open_issuer(settings)

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        with self._plugin.blamed():
            answer = self._issuer.issue(request)
            if isinstance(answer, Issued):
                return Issued.from_der([bytes(memoryview(one)) for one in answer.certificates], self._plugin.role)
            if not isinstance(answer, Pending):
                raise TypeError
            if not 0 <= answer.retry_after < math.inf:
                raise ValueError
            return Pending(float(answer.retry_after))
