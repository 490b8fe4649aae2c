"""What tests of trials of AWS share: an access key, flags, time that passes only by sleeping."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from hwsigner.emulator import Emulator

Flags = Callable[..., argparse.Namespace]
KEY = ("AKIDTRIAL", "a-secret-of-the-trial")


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
