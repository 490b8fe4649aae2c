"""The trial as the user sees it: a process that uses the module, its answers, and what becomes of both when it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from hwsigner.errors import HwsignerError, Interruption
from hwsigner.trial.asking import interrupt, on_signals
from hwsigner.trial.questions import NotAskedError, Result, ask_all
from hwsigner.trial.report import read_result
from hwsigner.trial.token.questions import QUESTIONS, TokenQuestion
from hwsigner.trial.token.subject import TokenPlan

# A question that takes longer hangs. A signature may wait for a touch.
QUESTION_SECONDS = 180.0
_CLEANING_SECONDS = 60.0
_MOST_CRASHES = 5


class _Worker:
    """A process of `hwsigner.trial.token.worker`, and the line from it. It leaves out the questions that are done."""

    def __init__(self, plan: TokenPlan, done: set[str]) -> None:
        self._reading, writing = os.pipe()
        command = [sys.executable, "-m", "hwsigner.trial.token.worker", str(writing)]
        quiet = subprocess.DEVNULL  # Modules print.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, pass_fds=(writing,), text=True
        )
        os.close(writing)
        self._buffer = b""
        self.reply(json.dumps({**asdict(plan), "done": sorted(done)}))

    def reply(self, text: str = "go") -> None:
        """Send a line to the process, if it is still there."""
        assert self.process.stdin is not None  # noqa: S101
        with suppress(OSError):
            self.process.stdin.write(f"{text}\n")
            self.process.stdin.flush()

    def receive(self, seconds: float | None) -> tuple[str, Any] | None:
        """Return the next value from the process, or None if it has ended; raise a TimeoutError if none comes."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([self._reading], [], [], left)[0]:
                raise TimeoutError
            read = os.read(self._reading, 65536)
            if not read:
                return None
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\n")
        kind, value = json.loads(text)
        return kind, value

    def end(self) -> int:
        """Wait for the end of the process, kill it if it hangs, and return its exit status."""
        assert self.process.stdin is not None  # noqa: S101
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(_CLEANING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._reading)
        return self.process.returncode


