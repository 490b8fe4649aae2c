"""The Python that the wheel for musl runs in: what an interrupted run leaves is not used. `make test-musl` runs all."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pages import ROOT


def test_python_whose_compilation_was_interrupted_is_compiled_again(tmp_path: Path) -> None:
    for name in ("kept/build/python", "bin/apt-get"):
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho ran ${0##*/} >&2\nexit 9\n")
        program.chmod(0o755)
    command = [ROOT / "tests/wheels/musl", tmp_path, tmp_path / "kept"]
    done = subprocess.run(command, env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (9, "ran apt-get\n")
