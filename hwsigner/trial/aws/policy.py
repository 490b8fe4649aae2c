"""The least IAM policy that suffices for a trial."""

from __future__ import annotations

import json
from typing import Any

from hwsigner.trial.aws.calls import PATH, TAG

_IAM = ("CreateRole", "DeleteRole", "GetRole", "ListRoleTags", "TagRole", "UpdateAssumeRolePolicy")
_MAKING = ("CreateProfile", "CreateTrustAnchor", "ImportCrl", "TagResource")
_OWN = (
    *("DeleteAttributeMapping", "DeleteCrl", "DeleteProfile", "DeleteTrustAnchor", "DisableCrl", "DisableProfile"),
    *("DisableTrustAnchor", "EnableCrl", "EnableProfile", "EnableTrustAnchor", "GetCrl", "GetProfile"),
    *("GetTrustAnchor", "PutAttributeMapping", "UpdateCrl", "UpdateProfile", "UpdateTrustAnchor"),
)
_LISTING = ("ListCrls", "ListProfiles", "ListTagsForResource", "ListTrustAnchors")


def least_policy() -> dict[str, Any]:
    """Return the policy."""
    roles = f"arn:*:iam::*:role{PATH}*"
    linked = "arn:*:iam::*:role/aws-service-role/rolesanywhere.amazonaws.com/*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": [f"iam:{each}" for each in (*_IAM, "PassRole")], "Resource": roles},
            {"Effect": "Allow", "Action": "iam:CreateServiceLinkedRole", "Resource": linked},
            {
                "Effect": "Allow",
                "Action": ["iam:ListRoles", *(f"rolesanywhere:{each}" for each in _LISTING)],
                "Resource": "*",
            },
            {
                "Effect": "Allow",
                "Action": [f"rolesanywhere:{each}" for each in _MAKING],
                "Resource": "*",
                "Condition": {"Null": {f"aws:RequestTag/{TAG}": "false"}},
            },
            {
                "Effect": "Allow",
                "Action": [f"rolesanywhere:{each}" for each in _OWN],
                "Resource": "*",
                "Condition": {"Null": {f"aws:ResourceTag/{TAG}": "false"}},
            },
        ],
    }


def policy_text() -> str:
    """Return the policy as JSON."""
    return json.dumps(least_policy(), indent=2)
