"""Asking for a PIN: on the terminal device and nowhere else, unechoed, and never where there is none."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from hwsigner.cli.terminal import ask_pin
from hwsigner.pin import PinRequest
print(repr(ask_pin(PinRequest(*sys.argv[1:]))))
"""
# <asm-generic/ioctls.h>: unlock the other end, and open it without its path.
TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441
ASK = ("user PIN", "token 'alpha'")


class Terminal:
    """A pseudo-terminal that programs are started on; their stdin, stdout and stderr are pipes, as under an SDK."""

    def __init__(self, folder: Path) -> None:
        try:
            self._master, self._slave = pty.openpty()
        except OSError:
            self._master, self._slave = open_own_terminal(folder)

    def start(self, *arguments: str, program: str = PROGRAM) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=self._become_its_session,
        )

    def _become_its_session(self) -> None:
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)

    def shown_until(self, text: str) -> str:
        """Return what the screen shows, up to a text."""
        shown = b""
        while text.encode() not in shown:
            assert select.select([self._master], [], [], 10)[0], shown
            shown += os.read(self._master, 4096)
        return shown.decode()

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


def open_own_terminal(folder: Path) -> tuple[int, int]:
    """Open a pseudo-terminal where the system mounts none, as in a bare chroot: of a file system of its own."""
    subprocess.run(["mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", str(folder)], check=True)
    try:
        master = os.open(folder / "ptmx", os.O_RDWR | os.O_NOCTTY)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    return master, fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        (ASK, "user PIN for token 'alpha': "),
        ((*ASK, "an earlier try failed"), "user PIN for token 'alpha' (an earlier try failed): "),
        (("passphrase", "a\x1b[2J\u202eb"), "passphrase for a\\x1b[2J\\u202eb: "),
    ],
)
def test_asks_on_the_terminal_and_does_not_echo(terminal: Terminal, request_: tuple[str, ...], prompt: str) -> None:
    process = terminal.start(*request_)
    assert terminal.shown_until(prompt) == prompt
    terminal.type("hünter2\n".encode())
    out, err = process.communicate(b"not this", timeout=30)
    assert (out.decode(), err, process.returncode) == ("'hünter2'\n", b"", 0)
    assert terminal.shown_until("\n") == "\r\n"


def test_leaves_stdin_alone(terminal: Terminal) -> None:
    process = terminal.start(*ASK, program=PROGRAM + "\nprint(sys.stdin.read())")
    terminal.shown_until(": ")
    terminal.type(b"1234\n")
    assert process.communicate(b"for another program", timeout=30)[0] == b"'1234'\nfor another program\n"


def test_an_empty_line_is_an_empty_pin(terminal: Terminal) -> None:
    process = terminal.start(*ASK)
    terminal.shown_until(": ")
    terminal.type(b"\n")
    assert process.communicate(timeout=30)[0] == b"''\n"


def test_end_of_file_is_no_pin(terminal: Terminal) -> None:
    process = terminal.start(*ASK)
    terminal.shown_until(": ")
    terminal.type(b"\x04")
    assert process.communicate(timeout=30)[:2] == (b"None\n", b"")


def test_echo_is_on_again_after_an_interruption(terminal: Terminal) -> None:
    process = terminal.start(*ASK, program=f"import hwsigner.cli as c\nc._run = lambda _: exec({PROGRAM!r})\nc.main()")
    terminal.shown_until(": ")
    assert not terminal_echoes(terminal)
    terminal.type(b"12\x03")
    out, err = process.communicate(timeout=30)
    assert (out, err) == (b"", b"")
    assert terminal_echoes(terminal)


def test_what_is_not_text_is_not_shown(terminal: Terminal) -> None:
    program = f"import hwsigner.cli as c\nc._run = lambda _: exec({PROGRAM!r})\nraise SystemExit(c.main())"
    process = terminal.start(*ASK, program=program)
    terminal.shown_until(": ")
    terminal.type(b"hunter2\xff\n")
    out, err = process.communicate(timeout=30)
    text = b"hwsigner: the user PIN typed for token 'alpha' is not UTF-8 text\n"
    assert (out, err, process.returncode) == (b"", text, 3)


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_without_a_terminal_nobody_is_asked(stdin: int) -> None:
    done = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *ASK],
        cwd=ROOT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert done.communicate(b"1234\n" if stdin == subprocess.PIPE else None) == (b"None\n", b"")


def terminal_echoes(terminal: Terminal) -> bool:
    return bool(termios.tcgetattr(terminal._slave)[3] & termios.ECHO)
