"""Ask the user through a pinentry: a program that shows one dialogue and speaks the Assuan protocol.

https://www.gnupg.org/documentation/manuals/assuan/: commands are lines, and so are answers: `OK`, `ERR` and a number,
or `D` and data with %, CR and LF percent-escaped. hwsigner never allows a pinentry to cache a PIN.
"""

from __future__ import annotations

import os
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, Self, cast
from urllib.parse import unquote_to_bytes

from hwsigner._pins import PinRequest
from hwsigner._pins.child import child_environment, wait_until_readable
from hwsigner._pins.terminal import signals_after_cleanup
from hwsigner._system.places import has_display, usual_pinentry
from hwsigner.errors import PinError, printable

PROGRAM = "pinentry"
VARIABLE = "HWSIGNER_PINENTRY"
# Time limits in seconds: for the user's answer, and for the program's other answers.
ANSWER_LIMIT = 120.0
REPLY_LIMIT = 10.0
_TERMINAL = "/dev/tty"
# Assuan's lines have at most 1000 bytes, and a character takes up to four.
_MAX_TEXT = 200
_MAX_DATA = 16384
# From gpg-error.h. The rest of the number is the program with the error.
_ERROR_CODE = 0xFFFF
_TIMEOUT = 62
_CANCELLED = (99, 198)
_OTHER = f"Choose another one with --pinentry or {VARIABLE}, or use none"


class Pinentry:
    """A pinentry program. Its `ask` is one of the `prompts` of a PinSource.

    If it is optional, a program that is missing or can't ask gives None, not an error. The limits, in seconds, are for
    the user's answer and for any other reply.
    """

    def __init__(
        self,
        program: str = PROGRAM,
        *,
        is_optional: bool = False,
        answer_limit: float = ANSWER_LIMIT,
        reply_limit: float = REPLY_LIMIT,
    ) -> None:
        self.program = program
        self._is_optional = is_optional
        self._answer_limit = answer_limit
        self._reply_limit = reply_limit

    def ask(self, request: PinRequest) -> str | None:
        """Return what the user types; None if there is neither a display nor a terminal.

        If the user cancels, or does not answer in time, this is a PinError.
        """
        if not has_display(os.environ) and not _has_terminal():
            return None
        try:
            with signals_after_cleanup(), _restored_terminal(), _Conversation(self.program, self._reply_limit) as talk:
                return self._asked(talk, request)
        except _AssuanError as error:
            if error.code in (_TIMEOUT, *_CANCELLED):
                how = "not answered in time" if error.code == _TIMEOUT else "cancelled"
                raise PinError(f"the question for the {request.question} was {how}") from None
            problem = f"can't ask: {error.text}"
        except TimeoutError:
            problem = "does not answer"
        except OSError as error:
            problem = f"can't be run: {error.strerror}"
        if self._is_optional:
            return None
        raise PinError(f"pinentry {self.program} {problem}", _OTHER)

    def _asked(self, talk: _Conversation, request: PinRequest) -> str:
        talk.reply()  # Its greeting.
        for option in _options(os.environ):
            with suppress(_AssuanError):  # Not every pinentry knows every option.
                talk.command(f"OPTION {option}")
        with suppress(_AssuanError):
            talk.command(f"SETTIMEOUT {max(1, int(self._answer_limit))}")
        talk.command("SETTITLE hwsigner")
        talk.command(f"SETDESC {_escaped(request.question)}")
        talk.command(f"SETPROMPT {_escaped(request.kind)}:")
        # The pinentry enforces the limit itself and then restores the terminal, so give it some more time.
        answer = talk.command("GETPIN", self._answer_limit + self._reply_limit)
        with suppress(_AssuanError, TimeoutError, OSError):
            talk.command("BYE", 1.0)
        try:
            return answer.decode()
        except UnicodeDecodeError:
            # Not chained: the exception would carry what was typed.
            raise PinError(f"the {request.kind} typed for {request.subject} is not UTF-8 text") from None


def find_pinentry(named: str | None, environ: Mapping[str, str]) -> Pinentry | None:
    """Return the pinentry to ask with, or None.

    `named` is the program in a flag or profile; `none` for no pinentry. If it is None, HWSIGNER_PINENTRY names the
    program. If that is unset too, `pinentry` on the PATH is used, on macOS pinentry-mac, but only if there is a
    display: with a terminal alone, hwsigner asks there.
    """
    program = named or environ.get(VARIABLE)
    if program:
        return None if program == "none" else Pinentry(program)
    program = usual_pinentry() if has_display(environ) else None
    return Pinentry(program, is_optional=True) if program else None


class _AssuanError(Exception):
    def __init__(self, line: str) -> None:
        number, _, self.text = line.partition(" ")
        self.code = int(number) & _ERROR_CODE if number.isascii() and number.isdigit() else 0
        super().__init__(self.text)


class _Conversation:
    """A running pinentry: commands and their replies. The end of the `with` statement ends the program."""

    def __init__(self, program: str, reply_limit: float) -> None:
        self._reply_limit = reply_limit
        self._pending = b""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [program], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0, env=child_environment()
        )
        self._input, self._output = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()
        self._output.close()
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def command(self, line: str, limit: float | None = None) -> bytes:
        """Send a command and return the data of its reply; raises as `reply`."""
        self._input.write(line.encode("utf-8", "surrogateescape") + b"\n")
        return self.reply(limit)

    def reply(self, limit: float | None = None) -> bytes:
        """Return the data of a reply, or raise an _AssuanError if it is an error; a TimeoutError after `limit` seconds.

        If the program has ended, or sends too much for a PIN, that is an OSError.
        """
        deadline = time.monotonic() + (self._reply_limit if limit is None else limit)
        data = b""
        while len(data) <= _MAX_DATA:
            word, _, rest = self._line(deadline).partition(b" ")
            if word == b"OK":
                return data
            if word == b"ERR":
                raise _AssuanError(rest.decode("utf-8", "replace"))
            if word == b"D":
                data += unquote_to_bytes(rest)
        raise OSError(0, "it sends too much data")

    def _line(self, deadline: float) -> bytes:
        output = self._output.fileno()
        while b"\n" not in self._pending:
            if not wait_until_readable(output, deadline):
                raise TimeoutError
            chunk = os.read(output, 4096)
            if not chunk or len(self._pending) > _MAX_DATA:
                raise OSError(0, "it is not a pinentry, or has ended")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line


def _options(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the options for a dialogue on a terminal."""
    if _has_terminal():
        yield f"ttyname={_TERMINAL}"
    if environ.get("TERM"):
        yield f"ttytype={_escaped(environ['TERM'])}"
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG")
    if locale:
        yield f"lc-ctype={_escaped(locale)}"


def _escaped(text: str) -> str:
    """Return text for a command, with unprintable characters as escapes and the percent sign escaped for Assuan."""
    shown = printable(text)
    if len(shown) > _MAX_TEXT:
        shown = f"{shown[: _MAX_TEXT // 2]}…{shown[-_MAX_TEXT // 2 + 1 :]}"
    return shown.replace("%", "%25")


def _has_terminal() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextmanager
def _restored_terminal() -> Iterator[None]:
    """Restore the terminal's settings at the end: a pinentry that is killed would leave echo off."""
    try:
        terminal = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY)
    except OSError:
        yield
        return
    before: list[Any] | None = None
    with suppress(termios.error):
        before = termios.tcgetattr(terminal)
    try:
        yield
    finally:
        with suppress(termios.error):  # It may have hung up.
            if before is not None and termios.tcgetattr(terminal) != before:
                termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(terminal)
