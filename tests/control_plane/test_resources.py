"""Descriptions of resources that lack what every resource has: an error of the service, and no crash."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.setups import ANCHOR_ARN, PROFILE_ARN, ROLE_ARN, TAGS
from hwsigner.control_plane.policies import with_statement
from hwsigner.control_plane.resources import Role, RolesAnywhereProfile, TrustAnchor
from hwsigner.errors import ServiceError

ANCHOR = {"trustAnchorArn": ANCHOR_ARN, "name": "web"}
PROFILE = {"profileArn": PROFILE_ARN, "name": "web"}
ROLE = {"Arn": ROLE_ARN, "RoleName": "web", "AssumeRolePolicyDocument": {}}


@pytest.mark.parametrize(
    ("kind", "whole", "member"),
    [
        *((TrustAnchor, ANCHOR, member) for member in ANCHOR),
        *((RolesAnywhereProfile, PROFILE, member) for member in PROFILE),
        *((Role, ROLE, member) for member in ROLE),
    ],
)
def test_description_without_a_member_is_an_error_of_the_service(kind: Any, whole: dict[str, Any], member: str) -> None:
    kind.of(whole)
    with pytest.raises(ServiceError):
        kind.of({name: value for name, value in whole.items() if name != member})


@pytest.mark.parametrize("document", ["not JSON", [], None])
def test_trust_policy_that_is_not_an_object_is_an_error_of_the_service(document: Any) -> None:
    with pytest.raises(ServiceError, match=r"role .* has a trust policy that can't be read"):
        Role.of({**ROLE, "AssumeRolePolicyDocument": document})


def test_statement_is_added_beside_odd_ones() -> None:
    odd: list[Any] = [1, None, {"Sid": ["a"], "Condition": []}, {"Sid": {}}]
    after = with_statement({"Statement": odd}, TAGS, ANCHOR_ARN)
    assert after["Statement"][:-1] == odd
    assert after["Statement"][-1]["Sid"] == "Hwsigner1"
