"""What the trials share: flags, which questions are asked, whether the user agrees, signals, and the report's end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from hwsigner.errors import HwsignerError, Interruption, UsageError
from hwsigner.trial.questions import Question, Verdict
from hwsigner.trial.report import TrialReport

_Asked = TypeVar("_Asked", bound=Question[Any])


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all trials have."""
    only = "ask only these questions, such as 'keys.*'; repeatable"
    parser.add_argument("--only", metavar="PATTERN", action="append", default=[], help=only)
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, default=Path(), help="folder of the report (default: .)"
    )
    parser.add_argument("--yes", action="store_true", help="go on without asking you anything, not even for a PIN")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--list", action="store_true", help="print the questions and ask nothing")
    actions.add_argument("--clean", action="store_true", help="only delete what killed trials have left")


def require_folder(folder: Path) -> None:
    """Raise a UsageError unless the report can be written to a folder."""
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UsageError(f"{folder} is not a folder that the report can be written to", "Give --output FOLDER")


def show_questions(questions: Sequence[Question[Any]], patterns: Sequence[str]) -> int:
    """Print the questions, their expected answers, where these come from and what rests on them."""
    for each in selected(questions, patterns):
        print(f"{each.id}: {each.text}")
        print(f"    expected: {each.expected}")
        print(f"    source:   {each.source.origin}: {each.source.where}")
        print(f"    rests on: {', '.join(each.rests_on)}")
    return 0


def selected(questions: Sequence[_Asked], patterns: Sequence[str]) -> list[_Asked]:
    """Return the questions whose IDs match one of the patterns; all if there are no patterns."""
    for pattern in patterns:
        if not any(fnmatchcase(each.id, pattern) for each in questions):
            raise UsageError(f"--only {pattern} is the name of no question", "See --list")
    return [each for each in questions if not patterns or any(fnmatchcase(each.id, one) for one in patterns)]


def numbered(number: int, thing: str, plural: str = "") -> str:
    """Return a number and a noun."""
    return f"{number} {thing if number == 1 else plural or thing + 's'}"


def confirm(question: str) -> None:
    """Ask on the terminal."""
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        print()  # The error begins a line.
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was made or deleted", "Answer y, or add --yes")


@contextmanager
def on_signals(handler: Callable[..., object] | signal.Handlers) -> Iterator[None]:
    """Give SIGINT, SIGTERM and SIGHUP a handler in a `with` statement. What nohup ignores stays ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [each for each in numbers if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, handler) for each in heard}
    try:
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def status_of(run: Callable[[], int]) -> int:
    """Run a trial and return the exit status. Errors are printed. Only an answer that differs makes it 1."""
    try:
        return run()
    except HwsignerError as error:
        print(f"hwsigner: {error}", file=sys.stderr)
        return max(error.exit_status, UsageError.exit_status)
    except KeyboardInterrupt:
        print("hwsigner: interrupted", file=sys.stderr)
        return Interruption.exit_status


def interrupt(*_: object) -> NoReturn:
    """Do what Ctrl-C does, as the handler of a signal."""
    raise KeyboardInterrupt


def write_report(report: TrialReport, folder: Path) -> int:
    """Write a report, print its counts and paths, and return the exit status.

    It is 0 if answers are as expected and none differs, 1 if one differs, and a usage error's if there is no answer. If
    it can't be written, it is printed, so that the answers are not lost.
    """
    try:
        written = report.write(folder)
    except HwsignerError:
        print(report.to_json(), end="", flush=True)
        raise
    print(", ".join(f"{number} {verdict}" for verdict, number in report.counts.items()))
    print(f"Report: {written[0]} and {written[1].name}", flush=True)
    if not report.counts[Verdict.EXPECTED] + report.counts[Verdict.DIFFERS]:
        print("hwsigner: no question was asked. The report says why", file=sys.stderr)
        return UsageError.exit_status
    return int(report.counts[Verdict.DIFFERS] > 0)
