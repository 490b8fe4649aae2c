"""`python -m hwsigner.trial tpm`: try a TPM that is in use, without changing it."""

from __future__ import annotations

import argparse

from hwsigner.backends import find_backend
from hwsigner.errors import UsageError
from hwsigner.trial.asking import add_common_flags, show_questions
from hwsigner.trial.tpm.questions import QUESTIONS

HELP = "ask a TPM that is in use what hwsigner assumes of it, and leave it as it is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--tcti", metavar="TCTI", help="how to reach the TPM, as for hwsigner's commands")
    parser.add_argument("--roots", metavar="FOLDER", help="the certificates of TPM vendors that are trusted")
    for hierarchy in ("owner", "endorsement"):
        where = f"where the {hierarchy} hierarchy's auth value is, if it has one: file:/path, env:NAME or cmd:PROGRAM"
        parser.add_argument(f"--{hierarchy}-pin-source", metavar="SOURCE", help=where)
    written = "also write, to free places in a range of persistent handles or NV indices, such as 0x81000200-0x8100020f"
    parser.add_argument("--write", metavar="RANGE", action="append", default=[], help=f"{written}; repeatable")
    add_common_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the trial, or do what another flag says."""
    if arguments.list:
        return show_questions(QUESTIONS, arguments.only)
    backend = find_backend("tpm2")
    if backend is None:
        raise UsageError("there is no backend for TPMs", "Install hwsigner again")
    status: int = backend.load("hwsigner.trial.tpm.trial").run(arguments)
    return status
