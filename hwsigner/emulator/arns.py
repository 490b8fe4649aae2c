"""The Amazon Resource Names that CreateSession uses."""

from __future__ import annotations

import re
from typing import NamedTuple

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PARTITION = r"aws(?:-[a-z]+)*"
_ACCOUNT = r"\d{12}"
REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d", re.ASCII)
_ANYWHERE = re.compile(
    rf"arn:({_PARTITION}):rolesanywhere:({REGION.pattern}):({_ACCOUNT}):(trust-anchor|profile)/({_UUID})", re.ASCII
)
_ALIAS = re.compile(
    rf"arn:({_PARTITION}):rolesanywhere:({REGION.pattern}):({_ACCOUNT}):alias/(trust-anchor|profile)"
    r"/((?!.*//)[A-Za-z](?:[\w/-]{0,254}[\w-])?)",
    re.ASCII,
)
_ROLE = re.compile(rf"arn:({_PARTITION}):iam:():({_ACCOUNT}):(role)/((?:[\x21-\x7e]+/)?[\w+=,.@-]{{1,64}})", re.ASCII)


class Arn(NamedTuple):
    """The parts of an ARN. The resource is what follows the resource type and its slash."""

    partition: str
    region: str
    account: str
    resource_type: str
    resource: str


def parse_arn(text: str, resource_type: str) -> Arn | None:
    """Parse the ARN of a trust-anchor, profile or role. Return None if it is not an ARN of that resource type."""
    match = (_ROLE if resource_type == "role" else _ANYWHERE).fullmatch(text)
    arn = Arn(*match.groups()) if match else None
    return arn if arn and arn.resource_type == resource_type else None


def parse_alias_arn(text: str, resource_type: str) -> Arn | None:
    """Parse the alias ARN of a trust-anchor or profile. The resource is the alias."""
    match = _ALIAS.fullmatch(text)
    arn = Arn(*match.groups()) if match else None
    return arn if arn and arn.resource_type == resource_type else None


def partition_of(region: str) -> str:
    """Return the partition of a region."""
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "eusc-": "aws-eusc"}
    return next((name for prefix, name in prefixes.items() if region.startswith(prefix)), "aws")
