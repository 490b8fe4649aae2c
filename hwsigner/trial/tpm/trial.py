"""The life of a TPM's trial: say what will be done, ask, leave the TPM as it was, and write the report."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tpm2_pytss import TSS2_Exception

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.attestation import read_trust
from hwsigner.backends.tpm2.errors import NV_SPACE, code, is_answer
from hwsigner.errors import BackendUnavailableError, HwsignerError, Interruption, PinError, SigningKeyError
from hwsigner.trial.asking import confirm, numbered, on_signals, require_folder, selected, write_report
from hwsigner.trial.questions import NotAskedError, Result, ask_all
from hwsigner.trial.report import Scrubber, TrialReport
from hwsigner.trial.tpm import basics, endorsement, keys, sharing, state, writing
from hwsigner.trial.tpm.capabilities import OBJECTS_LEFT
from hwsigner.trial.tpm.chip import SOURCES, StoppedError, TrialChip
from hwsigner.trial.tpm.making import HIERARCHY, refusal
from hwsigner.trial.tpm.questions import END, QUESTIONS, Ask, TPMQuestion

ASKS: Mapping[str, Ask] = {**basics.ASKS, **keys.ASKS, **endorsement.ASKS, **sharing.ASKS, **writing.ASKS}
_Loaded = Mapping[str, Sequence[int]]
_TO_CLEAN = "Run the same command with --clean"


def run(arguments: argparse.Namespace) -> int:
    """Run the trial, or clean up, and return 0 if no answer differs.

    An Interruption says that a signal ended it. Then the TPM is as it was, and the report has the answers until then.
    """
    if not arguments.clean:
        require_folder(arguments.output)
    questions = selected(QUESTIONS[:-1], arguments.only)
    ranges = [writing.read_range(text) for text in arguments.write]
    query = {name: getattr(arguments, name.replace("-", "_")) for name in ("tcti", *SOURCES)}
    uri = KeyURI("tpm2", {}, {name: value.encode() for name, value in query.items() if value})
    trust = read_trust(arguments.roots) if arguments.roots else None
    with tempfile.TemporaryDirectory(prefix="hwsigner-trial-") as folder:
        pins = PinSource(allow_commands=True)
        for given in filter(None, map(query.get, SOURCES)):
            pins.given(KeyURI("tpm2", {}, {"pin-source": given.encode()}))  # An error now, not an answer "not asked".
        chip = TrialChip(uri, pins, folder=Path(folder), trust=trust, ranges=ranges)
        try:
            return _clean(chip, arguments) if arguments.clean else _try_all(chip, questions, arguments)
        except StoppedError:
            raise Interruption("interrupted", "The TPM is as it was, and there is no report") from None
        finally:
            chip.close()


def _try_all(chip: TrialChip, questions: Sequence[TPMQuestion], arguments: argparse.Namespace) -> int:
    print(_announcement(chip, questions, arguments.output), flush=True)
    if not arguments.yes:
        confirm("Begin?")
    with on_signals(chip.stop), _kept(chip) as loaded:
        _look_for_left(chip)
        target = chip.capabilities.target(chip.tcti)
        results, stopped = _answers(chip, questions, loaded)
    report = TrialReport("tpm", datetime.now(UTC).date(), target, results).scrubbed(_scrubber(chip, arguments))
    status = write_report(report, arguments.output)
    if stopped:
        raise Interruption("interrupted", "The TPM is as it was, and the report has the answers until then")
    return status


def _look_for_left(chip: TrialChip) -> None:
    with suppress(BackendUnavailableError):  # If no place is free, nothing can be read, nor written.
        if chip.use(state.left_by_writing):
            _say("an earlier trial was killed and has left something in the TPM: --clean removes it")


@contextmanager
def _kept(chip: TrialChip) -> Iterator[_Loaded]:
    """Keep what is loaded in a journal, give it, and remove what is left at the end of the `with` statement."""
    journal = state.Journal(chip.tcti)
    try:
        removed = state.begin(chip, journal)
    except BaseException:
        journal.end(keep=True)
        raise
    if removed:
        _say(f"an earlier trial was killed: {removed} loaded objects or sessions of its were flushed")
    is_clean = False
    try:
        yield journal.read() or {}
    finally:
        try:
            _remove_all(chip, journal)
            is_clean = True
        except HwsignerError as error:
            raise HwsignerError(f"the TPM could not be left as it was: {error.message}", _TO_CLEAN) from error
        finally:
            journal.end(keep=not is_clean)


def _remove_all(chip: TrialChip, journal: state.Journal) -> None:
    """Remove what a question that failed has left."""
    before = journal.read()
    if before is not None and not chip.is_managed:
        chip.finish(lambda tpm: state.flush_left(tpm, before, sessions=chip.failures > 0))
        if chip.finish(lambda tpm: state.left_loaded(tpm, before, sessions=False)):
            raise HwsignerError("it keeps objects of the trial that were flushed")
    if chip.has_written:
        left = chip.finish(state.left_by_writing)
        if left:
            chip.finish(lambda tpm: state.remove_left(tpm, chip.auth, left))


def _answers(chip: TrialChip, questions: Sequence[TPMQuestion], loaded: _Loaded) -> tuple[list[Result], bool]:
    """Return the results, and whether a signal has ended the trial before all were asked."""
    results: list[Result] = []

    def changed(chip: TrialChip) -> str:
        if not chip.is_managed:
            if chip.failures:
                chip.use(lambda tpm: state.flush_left(tpm, loaded, sessions=True))
            if chip.use(lambda tpm: state.left_loaded(tpm, loaded, sessions=False)):
                return "objects of the trial are loaded"
        return state.changes(before, chip.use(state.snapshot))

    try:
        before = chip.use(state.snapshot)
        end = replace(END, ask=changed)
        careful = (replace(each, ask=partial(_ask, ASKS[each.id], each.expected)) for each in questions)
        for result in ask_all((*careful, end), chip):
            results.append(result)
            detail = result.why or result.answer
            _say(f"[{len(results)}/{len(questions) + 1}] {result.id}: {result.verdict} ({detail})")
    except StoppedError:
        _say("interrupted")
        return results, True
    return results, False


def _ask(ask: Ask, expected: str, chip: TrialChip) -> str:
    """Ask a question. What the TPM refuses beside it is an answer too, unless the TPM lacks room or a hierarchy.

    If the connection breaks meanwhile, the work is repeated, which may change its answer.
    """
    before = chip.failures
    try:
        answer = ask(chip)
    except (BackendUnavailableError, PinError, NotAskedError):
        raise
    except SigningKeyError as error:
        answer = _failure(error)
    except Exception as error:
        answer = f"fails with {type(error).__name__}"
    if answer != expected and chip.failures > before:
        raise NotAskedError("the connection to the TPM broke, or the TPM wanted time, in the middle of it")
    return answer


def _failure(error: SigningKeyError) -> str:
    """Return the answer for an error of ours, or raise it if the TPM lacks what the question needs."""
    cause = error.__cause__
    if not (isinstance(cause, TSS2_Exception) and is_answer(cause)):
        return f"fails with {type(error).__name__}"
    if code(cause) in (HIERARCHY, NV_SPACE):
        raise error
    return refusal(cause)


def _clean(chip: TrialChip, arguments: argparse.Namespace) -> int:
    """Remove what killed trials have left."""
    left = chip.use(state.left_by_writing)
    places = [f"{place:#010x}" for place in left]
    print("\n".join((f"Keys and indices of trials in the TPM: {len(places) or 'none'}", *places)), flush=True)
    if places and not arguments.yes:
        confirm("Remove these?")
    with on_signals(chip.stop), _kept(chip):
        if left:
            chip.require("owner")
            chip.finish(lambda tpm: state.remove_left(tpm, chip.auth, left))
            if chip.finish(state.left_by_writing):
                raise HwsignerError("not everything was removed", "See what hwsigner list tpm2: shows")
    if not chip.is_managed and (others := chip.use(state.count_loaded)):
        _say(f"the TPM still has {others} loaded objects and sessions, which nothing shows to be a trial's")
    return 0


def _announcement(chip: TrialChip, questions: Sequence[TPMQuestion], output: Path) -> str:
    about = chip.capabilities.target(chip.tcti)
    lines = [
        f"A trial of {numbered(len(questions) + 1, 'question')} to the TPM at {chip.tcti}: vendor {about['vendor']}, "
        f"firmware {about['firmware']}, {about['specification']}.",
        "",
        "- It makes keys in the null hierarchy, and primary keys in the hierarchies of owner and endorsement. Each is "
        "flushed after its use, and none is stored.",
        "- It sends no auth value but those that you name. A wrong one goes to a key of its own alone, for which the "
        "TPM does not count it.",
        "- A chip takes some minutes for all.",
    ]
    if not chip.is_managed:
        lines.append(
            "- No resource manager shares this TPM out. So the trial fills all places for objects and sessions for a "
            "moment, in which other programs get errors."
        )
        if chip.capabilities.properties.get(OBJECTS_LEFT, 2) < 2:
            lines.append(
                "- Other programs have left too few places for objects free, so most questions can't be asked. "
                "tpm2_flushcontext -t frees them."
            )
    lines += [
        f"- The {name} hierarchy has an auth value, so the questions on it are not asked. To ask them, give "
        f"--{name}-pin-source file:/path."
        for name in chip.capabilities.auths
        if name != "lockout" and chip.uri.text(f"{name}-pin-source") is None
    ]
    if chip.trust is None:
        lines.append("- The chip's certificate is not verified. To do that, give --roots FOLDER.")
    written = ", ".join(f"{places[0]:#010x} to {places[-1]:#010x}" for places in chip.ranges)
    lines.append(
        f"- It writes to free places in {written}: one key or index at a time, which it removes. Each write "
        "takes some of the life of the TPM's memory."
        if written
        else "- It writes nothing into the TPM. The questions on handles and indices need --write RANGE."
    )
    return "\n".join(
        [*lines, f"- The report goes to {output.absolute()}, without what identifies chip or machine.", ""]
    )


def _scrubber(chip: TrialChip, arguments: argparse.Namespace) -> Scrubber:
    scrub = Scrubber()
    if ":" in chip.tcti:
        scrub.hide(chip.tcti, "TCTI")
        scrub.hide(chip.tcti.partition(":")[2], "TCTI")
    scrub.hide(str(chip.folder), "folder")
    scrub.hide(str(arguments.output.absolute()), "folder")
    scrub.hide(arguments.roots or "", "folder")
    scrub.hide(os.path.expanduser("~"), "home")
    for name in SOURCES:
        source = chip.uri.text(name) or ""
        scrub.hide(source, "source")
        scrub.hide(source.partition(":")[2], "source")
    return scrub


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
