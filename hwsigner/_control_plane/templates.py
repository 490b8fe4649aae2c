"""Templates of a trust anchor, a role and a Roles Anywhere profile, for CloudFormation and Terraform (or OpenTofu)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hwsigner._control_plane.resources import DEFAULT_DURATION, Setup
from hwsigner._identity.bundle import write_bundle
from hwsigner.errors import UsageError
from hwsigner.trust_policy.writing import for_trust_anchor

_TERRAFORM = """\
terraform {{
  required_providers {{
    aws = {{
      source = "hashicorp/aws"
    }}
  }}
}}

resource "aws_rolesanywhere_trust_anchor" "{label}" {{
  name    = {name}
  enabled = true

  source {{
    source_type = "CERTIFICATE_BUNDLE"

    source_data {{
      x509_certificate_data = <<-EOT
{bundle}
      EOT
    }}
  }}
}}

resource "aws_iam_role" "{label}" {{
  name                 = {role}
  max_session_duration = {max_duration}{boundary}

  assume_role_policy = jsonencode({policy})
}}

resource "aws_rolesanywhere_profile" "{label}" {{
  name             = {name}
  enabled          = true
  duration_seconds = {duration}
  role_arns        = [aws_iam_role.{label}.arn]
}}

output "trust_anchor_arn" {{
  value = aws_rolesanywhere_trust_anchor.{label}.arn
}}

output "profile_arn" {{
  value = aws_rolesanywhere_profile.{label}.arn
}}

output "role_arn" {{
  value = aws_iam_role.{label}.arn
}}"""


class _Expression(str):
    """Text that is HCL already."""

    __slots__ = ()


def cloudformation(setup: Setup, policy: Mapping[str, Any]) -> str:
    """Return a CloudFormation template in JSON. The policy's trust anchor becomes the template's own."""
    anchor = {"Fn::GetAtt": ["TrustAnchor", "TrustAnchorArn"]}
    duration = setup.duration or DEFAULT_DURATION
    source = {"SourceType": "CERTIFICATE_BUNDLE", "SourceData": {"X509CertificateData": write_bundle(setup.cas)}}
    resources = {
        "TrustAnchor": _resource("RolesAnywhere::TrustAnchor", Name=setup.name, Enabled=True, Source=source),
        "Role": _resource(
            "IAM::Role",
            RoleName=setup.role,
            MaxSessionDuration=max(duration, DEFAULT_DURATION),
            AssumeRolePolicyDocument=for_trust_anchor(policy, anchor),
            **({"PermissionsBoundary": setup.boundary} if setup.boundary else {}),
        ),
        "Profile": _resource(
            "RolesAnywhere::Profile",
            Name=setup.name,
            Enabled=True,
            DurationSeconds=duration,
            RoleArns=[{"Fn::GetAtt": ["Role", "Arn"]}],
        ),
    }
    arns = {"TrustAnchor": "TrustAnchorArn", "Profile": "ProfileArn", "Role": "Arn"}
    document = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"IAM Roles Anywhere: who may assume the role {setup.role}",
        "Resources": resources,
        "Outputs": {f"{name}Arn": {"Value": {"Fn::GetAtt": [name, attribute]}} for name, attribute in arns.items()},
    }
    return json.dumps(document, indent=2)


def terraform(setup: Setup, policy: Mapping[str, Any]) -> str:
    """Return a Terraform configuration in HCL. The policy's trust anchor becomes the configuration's own."""
    label = "role_" + re.sub(r"\W", "_", setup.role, flags=re.ASCII)
    anchor = _Expression(f"aws_rolesanywhere_trust_anchor.{label}.arn")
    duration = setup.duration or DEFAULT_DURATION
    return _TERRAFORM.format(
        label=label,
        name=_hcl(setup.name),
        role=_hcl(setup.role),
        bundle="\n".join(f"        {line}" for line in write_bundle(setup.cas).splitlines()),
        policy=_hcl(for_trust_anchor(policy, anchor), "  "),
        duration=duration,
        boundary=f"\n  permissions_boundary = {_hcl(setup.boundary)}" if setup.boundary else "",
        max_duration=max(duration, DEFAULT_DURATION),
    )


def check_characters(tags: Mapping[str, Sequence[str]]) -> None:
    """Check that IAM accepts the values as they are: a template can't escape them in the policy's JSON."""
    for tag, values in tags.items():
        for character in "".join(values):
            if character > "\xff":
                problem = f"{tag} has {character!r}, and a policy of IAM has no characters above U+00FF"
                raise UsageError(problem, "Compare another name, or write ? for this character in --match")


TEMPLATES = {"cloudformation": cloudformation, "terraform": terraform}


def _resource(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::{kind}", "Properties": properties}


def _hcl(value: Any, indent: str = "") -> str:
    """Return a value of JSON as an HCL expression."""
    if isinstance(value, _Expression):
        return value
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
    if isinstance(value, Mapping):
        lines = [f"{indent}  {_hcl(key)} = {_hcl(each, indent + '  ')}" for key, each in value.items()]
        return "\n".join(["{", *lines, f"{indent}}}"])
    return f"[{', '.join(_hcl(each, indent) for each in value)}]"
