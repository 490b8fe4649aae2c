"""Where the demo plays: a folder, the environment of its programs, and how they are run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HWSIGNER = str(Path(sys.executable).with_name("hwsigner"))
AWS = "/usr/bin/aws"
REGION = "us-east-1"
_EXIT_SERVICE_REFUSED = 5
_SECONDS = 60


class DemoError(Exception):
    """A step failed."""


class Stage:
    """The folder with the demo's files, and the programs that run in it.

    Attributes:
        folder: the folder.
        env: the environment of the programs.
        stack: stops what is still running at the end.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_STATE_HOME": str(folder),
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }
        self._step = 0

    def say(self, step: str, result: str) -> None:
        """Print a step and its result."""
        self._step += 1
        print(f"{self._step:2}. {step}: {result}", flush=True)

    def write(self, name: str, data: bytes) -> Path:
        """Write a file that only this user can read, and return its path."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        return path

    def hwsigner(self, *arguments: str) -> str:
        """Run hwsigner, which must succeed, and return what it printed."""
        done = self.run([HWSIGNER, *arguments])
        if done.returncode != 0:
            raise DemoError(f"hwsigner {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def get_caller_identity(
        self, endpoint: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the AWS CLI's `sts get-caller-identity` at an endpoint."""
        command = [AWS, "sts", "get-caller-identity", "--output=json", f"--endpoint-url={endpoint}", *arguments]
        return self.run(command, env)

    def run(self, command: list[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program until it exits."""
        try:
            return subprocess.run(
                command,
                env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise DemoError(f"{command[0]} is not installed; `make setup` installs what is needed") from None
        except subprocess.TimeoutExpired:
            raise DemoError(f"{' '.join(command[:3])} did not exit within {_SECONDS:g} seconds") from None

    def start(self, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
        """Start a service of hwsigner. Return its process, and the path of its log, which is its stderr."""
        log = self.folder / f"{arguments[0]}.log"
        process = self.stack.enter_context(
            subprocess.Popen(
                [HWSIGNER, *arguments],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self.stack.enter_context(log.open("w")),
                text=True,
            )
        )
        self.stack.callback(process.terminate)
        return process, log


def assumed_role(done: subprocess.CompletedProcess[str]) -> str:
    """Return the ARN that the AWS CLI printed, which must be that of an assumed role."""
    if done.returncode != 0:
        raise DemoError(f"{AWS} sts get-caller-identity failed: {done.stderr.strip()}")
    arn = str(json.loads(done.stdout)["Arn"])
    if ":assumed-role/" not in arn:
        raise DemoError(f"the caller is {arn}, which is not an assumed role")
    return arn


def require_refusal(done: subprocess.CompletedProcess[str], reason: str, *, status: int = _EXIT_SERVICE_REFUSED) -> str:
    """Check that a program failed for a reason, and return the last line of its error."""
    if done.returncode != status or reason not in done.stderr:
        result = f"exited with status {done.returncode}: {done.stderr.strip()}"
        raise DemoError(f"a call that should be refused ({reason}) {result}")
    return last_line(done.stderr)


def last_line(text: str) -> str:
    """Return the last line of a text that is not blank."""
    return text.strip().splitlines()[-1]
