"""The emulated account: its resources, by ARN."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509

from hwsigner.emulator.arns import REGION, parse_arn, partition_of
from hwsigner.emulator.differences import Difference
from hwsigner.emulator.resources import Crl, Profile, Role, Subject, TrustAnchor
from hwsigner.errors import CertificateError, UsageError
from hwsigner.trust_policy import TrustPolicy

ACCOUNT = "123456789012"
ROLE_NAME = "hwsigner-demo"
PROFILE_ID = "11111111-1111-4111-8111-111111111111"
CertificateSource = bytes | x509.Certificate


@dataclass
class World:
    """The resources of the emulated accounts, by ARN. They may be changed while the emulator runs.

    Attributes:
        private_cas: the certificates of AWS Private CAs, by their ARNs, for trust anchors that refer to them.
        session_path: the raw path of CreateSession. Change it to test how a client signs paths.
        rate: how many requests a second the control plane takes for each kind of resource; None for any number.
        role_delay: for how many seconds after CreateRole the role is not visible to Roles Anywhere.
        denied: the actions that no caller may do, such as "iam:PassRole" or "iam:*", and what does not allow them.
        policies: the managed policies that there are, by ARN, with the actions that each allows; None if there is every
            one, and allows everything.
        differing: what is answered otherwise than AWS is assumed to answer.
        required_boundary: the permissions boundary that a role must have; empty if none is required.
    """

    trust_anchors: dict[str, TrustAnchor] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    session_path: str = "/sessions"
    crls: dict[str, Crl] = field(default_factory=dict)
    subjects: dict[str, Subject] = field(default_factory=dict)
    private_cas: dict[str, x509.Certificate] = field(default_factory=dict)
    denied: dict[str, str] = field(default_factory=dict)
    rate: float | None = None
    role_delay: float = 0
    policies: dict[str, tuple[str, ...]] | None = None
    required_boundary: str = ""
    differing: set[Difference] = field(default_factory=set)

    @property
    def account(self) -> str:
        """The account of the first resource, or 123456789012 if there are none."""
        arns = (*self.trust_anchors, *self.profiles, *self.roles)
        return next((arn.split(":")[4] for arn in arns), ACCOUNT)

    @classmethod
    def simple(
        cls,
        trust_anchor: CertificateSource | Iterable[CertificateSource],
        *,
        region: str = "us-east-1",
        account: str = ACCOUNT,
        accept_role_session_name: bool = False,
        trust_policy: TrustPolicy | None = None,
    ) -> World:
        """Make a world with one profile and one role, with fixed ARNs.

        Args:
            trust_anchor: a certificate, PEM bytes with one or more, or several of these, each for its own anchor.
            region: the region of the trust anchors and the profile.
            account: twelve digits.
            accept_role_session_name: whether the profile lets callers name their sessions.
            trust_policy: the role's; None to let every certificate assume it.

        Raises:
            UsageError: the region or account is malformed, or there is no trust anchor.
            CertificateError: the bytes contain no certificate.
        """
        sources = [trust_anchor] if isinstance(trust_anchor, bytes | x509.Certificate) else list(trust_anchor)
        role = Role(f"arn:{partition_of(region)}:iam::{account}:role/{ROLE_NAME}", trust_policy=trust_policy)
        prefix = f"arn:{partition_of(region)}:rolesanywhere:{region}:{account}"
        profile_arn = f"{prefix}:profile/{PROFILE_ID}"
        profile = Profile(profile_arn, [role.arn], accept_role_session_name=accept_role_session_name)
        anchors = [
            TrustAnchor(f"{prefix}:trust-anchor/00000000-0000-4000-8000-{number:012x}", read_certificates(source))
            for number, source in enumerate(sources)
        ]
        if not REGION.fullmatch(region) or not parse_arn(profile.arn, "profile"):
            problem = f"no such region or account: {region}, {account}"
            raise UsageError(problem, "Give a region like us-east-1 and an account of twelve digits")
        if not anchors:
            raise UsageError("the emulator has no trust anchor", "Give the certificate of at least one CA")
        return cls({anchor.arn: anchor for anchor in anchors}, {profile.arn: profile}, {role.arn: role})


def read_certificates(source: CertificateSource) -> list[x509.Certificate]:
    """Return the certificates in PEM or DER bytes. Bytes without one are a CertificateError."""
    if isinstance(source, x509.Certificate):
        return [source]
    try:
        if b"-----BEGIN" in source:
            return x509.load_pem_x509_certificates(source)
        return [x509.load_der_x509_certificate(source)]
    except ValueError as error:
        raise CertificateError("a trust anchor's certificate can't be read", "Give PEM or DER of a CA") from error
