"""Trust anchors, roles and Roles Anywhere profiles, from the descriptions of the APIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwsigner.aws.apis import not_from_aws
from hwsigner.errors import ServiceError
from hwsigner.identity.bundle import read_bundle
from hwsigner.identity.certificate import Certificate

DEFAULT_DURATION = 3600  # Seconds, of Roles Anywhere profiles and roles that do not say another one.
_BUNDLE = "CERTIFICATE_BUNDLE"


@dataclass(frozen=True)
class TrustAnchor:
    """A trust anchor.

    Attributes:
        arn: its ARN, not an alias's.
        name: its name.
        enabled: whether it is in use.
        bundle: its certificates; None if they come from elsewhere, such as AWS Private CA.
        private_ca: the ARN of its CA in AWS Private CA, or an empty string.
        reads_distribution_points: whether the service also reads the CRLs that certificates name.
    """

    arn: str
    name: str
    enabled: bool
    bundle: tuple[Certificate, ...] | None
    private_ca: str = ""
    reads_distribution_points: bool = False

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> TrustAnchor:
        """Read the service's description.

        Raises:
            CertificateError: one of its certificates can't be read.
            ServiceError: the description has no ARN or name.
        """
        arn, name = _texts(detail, "trustAnchorArn", "name")
        source = detail.get("source", {})
        data = source.get("sourceData", {})
        bundle = None
        if source.get("sourceType") == _BUNDLE:
            bundle = tuple(read_bundle(data.get("x509CertificateData", ""), f"trust anchor {arn}"))
        private_ca, reads = data.get("acmPcaArn", ""), bool(detail.get("crlDpRevocationEnabled"))
        return cls(arn, name, bool(detail.get("enabled")), bundle, private_ca, reads)

    @property
    def id(self) -> str:
        """The last part of the ARN."""
        return self.arn.rpartition("/")[2]

    def missing(self, cas: Sequence[Certificate]) -> list[Certificate]:
        """Return those certificates of a CA that it does not have."""
        return without(cas, self.bundle or ())


@dataclass(frozen=True)
class Role:
    """A role. `policies` has the ARNs of its attached policies, if they were needed."""

    arn: str
    name: str
    trust_policy: Mapping[str, Any]
    max_session_duration: int
    policies: tuple[str, ...] = ()

    @classmethod
    def of(cls, detail: Mapping[str, Any], policies: Sequence[str] = ()) -> Role:
        """Read the service's description.

        Raises:
            ServiceError: it has no ARN or name, or its trust policy can't be read.
        """
        arn, name = _texts(detail, "Arn", "RoleName")
        document = detail.get("AssumeRolePolicyDocument")
        if not isinstance(document, Mapping):
            raise ServiceError(f"role {arn} has a trust policy that can't be read", "Look at it with aws iam get-role")
        return cls(arn, name, document, detail.get("MaxSessionDuration", DEFAULT_DURATION), tuple(policies))


@dataclass(frozen=True)
class RolesAnywhereProfile:
    """A Roles Anywhere profile, with the ARNs of its roles and the longest session in seconds."""

    arn: str
    name: str
    enabled: bool
    roles: tuple[str, ...]
    duration: int

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> RolesAnywhereProfile:
        """Read the service's description.

        Raises:
            ServiceError: it has no ARN or name.
        """
        arn, name = _texts(detail, "profileArn", "name")
        roles, duration = tuple(detail.get("roleArns", ())), detail.get("durationSeconds") or DEFAULT_DURATION
        return cls(arn, name, detail.get("enabled", False), roles, duration)

    @property
    def id(self) -> str:
        """The last part of the ARN."""
        return self.arn.rpartition("/")[2]

    def has(self, role_arn: str, name: str) -> bool:
        """Return whether the profile has a role; if its ARN is not known yet, one that will be its own."""
        return role_arn in self.roles if role_arn else any(each.endswith(f":role/{name}") for each in self.roles)


def without(certificates: Sequence[Certificate], others: Sequence[Certificate]) -> list[Certificate]:
    """Return those certificates that are not among others, wherever they are from."""
    known = {each.der for each in others}
    return [each for each in certificates if each.der not in known]


def _texts(detail: Mapping[str, Any], *members: str) -> list[str]:
    """Return members that every description has, though botocore's model does not say so."""
    found = [detail.get(member) for member in members]
    texts = [each for each in found if isinstance(each, str)]
    if len(texts) < len(members):
        raise not_from_aws(f"a call that describes {' and '.join(members)}")
    return texts
