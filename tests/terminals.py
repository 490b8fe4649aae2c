"""Pseudo-terminals on which tests start programs."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# <asm-generic/ioctls.h>: unlock the other end; open it without its path.
TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441


class Terminal:
    """A pseudo-terminal for programs. Their stdin, stdout and stderr are pipes, as if an SDK had started them."""

    def __init__(self, folder: Path) -> None:
        try:
            self._master, self._slave = pty.openpty()
        except OSError:
            self._master, self._slave = _open_own_terminal(folder)

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start a program with this controlling terminal. Its environment has PATH, LANG and the given variables."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=self._become_its_session,
        )

    def _become_its_session(self) -> None:
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)

    def shown_until(self, text: str) -> str:
        """Return the screen's text up to a given text, waiting for it."""
        shown = b""
        while text.encode() not in shown:
            assert select.select([self._master], [], [], 60)[0], shown
            shown += os.read(self._master, 4096)
        return shown.decode()

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def wait_until_silent(self) -> None:
        """Wait until the terminal does not show what is typed."""
        deadline = time.monotonic() + 60
        while self.echoes():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def echoes(self) -> bool:
        """Return whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def close(self) -> None:
        """Remove the terminal."""
        os.close(self._master)
        os.close(self._slave)


def _open_own_terminal(folder: Path) -> tuple[int, int]:
    """Open a pseudo-terminal of a new file system: in a bare chroot, none is mounted."""
    subprocess.run(["mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", str(folder)], check=True)
    try:
        master = os.open(folder / "ptmx", os.O_RDWR | os.O_NOCTTY)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    return master, fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal for one test."""
    found = Terminal(tmp_path)
    yield found
    found.close()
