"""Try a PKCS #11 module and its tokens.

The module is used by a process of its own (`worker.py`), which `watching.py` starts, watches and starts again. The
questions are in `questions.md`, and what asks them in `about_*.py`.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from hwsigner.errors import UsageError
from hwsigner.trial.asking import add_common_flags, confirm, require_folder, selected, show_questions, write_report
from hwsigner.trial.report import Scrubber, TrialReport

if TYPE_CHECKING:
    from hwsigner.trial.token.watching import TokenTrial

HELP = "a PKCS #11 module and one of its tokens: an HSM, a smart card or a YubiKey"
_READS = (
    "It opens sessions and reads. It sends the user PIN only while the token counts no wrong one, and a wrong one "
    "never twice."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("module", metavar="MODULE", nargs="?", default="", help="path of the PKCS #11 module")
    parser.add_argument("--token", metavar="SLOT-OR-LABEL", default="", help="the token (default: the only one)")
    parser.add_argument(
        "--write",
        metavar="SLOT-OR-LABEL",
        default="",
        help="the token, on which the trial makes keys with a label of its own, and deletes them at the end",
    )
    parser.add_argument(
        "--sign-with", metavar="LABEL-OR-ID", default="", help="make signatures with this private key, which is there"
    )
    parser.add_argument(
        "--pin-source", metavar="SOURCE", default="", help="where the user PIN is, as in a key URI: file:PATH, env:NAME"
    )
    add_common_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the trial. A login that fails is an error, after the report of what needs none."""
    from hwsigner.trial.token.making import new_label
    from hwsigner.trial.token.questions import QUESTIONS
    from hwsigner.trial.token.subject import HINT, TokenPlan
    from hwsigner.trial.token.watching import TokenTrial

    if arguments.list:
        return show_questions(QUESTIONS, arguments.only)
    if not arguments.module:
        raise UsageError("no PKCS #11 module is given", HINT)
    if arguments.write and arguments.token:
        raise UsageError("--write and --token both name the token", "Give one of them")
    if arguments.clean and not arguments.write:
        raise UsageError("--clean does not say which token", "Add --write SLOT-OR-LABEL")
    require_folder(arguments.output)
    plan = TokenPlan(
        module=arguments.module,
        token=arguments.write or arguments.token,
        label=new_label() if arguments.write and not arguments.clean else "",
        sign_with=arguments.sign_with,
        pin_source=arguments.pin_source,
        may_ask=not arguments.yes,
        is_cleaning=arguments.clean,
    )
    only = selected(QUESTIONS, arguments.only)
    trial = TokenTrial(plan, only, lambda found: _agree(plan.label, found, arguments))
    trial.run()
    if arguments.clean:
        print(trial.remains())
        return int(trial.left != 0)
    if plan.label:
        print(trial.remains())
    status = write_report(scrubbed(trial), arguments.output)
    if trial.failure:
        raise trial.failure
    return status or int(trial.left != 0)


def _agree(label: str, found: str, arguments: argparse.Namespace) -> None:
    """Show what the trial will do, and ask the user; raise a UsageError unless the answer is yes."""
    if arguments.clean:
        print(f"To be deleted:\n{found}" if found else "No trial has left anything there")
        if not found:
            return
    else:
        print(f"The trial uses {found or 'the module, which has no token'}. {_READS}")
        if label:
            print(f"It makes key pairs and a certificate with the label {label}, and deletes them at the end.")
        if arguments.sign_with:
            waits = "or three if each waits for a touch. Touch it if it blinks."
            print(f"It makes some 20 signatures with the named key, {waits}")
    if not arguments.yes:
        confirm("Go on?")


def scrubbed(trial: TokenTrial) -> TrialReport:
    """Return the report without what identifies the token or its owner."""
    from hwsigner.trial.token.questions import QUESTIONS

    report = TrialReport("token", date.today(), trial.target, trial.results)
    known = [*trial.target.values(), *(one.expected for one in QUESTIONS)]
    scrub = Scrubber()
    for value in trial.hidden:
        # A label may be the model's name, or a word of an answer.
        if value and not any(value in text for text in known):
            scrub.hide(value, "name")
    scrub.hide(str(Path.home()), "home")
    return report.scrubbed(scrub)
