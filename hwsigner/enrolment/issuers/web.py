"""What issuers over HTTPS have in common: their URL, and one request under one deadline."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hwsigner._http.address import Endpoint, check_protected, read_url
from hwsigner._http.client_certificate import ClientCertificate
from hwsigner._http.connection import Deadline, find_proxy
from hwsigner._http.tls import TrustedCAs, find_cas
from hwsigner._http.transport import Response, TransportOptions, get, post
from hwsigner.enrolment.issuers import IssuerSettings
from hwsigner.errors import ServiceError, UsageError

_LONGEST_WAIT = 7 * 86400.0
_SHOWN = 300


@dataclass(frozen=True)
class Website:
    """An issuer's server.

    `timeout` is the seconds for each request with its response. `client` logs in, if there is one.
    """

    endpoint: Endpoint
    options: TransportOptions
    timeout: float
    client: ClientCertificate | None = None

    def post(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Response:
        """Send a POST request, with the client certificate if there is one."""
        sent, deadline = self._all(headers), Deadline(self.timeout)
        if self.client is None:
            return post(self.endpoint, path, sent, body, options=self.options, deadline=deadline)
        return self.client.post(self.endpoint, path, sent, body, options=self.options, deadline=deadline)

    def get(self, path: str) -> Response:
        """Send a GET request; raise as `post`."""
        return get(self.endpoint, path, self._all([]), options=self.options, deadline=Deadline(self.timeout))

    def _all(self, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        return [("Host", self.endpoint.host_header), ("User-Agent", "hwsigner"), *headers]

    def refusal(self, response: Response, reason: str = "", hint: str = "") -> ServiceError:
        """Return the error for a response that is not what was asked for."""
        status = response.status
        if 300 <= status < 400:
            reason, hint = "a redirect, which is not followed", "Give the URL of the server that it names"
        words = f": {reason[:_SHOWN]}" if reason else ""
        problem = f"the issuer {self.endpoint.host_header} answered with status {status}{words}"
        return ServiceError(
            problem.rstrip("."),
            hint or "Check the issuer's URL and its log",
            retryable=status == 429 or status >= 500,
            retry_after=retry_after(response),
        )


def open_website(settings: IssuerSettings, default_path: str = "") -> Website:
    """Return the server of `settings.url`.

    `default_path` is the path if the URL has none. `http:` must be on this machine.
    """
    if not settings.url:
        raise UsageError("the issuer's URL is missing", "Add --issuer-url https://…")
    endpoint = read_url("--issuer-url", settings.url)
    check_protected("--issuer-url", endpoint)
    cas = TrustedCAs(f"--issuer-ca-file {settings.ca_file}", file=settings.ca_file) if settings.ca_file else None
    options = TransportOptions(
        connect_timeout=settings.timeout,
        read_timeout=settings.timeout,
        cas=cas or find_cas(os.environ),
        proxy=find_proxy(endpoint, os.environ),
    )
    path = endpoint.path.rstrip("/") or default_path
    return Website(endpoint._replace(path=path), options, settings.timeout, _client(settings))


def _client(settings: IssuerSettings) -> ClientCertificate | None:
    """Return the certificate to log in with; raises a UsageError if its key is not one that TLS can use."""
    if not settings.certificate:
        return None
    uri = settings.key.uri.resolved() if settings.key else None
    if uri is None or uri.scheme != "tpm2" or "path" not in uri.path or not os.path.isfile(settings.certificate):
        problem = "only a TSS2 key file, with its certificate in a file, can log in to an issuer"
        raise UsageError(problem, "Log in with --issuer-user and --issuer-secret instead of --issuer-certificate")
    if settings.key and settings.key.describe().properties.get("pin"):
        problem = f"{uri.file} has an auth value, so it can't log in to an issuer"
        raise UsageError(problem, "Log in with --issuer-user and --issuer-secret instead of --issuer-certificate")
    return ClientCertificate(settings.certificate, uri.file, uri.text("tcti") or os.environ.get("TPM2_TCTI", ""))


def secret(settings: IssuerSettings, what: str) -> str:
    """Return the secret of an issuer, for a header.

    The error for a character that a header can't have does not show it.
    """
    if settings.secret is None:
        raise UsageError(f"the issuer needs {what}, and none was given", "Add --issuer-secret file:/path")
    value = settings.secret()
    if not re.fullmatch(r"[!-~]+(?: [!-~]+)*", value):
        raise UsageError(f"{what} for the issuer is empty or has characters other than ASCII", "Check its file")
    return value


def retry_after(response: Response) -> float:
    """Return the seconds that an issuer asks to wait, a week at most; 0.0 if it does not ask."""
    return min(response.retry_after(datetime.now(UTC)), _LONGEST_WAIT)
