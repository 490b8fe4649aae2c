"""The machine that the tests of the first boot share."""

from __future__ import annotations

import pytest

from machine.guest.commands import PACKAGES, done
from machine.guest.first_boot.setting_up import Machine


@pytest.fixture(scope="session")
def machine() -> Machine:
    if PACKAGES:
        done("apt-get", "install", "--yes", *PACKAGES)
    done("useradd", "--create-home", "alice")
    return Machine()
