"""A small fleet, all of whose processes are killed at random; `tests/bench/enrolment.py` has one of twenty machines."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrolment.fleet_checks import check_files, check_issued, check_machine, check_stranger, check_taken_out
from enrolment.fleets import Fleet, Kills, running

SECONDS = 300.0
KILLS = Kills(of_machine=2, machine_pause=6.0, of_server=5, server_pause=2.0)


@pytest.fixture(scope="module")
def fleet(hardware: None) -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="hwf-") as folder, running(Path(folder), 3, random.Random(14)) as fleet:
        yield fleet


@pytest.mark.slow
@pytest.mark.timeout(900)  # A busy machine kills as often, and gets less done between the kills.
def test_fleet_ends_with_a_role_and_one_pair_each_whatever_is_killed(fleet: Fleet) -> None:
    chance = random.Random(6)
    fleet.wave(fleet.enrol, KILLS, chance, SECONDS)
    for machine in fleet.machines:
        check_machine(fleet, machine)
        check_files(machine, "web.tss2", "web.crt")
    check_issued(fleet)
    check_stranger(fleet)

    before = [machine.certificates()[0].serial_number for machine in fleet.machines]
    fleet.wave(lambda one: ["renew", "web", f"--new-key={one.next_key}"], KILLS, chance, SECONDS)
    for machine, serial in zip(fleet.machines, before, strict=True):
        check_machine(fleet, machine)
        assert machine.certificates()[0].serial_number != serial
    check_issued(fleet)
    check_taken_out(fleet)
