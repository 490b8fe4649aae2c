"""The issuer that is a registrar: it wants proof that the key is in hardware, and gets it from `settings.key`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsigner import attestation
from hwsigner._http.transport import Response
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment import registrar_messages as messages
from hwsigner.enrolment.issuers import Issued, IssuerSettings, OpensIssuer, Pending
from hwsigner.enrolment.issuers.web import Website, open_website, retry_after
from hwsigner.errors import AttestationError, CertificateError, ServiceError, UsageError
from hwsigner.key.management import KeyAccess

if TYPE_CHECKING:
    from hwsigner.enrolment.issuers import registrar

    _: OpensIssuer = registrar

# A challenge may be too old, or its sealing key removed: then another one helps.
_ATTEMPTS = 2
_CONFLICT, _UNAVAILABLE = 409, 503
_SHOWN = 300
_MAY_PASS = frozenset({409, 429, 500, 502, 503, 504})


def open_issuer(settings: IssuerSettings) -> RegistrarIssuer:
    """Return the registrar at `settings.url`."""
    if settings.key is None:
        raise UsageError("the registrar needs proof of where the key is", "Use a key in a TPM or a YubiKey")
    return RegistrarIssuer(open_website(settings), settings.key, settings.vendor_certificates)


@dataclass(frozen=True)
class RegistrarIssuer:
    """A registrar, as a machine sees it."""

    site: Website
    key: KeyAccess
    vendor_certificates: tuple[bytes, ...] = ()

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        """Prove that the request's key is in hardware, and return the certificates."""
        for attempt in range(_ATTEMPTS):
            response = self._attested(request)
            if response.status != _CONFLICT or attempt == _ATTEMPTS - 1:
                break
        if response.status == _UNAVAILABLE:
            return Pending(retry_after(response))
        found = self._members(response, "certificates")["certificates"]
        try:
            return Issued(tuple(messages.decode(one) for one in found))
        except (TypeError, ValueError):
            raise self._unreadable() from None

    def _attested(self, request: CertificateRequest) -> Response:
        """Return the response to an answer, or to the statement if there is no challenge."""
        key = self.key
        statement = attestation.make_statement(
            key.uri, key.pins, csr=request.der, certificates=self.vendor_certificates, allow_modules=key.allow_modules
        )
        response = self._post(messages.CHALLENGE_PATH, {"statement": messages.members(statement)})
        given = self._members(response, "challenge", "state")
        try:
            challenge = messages.document(given["challenge"], "challenge")
        except AttestationError:
            raise self._unreadable() from None
        answer = attestation.answer_challenge(key.uri, challenge, key.pins, allow_modules=key.allow_modules)
        documents = {"statement": messages.members(statement), "answer": messages.members(answer)}
        return self._post(messages.CERTIFICATE_PATH, documents | {"state": given["state"]})

    def _post(self, path: str, members: Mapping[str, Any]) -> Response:
        headers = [("Content-Type", "application/json")]
        return self.site.post(self.site.endpoint.path + path, headers, messages.write_object(members))

    def _members(self, response: Response, *names: str) -> dict[str, Any]:
        """Return the members of an answer; raises a ServiceError for a refusal."""
        try:
            if response.status == 200:
                return messages.read_object(response.body, *names)
            refusal = messages.read_object(response.body, "error", "hint")
        except ValueError:
            raise (self._unreadable() if response.status == 200 else self.site.refusal(response)) from None
        raise ServiceError(
            f"the registrar refused: {_words(refusal['error'])}",
            _words(refusal["hint"]),
            retryable=response.status in _MAY_PASS,
            retry_after=retry_after(response),
        )

    def _unreadable(self) -> CertificateError:
        return CertificateError("the registrar's answer can't be read", f"Check that {self.site.endpoint.url} is one")


def _words(value: object) -> str:
    """Return what a registrar says, in one line that is not too long."""
    return " ".join(str(value).split())[:_SHOWN]