class TokenTrial:
    """One trial: it starts a process, takes its answers, and starts another one if the module crashes or hangs.

    `target` and `hidden` are what the report says of the token, and what it must not. `failure` is why the login
    failed. `left` is how many objects the trial could not delete, or why it can't know.

    Args:
        plan: what the user wants.
        questions: those to be asked.
        agree: shows what was found, and raises a UsageError unless the user agrees.
    """

    def __init__(self, plan: TokenPlan, questions: Sequence[TokenQuestion], agree: Callable[[str], None]) -> None:
        self._plan = plan
        self._questions = questions
        self._others = {one.id for one in QUESTIONS} - {one.id for one in questions}
        self._agree = agree
        self._has_agreed = False
        self._worker: _Worker | None = None
        self._current: TokenQuestion | None = None
        self._is_asking = self._is_ended = False
        self.results: list[Result] = []
        self.target: dict[str, str] = {}
        self.hidden: set[str] = set()
        self.failure: HwsignerError | None = None
        self.left: int | str = 0

    def run(self) -> None:
        """Ask all questions. If the user stops that, what the trial made is deleted, and an Interruption is raised."""
        crashes = 0
        try:
            with on_signals(interrupt):
                while not self._ask_in_one_process(is_last=crashes >= _MOST_CRASHES):
                    crashes += 1
        except KeyboardInterrupt:
            self._stop()
            raise Interruption("the trial was stopped", self.remains()) from None

    def remains(self) -> str:
        """Say what the trial has left on the token, and what to do about it."""
        if self.left == 0:
            return "Nothing that it made is left on the token"
        return f"It may have left objects on the token ({self.left}): run it again with --clean"

    def _ask_in_one_process(self, *, is_last: bool) -> bool:
        """Ask the questions that are left; return whether the process came to its end.

        The last one asks nothing, because the module has crashed too often; it only deletes what was made.
        """
        done = {one.id for one in self.results}
        if is_last:
            self._leave_out("the module has crashed too often")
            done = {one.id for one in self._questions}
        self._worker, self._current = _Worker(self._plan, done | self._others), None
        why, self._is_ended = "", False
        try:
            while (received := self._worker.receive(None if self._is_asking else QUESTION_SECONDS)) is not None:
                self._take(*received)
        except TimeoutError:
            why = f"no answer in {QUESTION_SECONDS:g} s"
            self._worker.process.kill()
        except HwsignerError:
            self._worker.end()
            raise
        status = self._worker.end()
        if not self._is_ended:
            ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            self._plan = replace(self._plan, is_repeated=True)
            self._crashed(why or f"the module ended its process {ended}", is_last=is_last)
        return self._is_ended or is_last

    def _crashed(self, why: str, *, is_last: bool) -> None:
        self.left = "unknown" if self._plan.label else 0
        if self._current is not None:
            question = replace(self._current, ask=lambda _: why)
            self._add(next(ask_all((question,), _NOBODY)))
        elif not self.results:
            raise HwsignerError(
                f"PKCS #11 module {self._plan.module} can't be tried: {why}", "Try another version of it"
            )
        elif not is_last:
            self._leave_out(f"when it was started again, {why}")

    def _leave_out(self, why: str) -> None:
        """Ask no more questions."""

        def refuse(_: object) -> str:
            raise NotAskedError(why)

        done = {one.id for one in self.results}
        rest = (replace(one, ask=refuse) for one in self._questions if one.id not in done)
        self.results += ask_all(rest, _NOBODY)

    def _take(self, kind: str, value: Any) -> None:
        """Take what the process sent."""
        match kind:
            case "question":
                self._current = next(one for one in QUESTIONS if one.id == value)
            case "result":
                self._current = None
                self._add(read_result(value))
            case "target":
                self.target |= value
            case "hide":
                self.hidden |= set(value)
            case "left":
                self.left = value
            case "asking":
                self._is_asking = value
            case "end":
                self._is_ended = True
            case "failure":
                self.failure = _error(*value)
            case "error":
                self._fail(_error(*value))
            case _:
                self._talk(kind, value)

    def _fail(self, error: HwsignerError) -> None:
        """Raise an error that the process had at its start, unless there are answers of another one before it."""
        if not self.results:
            raise error
        print(f"  {error}")
        self._leave_out("the module could not be used again")
        self._is_ended = True

    def _talk(self, kind: str, value: Any) -> None:
        """Show the user what the process wants to say or ask, and reply."""
        assert self._worker is not None  # noqa: S101
        if kind == "say":
            print(f"  {value}")
        elif kind == "pause":
            try:
                input(f"{value}: ")
            except EOFError:  # Nobody is there to press Enter.
                self._worker.reply("no")
            else:
                self._worker.reply()
        elif kind == "found":
            if not self._has_agreed:
                self._agree(value)
            self._has_agreed = True
            self._worker.reply()
        elif kind == "lines":
            self._agree("\n".join(value))
            self._worker.reply()

    def _add(self, result: Result) -> None:
        self.results.append(result)
        print(f"{result.verdict:<12} {result.id}: {result.why or result.answer}", flush=True)

    def _stop(self) -> None:
        """Have the process delete what it made, and wait for that."""
        if self._worker is None or self._worker.process.returncode is not None:
            return
        with on_signals(signal.SIG_IGN):  # None cuts the deletion short.
            self.left = "unknown" if self._plan.label and (self.results or self._current) else 0
            self._worker.process.terminate()
            try:
                while (received := self._worker.receive(_CLEANING_SECONDS)) is not None:
                    if received[0] == "left":
                        self.left = received[1]
            except TimeoutError:  # It waits for the module.
                self._worker.process.kill()
            self._worker.end()


def _error(problem: str, hint: str, exit_status: int) -> HwsignerError:
    error = HwsignerError(problem, hint)
    error.exit_status = exit_status
    return error


# The questions that are asked of nobody don't look at it.
_NOBODY: Any = None
