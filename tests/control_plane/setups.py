"""What set-ups are made of, for tests."""

from __future__ import annotations

from typing import Any

import certs
from hwsigner._control_plane.resources import Existing, Role, RolesAnywhereProfile, Setup, TrustAnchor
from hwsigner._identity.certificate import Certificate
from hwsigner.trust_policy.writing import write_trust_policy

ANCHOR_ARN = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/a1a1a1a1-0000-4000-8000-000000000001"
PROFILE_ARN = "arn:aws:rolesanywhere:eu-central-1:123456789012:profile/a1a1a1a1-0000-4000-8000-000000000002"
ROLE_ARN = "arn:aws:iam::123456789012:role/web"
TAGS = {"x509Subject/CN": ["bamboo-01"], "x509Subject/OU": ["devops"]}
CA, OTHER_CA = certs.make_ca(), certs.make_ca("Other CA")


def setup(*cas: certs.Authority, **more: Any) -> Setup:
    found = tuple(Certificate(each.certificate, "ca.pem") for each in cas or (CA,))
    return Setup(**{"name": "web", "role": "web", "cas": found, "tags": TAGS, **more})


def anchor(*cas: certs.Authority, arn: str = ANCHOR_ARN, name: str = "web", enabled: bool = True) -> TrustAnchor:
    bundle = tuple(Certificate(each.certificate, f"trust anchor {name!r}") for each in cas or (CA,))
    return TrustAnchor(arn, name, enabled, bundle)


def role(policy: dict[str, Any] | None = None, longest: int = 3600, policies: tuple[str, ...] = ()) -> Role:
    return Role(ROLE_ARN, "web", policy or write_trust_policy(TAGS, trust_anchor=ANCHOR_ARN), longest, policies)


def profile(
    *roles: str, arn: str = PROFILE_ARN, name: str = "web", enabled: bool = True, duration: int = 3600
) -> RolesAnywhereProfile:
    return RolesAnywhereProfile(arn, name, enabled, roles, duration)


def complete() -> Existing:
    return Existing(anchor(), role(), profile(ROLE_ARN))
