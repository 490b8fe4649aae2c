"""Differences, beyond what the questions say: tests/trial/test_differing_emulator.py asks them of each one."""

from __future__ import annotations

import pytest

from certs import Authority
from emulator.client import Caller, create_session
from emulator.test_iam import document
from hwsigner.emulator import Difference, Emulator, World
from hwsigner.errors import UsageError
from hwsigner.trust_policy import TrustPolicy


def test_differences_of_trust_policies_change_nothing_else(ca: Authority, caller: Caller) -> None:
    world = World.simple(ca.pem)
    with Emulator(world) as emulator:
        condition = {
            "ForAllValues:StringEquals": {"aws:PrincipalTag/x509Subject/CN": "bamboo-01"},
            "ArnLike": {"aws:SourceArn": f"{emulator.trust_anchor_arn[:-4]}*"},
        }
        world.roles[emulator.role_arn].trust_policy = TrustPolicy(document(Condition=condition))
        for differing in (set(), {Difference.FOR_ALL_NEEDS_KEY, Difference.ARN_STAR}):
            world.differing = differing
            assert create_session(emulator, caller).status == 201


def test_an_unknown_difference_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match="unknown difference: firstvalue") as caught:
        Difference.named("firstvalue")
    assert "first-value" in str(caught.value.hint)
    assert Difference.named("first-value") is Difference.FIRST_VALUE
