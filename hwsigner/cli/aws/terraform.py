"""A Terraform (or OpenTofu) configuration of a trust anchor, a role and a profile, in HCL."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hwsigner.control_plane.wanted import DEFAULT_DURATION, Wanted
from hwsigner.identity.bundle import write_bundle
from hwsigner.trust_policy.writing import for_trust_anchor

_TEMPLATE = """\
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
  max_session_duration = {max_duration}

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


def template(wanted: Wanted, policy: Mapping[str, Any]) -> str:
    """Return the configuration. The policy's trust anchor becomes the configuration's own."""
    label = "role_" + re.sub(r"\W", "_", wanted.role, flags=re.ASCII)
    anchor = _Expression(f"aws_rolesanywhere_trust_anchor.{label}.arn")
    duration = wanted.duration or DEFAULT_DURATION
    return _TEMPLATE.format(
        label=label,
        name=_hcl(wanted.name),
        role=_hcl(wanted.role),
        bundle="\n".join(f"        {line}" for line in write_bundle(wanted.cas).splitlines()),
        policy=_hcl(for_trust_anchor(policy, anchor), "  "),
        duration=duration,
        max_duration=max(duration, DEFAULT_DURATION),
    )


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
