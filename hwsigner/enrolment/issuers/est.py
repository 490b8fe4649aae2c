"""EST (RFC 7030): `simpleenroll` with HTTP Basic, `simplereenroll` with a certificate, and `cacerts` for the chain."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsigner._http.transport import Response
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.issuers import Issued, IssuerSettings, OpensIssuer, Pending
from hwsigner.enrolment.issuers.web import Website, open_website, retry_after, secret
from hwsigner.errors import CertificateError, UsageError

if TYPE_CHECKING:
    from hwsigner.enrolment.issuers import est

    _: OpensIssuer = est

_PATH = "/.well-known/est"
_HINTS = {
    400: "The request must have the names that the server allows, and a kind of key that it accepts",
    401: "Check --issuer-user and --issuer-secret, which hwsigner sends as HTTP Basic, or --issuer-certificate",
    403: "Check what the server allows this user",
    404: "Write --issuer-url https://HOST/.well-known/est, with the CA's label after it if it has one",
}


def open_issuer(settings: IssuerSettings) -> Est:
    """Return the issuer at `settings.url`: `https://HOST`, or with a path, such as `/.well-known/est/LABEL`.

    With `settings.user`, each request has that user and the secret as the password (HTTP Basic). With
    `settings.certificate`, that certificate is renewed, and logs in.
    """
    if ":" in settings.user or not settings.user.isprintable():
        raise UsageError("--issuer-user has a colon or a control character", "Use a name without them")
    return Est(open_website(settings, _PATH), settings)


@dataclass(frozen=True)
class Est:
    """A CA label of a server: `site` has the path before the operations."""

    site: Website
    settings: IssuerSettings

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        """Enrol, and fetch the CAs."""
        headers = [("Content-Type", "application/pkcs10"), ("Content-Transfer-Encoding", "base64")]
        body = base64.encodebytes(request.der)
        operation = "simplereenroll" if self.site.client else "simpleenroll"
        answer = self.site.post(f"{self.site.endpoint.path}/{operation}", [*headers, *self._login()], body)
        if answer.status == 202:
            return Pending(retry_after(answer))
        leaves = self._certificates(answer, operation)
        return Issued.from_der([*leaves, *self._authorities()], f"the answer of {self.site.endpoint.host_header}")

    def _login(self) -> list[tuple[str, str]]:
        if self.site.client or not self.settings.user:
            return []
        text = f"{self.settings.user}:{secret(self.settings, 'a password')}"
        return [("Authorization", f"Basic {base64.b64encode(text.encode()).decode()}")]

    def _authorities(self) -> list[bytes]:
        """Return the CAs. The server need not have any for the chain to fit."""
        answer = self.site.get(f"{self.site.endpoint.path}/cacerts")
        return [] if answer.status in (204, 404) else self._certificates(answer, "cacerts")

    def _certificates(self, answer: Response, operation: str) -> list[bytes]:
        if answer.status != 200:
            raise self.site.refusal(answer, _words(answer), _HINTS.get(answer.status, ""))
        source = f"the answer of {self.site.endpoint.host_header} to {operation}"
        try:
            der = binascii.a2b_base64(b"".join(answer.body.split()), strict_mode=True)
        except binascii.Error as error:
            raise CertificateError(f"{source} is not base64", "Check the issuer's URL") from error
        return read_pkcs7(der, source)


def read_pkcs7(answer: bytes, source: str) -> list[bytes]:
    """Return the certificates of a PKCS #7 SignedData without signatures (RFC 5272, section 4.1), in DER."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
    from cryptography.x509 import InvalidVersion

    try:
        return [one.public_bytes(Encoding.DER) for one in load_der_pkcs7_certificates(answer)]
    except (ValueError, UnsupportedAlgorithm, InvalidVersion) as error:
        raise CertificateError(f"{source} is not PKCS #7", "Check the issuer's URL") from error


def _words(answer: Response) -> str:
    """Return the text of an error, if it is one: RFC 7030, section 4.2.3, allows plain text."""
    text = " ".join(answer.body.decode("utf-8", "replace").split())
    return "" if text.startswith("<") else text
