"""`hwsigner retire NAME`: revoke the certificate of a profile, delete its key and remove the profile."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial

from hwsigner._cli.aws.arguments import read_leaf
from hwsigner._cli.aws.revoking import CA, REVOCATION, prepare, sigterm_like_interrupts
from hwsigner._cli.confirmation import confirm
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome, prompts, report
from hwsigner._cli.registrar.renewals import renewals
from hwsigner._config.flags import OUTPUT, switch
from hwsigner._config.profiles import profile
from hwsigner._config.settings import Settings
from hwsigner._control_plane.revoking import EXISTING_SESSIONS
from hwsigner._identity.certificate import Certificate
from hwsigner.enrolment.retirement import Retirement, RetirementStep, plan_retirement
from hwsigner.errors import CertificateError, printable_lines

HELP = "revoke a certificate, delete its key and its profile"

_FLAGS = (
    switch("revoke", "also revoke a certificate of AWS Private CA; others need --ca-key and --ca"),
    switch("keep-key", "keep the key, such as one that hwsigner can't delete"),
    switch("yes", "do not ask before each step; needed without a terminal"),
)


def add_arguments(parser: Parser) -> None:
    """Add the profile's name and the flags."""
    parser.add_argument("name", metavar="NAME", help="profile of config.toml")
    parser.add_flags(CA, _FLAGS, OUTPUT, REVOCATION)


def run(arguments: Arguments) -> int:
    """Show all that would be gone, then ask for each step and do it. With JSON on stdout, this goes to stderr."""
    found = profile(arguments.name, os.environ)
    plan = plan_retirement(found, partial(_plan_revocation, arguments), prompts, keep_key=arguments.keep_key)
    plan.notes.append(f"A running agent closes the profile by itself. {EXISTING_SESSIONS}")
    shown = [f"  {line}" for step in plan.steps for line in step.lines]
    done: list[str] = []

    def show(so_far: str, *lines: str) -> None:
        report(_lines(*lines)) if arguments.json else print_outcome(so_far, _lines(*lines))

    show("nothing was changed", f"Profile {found.name!r}:", *plan.done, *shown, *plan.notes)
    for step in plan.steps:
        if not arguments.yes:
            lines = ["Next step:", *(f"  {line}" for line in step.lines)]
            confirm(lines, f"Type yes to {step.verb} it", nothing=f"nothing was {step.verb}d")
        now = step.run()
        show(now[0], *now)
        done += now
    if arguments.json:
        data = {"profile": found.name, "done": done, "doneBefore": plan.done, "notes": plan.notes}
        print_outcome(f"profile {found.name!r} is retired", json.dumps(data, indent=2))
    return 0


def _lines(*lines: str) -> str:
    return printable_lines(lines)


def _plan_revocation(arguments: Arguments, own: Settings, key_is_there: bool) -> Retirement:
    """Return the step that revokes the certificate, or a note about who can do it."""
    wanted = bool(arguments.ca_key or arguments.ca or arguments.revoke)
    try:
        leaf = read_leaf(own, own.certificate or own.private_key or "")
    except CertificateError as error:
        if wanted and key_is_there:
            raise
        hint = "If it is not revoked yet, use hwsigner aws revoke --serial"
        return Retirement(notes=[f"The certificate can't be read: {error.message}. {hint}"])
    arn = own.trust_anchor_arn or ""
    notes = renewals(arguments.registrar_policy, [leaf]) if own.issuer == "registrar" else []
    if not wanted:
        return Retirement(notes=[_for_an_administrator(leaf, arn), *notes])
    prepared = prepare(arguments, arn, [leaf])

    def revoke() -> Sequence[str]:
        with sigterm_like_interrupts():
            return prepared.carry_out().lines

    step = RetirementStep("revoke", prepared.steps, revoke)
    notes += [note for note in prepared.notes if note != EXISTING_SESSIONS]
    return Retirement([step] if prepared.steps else [], list(prepared.done), notes)


def _for_an_administrator(leaf: Certificate, arn: str) -> str:
    end = f"{leaf.x509.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    command = f"hwsigner aws revoke --serial 0x{leaf.x509.serial_number:x} --trust-anchor-arn {arn or 'ARN'}"
    flags = "--ca-key KEY-URI --ca CA.pem (both omitted for AWS Private CA)"
    return f"This does not revoke {leaf.subject}, which expires on {end}. An administrator can: {command} {flags}"
