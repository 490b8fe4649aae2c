"""The tutorial of a TPM server, followed to the letter while systemd runs, in a container with the packages."""

from __future__ import annotations

import shutil
from pathlib import Path

from packages.booted import run_booted
from packages.root import Root
from pages import ROOT

# What the test needs in the container, at the same paths. Nothing of it is hwsigner's.
_FILES = ("tests/pages.py", "tests/transcripts.py", "tests/debian/tutorial_inside.py", "docs/start/tpm-server.md")
SCRIPT = "PYTHONPATH=/packages/clone/tests python3 /packages/clone/tests/debian/tutorial_inside.py"


def follow_tutorial(root: Root, program: Path, client: Path) -> None:
    """the tutorial of a TPM server in a container, while systemd runs"""
    root.apt("update")
    root.apt("install", "--no-install-recommends", "systemd-sysv", "python3-boto3", "awscli", "openssl", "swtpm")
    root.apt("install", *root.put(program, client))
    for name in _FILES:
        path = root.path / "packages" / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path)
    run_booted(root, SCRIPT)
    print("Two services had credentials, each for its own role.", flush=True)
