"""An agent with 2,000 profiles, or fewer in `make check`: cost grows with work, and hanging keys delay no other."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.homes import Home, read_end
from agent.processes import AgentProcess, agent_process
from examples import scaled
from hwsigner._agent import protocol
from hwsigner._agent.client import command
from hwsigner._agent.protocol import AgentRequest, Verb

PROFILES, HANGING, CLIENTS = scaled(2000), 20, 8
# The loop, the timer, the thread for notices, and workers that are about to end.
OTHER_THREADS = 4 + CLIENTS


@pytest.fixture
def many(home: Home) -> Iterator[AgentProcess]:
    """An agent whose profiles each have a key. Some keys hang: nothing writes into their FIFO."""
    os.mkfifo(home.folder / "fifo", 0o600)
    fifo = {"private-key": str(home.folder / "fifo")}
    hanging = {f"hanging-{number}": fifo for number in range(HANGING)}
    home.write_profiles(**{f"web-{number}": {} for number in range(PROFILES)}, **hanging)
    with agent_process(home) as agent:
        yield agent


def wakeups(agent: AgentProcess) -> int:
    """Return how often the agent's threads have gone to sleep."""
    text = "".join(path.read_text() for path in Path(f"/proc/{agent.process.pid}/task").glob("*/status"))
    return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", text)))


@pytest.mark.slow
def test_two_thousand_profiles_are_served_by_few_threads_while_keys_hang(many: AgentProcess) -> None:
    home = many.home

    def ask(name: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(home.address.socket)
        client.sendall(AgentRequest(Verb.GET, name).line())
        return client

    def get(number: int) -> tuple[str, int]:
        with ask(f"web-{number}") as client:
            head, _, body = read_end(client).partition(b"\n")
        assert head.startswith(b"1 ok "), head
        return json.loads(body)["AccessKeyId"], many.status("Threads")

    with ExitStack() as stack:
        hanging = [stack.enter_context(ask(f"hanging-{number}")) for number in range(HANGING)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            first = list(pool.map(get, range(PROFILES)))
            again = list(pool.map(get, range(PROFILES)))
        for client in hanging:
            heard = client.recv(65536)
            assert heard == protocol.WORKING * (len(heard) // len(protocol.WORKING))
    keys = [key for key, _ in first]
    assert len(set(keys)) == PROFILES == len(home.emulator.requests)
    assert [key for key, _ in again] == keys
    assert max(threads for _, threads in first) <= HANGING + CLIENTS + OTHER_THREADS
    assert many.status("VmRSS") < 150_000
    states = [line.split("\t")[1] for line in command(home.address, AgentRequest(Verb.STATUS)).splitlines()[1:]]
    assert (states.count("ready"), states.count("idle")) == (PROFILES, HANGING)
    wait_until_idle(many)


def wait_until_idle(agent: AgentProcess) -> None:
    """Check that the agent sleeps: a second passes with two wakeups at most."""
    deadline = time.monotonic() + 20
    while True:
        before = wakeups(agent)
        time.sleep(1)
        if wakeups(agent) - before <= 2:
            break
        assert time.monotonic() < deadline
    assert agent.status("Threads") <= HANGING + 4
