"""The issuer that is a command: the request in PEM on its stdin, the certificates in PEM on its stdout."""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner._system.new_files import anonymous_file, open_end
from hwsigner.enrolment.issuers import Issued, IssuerSettings, OpensIssuer, Pending
from hwsigner.errors import ServiceError, ServiceUnreachableError, UsageError

if TYPE_CHECKING:
    from hwsigner.enrolment.issuers import command

    _: OpensIssuer = command

MAX_OUTPUT_BYTES = 1 << 20
_SHOWN = 300
_CHUNK = 1 << 16


def open_issuer(settings: IssuerSettings) -> CommandIssuer:
    """Return the issuer that runs `settings.command`."""
    try:
        words = shlex.split(settings.command)
    except ValueError:
        raise UsageError("--issuer-command has an open quote", "Close the quote") from None
    if not words or not words[0]:
        raise UsageError("the issuer is a command, and none was given", "Add --issuer-command PROGRAM")
    return CommandIssuer(tuple(words), settings.timeout)


@dataclass(frozen=True, repr=False)  # Its arguments may be secret.
class CommandIssuer:
    """A program that issues certificates, looked up on the PATH. No shell is used.

    After `timeout` seconds it is killed, with the processes that it started.
    """

    words: tuple[str, ...]
    timeout: float

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        """Run the program. Exit status 75 (EX_TEMPFAIL) means that there is no certificate yet."""
        with anonymous_file("request") as stdin:  # Unlike a pipe, it takes any request at once.
            stdin.write(request.pem)
            stdin.seek(0)
            try:
                process = subprocess.Popen(
                    self.words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
                )
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it has a null character"
                problem = f"the issuer's command {self.words[0]!r} can't be run: {reason}"
                raise UsageError(problem, "Check --issuer-command") from None
        return self._answer(process)

    def _answer(self, process: subprocess.Popen[bytes]) -> Issued | Pending:
        try:
            output, messages = _outputs(process, time.monotonic() + self.timeout)
            if len(output) > MAX_OUTPUT_BYTES:
                problem = f"the issuer's command {self.words[0]!r} printed more than {MAX_OUTPUT_BYTES} bytes"
                raise ServiceError(problem, "It must print the certificate and its chain alone")
        except TimeoutError:
            problem = f"the issuer's command {self.words[0]!r} did not end within {self.timeout:g} s"
            raise ServiceUnreachableError(problem, "Run it by hand to see why") from None
        finally:
            _end(process)
        if process.returncode == os.EX_TEMPFAIL:
            return Pending()
        if process.returncode:
            how = f"exited with status {process.returncode}"
            if process.returncode < 0:
                how = f"was killed by signal {-process.returncode}"
            problem = f"the issuer's command {self.words[0]!r} {how}{_quoted(messages)}"
            raise ServiceError(problem, "Run it by hand with the request of hwsigner csr")
        return Issued.from_pem(output, f"the output of the issuer's command {self.words[0]!r}")


def _outputs(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Return what a program prints until it ends, or until its stdout is too long. Of its stderr, return the end.

    Processes that it leaves behind may keep its pipes open: they are not waited for. Raises a TimeoutError.
    """
    stdout, stderr = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
    texts = {stdout: b"", stderr: b""}
    with selectors.DefaultSelector() as selector, open_end(process) as end:
        for pipe in texts:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ)
        selector.register(end, selectors.EVENT_READ)
        has_ended = False
        while not has_ended and len(texts[stdout]) <= MAX_OUTPUT_BYTES:
            ready = {key.fileobj for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            if not ready:
                raise TimeoutError
            has_ended = end in ready
            for pipe in texts if has_ended else texts.keys() & ready:
                texts[pipe] = _more(pipe, texts[pipe], selector)
            texts[stderr] = texts[stderr][-_CHUNK:]
    return texts[stdout], texts[stderr]


def _more(pipe: IO[bytes], text: bytes, selector: selectors.BaseSelector) -> bytes:
    """Return a text with all that a pipe has now; if the pipe is closed, do not wait for it again."""
    while len(text) <= MAX_OUTPUT_BYTES:
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return text
        if not chunk:
            with suppress(KeyError):
                selector.unregister(pipe)
            return text
        text += chunk
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that has not ended, with the processes that it started, and close its pipes."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        cast("IO[bytes]", pipe).close()


def _quoted(messages: bytes) -> str:
    """Return the last line of a program's messages, for an error."""
    lines = [line.strip() for line in messages.decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {lines[-1][:_SHOWN].rstrip('.')}" if lines else ""
