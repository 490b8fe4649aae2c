"""The process that uses the module: it asks the questions, and reports each answer to the process that shows them.

A module may crash or hang. So it is loaded here alone: `watching.py` starts another such process, which goes on with
the next question.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NoReturn

from hwsigner._pins import PinRequest
from hwsigner._system import host
from hwsigner.backends.pkcs11.pins import token_name
from hwsigner.errors import HwsignerError, printable
from hwsigner.trial.asking import on_signals
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.making import delete_left, left_by_trials, not_left_by_trials, writing_session
from hwsigner.trial.token.questions import QUESTIONS, ask
from hwsigner.trial.token.subject import ShownObjects, TokenPlan, TriedToken


class _WorkerLine:
    """The line to the process that shows the answers: JSON, one value a line."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")

    def send(self, kind: str, value: object) -> None:
        """Send a value; raise a KeyboardInterrupt if nobody is there any more."""
        try:
            print(json.dumps([kind, value]), file=self._file, flush=True)
        except BrokenPipeError:
            raise KeyboardInterrupt from None

    def ask_pin(self, request: PinRequest) -> str | None:
        """Ask the user for a PIN on the terminal, as long as it takes."""
        from hwsigner._pins.terminal import ask_pin

        self.send("asking", True)
        try:
            return ask_pin(request)
        finally:
            self.send("asking", False)

    def pause(self, text: str) -> None:
        """Show the user what to do, and wait until that is done."""
        self.send("pause", text)
        if self.wait() != "go":
            raise NotAskedError("nobody is there to do it")

    def wait(self) -> str:
        """Wait until the other process says how to go on; raise a KeyboardInterrupt if it has ended."""
        if not (read := sys.stdin.readline()):
            raise KeyboardInterrupt
        return read.strip()


def _stop(*_: object) -> NoReturn:
    """Raise one KeyboardInterrupt for any number of signals, so that none cuts the cleaning short."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)


def _names(shown: ShownObjects) -> list[str]:
    """Return what identifies the owner of the objects that the token shows, which no report may have."""
    names: list[str] = []
    for one in shown.everything:
        names += [one.label.decode(errors="replace"), one.id.hex()]
    for certificate in shown.certificates:
        names += _subjects(certificate.der)
    return names


def _subjects(der: bytes) -> list[str]:
    from cryptography import x509

    with suppress(ValueError):
        certificate = x509.load_der_x509_certificate(der)
        return [str(part.value) for name in (certificate.subject, certificate.issuer) for part in name]
    return []


def _introduce(line: _WorkerLine, tried: TriedToken) -> None:
    """Say what was found, and wait until the user has agreed."""
    measured = tried.module.functions.library()
    target = {"system": host.name(), "module": os.path.basename(tried.plan.module)}
    texts = measured["library-manufacturer"], measured["library-description"]
    target["library"] = printable(" ".join(filter(None, texts)))
    target["library version"] = measured["library-version"]
    place = ""
    with suppress(NotAskedError):
        info = tried.info
        target |= {"manufacturer": printable(info.manufacturer), "model": printable(info.model)}
        target["firmware"] = "{}.{}".format(*info.firmware)
        place = f"{token_name(info)} in slot {info.slot}"
        line.send("hide", [info.label, info.serial])
    line.send("target", target)
    line.send("found", place)
    line.wait()


def _ask(line: _WorkerLine, tried: TriedToken, done: set[str]) -> None:
    """Ask the questions that were not asked yet."""
    named = None
    for question in QUESTIONS:
        if question.id in done:
            continue
        line.send("question", question.id)
        line.send("result", asdict(ask(question, tried)))
        line.send("target", tried.measured)
        if (failure := tried.failure) is not None:
            line.send("failure", [failure.message, failure.hint, failure.exit_status])
        if tried.shown is not named:
            named = tried.shown
            line.send("hide", _names(named))


def _delete(line: _WorkerLine, tried: TriedToken, label: str = "") -> None:
    """Delete what was made, and say how many objects are left."""
    try:
        line.send("left", delete_left(tried, label))
    except Exception as error:
        line.send("left", error.message if isinstance(error, HwsignerError) else type(error).__name__)


def _clean(line: _WorkerLine, tried: TriedToken) -> None:
    """Show what earlier trials left, and delete it once the user has agreed."""
    try:
        with writing_session(tried) as session:
            found, others = list(left_by_trials(session).values()), not_left_by_trials(session)
    except NotAskedError as error:
        if tried.failure is not None:
            raise tried.failure from None
        raise HwsignerError(f"nothing was looked for: {error.message}", "Add --pin-source file:PATH") from None
    for each in others:
        line.send("say", f"Not deleted: {each}, whose id is not one that a trial gives")
    line.send("lines", found)
    if found:
        line.wait()
        _delete(line, tried)


def _work(line: _WorkerLine, plan: TokenPlan, done: set[str]) -> None:
    tried = TriedToken(plan, line.ask_pin, line.pause)
    tried.has_written = bool(plan.label and plan.is_repeated)
    try:
        if plan.is_cleaning:
            _clean(line, tried)
            return
        _introduce(line, tried)
        _ask(line, tried, done)
    finally:
        _ignore_signals()
        with suppress(KeyboardInterrupt):
            if tried.has_written and plan.label:
                _delete(line, tried, plan.label)
            elif not plan.is_cleaning:
                line.send("left", 0)
        tried.release()


def main() -> int:
    """Ask the questions of a plan, which is the first line of standard input."""
    with suppress(KeyboardInterrupt), on_signals(_stop):
        line = _WorkerLine(int(sys.argv[1]))
        first: dict[str, Any] = json.loads(sys.stdin.readline())
        done = set(first.pop("done"))
        try:
            _work(line, TokenPlan(**first), done)
            line.send("end", "")
        except HwsignerError as error:
            line.send("error", [error.message, error.hint, error.exit_status])
        except Exception as error:  # Its text may have a name.
            line.send("error", [f"the trial failed with {type(error).__name__}", "Report this", 1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
