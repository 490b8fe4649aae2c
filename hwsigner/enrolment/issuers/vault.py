"""The PKI of HashiCorp Vault and OpenBao: `POST /v1/pki/sign/ROLE`, with a token or an AppRole.

The role decides on O, OU and the validity, and must allow the names. It must not add any: the request's names are
checked against the certificate's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsigner._http.transport import Response
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.issuers import Issued, IssuerSettings, OpensIssuer
from hwsigner.enrolment.issuers.web import Website, open_website, secret
from hwsigner.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from hwsigner.enrolment.issuers import vault

    _: OpensIssuer = vault

_LOGIN, _CERTIFICATE_LOGIN = "/v1/auth/approle/login", "/v1/auth/cert/login"
_HINTS = {
    400: "The role must exist, and allow the names of the request",
    403: "The token needs the capability update for this path, and may have expired",
    404: "Write --issuer-url https://HOST:8200/v1/pki/sign/ROLE, with the path of the PKI",
    503: "It is sealed or in maintenance: unseal it, or retry later",
}
_LOGIN_HINTS = {
    _LOGIN: "The role ID or the secret ID is wrong, has expired or was used up",
    _CERTIFICATE_LOGIN: "No role of the method cert trusts the CA of this certificate, or it has expired",
}


def open_issuer(settings: IssuerSettings) -> Vault:
    """Return the issuer at `settings.url`, which names the role: `https://HOST:8200/v1/pki/sign/ROLE`.

    With `settings.certificate`, that certificate logs in. With `settings.user`, that is the role ID of an AppRole, and
    the secret its secret ID. Without both, the secret is a token.
    """
    site = open_website(settings)
    if not site.endpoint.path.startswith("/v1/") or "/sign" not in site.endpoint.path:
        problem = f"--issuer-url is {site.endpoint.url}, which does not name a role of a PKI"
        raise UsageError(problem, _HINTS[404])
    return Vault(site, settings)


@dataclass(frozen=True)
class Vault:
    """A role of a PKI, whose path `site` has."""

    site: Website
    settings: IssuerSettings

    def issue(self, request: CertificateRequest) -> Issued:
        """Log in if need be, and have the request signed."""
        body = {"csr": request.pem.decode(), "format": "pem", "exclude_cn_from_sans": True}
        data = self._call(self.site.endpoint.path, body, self._token()).get("data")
        if not isinstance(data, dict):
            data = {}
        chain = data.get("ca_chain")
        texts = [data.get("certificate"), *(chain if isinstance(chain, list) else [data.get("issuing_ca")])]
        pem = "\n".join(text for text in texts if isinstance(text, str))
        return Issued.from_pem(pem.encode("utf-8", "replace"), f"the answer of {self.site.endpoint.host_header}")

    def _token(self) -> str:
        if self.site.client:
            auth = self._call(_CERTIFICATE_LOGIN, {}, None).get("auth")
        elif self.settings.user:
            login = {"role_id": self.settings.user, "secret_id": secret(self.settings, "a secret ID")}
            auth = self._call(_LOGIN, login, None).get("auth")
        else:
            return secret(self.settings, "a token")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            problem = f"the issuer {self.site.endpoint.host_header} logged this machine in without a token"
            raise ServiceError(problem, "Look for a proxy in between")
        return token

    def _call(self, path: str, body: dict[str, Any], token: str | None) -> dict[str, Any]:
        headers = [("Content-Type", "application/json"), ("X-Vault-Request", "true")]
        if token is not None:
            headers.append(("X-Vault-Token", token))
        response = self.site.post(path, headers, json.dumps(body).encode())
        if response.status != 200:
            hint = _LOGIN_HINTS.get(path, _HINTS.get(response.status, ""))
            raise self.site.refusal(response, _reasons(response), hint)
        return response.json_object()


def _reasons(response: Response) -> str:
    """Return the server's errors, each without its line breaks."""
    errors = response.json_object().get("errors")
    return "; ".join(" ".join(str(one).split()) for one in errors) if isinstance(errors, list) else ""
