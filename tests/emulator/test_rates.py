"""The rate of requests that the emulated control plane takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from certs import Authority
from emulator.planes import bundle, client, refused
from hwsigner.emulator import Emulator, World
from hwsigner.emulator.iam_policies import open_policy

THROTTLED = ("ThrottlingException", "Rate exceeded")


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plane(clock: Clock) -> Iterator[Any]:
    with Emulator(World(rate=2), clock=clock) as emulator:
        yield client(emulator)


def test_second_request_of_a_kind_is_refused_until_the_time_has_passed(plane: Any, clock: Clock) -> None:
    plane.list_profiles()
    assert refused(plane.list_profiles) == THROTTLED
    clock.sleep(0.49)
    assert refused(plane.create_profile, name="p", roleArns=[]) == THROTTLED
    clock.sleep(0.01)
    plane.create_profile(name="p", roleArns=[])
    assert refused(plane.list_profiles) == THROTTLED


def test_refused_request_is_not_carried_out(plane: Any, clock: Clock, ca: Authority) -> None:
    plane.list_trust_anchors()
    assert refused(plane.create_trust_anchor, name="a", source=bundle(ca.pem)) == THROTTLED
    clock.sleep(1)
    assert plane.list_trust_anchors()["trustAnchors"] == []


def test_each_kind_has_its_own_rate(plane: Any) -> None:
    plane.list_profiles()
    plane.list_trust_anchors()
    plane.list_crls()
    plane.list_subjects()


def test_each_region_has_its_own_rate(clock: Clock) -> None:
    with Emulator(World(rate=1), clock=clock) as emulator:
        client(emulator).list_profiles()
        client(emulator, "eu-west-1").list_profiles()
        assert refused(client(emulator).list_profiles) == THROTTLED


def test_new_role_is_not_visible_to_roles_anywhere_for_some_seconds(clock: Clock, ca: Authority) -> None:
    with Emulator(World(role_delay=5), clock=clock) as emulator:
        plane, iam = client(emulator), client(emulator, service="iam")
        role = iam.create_role(RoleName="web", AssumeRolePolicyDocument=open_policy({}))["Role"]["Arn"]
        assert iam.get_role(RoleName="web")["Role"]["Arn"] == role
        assert refused(plane.create_profile, name="p", roleArns=[role])[0] == "ResourceNotFoundException"
        clock.sleep(5)
        plane.create_profile(name="p", roleArns=[role])


def test_no_rate_is_the_default(emulator: Emulator) -> None:
    plane = client(emulator)
    for _ in range(3):
        plane.list_profiles()
