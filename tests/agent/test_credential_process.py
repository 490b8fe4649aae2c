"""`hwsigner credential-process` asks a running agent before it reads config.toml, which it may not be able to."""

from __future__ import annotations

import subprocess
import sys

from agent.homes import Home, run_agent


def print_credentials(home: Home, *flags: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command without a config.toml."""
    environ = {**home.environ, "XDG_CONFIG_HOME": "/nonexistent"}
    command = [sys.executable, "-X", "importtime", "-m", "hwsigner", "credential-process", *flags]
    return subprocess.run(command, env=environ, capture_output=True, timeout=60)


def test_agent_s_credentials_need_no_profile_here(home: Home) -> None:
    with run_agent(home) as running:
        held = running.get()
        done = print_credentials(home, "--profile=web")
    assert done.returncode == 0
    assert done.stdout == held.partition(b"\n")[2]
    assert b"tomllib" not in done.stderr


def test_other_flags_need_the_profile(home: Home) -> None:
    with run_agent(home) as running:
        running.get()
        done = print_credentials(home, "--profile=web", "--region=us-east-1")
    assert (done.returncode, done.stdout) == (2, b"")


def test_profile_is_needed_without_an_agent(home: Home) -> None:
    done = print_credentials(home, "--profile=web")
    assert done.returncode == 2
    assert b"there is no profile 'web'" in done.stderr
