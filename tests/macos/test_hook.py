"""What runs as if on macOS: uses of what only Linux has, which must fail there, and of what macOS gives instead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from judges import needs_bare_start

pytestmark = needs_bare_start

ROOT = Path(__file__).parents[2]
RUN = Path(__file__).with_name("run.py")
# Each works on Linux. A number stands for a name that is not there.
ONLY_ON_LINUX = {
    "a function of os": "os.close(os.eventfd(0))",
    "a function of select": "select.epoll().close()",
    "a class of selectors": "selectors.EpollSelector().close()",
    "a function of signal": "signal.sigtimedwait([signal.SIGUSR1], 0)",
    "a constant of time": "time.clock_gettime(time.CLOCK_BOOTTIME)",
    "a constant of fcntl": "fcntl.F_OFD_SETLK",
    "a constant of mmap": "mmap.MADV_DONTDUMP",
    "a constant of socket": "socket.MSG_NOSIGNAL",
    "the platform": "assert sys.platform == 'linux'",
    "the system's name": "assert os.uname().sysname == 'Linux'",
    "a function of the C library": "ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)",
    "such a function by an index": "ctypes.CDLL(None)['prctl'](3, 0, 0, 0, 0)",
    "such a function without ctypes": "_ctypes.dlsym(_ctypes.dlopen(None, 0), 'prctl')",
    "/proc": "open('/proc/self/status').close()",
    "/sys": "os.stat('/sys/kernel')",
    "an abstract socket": "socket.socket(socket.AF_UNIX).bind(f'\\0hwsigner-test-{os.getpid()}')",
    "an abstract socket that the kernel names": "socket.socket(socket.AF_UNIX).bind('')",
    "a path of 104 bytes": "socket.socket(socket.AF_UNIX).bind(f'{folder}/'.ljust(104, 'x'))",
    "SO_PEERCRED": "socket.socketpair()[0].getsockopt(1, 17, 12)",
    "AF_NETLINK": "socket.socket(16, socket.SOCK_RAW, 0)",
    "SOCK_CLOEXEC": "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | 0o2000000)",
    "SOCK_SEQPACKET": "socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
}
# Each works on macOS, and none on Linux.
ONLY_ON_MACOS = {
    "the user at the other end": (
        "xucred = socket.socketpair()[0].getsockopt(0, socket.LOCAL_PEERCRED, 76); "
        "assert struct.unpack('=IIh', xucred[:10]) == (0, os.getuid(), 1), xucred"
    ),
    "the process at the other end": "assert socket.socketpair()[0].getsockopt(0, 2) == os.getpid()",
    "the user by the C library": (
        "user, group = ctypes.c_uint(1), ctypes.c_uint(1); one = socket.socketpair()[0]; "
        "ctypes.CDLL(None).getpeereid(one.fileno(), ctypes.byref(user), ctypes.byref(group)); "
        "assert (user.value, group.value) == (os.getuid(), os.getgid())"
    ),
    "the folder for what ends with the login": "assert stat.S_IMODE(os.stat(os.confstr(65536)).st_mode) == 0o700",
    "the name of the machine's run": (
        "text, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64); "
        "ctypes.CDLL(None).sysctlbyname(b'kern.bootsessionuuid', text, ctypes.byref(size), None, 0); "
        "assert len(text.value) == 36"
    ),
    "the path of an open file": "fcntl.fcntl(os.open(folder, os.O_RDONLY), fcntl.F_GETPATH, bytes(1024))",
    "an event loop": "assert selectors.DefaultSelector is selectors.PollSelector; asyncio.run(asyncio.sleep(0))",
    "a child that ignores its environment": (
        "words = [sys.executable, '-I', '-c', 'import sys; print(sys.platform)']; "
        "assert subprocess.check_output(words, env={}) == b'darwin\\n'"
    ),
    "a program of the environment": (
        "words = [sys.prefix + '/bin/hwsigner', 'systemd', 'install', '--user']; "
        "assert b'needs Linux' in subprocess.run(words, env={'HOME': folder}, capture_output=True).stderr"
    ),
}
PROGRAM = """
import _ctypes, asyncio, ctypes, fcntl, json, mmap, os, select, selectors, signal, socket, stat, struct, subprocess, sys
import tempfile, time
found = {}
for name, code in json.loads(sys.argv[1]).items():
    with tempfile.TemporaryDirectory() as folder:
        try:
            exec(code)
        except Exception as error:
            found[name] = repr(error)
print(json.dumps(found))
"""


def failures(*command: str) -> dict[str, str]:
    """Return which of these uses fail, and how."""
    uses = json.dumps(ONLY_ON_LINUX | ONLY_ON_MACOS)
    command = (*command, sys.executable, "-W", "ignore", "-Ic", PROGRAM, uses)
    environ = {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_what_only_linux_has_works_here_and_fails_as_on_macos() -> None:
    assert failures().keys() == ONLY_ON_MACOS.keys()
    assert failures(sys.executable, str(RUN)).keys() == ONLY_ON_LINUX.keys()


@pytest.mark.root
@pytest.mark.slow  # The older Pythons of a machine may be in a folder of root's.
def test_ordinary_user_needs_no_right_to_mount() -> None:
    assert (
        failures("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, str(RUN)).keys()
        == ONLY_ON_LINUX.keys()
    )


def test_status_of_the_command_is_that_of_the_run() -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests")}
    assert subprocess.run([sys.executable, RUN, "sh", "-c", "exit 3"], env=environ).returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [("1", 0), ("2", 1)])
def test_run_in_which_fewer_tests_pass_than_expected_fails(number: str, status: int) -> None:
    test = f"{Path(__file__)}::test_status_of_the_command_is_that_of_the_run"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--at-least={number}", test], cwd=ROOT, capture_output=True
    )
    assert done.returncode == status
    assert (b"only 1 tests passed, and not at least 2" in done.stderr) == bool(status)
