"""What credentials cost where an agent has them: `python tests/bench/agents.py`.

Whole processes, each in turn with the others, from an empty environment: from their start to the end of their output.
The figures are ratios within one run: to `/bin/true`, the least that a process takes, and to a bare Python.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import certs  # noqa: E402
from agent.homes import Home  # noqa: E402
from agent.processes import agent_process  # noqa: E402
from bench.measure import Call, table, verdict  # noqa: E402
from hwsigner.emulator import Emulator, World  # noqa: E402

BIN = Path(sys.executable).parent
BOUND = 2.0
"""How many times `/bin/true` the warm program may take."""


class Process:
    """A command whose runs are timed; it must not fail."""

    def __init__(self, command: Sequence[str | Path], environ: dict[str, str]) -> None:
        self._command = [str(word) for word in command]
        self._environ = environ
        # Not subprocess, whose own work would weigh more than the process.
        self._actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]

    def __call__(self) -> float:
        """Run it and return the seconds."""
        begin = time.perf_counter()
        process = os.posix_spawn(self._command[0], self._command, self._environ, file_actions=self._actions)
        _, status = os.waitpid(process, 0)
        seconds = time.perf_counter() - begin
        if status:
            raise SystemExit(f"{' '.join(self._command)} failed")
        return seconds


def calls(environ: dict[str, str]) -> list[Call]:
    """Return what is timed, `/bin/true` and the bare Python first."""
    profile = ("--profile", "web")
    process = (BIN / "hwsigner", "credential-process", *profile)
    return [
        Call("`/bin/true`", Process(["/bin/true"], environ)),
        Call("`python -I -c pass`", Process([sys.executable, "-I", "-c", "pass"], environ)),
        Call("`hwsigner-credentials`, warm", Process([BIN / "hwsigner-credentials", *profile], environ)),
        Call("`hwsigner credential-process`, warm", Process(process, environ)),
        Call("the same without an agent", Process(process, {**environ, "HWSIGNER_AGENT": "none"})),
    ]


@contextmanager
def warm_agent() -> Iterator[dict[str, str]]:
    """Run an agent that has credentials, and give the environment of its user."""
    ca = certs.make_ca()
    with (
        tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder,
        Emulator(World.simple(ca.certificate)) as emulator,
    ):
        home = Home(Path(folder), ca, emulator)
        home.write_profiles(web={})
        with agent_process(home) as agent:
            subprocess.run(
                [BIN / "hwsigner", "agent", "refresh", "web"], env=home.environ, check=True, stdout=subprocess.DEVNULL
            )
            yield home.environ
            print(f"\nThe agent's memory with one profile, a key in a file: {agent.status('VmRSS') / 1024:.0f} MB")


def rows(timed: Sequence[Call]) -> Iterator[list[str]]:
    true, python, program = timed[:3]
    for call in timed:
        bound = f"at most {BOUND:g}: {verdict(program.ratio(true) <= BOUND)}" if call is program else ""
        ratios = (f"{call.ratio(true):.2f}", f"{call.ratio(python):.2f}")
        yield [call.name, f"{statistics.median(call.times) * 1000:.2f}", *ratios, bound]


def main() -> None:
    """Time everything in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    with warm_agent() as environ:
        timed = calls(environ)
        for call in timed:  # once without counting
            call.time()
        for _ in range(rounds):
            for call in timed:
                call.times.append(call.time())
        print(f"Whole processes, an agent running, {rounds} rounds")
        print(table(["command", "median, ms", "to `/bin/true`", "to a bare Python", "bound"], rows(timed)), flush=True)


if __name__ == "__main__":
    main()
