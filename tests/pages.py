"""The shell commands of the docs, and a way to run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def shell_blocks(page: str, start: str, end: str) -> str:
    """Return the shell commands of a page between two texts."""
    text = (ROOT / page).read_text()
    return "".join(re.findall(r"```sh\n(.*?)```", text[text.index(start) : text.index(end)], re.DOTALL))


def job_scripts(page: str, start: str, end: str) -> list[str]:
    """Return the scripts in a page's YAML between two texts: each block scalar, such as `run: |`."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text[text.index(start) : text.index(end)], re.DOTALL)
    found = [re.findall(r"^( *)(?:- |run: )\|\n((?:\1 .*\n)+)", block, re.MULTILINE) for block in blocks]
    return [textwrap.dedent(script) for block in found for _, script in block]


def block(page: str, language: str, start: str, end: str) -> str:
    """Return the only block of a language in a page between two texts."""
    text = (ROOT / page).read_text()
    (found,) = re.findall(rf"```{language}\n(.*?)```", text[text.index(start) : text.index(end)], re.DOTALL)
    return str(found)


def run_shell(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run commands in a folder, and return what they print. What they leave running is ended."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **environment}
    script = f"set -e; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
