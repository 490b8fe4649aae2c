"""The tutorial of a TPM server, and the quick start, while systemd runs, in a container with the packages."""

from __future__ import annotations

import shutil
from pathlib import Path

from packages.booted import run_booted
from packages.root import Root
from pages import ROOT

# What the tests need in the container, at the same paths. Nothing of it is hwsigner's.
_FILES = ("tests/pages.py", "tests/transcripts.py", "docs/start/tpm-server.md", "docs/start/quick.md")
_SCRIPTS = ("tests/debian/tutorial_inside.py", "tests/debian/quick_inside.py")


def follow_tutorial(root: Root, program: Path, client: Path) -> None:
    """the tutorial of a TPM server in a container, while systemd runs"""
    _run(root, program, client, "tutorial_inside.py")
    print("Two services had credentials, each for its own role.", flush=True)


def follow_quick_start(root: Root, program: Path, client: Path) -> None:
    """the quick start of a server and of a build agent in a container, while systemd runs"""
    _run(root, program, client, "quick_inside.py")
    print("A service and a job had credentials.", flush=True)


def _run(root: Root, program: Path, client: Path, script: str) -> None:
    root.apt("update")
    root.apt("install", "--no-install-recommends", "systemd-sysv", "python3-boto3", "awscli", "openssl", "swtpm")
    root.apt("install", *root.put(program, client))
    for name in (*_FILES, *_SCRIPTS):
        path = root.path / "packages" / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path)
    run_booted(root, f"PYTHONPATH=/packages/clone/tests python3 /packages/clone/tests/debian/{script}")
