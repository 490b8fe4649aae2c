"""What the emulated account holds: trust anchors, profiles and roles; made in code or read from a TOML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cryptography import x509

from hwsigner.emulator.arns import REGION, parse_arn, partition_of
from hwsigner.errors import CertificateError, UsageError

ROLE_NAME = "hwsigner-demo"
PROFILE_ID = "11111111-1111-4111-8111-111111111111"
CertificateSource = bytes | x509.Certificate


@dataclass
class TrustAnchor:
    """a trust anchor and the certificates of its bundle."""

    arn: str
    certificates: list[x509.Certificate]
    enabled: bool = True


@dataclass
class Profile:
    """A profile: which roles it lists, its session duration in seconds, and whether it lets callers name sessions."""

    arn: str
    roles: list[str]
    duration_seconds: int = 3600
    accept_role_session_name: bool = False
    enabled: bool = True


@dataclass
class Role:
    """A role, its MaxSessionDuration in seconds, and the principal tags that its trust policy asks for.

    A tag's name is as in `aws:PrincipalTag/…`, such as "x509Subject/CN".
    """

    arn: str
    max_session_duration: int = 3600
    principal_tags: dict[str, str] = field(default_factory=dict)


@dataclass
class World:
    """Everything that the emulator knows, by ARN. It may be changed while the emulator runs.

    Attributes:
        session_path: the wire path at which CreateSession is answered; other than the real one, it serves to
            test how a client signs paths.
    """

    trust_anchors: dict[str, TrustAnchor] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    session_path: str = "/sessions"

    @classmethod
    def simple(
        cls,
        trust_anchor: CertificateSource | Iterable[CertificateSource],
        *,
        region: str = "us-east-1",
        account: str = "123456789012",
        accept_role_session_name: bool = False,
    ) -> World:
        """Make a world of one profile and one role, with fixed ARNs.

        Args:
            trust_anchor: a certificate, or PEM bytes with one or more, or several of these: each is a trust
                anchor of its own.
            region: where trust anchors and profile are.
            account: twelve digits.
            accept_role_session_name: whether the profile lets callers name their sessions.

        Raises:
            UsageError: a region or account of the wrong form, or no trust anchor.
            CertificateError: bytes that hold no certificate.
        """
        sources = [trust_anchor] if isinstance(trust_anchor, bytes | x509.Certificate) else list(trust_anchor)
        role = Role(f"arn:{partition_of(region)}:iam::{account}:role/{ROLE_NAME}")
        prefix = f"arn:{partition_of(region)}:rolesanywhere:{region}:{account}"
        profile = Profile(
            f"{prefix}:profile/{PROFILE_ID}", [role.arn], accept_role_session_name=accept_role_session_name
        )
        anchors = [TrustAnchor(_anchor_arn(prefix, n), read_certificates(source)) for n, source in enumerate(sources)]
        if not REGION.fullmatch(region) or not parse_arn(profile.arn, "profile"):
            raise UsageError(
                f"no such region or account: {region}, {account}",
                "A region is like us-east-1, an account has twelve digits",
            )
        if not anchors:
            raise UsageError("the emulator has no trust anchor", "Give the certificate of at least one CA")
        return cls({anchor.arn: anchor for anchor in anchors}, {profile.arn: profile}, {role.arn: role})


def read_certificates(source: CertificateSource) -> list[x509.Certificate]:
    """Return the certificates of PEM or DER bytes.

    Raises:
        CertificateError: the bytes hold no certificate.
    """
    if isinstance(source, x509.Certificate):
        return [source]
    try:
        if b"-----BEGIN" in source:
            return x509.load_pem_x509_certificates(source)
        return [x509.load_der_x509_certificate(source)]
    except ValueError as error:
        raise CertificateError("a trust anchor's certificate can't be read", "Give PEM or DER of a CA") from error


def missing_tags(wanted: Mapping[str, str], held: Mapping[str, str]) -> list[str]:
    """Return the names of the tags whose values are not the wanted ones."""
    return [name for name, value in wanted.items() if held.get(name) != value]


def _anchor_arn(prefix: str, number: int) -> str:
    return f"{prefix}:trust-anchor/00000000-0000-4000-8000-{number:012x}"
