"""What tests of trials of AWS share: an access key, flags, time that passes only by sleeping."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from hwsigner.emulator import Emulator
from hwsigner.errors import HwsignerError
from trial_aws import add_arguments
from trial_aws.calls import TrialPace
from trial_aws.life import try_all

Flags = Callable[..., argparse.Namespace]
KEY = ("AKIDTRIAL", "a-secret-of-the-trial")
FEW = ("--only", "chains.one", "--only", "roles.principal-star", "--only", "trust.arn-variable")
MAKING = ("iam:CreateRole", "rolesanywhere:CreateTrustAnchor", "rolesanywhere:CreateProfile", "rolesanywhere:ImportCrl")


class FakeTime:
    """Time that only passes by sleeping.

    Attributes:
        on_sleep: called before each sleep.
    """

    def __init__(self) -> None:
        self.passed = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.on_sleep()
        self.passed += seconds


def resources(emulator: Emulator) -> list[str]:
    """Return the ARNs of all that is in the emulator."""
    world = emulator.world
    return [*world.roles, *world.trust_anchors, *world.profiles, *world.crls]


def flags_for(emulator: Emulator, folder: Path) -> Flags:
    """Return what parses the flags of a trial against the emulator."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    common = ("--region", "eu-central-1", "--endpoint", emulator.url, "--output", str(folder), "--yes")
    return lambda *more: parser.parse_args([*common, *more])


def strand(emulator: Emulator, flags: Flags, pace: TrialPace) -> None:
    """Let a trial end without deleting anything."""
    emulator.deny("iam:Delete*", "rolesanywhere:Delete*")
    with pytest.raises(HwsignerError, match="not everything was deleted"):
        try_all(flags(*FEW), pace)
    emulator.allow()
