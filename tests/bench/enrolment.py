"""Twenty machines enrol and renew while all processes are killed: `python tests/bench/enrolment.py [COUNT [SEED]]`.

Each machine has a swtpm and a home folder. They reach two registrars behind one address, and those one CA. Prints the
figures; ends with a traceback if anything is not as it must be.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
# Instead of this folder: this file has the name of a folder of tests.
sys.path[:1] = [str(TESTS), str(TESTS.parent)]

from enrolment.fleet_checks import (  # noqa: E402
    check_files,
    check_issued,
    check_machine,
    check_stranger,
    check_taken_out,
)
from enrolment.fleet_machine import KILLED, Machine  # noqa: E402
from enrolment.fleets import Fleet, Kills, running  # noqa: E402

KILLS = Kills(of_machine=4, machine_pause=24.0, of_server=30, server_pause=4.0)
SECONDS = 900.0


def main(count: int, seed: int) -> None:
    """Run the fleet and print the figures."""
    os.umask(0o022)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else max(soft, 4096), hard))
    began, chance = time.monotonic(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="hwf-") as folder, running(Path(folder), count, chance) as fleet:
        print(f"{count} machines with a TPM each and two registrars: {time.monotonic() - began:.0f} s", flush=True)
        _wave(fleet, "enrolled", fleet.enrol, chance)
        for machine in fleet.machines:
            check_files(machine, "web.tss2", "web.crt")
        check_stranger(fleet)
        _wave(fleet, "renewed with the same key", lambda one: ["renew", "web"], chance)
        _wave(fleet, "renewed with a new key", lambda one: ["renew", "web", f"--new-key={one.next_key}"], chance)
        check_taken_out(fleet)
        print("one is taken out of the policy: its renewal is refused, the others are renewed")


def _wave(fleet: Fleet, name: str, command: Callable[[Machine], list[str]], chance: random.Random) -> None:
    issued = len(fleet.issued())
    kills = [one.kills for one in (*fleet.registrars, fleet.ca)]
    cuts = sum(one.power_cuts for one in fleet.machines)
    for machine in fleet.machines:
        machine.statuses.clear()
    seconds = fleet.wave(command, KILLS, chance, SECONDS)
    statuses = sum((machine.statuses for machine in fleet.machines), Counter[int]())
    for machine in fleet.machines:
        check_machine(fleet, machine)
    check_issued(fleet)
    failed = ", ".join(f"{statuses[status]} with {status}" for status in sorted(statuses) if status not in (0, KILLED))
    servers = [one.kills - before for one, before in zip((*fleet.registrars, fleet.ca), kills, strict=True)]
    print(
        f"{name}: {seconds:.0f} s, {statuses.total()} runs, of which {statuses[KILLED]} were killed"
        f" and {failed or 'none'} failed; {sum(one.power_cuts for one in fleet.machines) - cuts} power cuts of TPMs;"
        f" registrars and CA killed {', '.join(map(str, servers))} times;"
        f" {len(fleet.issued()) - issued} certificates issued",
        flush=True,
    )


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*numbers, *(20, 14)[len(numbers) :])
