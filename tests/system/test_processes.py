"""What starts in a process of its own imports nothing from others' folders; and what is shown of other processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hwsigner._system import processes
from hwsigner._system.processes import describe_peer, describe_process, python_command
from judges import needs_proc

START = """
import subprocess, sys
from hwsigner._system.processes import python_command
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


# Connects to the socket of its first argument, and says so. Then it runs what follows, if anything, or waits.
CONNECT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
os.set_inheritable(sock.fileno(), True)
print(flush=True)
os.execv(sys.argv[2], sys.argv[2:]) if sys.argv[2:] else sys.stdin.read()
"""


@contextmanager
def connected(folder: Path, *program: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Give a process that has connected, and our end of its socket."""
    path = str(folder / f"{len(list(folder.iterdir()))}.sock")
    command = [sys.executable, "-c", CONNECT, path, *program]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            sock, _ = listener.accept()
            with sock:
                yield process, sock


@needs_proc
def test_peer_is_shown_with_its_program_and_what_ran_it(tmp_path: Path) -> None:
    with connected(tmp_path) as (process, sock):
        shown = describe_peer(sock)
    status = os.stat(sys.executable)
    assert (shown["pid"], shown["parent_pid"]) == (process.pid, os.getpid())
    assert shown["executable"] == shown["parent_executable"] == os.path.realpath("/proc/self/exe")
    assert shown["executable_inode"] == f"{status.st_dev}:{status.st_ino}"
    assert sys.argv[-1] not in str(shown)
    assert CONNECT not in str(shown)


@needs_proc
def test_peer_that_has_become_another_program_is_shown_as_that(tmp_path: Path) -> None:
    with connected(tmp_path, "/bin/cat") as (_, sock):
        sock.settimeout(10)
        while (shown := describe_peer(sock))["executable"] == os.path.realpath("/proc/self/exe"):
            pass  # Its exec is not done.
    assert shown["executable"] == os.path.realpath("/bin/cat")


needs_pidfs = pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9),
    reason="Linux before 6.9 has no such number",
)


@needs_pidfs
@needs_proc
def test_peers_are_told_apart_by_a_number_that_is_not_used_again(tmp_path: Path) -> None:
    shown = []
    for _ in range(2):
        with connected(tmp_path) as (process, sock):
            pidfd = os.pidfd_open(process.pid)
            shown.append(describe_peer(sock)["pidfd_id"])
            assert shown[-1] == describe_peer(sock)["pidfd_id"] == os.fstat(pidfd).st_ino
            os.close(pidfd)
    assert len(set(shown)) == 2


@needs_proc
def test_peer_that_has_ended_is_not_taken_for_a_process_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(tmp_path) as (process, sock):
        pidfd = os.pidfd_open(process.pid)
        process.kill()
        process.wait()
        monkeypatch.setattr(processes, "peer_pidfd", lambda _: pidfd)
        monkeypatch.setattr(processes, "peer_pid", lambda _: os.getpid())  # As if it were ours now.
        shown = describe_peer(sock)
    assert shown.keys() <= {"pid", "pidfd_id"}


@needs_proc
def test_peer_is_shown_by_a_kernel_without_pidfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsigner._system.users._SO_PEERPIDFD", 9999)
    with connected(tmp_path) as (process, sock):
        shown = describe_peer(sock)
    assert (shown["pid"], "pidfd_id" in shown) == (process.pid, False)


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-web.slice/web@a.service/workers", "web@a.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/../../system.slice/nginx.service", "nginx.service"),
        ("/docker/0123", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_unit_is_the_system_s_and_not_one_that_its_user_named(cgroup: str, unit: str) -> None:
    assert processes._unit_of(cgroup) == unit


@needs_proc
def test_control_group_of_an_older_hierarchy_is_not_taken_for_the_unified_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        b"1:name=systemd:/user.slice/0::/system.slice/backup.service\n0::/user.slice/user-1000.slice/session-3.scope\n"
    )
    monkeypatch.setattr(processes, "_read", lambda path: text if path.endswith("/cgroup") else b"")
    shown = describe_process(os.getpid())
    assert (shown["unit"], shown["cgroup"]) == ("session-3.scope", "/user.slice/user-1000.slice/session-3.scope")


def test_process_that_has_ended_or_is_hidden_is_shown_by_its_number() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert {name: value for name, value in describe_process(process.pid).items() if value} == {"pid": process.pid}
