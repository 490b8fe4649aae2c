"""How long each output takes to give credentials, with and without an agent: `python tests/bench/outputs.py`.

Whole processes run in turn, each with an empty environment. They are timed from their start to the end of their output,
or to their first response if they keep running. *Warm* means that an agent has the credentials. *Cold* processes create
a session of their own, with a key in a file. The figures are ratios within one run: to `/bin/true`, the minimum for a
process, and to a bare Python.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
# In place of this folder, whose serving.py would hide tests/serving.
sys.path[:1] = [str(TESTS), str(TESTS.parent)]

import certs  # noqa: E402
from agent.homes import Home, read_all  # noqa: E402
from agent.processes import agent_process  # noqa: E402
from bench.measure import Call, in_turn, table, verdict  # noqa: E402
from bench.serving import ask, resident  # noqa: E402
from hwsigner.emulator import Emulator, World  # noqa: E402
from serving.stage import Process as Server  # noqa: E402

BIN = Path(sys.executable).parent
BOUND = 2.0
"""The largest ratio to `/bin/true` of the warm program."""
MOST_MEMORY = 60.0
"""The memory limit in MB of an idle agent with one profile."""
COMMANDS = {
    "`hwsigner-credentials`": ("hwsigner-credentials", "--profile", "web"),
    "`hwsigner credential-process`": ("hwsigner", "credential-process", "--profile", "web"),
    "`hwsigner update --once`": ("hwsigner", "update", "--once", "--config-profile", "web"),
    "`hwsigner exec web -- /bin/true`": ("hwsigner", "exec", "web", "--", "/bin/true"),
}


class Process:
    """A command to time. It must not fail."""

    def __init__(self, command: Sequence[str | Path], environ: dict[str, str]) -> None:
        self._command = [str(word) for word in command]
        self._environ = environ
        # The overhead of subprocess would exceed the time of the process itself.
        self._actions = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]

    def __call__(self) -> float:
        """Run it and return the seconds."""
        begin = time.perf_counter()
        process = os.posix_spawn(self._command[0], self._command, self._environ, file_actions=self._actions)
        _, status = os.waitpid(process, 0)
        seconds = time.perf_counter() - begin
        if status:
            raise SystemExit(f"{' '.join(self._command)} failed")
        return seconds


@contextmanager
def agent(home: Home) -> Iterator[int]:
    """Start an agent, and yield its process ID once it has given credentials."""
    with agent_process(home, [str(BIN / "hwsigner"), "agent"]) as running:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(home.address.socket)
            connection.sendall(b"1 get web\n")
            if b"1 ok " not in read_all(connection):
                raise SystemExit("the agent gave no credentials")
        yield running.process.pid
        running.stop()


@contextmanager
def server(home: Home) -> Iterator[int]:
    """Start `hwsigner serve`, and yield its process ID once it has responded to a request."""
    command = [str(BIN / "hwsigner"), "serve", "--port=0", "web"]
    with subprocess.Popen(command, env=home.environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            variables = Server(process).variables()
            token = Path(variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read_text()
            ask(variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"], f"Authorization: {token}")
            yield process.pid
        finally:
            process.kill()


def started(start: Callable[[], AbstractContextManager[int]]) -> float:
    """Return the seconds until a server has responded. Stopping it is not timed."""
    begin = time.perf_counter()
    with start():
        return time.perf_counter() - begin


@contextmanager
def homes() -> Iterator[tuple[Home, Home]]:
    """Yield two home folders with one profile each: one without an agent, one whose agent has credentials."""
    ca = certs.make_ca()
    with (
        tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder,
        Emulator(World.simple(ca.certificate)) as emulator,
    ):
        cold, warm = (Home(Path(folder) / name, ca, emulator) for name in ("cold", "warm"))
        for home in (cold, warm):
            home.folder.mkdir()
            home.write_profiles(web={})
        with agent(warm):
            yield cold, warm


def calls(cold: Home, warm: Home) -> list[Call]:
    """Return the calls to time: `/bin/true`, the bare Python, the cold outputs, and the warm ones."""
    commands = [
        Call(f"{name}, {how}", Process([BIN / program, *arguments], home.environ))
        for how, home in (("cold", cold), ("warm", warm))
        for name, (program, *arguments) in COMMANDS.items()
    ]
    return [
        Call("`/bin/true`", Process(["/bin/true"], cold.environ)),
        Call("`python -I -c pass`", Process([sys.executable, "-I", "-c", "pass"], cold.environ)),
        *commands[: len(COMMANDS)],
        Call("`hwsigner serve`, cold, to its first response", partial(started, partial(server, cold))),
        Call("`hwsigner agent`, cold, to its first response", partial(started, partial(agent, cold))),
        *commands[len(COMMANDS) :],
    ]


def row(call: Call, true: Call, python: Call) -> list[str]:
    """Return a row of the table."""
    is_bound = call.name == "`hwsigner-credentials`, warm"
    bound = f"at most {BOUND:g}: {verdict(call.ratio(true) <= BOUND)}" if is_bound else ""
    return [call.name, f"{call.median * 1000:.2f}", f"{call.ratio(true):.2f}", f"{call.ratio(python):.2f}", bound]


def memory(home: Home) -> list[list[str]]:
    """Return a row for each server: its memory after the first response."""
    rows = []
    for name, start, most in (("`hwsigner agent`", agent, MOST_MEMORY), ("`hwsigner serve`", server, None)):
        with start(home) as pid:
            size = resident(pid) / 1024
        rows.append([name, f"{size:.0f}", f"under {most:g}: {verdict(size < most)}" if most else ""])
    return rows


def main() -> None:
    """Time everything in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios to a bare Python")
    arguments = parser.parse_args()
    with homes() as (cold, warm):
        timed = calls(cold, warm)
        in_turn(timed, arguments.rounds)
        sizes = memory(cold)
    true, python, *_ = timed
    print(f"Whole processes, {arguments.rounds} rounds\n")
    head = ["Command", "median, ms", "ratio to `/bin/true`", "ratio to a bare Python", "bound"]
    print(table(head, [row(call, true, python) for call in timed]))
    print(f"\n{table(['Idle, one profile', 'RSS, MB', 'bound'], sizes)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({call.name: call.ratio(python) for call in timed}, indent=1))


if __name__ == "__main__":
    main()
