"""A CloudFormation template of a trust anchor, a role and a profile, in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hwsigner.control_plane.wanted import DEFAULT_DURATION, Wanted
from hwsigner.identity.bundle import write_bundle
from hwsigner.trust_policy.writing import for_trust_anchor


def template(wanted: Wanted, policy: Mapping[str, Any]) -> str:
    """Return the template. The policy's trust anchor becomes the template's own."""
    anchor = {"Fn::GetAtt": ["TrustAnchor", "TrustAnchorArn"]}
    duration = wanted.duration or DEFAULT_DURATION
    source = {
        "SourceType": "CERTIFICATE_BUNDLE",
        "SourceData": {"X509CertificateData": write_bundle(wanted.cas)},
    }
    resources = {
        "TrustAnchor": _resource("RolesAnywhere::TrustAnchor", Name=wanted.name, Enabled=True, Source=source),
        "Role": _resource(
            "IAM::Role",
            RoleName=wanted.role,
            MaxSessionDuration=max(duration, DEFAULT_DURATION),
            AssumeRolePolicyDocument=for_trust_anchor(policy, anchor),
        ),
        "Profile": _resource(
            "RolesAnywhere::Profile",
            Name=wanted.name,
            Enabled=True,
            DurationSeconds=duration,
            RoleArns=[{"Fn::GetAtt": ["Role", "Arn"]}],
        ),
    }
    arns = {"TrustAnchor": "TrustAnchorArn", "Profile": "ProfileArn", "Role": "Arn"}
    document = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"IAM Roles Anywhere: who may assume the role {wanted.role}",
        "Resources": resources,
        "Outputs": {f"{name}Arn": {"Value": {"Fn::GetAtt": [name, attribute]}} for name, attribute in arns.items()},
    }
    return json.dumps(document, indent=2)


def _resource(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::{kind}", "Properties": properties}
