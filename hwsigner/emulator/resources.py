"""Resources of the emulated account: trust anchors, profiles, revocation lists, subjects and roles."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509

from hwsigner.emulator.iam_policies import UnknownPolicy
from hwsigner.emulator.tags import DEFAULT_MAPPINGS, Mappings, parse_mappings
from hwsigner.trust_policy import TrustPolicy


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(kw_only=True)
class Resource:
    """What every resource of Roles Anywhere has.

    Attributes:
        arn: its ARN, with its ID.
        name: what the caller named it.
        alias: its alias, or an empty string.
        tags: its tags, by their keys.
        created_at: when it was made, aware and in UTC.
        updated_at: when it was last changed.
    """

    arn: str
    name: str = "unnamed"
    alias: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now)

    @property
    def id(self) -> str:
        """The last part of the ARN, a UUID."""
        return self.arn.rpartition("/")[2]

    @property
    def alias_arn(self) -> str:
        """The ARN by its alias, or an empty string."""
        prefix, _, rest = self.arn.rpartition(":")
        return f"{prefix}:alias/{rest.partition('/')[0]}/{self.alias}" if self.alias else ""


@dataclass
class TrustAnchor(Resource):
    """A trust anchor with the certificates of its bundle.

    Attributes:
        acm_pca_arn: the private CA that it refers to, or an empty string if it has a bundle.
        notifications: settings that differ from the default, by event.
    """

    arn: str
    certificates: list[x509.Certificate]
    enabled: bool = True
    acm_pca_arn: str = field(default="", kw_only=True)
    notifications: dict[str, Mapping[str, object]] = field(default_factory=dict, kw_only=True)


@dataclass
class Profile(Resource):
    """A profile: its roles, its session duration in seconds, and whether callers may name their sessions.

    Attributes:
        attribute_mappings: which names of the certificate become session tags. A ConfigError names what is invalid.
        session_policy: a policy in JSON, or an empty string. It is stored, and nothing more.
        managed_policies: ARNs of session policies. They are stored, and nothing more.
        require_instance_properties: stored, and nothing more, as in AWS.
        tip: the trusted identity propagation settings, as the API has them, or None.
        created_by: the account or ARN of the caller who created it, or an empty string.
    """

    arn: str
    roles: list[str]
    duration_seconds: int = 3600
    accept_role_session_name: bool = False
    enabled: bool = True
    attribute_mappings: Mappings = field(default_factory=lambda: DEFAULT_MAPPINGS)
    session_policy: str = field(default="", kw_only=True)
    managed_policies: list[str] = field(default_factory=list, kw_only=True)
    require_instance_properties: bool = field(default=False, kw_only=True)
    tip: Mapping[str, str] | None = field(default=None, kw_only=True)
    created_by: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        self.attribute_mappings = parse_mappings(self.attribute_mappings)


@dataclass
class Crl(Resource):
    """A certificate revocation list (CRL).

    Attributes:
        data: the list, in PEM.
        trust_anchor: the ARN of the trust anchor whose certificates it revokes.
        enabled: whether CreateSession obeys it.
    """

    arn: str
    data: bytes
    trust_anchor: str
    enabled: bool = False

    @property
    def parsed(self) -> x509.CertificateRevocationList:
        """The list, parsed."""
        return x509.load_pem_x509_crl(self.data)


@dataclass
class Subject(Resource):
    """A subject of certificates that asked for sessions.

    Attributes:
        x509_subject: the distinguished name, as in RFC 4514.
        last_seen_at: when it last asked for a session.
        credentials: the certificates that it showed, as the API lists them, by issuer and serial number.
        instance_properties: what it said about its instances, as the API lists it.
        enabled: always true.
    """

    arn: str
    x509_subject: str
    last_seen_at: datetime
    credentials: dict[tuple[str, str], Mapping[str, object]] = field(default_factory=dict, kw_only=True)
    instance_properties: list[Mapping[str, object]] = field(default_factory=list, kw_only=True)
    enabled: bool = field(default=True, kw_only=True)


@dataclass
class Role:
    """A role: its MaxSessionDuration in seconds, and who may assume it. By default, every certificate may.

    Attributes:
        principal_tags: tags that a session must have, named as in `aws:PrincipalTag/…`, such as "x509Subject/CN".
        trust_policy: must also allow the session, unless it is None.
        description: IAM's description of it.
        tags: its tags in IAM. They have no effect on sessions.
        policies: the ARNs of the attached policies. They have no effect on sessions.
        created: when it was made.
        boundary: the ARN of its permissions boundary; empty if it has none.
        visible_from: when Roles Anywhere sees it; None for always.
    """

    arn: str
    max_session_duration: int = 3600
    principal_tags: dict[str, str] = field(default_factory=dict)
    trust_policy: TrustPolicy | UnknownPolicy | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    policies: list[str] = field(default_factory=list)
    created: datetime = field(default_factory=_now)
    visible_from: datetime | None = None
    boundary: str = ""

    def is_visible(self, now: datetime) -> bool:
        """Return whether Roles Anywhere sees it."""
        return self.visible_from is None or self.visible_from <= now

    @property
    def id(self) -> str:
        """The unique ID, which begins with AROA."""
        return "AROA" + base64.b32encode(hashlib.sha256(self.arn.encode()).digest()).decode()[:16]

    @property
    def name(self) -> str:
        """The name, without the path."""
        return self.arn.rpartition("/")[2]


_Kind = TypeVar("_Kind", bound=Resource)


def by_arn(resources: Mapping[str, _Kind], arn: str) -> _Kind | None:
    """Return the resource with an ARN or alias ARN, or None."""
    return resources.get(arn) or next((each for each in resources.values() if each.alias_arn == arn), None)
