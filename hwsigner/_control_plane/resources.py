"""Trust anchors, roles and Roles Anywhere profiles: as AWS has them, and as a set-up should have them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from hwsigner._aws.apis import ServiceClients
from hwsigner._aws.failures import not_from_aws
from hwsigner._identity.bundle import read_bundle, subjects
from hwsigner._identity.certificate import WEAK_HASHES, Certificate, is_ca, key_usage, signature_hash
from hwsigner.errors import CertificateError, ServiceError, UsageError

MAX_CAS = 2  # Certificates of a trust anchor, a quota of AWS that can't be raised.
DEFAULT_DURATION = 3600  # Seconds, of Roles Anywhere profiles and roles that do not say another one.
_BUNDLE = "CERTIFICATE_BUNDLE"
_ROLE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")
_POLICY = re.compile(r"arn:aws[a-z-]*:iam::(?:aws|[0-9]{12}):policy/[!-~]{1,512}")
_NAME = re.compile(r"[ A-Za-z0-9_-]{1,255}")


@dataclass(frozen=True)
class TrustAnchor:
    """A trust anchor."""

    arn: str  # Never an alias's.
    name: str
    enabled: bool
    bundle: tuple[Certificate, ...] | None  # None if they come from elsewhere, such as AWS Private CA.
    private_ca: str = ""  # The ARN of its CA in AWS Private CA.
    reads_distribution_points: bool = False  # Whether the service also reads the CRLs that certificates name.

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> TrustAnchor:
        """Read the service's description."""
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

    @property
    def content(self) -> tuple[object, ...]:
        """What two equal ones have in common."""
        return self.name, self.enabled, self.private_ca, [each.der for each in self.bundle or ()]

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
    boundary: str = ""  # The ARN of its permissions boundary; empty if it has none.

    @classmethod
    def of(cls, detail: Mapping[str, Any], policies: Sequence[str] = ()) -> Role:
        """Read the service's description."""
        arn, name = _texts(detail, "Arn", "RoleName")
        document = detail.get("AssumeRolePolicyDocument")
        if not isinstance(document, Mapping):
            raise ServiceError(f"role {arn} has a trust policy that can't be read", "Look at it with aws iam get-role")
        boundary = detail.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", "")
        return cls(arn, name, document, detail.get("MaxSessionDuration", DEFAULT_DURATION), tuple(policies), boundary)


@dataclass(frozen=True)
class RolesAnywhereProfile:
    """A Roles Anywhere profile, with the ARNs of its roles and the longest session in seconds."""

    arn: str
    name: str
    enabled: bool
    roles: tuple[str, ...]
    duration: int
    mappings: Mapping[str, Any] = field(default_factory=dict)  # The member attributeMappings, if there is one.
    accepts_names: bool = False  # Whether callers may name their sessions.

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> RolesAnywhereProfile:
        """Read the service's description."""
        arn, name = _texts(detail, "profileArn", "name")
        roles, duration = tuple(detail.get("roleArns", ())), detail.get("durationSeconds") or DEFAULT_DURATION
        mappings = {key: value for key, value in detail.items() if key == "attributeMappings"}
        names = bool(detail.get("acceptRoleSessionName"))
        return cls(arn, name, detail.get("enabled", False), roles, duration, mappings, names)

    @property
    def id(self) -> str:
        """The last part of the ARN."""
        return self.arn.rpartition("/")[2]

    @property
    def content(self) -> tuple[object, ...]:
        """What two equal ones have in common."""
        return self.name, self.enabled, self.roles, self.duration

    def has(self, role_arn: str, name: str) -> bool:
        """Return whether the profile has a role; if its ARN is not known yet, one that will be its own."""
        return role_arn in self.roles if role_arn else any(each.endswith(f":role/{name}") for each in self.roles)


