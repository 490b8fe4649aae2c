"""The process of a command: its user, output streams, Ctrl-C, resource limits, and what may read its memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from hwsigner._system.systemd import ERROR, is_journal, line_priority
from hwsigner.errors import HwsignerError, printable, printable_lines

if TYPE_CHECKING:
    from hwsigner._aws.credentials import Credentials
    from hwsigner._config.settings import Settings
    from hwsigner._pins import AskPin, PinRequest

_DESCRIPTORS = 4096
# How long Python gets to raise KeyboardInterrupt by itself.
_INTERRUPT_SECONDS = 0.2
_log: Callable[[str], None] | None = None
_one_prompt = threading.Lock()  # Threads share the user and the terminal.


def report(text: str) -> None:
    """Write lines to stderr, each with the program's name, or to the log. Do nothing if stderr is closed or full."""
    if _log:
        for line in text.splitlines():
            _log(line)
        return
    if sys.stderr is None:
        return  # print() would write to stdout then.
    # Unbuffered: at exit, the interpreter would retry what is left in a buffer, and end with status 120.
    with suppress(OSError):
        sys.stderr.flush()
        begin = f"<{line_priority(text, ERROR)}>hwsigner: " if is_journal(sys.stderr.fileno()) else "hwsigner: "
        lines = "".join(f"{begin}{printable(line)}\n" for line in text.splitlines())
        os.write(sys.stderr.fileno(), lines.encode(sys.stderr.encoding, "backslashreplace"))


def report_to(log: Callable[[str], None] | None) -> None:
    """Let `report` write its lines to a log, or to stderr again with None."""
    global _log
    _log = log


def report_shorter_session(credentials: Credentials, values: Settings) -> None:
    """Report a session that is shorter than asked. Not by a HwsignerWarning, for which --strict refuses credentials."""
    from hwsigner._aws.create_session import shortened
    from hwsigner._system.clocks import utc_now

    asked = vars(values).get("session_duration", 0)  # The default is not asked for.
    if problem := shortened(credentials, asked, utc_now()):
        report(f"warning: {problem}")


def let_ask(values: Settings) -> None:
    """Let what is done with settings ask the user for PINs, and report its trace if `--debug` is given."""
    values.prompts = prompts
    values.trace = _trace if values.debug else None


def prompts(pinentry: str | None) -> list[AskPin]:
    """Return what asks the user for a PIN: a pinentry, then the terminal. One question is open at a time."""

    def ask_pinentry(request: PinRequest) -> str | None:
        from hwsigner._pins.pinentry import find_pinentry

        found = find_pinentry(pinentry, os.environ)
        return found.ask(request) if found else None

    def ask_on_terminal(request: PinRequest) -> str | None:
        from hwsigner._pins.terminal import ask_pin

        return ask_pin(request)

    return [partial(_ask_alone, ask) for ask in (ask_pinentry, ask_on_terminal)]


def asker(pinentry: str | None = None) -> AskPin:
    """Return what asks the user for a PIN that an agent needs; it returns None if no prompt can."""
    from hwsigner._pins import PinSource

    return PinSource(prompts=prompts(pinentry)).prompt


def _ask_alone(ask: AskPin, request: PinRequest) -> str | None:
    with _one_prompt:
        return ask(request)


def _trace(text: str) -> None:
    report("\n".join(f"debug: {line}" for line in text.splitlines()))


def report_thread_failures() -> None:
    """Report an exception that ends a thread in one line, as a traceback could show a secret."""
    threading.excepthook = lambda failure: report(
        f"internal error: {failure.exc_type.__name__} in a thread. Please report it"
    )


@contextmanager
def signals_handled(handlers: Mapping[signal.Signals, Callable[..., None]]) -> Iterator[None]:
    """Let these handlers take signals inside the `with` statement, and the former ones again after it."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signals() -> set[signal.Signals]:
    """Return the signals that stop a server: SIGINT, SIGTERM and, except under nohup, SIGHUP."""
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGINT, signal.SIGTERM} | (set() if is_nohup else {signal.SIGHUP})


def abandon_stdout() -> None:
    """Discard what is left in stdout's buffer. The interpreter would retry it at exit, and print its own message."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_outcome(done: str, text: str) -> None:
    """Print what a command that has changed something prints.

    If stdout can't be written, the error says what was done.
    """
    try:
        sys.stdout.write(f"{text}\n")  # At once: `head -1` may go after the first part.
        sys.stdout.flush()
    except OSError as error:
        abandon_stdout()
        problem = f"{done}, but stdout can't be written: {error.strerror}"
        raise HwsignerError(problem, "Check where the output goes") from error


def print_rows(done: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print what a command has done in rows of a title and a text. Control characters in them are escaped."""
    width = max(len(title) for title, _ in rows)
    print_outcome(done, printable_lines([f"{title:<{width}}  {text}" for title, text in rows]))


def discard_frames(interruption: BaseException | None) -> None:
    """Destroy the objects in the frames that Ctrl-C interrupted. Errors of half-made objects are not printed."""
    if not isinstance(interruption, KeyboardInterrupt):
        return
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        trace = interruption.__traceback__
        while trace:
            with suppress(RuntimeError):  # The frame is still running.
                trace.tb_frame.clear()
            trace = trace.tb_next
        interruption.__traceback__ = None
    finally:
        sys.unraisablehook = before


class ExitOnInterrupt:
    """Ends the process on Ctrl-C while the main thread waits in native code.

    Python raises KeyboardInterrupt only when the native code returns, which may be after the user touches a token.
    Meanwhile a thread learns of the signal through a pipe. SIGINT is left alone if it has another handler.
    """

    def __init__(self, status: int) -> None:
        self._status = status
        self._writer: int | None = None
        self._wait: object = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Return a context manager for the wait."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or self._wait or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        if self._writer is None:
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            threading.Thread(target=self._run, args=[reader], name="hwsigner-interrupt", daemon=True).start()
        self._wait = object()
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            self._wait = None

    def _run(self, reader: int) -> None:
        while numbers := os.read(reader, 64):
            wait = self._wait
            if signal.SIGINT in numbers and wait:
                time.sleep(_INTERRUPT_SECONDS)
                if self._wait is wait:
                    os._exit(self._status)


def raise_descriptor_limit() -> None:
    """Raise the limit of open file descriptors, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
