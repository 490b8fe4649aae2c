"""The least IAM policy that suffices for a trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trial_aws.calls import PATH, TAG

_IAM = ("CreateRole", "DeleteRole", "ListRoleTags", "PassRole", "TagRole", "UpdateAssumeRolePolicy")
_MAKING = ("CreateProfile", "CreateTrustAnchor", "ImportCrl", "TagResource")
_OWN = (
    *("DeleteAttributeMapping", "DeleteCrl", "DeleteProfile", "DeleteTrustAnchor", "DisableCrl", "DisableProfile"),
    *("DisableTrustAnchor", "EnableCrl", "PutAttributeMapping", "UpdateTrustAnchor"),
)
# Subjects have no tag, as the service notes them by itself. What is not there has none either.
_READING = ("GetSubject", "ListCrls", "ListProfiles", "ListTagsForResource", "ListTrustAnchors")
_LINKED = "role/aws-service-role/rolesanywhere.amazonaws.com/*"


def least_policy(partition: str = "aws") -> dict[str, Any]:
    """Return the policy."""
    made, own = (_tagged(key) for key in ("aws:RequestTag", "aws:ResourceTag"))
    statements = [
        _allowed("iam", _IAM, f"arn:{partition}:iam::*:role{PATH}*"),
        _allowed("iam", ("CreateServiceLinkedRole",), f"arn:{partition}:iam::*:{_LINKED}"),
        _allowed("iam", ("ListRoles",)),
        _allowed("rolesanywhere", _READING),
        {**_allowed("rolesanywhere", _MAKING), "Condition": made},
        {**_allowed("rolesanywhere", _OWN), "Condition": own},
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def policy_text(partition: str) -> str:
    """Return the policy as JSON."""
    return json.dumps(least_policy(partition), indent=2)


def _allowed(service: str, actions: Sequence[str], resource: str = "*") -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [f"{service}:{each}" for each in actions], "Resource": resource}


def _tagged(key: str) -> dict[str, Any]:
    return {"Null": {f"{key}/{TAG}": "false"}}
