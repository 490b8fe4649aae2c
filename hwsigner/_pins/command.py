"""`pin-source=cmd:`, a program that prints a PIN, and what it has in common with a pinentry."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from typing import IO, cast

from hwsigner._pins.child import MAX_PIN_BYTES, child_environment, wait_until_readable
from hwsigner.errors import PinError

TIME_LIMIT = 30.0


def read_pin_command(command: str, time_limit: float = TIME_LIMIT) -> str:
    """Run a program and return the first line that it prints, as UTF-8 without the line's end.

    No shell is used. The program's stdin and stderr are /dev/null, because some write secrets to stderr, and a caller
    that waits for our stderr to close must not wait for a process that the program left. It may ask on the terminal.
    The command is quoted as for a shell. If it fails or takes too long, or the line is empty, longer than 4096 bytes or
    not text, the error names the program, but no argument.
    """
    words = _words(command)
    deadline = time.monotonic() + time_limit
    try:
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=child_environment()
        ) as process:
            try:
                line = _first_line(cast("IO[bytes]", process.stdout).fileno(), deadline)
                status = process.wait(max(0.0, deadline - time.monotonic()))
            except BaseException:
                process.kill()
                raise
    except (TimeoutError, subprocess.TimeoutExpired):
        # Not chained: the exception has the arguments.
        raise _failure(words[0], f"did not end within {time_limit:g} seconds") from None
    except OSError as error:
        raise _failure(words[0], f"can't be run: {error.strerror}") from None
    if status:
        how = f"exited with status {status}" if status > 0 else f"was killed by signal {-status}"
        raise _failure(words[0], how)
    return _text(line, words[0])


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:
        # Neither chained nor quoted: the text in quotes may be secret.
        raise PinError("the command of a key URI's pin-source has an open quote", "Close the quote") from None
    if not words or not words[0]:
        raise PinError("a key URI's pin-source=cmd: names no command", "Write pin-source=cmd:PROGRAM")
    return words


def _first_line(output: int, deadline: float) -> bytes:
    """Read a program's output until it closes it, and return the first line."""
    line = b""
    while wait_until_readable(output, deadline):
        chunk = os.read(output, MAX_PIN_BYTES)
        if not chunk:
            return line.partition(b"\n")[0].removesuffix(b"\r")
        if b"\n" not in line and len(line) <= MAX_PIN_BYTES:
            line += chunk
    raise TimeoutError


def _text(line: bytes, program: str) -> str:
    if not line:
        raise _failure(program, "printed no PIN on its first line")
    if len(line) > MAX_PIN_BYTES:
        raise _failure(program, f"printed a first line of more than {MAX_PIN_BYTES} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError:
        # Not chained: the exception would carry the line.
        raise _failure(program, "printed a first line that is not UTF-8") from None


def _failure(program: str, what: str) -> PinError:
    return PinError(f"the command {program!r} of pin-source {what}", "Run it by hand to see its messages")
