"""`make trial-aws`: ask AWS what hwsigner assumes of it, with resources that are then deleted."""

from __future__ import annotations

import argparse

from hwsigner.errors import HwsignerError
from hwsigner.trial.asking import add_common_flags, show_questions
from trial_aws.calls import DeniedError, was_denied
from trial_aws.life import clean, show_policy, try_all
from trial_aws.questions import QUESTIONS

HELP = "ask IAM Roles Anywhere, IAM and STS in a sandbox account what hwsigner assumes of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--region", metavar="REGION", help="the region (default: the SDKs')")
    parser.add_argument("--aws-profile", metavar="NAME", help="the profile of the SDKs' files (default: theirs)")
    parser.add_argument("--endpoint", metavar="URL", help="the URL of all services, such as an emulator's")
    parser.add_argument("--rates", action="store_true", help="also send 30 CreateSession requests at once")
    parser.add_argument("--policy", action="store_true", help="print the least IAM policy that suffices")
    add_common_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the trial, or do what another flag says.

    Raises:
        DeniedError: a permission is missing.
        HwsignerError: it can't be run.
    """
    try:
        return _run(arguments)
    except HwsignerError as error:
        if was_denied(error):
            raise DeniedError(error.message, error.hint) from error
        raise


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return show_questions(QUESTIONS, arguments.only)
    if arguments.policy:
        return show_policy(arguments)
    return clean(arguments) if arguments.clean else try_all(arguments)
