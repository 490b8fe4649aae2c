"""Ask a person through a pinentry: a program that shows one dialogue, spoken to by the Assuan protocol.

https://www.gnupg.org/documentation/manuals/assuan/: a command is a line, and so is an answer: `OK`, `ERR` and a number,
or `D` and data, in which %, CR and LF are percent-escaped. A pinentry is never told that it may keep a PIN.
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

from hwsigner.errors import PinError, printable
from hwsigner.pins import PinRequest
from hwsigner.pins.child import child_environment, wait_until_readable

PROGRAM = "pinentry"
VARIABLE = "HWSIGNER_PINENTRY"
# What a person has, and what a program has for an answer that no person gives; seconds.
ANSWER_LIMIT = 120.0
REPLY_LIMIT = 10.0
_TERMINAL = "/dev/tty"
# Assuan's lines have 1000 bytes at most, and a character takes four, or three when it is escaped.
_MAX_TEXT = 200
_MAX_DATA = 16384
# <gpg-error.h>; the rest of the number tells the program that met it.
_ERROR_CODE = 0xFFFF
_TIMEOUT = 62
_CANCELLED = (99, 198)
_OTHER = f"Name another one with --pinentry or {VARIABLE}, or none"


class Pinentry:
    """A pinentry program. Its `ask` is one of the `prompts` of a PinSource.

    Args:
        program: its path, or its name on the PATH.
        is_optional: a program that is missing, or that can't ask, is no error: another place may give the PIN.
        answer_limit: the seconds that a person has.
        reply_limit: the seconds that the program has for anything else.
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
        """Return what a person types; None where there is neither a display nor a terminal to ask on.

        Raises:
            PinError: the person cancelled, or did not answer in time; or the program is missing or fails, unless it is
                optional.
        """
        if not has_display(os.environ) and not _has_terminal():
            return None
        try:
            with _restored_terminal(), _Conversation(self.program, self._reply_limit) as talk:
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
        # It keeps the time itself, and leaves the terminal tidy at its end.
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

    Args:
        named: the program that flag or profile name; `none` for none at all.
        environ: its HWSIGNER_PINENTRY is used where `named` is None. Where that is unset too it is `pinentry` on the
            PATH, and only where there is a display: on a terminal alone, a line is asked for.
    """
    program = named or environ.get(VARIABLE)
    if program:
        return None if program == "none" else Pinentry(program)
    return Pinentry(is_optional=True) if has_display(environ) else None


def has_display(environ: Mapping[str, str]) -> bool:
    """Tell whether a dialogue can be shown on a graphical display."""
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


class _AssuanError(Exception):
    def __init__(self, line: str) -> None:
        number, _, self.text = line.partition(" ")
        self.code = int(number) & _ERROR_CODE if number.isascii() and number.isdigit() else 0
        super().__init__(self.text)


class _Conversation:
    """A started program: commands and their replies. At its end the program is ended."""

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
        """Return the data of a reply.

        Raises:
            _AssuanError: it is an error.
            TimeoutError: it did not come within the limit, in seconds.
            OSError: the program has ended, or sends more data than a PIN can be.
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
        raise OSError(0, "it sends data without end")

    def _line(self, deadline: float) -> bytes:
        output = self._output.fileno()
        while b"\n" not in self._pending:
            if not wait_until_readable(output, deadline):
                raise TimeoutError
            chunk = os.read(output, 4096)
            if not chunk or len(self._pending) > _MAX_DATA:
                raise OSError(0, "it is no pinentry, or has ended")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line


def _options(environ: Mapping[str, str]) -> Iterator[str]:
    """Return the options that a dialogue on a terminal needs."""
    if _has_terminal():
        yield f"ttyname={_TERMINAL}"
    if environ.get("TERM"):
        yield f"ttytype={_escaped(environ['TERM'])}"
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG")
    if locale:
        yield f"lc-ctype={_escaped(locale)}"


def _escaped(text: str) -> str:
    """Return text for a command: unprintable characters shown as escapes, and the percent sign as Assuan has it."""
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
    """Give the terminal back as it was, echo above all: a program that is killed leaves it as it stands."""
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