@dataclass(frozen=True)
class Setup:
    """What a set-up should be."""

    name: str  # Of a new trust anchor and a new Roles Anywhere profile.
    role: str
    cas: tuple[Certificate, ...]
    tags: Mapping[str, Sequence[str]]  # What a certificate must have, as `write_trust_policy` takes it.
    duration: int | None = None  # The longest session in seconds; None for the existing profile's, or one hour.
    policies: tuple[str, ...] = ()
    boundary: str = ""  # The ARN of the role's permissions boundary; empty for none, or the existing role's.
    accepts_names: bool = False  # Whether callers may name their sessions; False keeps what the profile has.
    add_ca: bool = False  # Whether to add the CA to a trust anchor that has others.
    trust_anchor_arn: str = ""  # The one to use; empty to find or make one, as for the profile.
    profile_arn: str = ""

    def __post_init__(self) -> None:
        if not _ROLE.fullmatch(self.role):
            raise UsageError(f"{self.role[:100]!r} is not a role's name", "Use 1 to 64 letters, digits and +=,.@_-")
        if not _NAME.fullmatch(self.name):
            hint = "Give --name with letters, digits, spaces, _ and -"
            raise UsageError(f"{self.name[:100]!r} is not a name for a trust anchor and a Roles Anywhere profile", hint)
        for arn, flag in self.managed_policies.items():
            if not _POLICY.fullmatch(arn):
                hint = "Use an ARN such as arn:aws:iam::aws:policy/ReadOnlyAccess"
                raise UsageError(f"{flag} is {arn[:200]!r}, which is not a policy's ARN", hint)

    @property
    def managed_policies(self) -> dict[str, str]:
        """The flag of each policy's ARN that was given."""
        boundary = {self.boundary: "--permissions-boundary"} if self.boundary else {}
        return {**dict.fromkeys(self.policies, "--policy"), **boundary}

    @property
    def accounts(self) -> dict[str, str]:
        """The account of each ARN that was given. AWS's own policies are in none."""
        given = (self.trust_anchor_arn, self.profile_arn, *self.managed_policies)
        return {arn: account for arn in given if arn and (account := arn.split(":")[4]) != "aws"}


@dataclass(frozen=True)
class Existing:
    """What there is already. None is missing."""

    anchor: TrustAnchor | None = None
    role: Role | None = None
    profile: RolesAnywhereProfile | None = None

    @property
    def arns(self) -> dict[str, str]:
        """The ARNs as a profile of config.toml has them. Those that are not known yet are empty."""
        return {
            "trust-anchor-arn": self.anchor.arn if self.anchor else "",
            "role-arn": self.role.arn if self.role else "",
            "profile-arn": self.profile.arn if self.profile else "",
        }


def read(clients: ServiceClients, setup: Setup) -> Existing:
    """Read what there is already of a set-up."""
    for arn, account in setup.accounts.items():
        if account != clients.account:
            hint = "Use credentials of that account, for example with --aws-profile"
            raise UsageError(f"{arn} is of another account than the credentials, which are of {clients.account}", hint)
    for arn, flag in setup.managed_policies.items():
        if arn.split(":")[1] != clients.partition:
            hint = f"Use the ARN of a policy that begins with arn:{clients.partition}:"
            raise UsageError(f"{flag} is {arn}, and the region is in the partition {clients.partition}", hint)
    anchors = [TrustAnchor.of(each) for each in clients.rolesanywhere.items("list_trust_anchors", "trustAnchors")]
    anchor = choose_anchor(anchors, setup)
    role = _read_role(clients, setup)
    profiles = [RolesAnywhereProfile.of(each) for each in clients.rolesanywhere.items("list_profiles", "profiles")]
    return Existing(anchor, role, choose_profile(profiles, setup, role.arn if role else ""))


def choose_anchor(anchors: Sequence[TrustAnchor], setup: Setup) -> TrustAnchor | None:
    """Return the trust anchor that a set-up means: the one that was named, of its name, or with its CA.

    Several that may be meant are a UsageError, and so are other CAs.
    """
    flag = "--trust-anchor-arn"
    found: TrustAnchor | None
    if setup.trust_anchor_arn:
        found = _named([each for each in anchors if each.arn == setup.trust_anchor_arn], flag, setup.trust_anchor_arn)
    else:
        of_name = [each for each in anchors if each.name == setup.name]
        with_ca = [each for each in anchors if each.bundle is not None and not each.missing(setup.cas)]
        both = [each for each in of_name if each in with_ca]
        found = _only(both or of_name or with_ca, f"trust anchors of the name {setup.name!r} or with this CA", flag)
    if found is not None:
        _check_anchor(found, setup)
    elif setup.add_ca:
        hint = f"Give {flag}, or --name with the name of the trust anchor"
        raise UsageError(f"there is no trust anchor {setup.name!r} to add the CA to", hint)
    return found


