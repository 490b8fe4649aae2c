"""`hwsigner credential-process` asks a running agent before it reads config.toml, which it may not be able to."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.homes import Home, run_agent
from hwsigner.emulator import vault

pytestmark = pytest.mark.process


def print_credentials(home: Home, *flags: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command without a config.toml."""
    environ = {**home.environ, **variables, "XDG_CONFIG_HOME": "/nonexistent"}
    command = [sys.executable, "-X", "importtime", "-m", "hwsigner", "credential-process", *flags]
    return subprocess.run(command, env=environ, capture_output=True, timeout=60)


def test_agent_s_credentials_need_no_profile_here(home: Home) -> None:
    with run_agent(home) as running:
        held = running.get()
        done = print_credentials(home, "--profile=web")
    assert done.returncode == 0
    assert done.stdout == held.partition(b"\n")[2]
    assert b"tomllib" not in done.stderr


def test_profile_of_the_variable_is_asked_for_too(home: Home) -> None:
    with run_agent(home) as running:
        held = running.get()
        done = print_credentials(home, HWSIGNER_PROFILE="web")
    assert (done.returncode, done.stdout) == (0, held.partition(b"\n")[2])


def test_other_flags_need_the_profile(home: Home) -> None:
    with run_agent(home) as running:
        running.get()
        done = print_credentials(home, "--profile=web", "--region=us-east-1")
    assert (done.returncode, done.stdout) == (2, b"")


def test_profile_is_needed_without_an_agent(home: Home) -> None:
    done = print_credentials(home, "--profile=web")
    assert done.returncode == 2
    assert b"there is no profile 'web'" in done.stderr


@pytest.mark.parametrize(("count", "fits"), [(48_900, True), (49_200, False), (750_000, False)])
def test_large_session_token_is_given_out_or_refused_in_words(
    home: Home, real_program: Path, monkeypatch: pytest.MonkeyPatch, count: int, fits: bool
) -> None:
    """Base64 makes four letters of three bytes; an answer has 65,536 at most."""
    token = base64.b64encode(os.urandom(count))
    encode = SimpleNamespace(b64encode=lambda data: token if len(data) == 300 else base64.b64encode(data))
    monkeypatch.setattr(vault, "base64", encode)
    with run_agent(home):
        native = subprocess.run([real_program, "--profile=web"], env=home.environ, capture_output=True, timeout=60)
        done = print_credentials(home, "--profile=web")
    assert len(home.emulator.requests) == 1
    for each in (native, done):
        if fits:
            assert each.returncode == 0
            assert json.loads(each.stdout)["SessionToken"] == token.decode()
        else:
            assert each.returncode == 7
            assert b"and an agent gives out 65,536 at most. Set HWSIGNER_AGENT=none to do without" in each.stderr
