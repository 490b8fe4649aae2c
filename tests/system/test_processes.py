"""What starts in a process of its own imports nothing from a folder that others may write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner.system.processes import python_command

START = """
import subprocess, sys
from hwsigner.system.processes import python_command
print(subprocess.check_output([*python_command("hwsigner"), "version"], text=True))
"""


def test_python_command_runs_a_module_with_this_python() -> None:
    done = subprocess.run([*python_command("hwsigner"), "version"], capture_output=True, text=True, check=True)
    assert (python_command("hwsigner")[0], done.stderr) == (sys.executable, "")


@pytest.mark.parametrize("option", ["-P", "-I"])
def test_python_command_imports_nothing_from_the_current_folder(option: str, tmp_path: Path) -> None:
    (tmp_path / "hwsigner.py").write_text("raise SystemExit('imported from the current folder')")
    subprocess.run([sys.executable, option, "-c", START], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize(("option", "processes"), [("-P", 2), ("-I", 0)])
def test_python_command_uses_pythonpath_only_if_this_python_does(option: str, processes: int, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('imported from PYTHONPATH')")
    printed = subprocess.check_output(
        [sys.executable, option, "-c", START], env={"PYTHONPATH": str(tmp_path)}, text=True
    )
    assert printed.count("imported from PYTHONPATH") == processes
