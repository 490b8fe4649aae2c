"""Commands that the tests in the machine run, and what they wait for."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The Debian packages to test, if they are what is tested.
PACKAGES = sorted(Path("/packages").glob("*.deb"))
BIN = Path("/usr/bin" if PACKAGES else "/opt/hwsigner/bin")
CONFIG = Path("/etc/hwsigner/config.toml")
ENDPOINT = "http://127.0.0.1:8000"
# Everything runs about ten times slower than outside.
SECONDS = 60.0


def run(*command: str | Path, user: str = "root", input: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user, with an environment of little else than PATH."""
    words = [str(word) for word in command]
    prefix = ["runuser", "-u", user, "--"] if user != "root" else []
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": _home(user), **env}
    return subprocess.run(
        [*prefix, *words], env=environment, input=input, capture_output=True, text=True, timeout=400, cwd="/tmp"
    )


def done(*command: str | Path, user: str = "root", input: str = "", **env: str) -> str:
    """Run a command that must succeed, and return what it printed."""
    result = run(*command, user=user, input=input, **env)
    assert result.returncode == 0, f"{command}: status {result.returncode}: {result.stderr}{result.stdout}"
    return result.stdout


def credentials(profile: str, user: str, **env: str) -> dict[str, Any]:
    """Return what hwsigner-credentials gives a user for a profile."""
    found: dict[str, Any] = json.loads(done(BIN / "hwsigner-credentials", "--profile", profile, user=user, **env))
    assert found["Version"] == 1
    return found


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.2)


def agent_pid() -> int:
    """Return the process of the system's agent; 0 when there is none."""
    return int(done("systemctl", "show", "--property=MainPID", "--value", "hwsigner-agent.service"))


def user_environment(user: str) -> dict[str, str]:
    """Return what a user's programs need to reach the user's own systemd."""
    uid = done("id", "-u", user).strip()
    return {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{uid}/bus"}


def _home(user: str) -> str:
    return os.path.expanduser(f"~{user}")
