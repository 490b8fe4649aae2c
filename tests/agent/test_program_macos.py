"""hwsigner-credentials as it is compiled for macOS, under sanitizers: native/tests/macos has what Linux lacks."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.conftest import ROOT, SANITIZERS, FakeAgent, Program, Talk, compile_program, says
from agent.test_program import GOOD, JSON, is_python, listening_as

Start = Callable[[Path, Talk], FakeAgent]
SHIM = ("-D__APPLE__", "-isystem", str(ROOT / "native" / "tests" / "macos"))


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """The program with the bodies for macOS."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        yield compile_program(Path(folder), *SANITIZERS, *SHIM)


def test_agent_in_the_runtime_folder_of_macos_is_asked(program: Program, runtime: Path, fake_agent: Start) -> None:
    agent = fake_agent(runtime / "hwsigner", says(GOOD))
    done = program.run("--profile", "web", MACOS_FOLDER=f"{runtime}/")
    assert (done.returncode, done.stdout, done.stderr) == (0, JSON, b"")
    assert agent.requests == [b"1 get web notes\n"]


def test_agent_of_the_system_is_asked_without_a_runtime_folder(program: Program, fake_agent: Start) -> None:
    program.system_folder.chmod(0o755)
    fake_agent(program.system_folder, says(GOOD))
    assert program.run("--profile", "web").stdout == JSON


@pytest.mark.parametrize("folder", ["", "/nonexistent/", "/" + "x" * 5000])
def test_python_runs_without_an_agent(program: Program, folder: str) -> None:
    assert is_python(program.run("--profile", "web", MACOS_FOLDER=folder))


@pytest.mark.root
def test_agent_of_another_user_is_not_trusted(program: Program, runtime: Path) -> None:
    with listening_as(65534, runtime / "hwsigner" / "agent.sock"):
        assert is_python(program.run("--profile", "web", MACOS_FOLDER=f"{runtime}/"))


@pytest.mark.slow
def test_agent_that_hangs_up_before_the_request_sends_no_signal(program: Program, runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor() as pool:
        listener.bind(str(runtime / "hwsigner" / "agent.sock"))
        listener.listen()
        done = pool.submit(program.run, "--profile", "web", MACOS_FOLDER=f"{runtime}/", MACOS_PAUSE="1")
        listener.accept()[0].close()
        assert is_python(done.result())


def test_python_is_found_beside_the_program_that_a_link_names(program: Program, tmp_path: Path) -> None:
    (tmp_path / "hwsigner").write_text("#!/bin/sh\necho wrong\n")
    (tmp_path / "hwsigner").chmod(0o755)
    (tmp_path / "link").symlink_to(program.path)
    assert is_python(program.run("--profile", "web", MACOS_PROGRAM=f"{tmp_path}/./link"))


def test_error_says_what_to_do_if_the_program_s_path_is_too_long(program: Program) -> None:
    done = program.run("--profile", "web", MACOS_PROGRAM="/" * 5000)
    assert (done.returncode, done.stderr) == (1, b"hwsigner: can't find the program beside this one: hwsigner\n")


def test_python_makes_no_core_dumps(program: Program, tmp_path: Path) -> None:
    copy = shutil.copy(program.path, tmp_path)
    (tmp_path / "hwsigner").write_text("#!/bin/sh\nulimit -c\n")
    (tmp_path / "hwsigner").chmod(0o755)
    environ = {"ASAN_OPTIONS": "detect_leaks=0:disable_coredump=0"}
    allowed = ["prlimit", "--core=4096", copy, "--profile", "web"]
    assert subprocess.run(allowed, env=environ, capture_output=True, text=True).stdout == "0\n"
