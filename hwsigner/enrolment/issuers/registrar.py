"""The issuer that is a registrar: it wants proof that the key is in hardware, and gets it from `settings.key`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwsigner import attestation
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending
from hwsigner.enrolment.registrar import messages
from hwsigner.errors import AttestationError, CertificateError, ServiceError, UsageError
from hwsigner.http.address import DEFAULT_PORTS, Endpoint, is_loopback, parse_host
from hwsigner.http.connection import Deadline
from hwsigner.http.proxy import find_proxy
from hwsigner.http.tls import TrustedCAs, find_cas
from hwsigner.http.transport import Response, TransportOptions, post
from hwsigner.identity.certificate_request import CertificateRequest
from hwsigner.key.management import KeyAccess

# A challenge may be too old, or its sealing key removed: then another one helps.
_ATTEMPTS = 2
_CONFLICT, _UNAVAILABLE = 409, 503
_MAY_PASS = frozenset({409, 429, 500, 502, 503, 504})


def open_issuer(settings: IssuerSettings) -> RegistrarIssuer:
    """Return the registrar at `settings.url`.

    Raises:
        UsageError: the URL is missing or invalid, or would be reached without TLS; or nothing proves where the key is.
    """
    if settings.key is None:
        raise UsageError("the registrar needs proof of where the key is", "Use a key in a TPM or a YubiKey")
    return RegistrarIssuer(_endpoint(settings.url), settings, settings.key)


@dataclass(frozen=True)
class RegistrarIssuer:
    """A registrar, as a machine sees it.

    Attributes:
        endpoint: its URL.
        settings: how to reach it.
        key: the request's key.
    """

    endpoint: Endpoint
    settings: IssuerSettings
    key: KeyAccess

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        """Prove that the request's key is in hardware, and return the certificates.

        Raises:
            SigningKeyError, PinError: the key's hardware made no statement or answer.
            CertificateError: the registrar's answer can't be read.
            ServiceError: the registrar refused.
            ServiceUnreachableError: it gave no complete answer in time.
        """
        for attempt in range(_ATTEMPTS):
            response = self._attested(request)
            if response.status != _CONFLICT or attempt == _ATTEMPTS - 1:
                break
        if response.status == _UNAVAILABLE:
            return Pending(_retry_after(response))
        found = self._members(response, "certificates")["certificates"]
        try:
            return Issued(tuple(messages.decode(one) for one in found))
        except (TypeError, ValueError):
            raise self._unreadable() from None

    def _attested(self, request: CertificateRequest) -> Response:
        """Return the response to an answer, or to the statement if there is no challenge."""
        key = self.key
        statement = attestation.make_statement(
            key.uri,
            key.pins,
            csr=request.der,
            certificates=self.settings.vendor_certificates,
            allow_modules=key.allow_modules,
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
        cas = TrustedCAs(self.settings.ca_file, file=self.settings.ca_file) if self.settings.ca_file else None
        options = TransportOptions(
            read_timeout=self.settings.timeout,
            cas=cas or find_cas(os.environ),
            proxy=find_proxy(self.endpoint, os.environ),
        )
        headers = [("Host", self.endpoint.host_header), ("Content-Type", "application/json")]
        return post(
            self.endpoint,
            self.endpoint.path.rstrip("/") + path,
            headers,
            messages.write_object(members),
            options=options,
            deadline=Deadline(self.settings.timeout),
        )

    def _members(self, response: Response, *names: str) -> dict[str, Any]:
        """Return the members of an answer.

        Raises:
            ServiceError: it is a refusal.
            CertificateError: it can't be read.
        """
        try:
            if response.status == 200:
                return messages.read_object(response.body, *names)
            refusal = messages.read_object(response.body, "error", "hint")
            problem, hint = f"the registrar refused: {refusal['error']}", str(refusal["hint"])
        except ValueError:
            if response.status == 200:
                raise self._unreadable() from None
            problem, hint = f"the registrar answered with status {response.status}", f"Check {self.endpoint.url}"
        is_passing = response.status in _MAY_PASS
        raise ServiceError(problem, hint, retryable=is_passing, retry_after=_retry_after(response))

    def _unreadable(self) -> CertificateError:
        return CertificateError("the registrar's answer can't be read", f"Check that {self.endpoint.url} is one")


def _retry_after(response: Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def _endpoint(url: str) -> Endpoint:
    scheme, separator, rest = url.partition("://")
    netloc, _, path = rest.partition("/")
    try:
        if scheme not in DEFAULT_PORTS or not separator or "?" in path or "#" in path:
            raise ValueError
        host, port = parse_host(netloc)
    except ValueError:
        problem = f"the registrar's URL is {url[:100]!r}, which is not one"
        raise UsageError(problem, "Write https://registrar.example.com") from None
    if scheme == "http" and not is_loopback(host):
        raise UsageError(f"the registrar's URL {url[:100]} has no TLS", "Write https://")
    return Endpoint(scheme, host, port or DEFAULT_PORTS[scheme], f"/{path}")
