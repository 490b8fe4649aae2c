"""Trust anchors, roles and Roles Anywhere profiles, and which of them a set-up has already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hwsigner.aws.apis import ServiceClients, not_from_aws
from hwsigner.control_plane.wanted import DEFAULT_DURATION, Wanted
from hwsigner.errors import ServiceError, UsageError
from hwsigner.identity.bundle import read_bundle, subjects
from hwsigner.identity.certificate import Certificate

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

    def missing(self, wanted: Wanted) -> list[Certificate]:
        """Return the certificates of the CA that it does not have."""
        return without(wanted.cas, self.bundle or ())


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
class Profile:
    """A Roles Anywhere profile, with the ARNs of its roles and the longest session in seconds."""

    arn: str
    name: str
    enabled: bool
    roles: tuple[str, ...]
    duration: int

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> Profile:
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


@dataclass(frozen=True)
class Existing:
    """What there is already. None is missing."""

    anchor: TrustAnchor | None = None
    role: Role | None = None
    profile: Profile | None = None


def read(clients: ServiceClients, wanted: Wanted) -> Existing:
    """Read what there is already of a set-up.

    Raises:
        HwsignerError: as `ServiceClient.call`.
        CertificateError: a trust anchor has a certificate that can't be read.
        UsageError: an ARN is of another account, more than one trust anchor or profile may be meant, or one of that
            name is for something else.
    """
    for arn, account in wanted.accounts.items():
        if account != clients.account:
            hint = "Use credentials of that account, for example with --aws-profile"
            raise UsageError(f"{arn} is of another account than the credentials, which are of {clients.account}", hint)
    anchors = [TrustAnchor.of(each) for each in clients.rolesanywhere.items("list_trust_anchors", "trustAnchors")]
    anchor = choose_anchor(anchors, wanted)
    role = _read_role(clients, wanted)
    profiles = [Profile.of(each) for each in clients.rolesanywhere.items("list_profiles", "profiles")]
    return Existing(anchor, role, choose_profile(profiles, wanted, role.arn if role else ""))


def choose_anchor(anchors: Sequence[TrustAnchor], wanted: Wanted) -> TrustAnchor | None:
    """Return the trust anchor that a set-up means: the one that was named, of its name, or with its CA.

    Raises:
        UsageError: several may be meant, or it has other CAs.
    """
    flag = "--trust-anchor-arn"
    found: TrustAnchor | None
    if wanted.trust_anchor_arn:
        found = _named([each for each in anchors if each.arn == wanted.trust_anchor_arn], flag, wanted.trust_anchor_arn)
    else:
        of_name = [each for each in anchors if each.name == wanted.name]
        with_ca = [each for each in anchors if each.bundle is not None and not each.missing(wanted)]
        both = [each for each in of_name if each in with_ca]
        found = _only(both or of_name or with_ca, f"trust anchors of the name {wanted.name!r} or with this CA", flag)
    if found is not None:
        _check_anchor(found, wanted)
    elif wanted.add_ca:
        hint = f"Give {flag}, or --name with the name of the trust anchor"
        raise UsageError(f"there is no trust anchor {wanted.name!r} to add the CA to", hint)
    return found


def choose_profile(profiles: Sequence[Profile], wanted: Wanted, role_arn: str) -> Profile | None:
    """Return the Roles Anywhere profile that a set-up means: the one that was named, of its name, or with its role.

    Args:
        profiles: all of the region.
        wanted: the set-up.
        role_arn: the ARN of the role, or an empty string if there is none yet.

    Raises:
        UsageError: several may be meant, or the one of that name has other roles only.
    """
    flag = "--profile-arn"
    if wanted.profile_arn:
        return _named([each for each in profiles if each.arn == wanted.profile_arn], flag, wanted.profile_arn)
    of_name = [each for each in profiles if each.name == wanted.name]
    with_role = [each for each in profiles if each.has(role_arn, wanted.role)]
    both = [each for each in of_name if each in with_role]
    found = _only(both or of_name or with_role, f"profiles of the name {wanted.name!r} or with this role", flag)
    if found and found.roles and not found.has(role_arn, wanted.role):
        raise UsageError(
            f"profile {found.arn} has other roles: {', '.join(found.roles)}",
            f"Give {flag} to add this role to it, or --name to make another profile",
        )
    return found


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


def _read_role(clients: ServiceClients, wanted: Wanted) -> Role | None:
    found = clients.iam.find("get_role", RoleName=wanted.role)
    if found is None:
        return None
    attached = []
    if wanted.policies:
        attached = clients.iam.items("list_attached_role_policies", "AttachedPolicies", RoleName=wanted.role)
    return Role.of(found["Role"], [each["PolicyArn"] for each in attached])


def _check_anchor(found: TrustAnchor, wanted: Wanted) -> None:
    if found.bundle is None:
        hint = "Give --name to make another one"
        raise UsageError(f"trust anchor {found.arn} has no certificate bundle, but another kind of source", hint)
    if found.missing(wanted) and not wanted.add_ca:
        raise UsageError(
            f"trust anchor {found.arn} has other CAs: {subjects(found.bundle)}",
            "Add this one with --add-ca, or give --name to make another trust anchor",
        )


_Resource = TypeVar("_Resource", TrustAnchor, Profile)


def _named(found: Sequence[_Resource], flag: str, arn: str) -> _Resource:
    if not found:
        hint = "Check the ARN, its account and its region"
        raise UsageError(f"{flag} is {arn}, which these credentials do not find in this region", hint)
    return found[0]


def _only(found: Sequence[_Resource], what: str, flag: str) -> _Resource | None:
    if len(found) > 1:
        listed = ", ".join(each.arn for each in found)
        raise UsageError(f"there are {len(found)} {what}: {listed}", f"Choose one with {flag}")
    return found[0] if found else None