def choose_profile(
    profiles: Sequence[RolesAnywhereProfile], setup: Setup, role_arn: str
) -> RolesAnywhereProfile | None:
    """Return the Roles Anywhere profile that a set-up means: the one that was named, of its name, or with its role.

    `role_arn` is empty if there is no role yet. Several that may be meant are a UsageError.
    """
    flag = "--profile-arn"
    if setup.profile_arn:
        return _named([each for each in profiles if each.arn == setup.profile_arn], flag, setup.profile_arn)
    of_name = [each for each in profiles if each.name == setup.name]
    with_role = [each for each in profiles if each.has(role_arn, setup.role)]
    both = [each for each in of_name if each in with_role]
    found = _only(
        both or of_name or with_role, f"Roles Anywhere profiles of the name {setup.name!r} or with this role", flag
    )
    if found and found.roles and not found.has(role_arn, setup.role):
        raise UsageError(
            f"Roles Anywhere profile {found.arn} has other roles: {', '.join(found.roles)}",
            f"Give {flag} to add this role to it, or --name to make another Roles Anywhere profile",
        )
    return found


def check_ca(certificates: Sequence[Certificate], now: datetime) -> None:
    """Check that the service would accept certificates in a trust anchor.

    Each is a CA's, has the key usage keyCertSign, is signed with a strong hash and valid now; and there are not too
    many.
    """
    if len(certificates) > MAX_CAS:
        problem = f"{certificates[0].source} has {len(certificates)} CA certificates, and a trust anchor has {MAX_CAS}"
        raise CertificateError(f"{problem} at most", "Give those that issue certificates now")
    for each in certificates:
        where, hint = f"certificate {each.subject} of {each.source}", "Give the CA's certificate"
        usage = key_usage(each.x509)
        if not is_ca(each.x509) or (usage is not None and not usage.key_cert_sign):
            raise CertificateError(f"{where} is not a CA certificate that may sign others", hint)
        if usage is None:
            raise CertificateError(f"{where} has no keyUsage, and AWS requires keyCertSign there", "Reissue it with it")
        if signature_hash(each.x509) in WEAK_HASHES:
            problem = f"{where} is signed with {signature_hash(each.x509).upper()}, and AWS's guide forbids that"
            raise CertificateError(problem, "Reissue it with SHA-256 or better")
        if each.x509.not_valid_after_utc <= now:
            raise CertificateError(f"{where} expired on {each.x509.not_valid_after_utc:%Y-%m-%d}", hint)
        if each.x509.not_valid_before_utc > now:
            begin = f"{each.x509.not_valid_before_utc:%Y-%m-%d}"
            raise CertificateError(f"{where} is not valid before {begin}", "Wait, or check the clock")


def is_mapped(tag: str, profile: Mapping[str, Any]) -> bool:
    """Return whether a profile's attribute mappings make a session tag, such as x509Subject/CN."""
    mappings = profile.get("attributeMappings")
    if mappings is None:
        return True
    part, _, name = tag.partition("/")
    for mapping in mappings:
        specifiers = [rule["specifier"] for rule in mapping.get("mappingRules", ())]
        if mapping["certificateField"].lower() == part.lower() and _is_among(name, specifiers):
            return True
    return False


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


def _read_role(clients: ServiceClients, setup: Setup) -> Role | None:
    found = clients.iam.find("get_role", RoleName=setup.role)
    if found is None:
        return None
    attached = []
    if setup.policies:
        attached = clients.iam.items("list_attached_role_policies", "AttachedPolicies", RoleName=setup.role)
    return Role.of(found["Role"], [each["PolicyArn"] for each in attached])


def _check_anchor(found: TrustAnchor, setup: Setup) -> None:
    if found.bundle is None:
        hint = "Give --name to make another one"
        raise UsageError(f"trust anchor {found.arn} has no certificate bundle, but another kind of source", hint)
    if found.missing(setup.cas) and not setup.add_ca:
        raise UsageError(
            f"trust anchor {found.arn} has other CAs: {subjects(found.bundle)}",
            "Add this one with --add-ca, or give --name to make another trust anchor",
        )
    if len(found.bundle) + len(found.missing(setup.cas)) > MAX_CAS:
        problem = f"trust anchor {found.arn} has {subjects(found.bundle)}, and may have {MAX_CAS} CAs at most"
        hint = "Remove an old one with aws rolesanywhere update-trust-anchor, or give --name to make another"
        raise UsageError(problem, hint)


def _is_among(name: str, specifiers: Sequence[str]) -> bool:
    name = "dns" if name.startswith("DNS/") else name.lower()
    every = {"name", "name/", "name/*"} if name.startswith("name/") else {"*"}
    return any(each.lower() == name or each.lower() in every for each in specifiers)


_Resource = TypeVar("_Resource", TrustAnchor, RolesAnywhereProfile)


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
