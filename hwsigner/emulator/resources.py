"""Resources of the emulated account: trust anchors, profiles and roles."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

from hwsigner.emulator.iam_policies import UnknownPolicy
from hwsigner.emulator.tags import DEFAULT_MAPPINGS, Mappings, parse_mappings
from hwsigner.trust_policy import TrustPolicy


@dataclass
class TrustAnchor:
    """A trust anchor with the certificates of its bundle."""

    arn: str
    certificates: list[x509.Certificate]
    enabled: bool = True


@dataclass
class Profile:
    """A profile: its roles, its session duration in seconds, and whether callers may name their sessions.

    Attributes:
        attribute_mappings: which names of the certificate become session tags. A ConfigError names what is invalid.
    """

    arn: str
    roles: list[str]
    duration_seconds: int = 3600
    accept_role_session_name: bool = False
    enabled: bool = True
    attribute_mappings: Mappings = field(default_factory=lambda: DEFAULT_MAPPINGS)

    def __post_init__(self) -> None:
        self.attribute_mappings = parse_mappings(self.attribute_mappings)


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
    """

    arn: str
    max_session_duration: int = 3600
    principal_tags: dict[str, str] = field(default_factory=dict)
    trust_policy: TrustPolicy | UnknownPolicy | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    policies: list[str] = field(default_factory=list)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def id(self) -> str:
        """The unique ID, which begins with AROA."""
        return "AROA" + base64.b32encode(hashlib.sha256(self.arn.encode()).digest()).decode()[:16]

    @property
    def name(self) -> str:
        """The name, without the path."""
        return self.arn.rpartition("/")[2]
