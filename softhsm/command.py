"""Run the programs that make tokens, TPMs and keys."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence


class ToolError(Exception):
    """A program is missing or failed. The text contains its name and output."""


def run(arguments: Sequence[str], env: Mapping[str, str], data: bytes | None = None) -> bytes:
    """Run a program with only PATH, HOME, LANG and `env` in its environment, and return its stdout.

    Raises:
        ToolError: the program is not installed, or exited with a status other than 0.
    """
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"LANG": "C.UTF-8"}
    if shutil.which(arguments[0]) is None:
        raise ToolError(f"{arguments[0]} is not installed; `make setup` installs what is needed")
    done = subprocess.run(arguments, env=environment | dict(env), input=data, capture_output=True, check=False)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise ToolError(f"{' '.join(arguments)} exited with status {done.returncode}: {output}")
    return done.stdout
