"""AWS Private CA, for a registrar or an administrator's machine alone.

Its templates take the subject and the subjectAltNames from the request. So whoever may call `acm-pca:IssueCertificate`
can have any machine's name certified: never give that permission to a server's own role.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.issuers import Issued, IssuerSettings, OpensIssuer, Pending
from hwsigner.enrolment.issuers.web import open_website
from hwsigner.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from hwsigner._aws.apis import ServiceClient
    from hwsigner.enrolment.issuers import private_ca

    _: OpensIssuer = private_ca

_DAYS, _SHORT_DAYS = 30, 7  # A CA for short-lived certificates issues them for a week at most.
_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):acm-pca:(?P<region>[a-z0-9-]{1,32}):[0-9]{12}:certificate-authority/[0-9a-f-]{1,64}"
)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0


def open_issuer(settings: IssuerSettings) -> PrivateCA:
    """Return the issuer that is the private CA `settings.arn`. `settings.url` replaces the service's URL, for tests."""
    found = _ARN.fullmatch(settings.arn)
    if found is None:
        given = f"--issuer-arn is {settings.arn[:100]!r}, which is not the ARN of a private CA"
        problem = given if settings.arn else "the ARN of the private CA is missing"
        raise UsageError(problem, "Use arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID")
    if settings.url:
        open_website(settings)  # Only to check the URL.
    template = f"arn:{found['partition']}:acm-pca:::template/EndEntityClientAuthCertificate/V1"
    return PrivateCA(settings, found["region"], template)


@dataclass(frozen=True)
class PrivateCA:
    """A private CA, with the credentials that boto3 finds. `template` is for client authentication."""

    settings: IssuerSettings
    region: str
    template: str
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @cached_property
    def _client(self) -> ServiceClient:
        from hwsigner._aws.apis import ServiceClients

        return ServiceClients(self.region, endpoint=self.settings.url).acm_pca

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        """Have the request signed, and wait for the certificate.

        Requests of one key for the same names get the same certificate within five minutes.
        """
        end = self.clock() + self.settings.timeout
        found = self._client.call("describe_certificate_authority", CertificateAuthorityArn=self.settings.arn)
        authority = found["CertificateAuthority"]
        days = _SHORT_DAYS if authority.get("UsageMode") == "SHORT_LIVED_CERTIFICATE" else _DAYS
        arn = self._client.call(
            "issue_certificate",
            CertificateAuthorityArn=self.settings.arn,
            Csr=request.pem,
            SigningAlgorithm=authority["CertificateAuthorityConfiguration"]["SigningAlgorithm"],
            TemplateArn=self.template,
            Validity={"Value": days, "Type": "DAYS"},
            # Of what is signed, as a new signature is another one for most keys.
            IdempotencyToken=hashlib.sha256(request.x509.tbs_certrequest_bytes).hexdigest()[:36],
        )["CertificateArn"]
        pause = _FIRST_PAUSE
        while (pem := self._certificate(arn)) is None:
            if self.clock() + pause > end:
                return Pending()
            self.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return Issued.from_pem(pem.encode(), "the answer of acm-pca:GetCertificate")

    def _certificate(self, arn: str) -> str | None:
        """Return the certificate and its chain, or None if it is not issued yet."""
        try:
            found = self._client.call("get_certificate", CertificateArn=arn, CertificateAuthorityArn=self.settings.arn)
        except ServiceError as error:
            if "RequestInProgressException" in error.message:
                return None
            raise
        return f"{found['Certificate']}\n{found.get('CertificateChain', '')}"
