"""`hwsigner aws revoke`: make the service refuse certificates."""

from __future__ import annotations

import json
import os
from dataclasses import replace

from hwsigner._cli.aws.arguments import CERTIFICATE, read_leaf
from hwsigner._cli.aws.revoking import CA, REVOCATION, prepare, sigterm_like_interrupts
from hwsigner._cli.confirmation import confirm
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import discard_frames, print_outcome
from hwsigner._cli.registrar.renewals import renewals
from hwsigner._config.flags import OUTPUT, Flag, switch
from hwsigner._config.settings import read_profile
from hwsigner._control_plane.revoking import Outcome, Prepared
from hwsigner._identity.serial_numbers import parse_serial
from hwsigner.errors import Interruption, UsageError, printable, printable_lines

HELP = "make AWS refuse certificates, with a new CRL"

_SERIAL = Flag("serial", "serial number, in decimal or as openssl prints it; repeatable", "NUMBER", many=True)
_FLAGS = (
    Flag("profile", "profile of config.toml that has the trust anchor", "NAME"),
    switch("plan", "show what would be done, and change nothing"),
    switch("yes", "do not ask first; needed without a terminal"),
    *OUTPUT,
    Flag("trust-anchor-arn", "trust anchor, if no profile has it", "ARN"),
    switch("renew", "make a new CRL even if no certificate is to be revoked"),
)


def add_arguments(parser: Parser) -> None:
    """Add the certificates and the flags."""
    parser.add_argument("certificate", metavar="CERTIFICATE", nargs="*", help=CERTIFICATE)
    parser.add_flags([_SERIAL], CA, _FLAGS, REVOCATION)


def run(arguments: Arguments) -> int:
    """Show what would be done, ask, do it, and print what was done."""
    with sigterm_like_interrupts():
        try:
            prepared = _prepare(arguments)
        except KeyboardInterrupt as interruption:
            discard_frames(interruption)
            raise Interruption("interrupted", "Nothing was revoked") from None
        if arguments.plan:
            _print_plan(arguments, prepared)
            return 0
        outcome = prepared.carry_out() if prepared.steps else Outcome((), {"revoked": []})
    words = [*prepared.done, *outcome.lines, *prepared.notes]
    shown = {**outcome.values, "alreadyRevoked": list(prepared.done), "notes": list(prepared.notes)}
    text = json.dumps(shown, indent=2) if arguments.json else printable_lines(words)
    print_outcome("the certificate is revoked", text)
    return 0


def _prepare(arguments: Arguments) -> Prepared:
    """Find out what would be done, and ask unless only the plan is wanted."""
    serials = [parse_serial(text) for text in arguments.serial]
    if not (serials or arguments.certificate or arguments.renew):
        raise UsageError("nothing was given to revoke", "Give a certificate or --serial")
    certificates = [read_leaf(arguments.settings, text) for text in arguments.certificate]
    prepared = prepare(arguments, _trust_anchor(arguments), certificates, serials, renews=arguments.renew)
    notes = renewals(arguments.registrar_policy, certificates) if certificates else []
    notes += renewals(arguments.registrar_policy, ()) if serials else []  # Whose they are is not known.
    prepared = replace(prepared, notes=[*prepared.notes, *notes])
    if prepared.steps and not (arguments.yes or arguments.plan):
        lines = ["This would be done:", *(f"  {step}" for step in prepared.steps)]
        confirm(lines, "Type yes to do it", nothing="nothing was revoked")
    return prepared


def _trust_anchor(arguments: Arguments) -> str:
    if arguments.profile and arguments.settings.trust_anchor_arn:
        raise UsageError("--profile and --trust-anchor-arn both name a trust anchor", "Give one of them")
    name = arguments.profile or os.environ.get("HWSIGNER_PROFILE")
    if arguments.settings.trust_anchor_arn or not name:
        return arguments.settings.trust_anchor_arn or ""
    arn = read_profile(name, os.environ).trust_anchor_arn
    if not arn:
        raise UsageError(f"profile {name!r} has no trust-anchor-arn", "Give --trust-anchor-arn")
    return arn


def _print_plan(arguments: Arguments, prepared: Prepared) -> None:
    if arguments.json:
        shown = {"steps": prepared.steps, "alreadyRevoked": prepared.done, "notes": prepared.notes}
        print(json.dumps(shown, indent=2))
    else:
        print(*map(printable, [*prepared.done, *prepared.steps, *prepared.notes]), sep="\n")
