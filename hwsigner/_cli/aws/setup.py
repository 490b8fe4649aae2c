"""`hwsigner aws setup`: make or complete the trust anchor, the role and the Roles Anywhere profile."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from hwsigner._aws.region import parse_canonical_arn
from hwsigner._cli.aws.arguments import (
    AWS,
    BOUNDARY,
    CA_AND_ROLE,
    MATCH,
    NAME,
    read_ca,
    read_leaf,
    service_clients,
    warn_of_untaggable,
)
from hwsigner._cli.confirmation import confirm
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome, report
from hwsigner._cli.without_secrets import without_secret
from hwsigner._config.flags import IDENTITY, KEY, OUTPUT, SYSTEM, Flag, session_duration, switch
from hwsigner._config.profiles import change_profile, check_name, profiles
from hwsigner._config.sharing import check_writable, share
from hwsigner._control_plane.plan import Step, apply, check_unchanged, described, notes, obstacles, plan
from hwsigner._control_plane.policies import checked_policy, compared_tags
from hwsigner._control_plane.resources import Setup, read
from hwsigner._uri import KeyURI, in_full_if_there
from hwsigner.errors import HwsignerError, UsageError, printable, printable_lines

HELP = "make or complete what sessions need in AWS"

_COMMON = (
    switch("plan", "show what would be done, and change nothing"),
    Flag("profile", "profile of config.toml to write the ARNs into (default: the role's name)", "NAME"),
    SYSTEM,
)
_LONGEST = "longest session of the Roles Anywhere profile, 900 to 43200 (default: 3600)"
_FLAGS = (
    switch("yes", "do not ask first; needed without a terminal"),
    *OUTPUT,
    NAME,
    Flag("duration", _LONGEST, "SECONDS", session_duration),
    Flag("policy", "ARN of a policy to attach to the role; repeatable", "ARN", many=True),
    BOUNDARY,
    Flag("trust-anchor-arn", "trust anchor to use, if several match", "ARN"),
    Flag("profile-arn", "Roles Anywhere profile to use, if several match", "ARN"),
    switch("accept-role-session-name", "let callers name their sessions, as serve --pods does"),
    switch("add-ca", "add the CA to a trust anchor that has another one, for a rollover"),
)
_IDENTITY = tuple(flag for flag in IDENTITY if flag.name in ("certificate", "private-key"))


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(CA_AND_ROLE, MATCH, _COMMON, _FLAGS, AWS, _IDENTITY, KEY)


def run(arguments: Arguments) -> int:
    """Show the plan, ask, carry it out, and write the profile."""
    if arguments.system and not arguments.plan:
        check_writable()
    setup, identity = _setup(arguments), _identity(arguments)
    name = arguments.profile or setup.role
    check_name(name)
    # A config.toml that can't be read is an error before anything is changed.
    known = profiles(os.environ, system=arguments.system)
    given = arguments.settings.trust_anchor_arn or arguments.settings.profile_arn
    clients = service_clients(arguments, region=given.split(":")[3] if given else None)
    existing = read(clients, setup)
    steps = plan(existing, setup)
    changes = _changes(name, known[name].values if name in known else {}, {**existing.arns, **identity})
    nothing = [] if steps or changes else ["There is nothing to do"]
    if arguments.plan and arguments.json:
        planned = {"steps": [step.data for step in steps], "notes": notes(existing, setup)}
        print(json.dumps({**planned, "config": nothing or changes, **existing.arns}, indent=2))
        return 0
    lines = [*described(existing, setup, steps), *(nothing or changes)]
    if arguments.plan:
        print(printable_lines(lines))
        return 0
    if arguments.yes and not nothing:
        report(printable_lines(lines))
    elif not nothing:
        confirm(lines, "Type yes to do this", nothing="nothing was changed")
        check_unchanged(clients, existing, setup)
    made: list[Step] = []

    def done(step: Step) -> None:
        made.append(step)
        report(printable(f"done: {step.title}: {step.short}"))

    values = {**apply(clients, existing, setup, done).arns, **identity}
    for problem in obstacles(existing, setup):
        report(f"warning: {printable(problem)}")
    _print(arguments, name, _write_profile(arguments, name, values), values, made)
    return 0


def _changes(name: str, before: Mapping[str, str], after: Mapping[str, str | None]) -> list[str]:
    """Return what would change in a profile of config.toml, a line each."""
    lines = []
    for key, value in after.items():
        if (former := before.get(key)) != value:
            new = "nothing" if value is None else value or "the new one's ARN"
            old = f", not {without_secret(key, former)}" if former else ""
            lines.append(f"config.toml: [profile.{name}] {key} = {new}{old}")
    return lines


def _setup(arguments: Arguments) -> Setup:
    settings = arguments.settings
    given = {"--trust-anchor-arn": settings.trust_anchor_arn, "--profile-arn": settings.profile_arn}
    for flag, text in given.items():
        if text:
            parse_canonical_arn(text, flag)
    cas = read_ca(arguments)
    leaves = [read_leaf(settings, settings.certificate)] if settings.certificate else []
    tags = compared_tags(arguments.match, leaves)
    checked_policy(tags, leaves, None)
    for leaf in leaves:
        warn_of_untaggable(leaf)
    return Setup(
        name=arguments.name or arguments.role,
        role=arguments.role,
        cas=cas,
        tags=tags,
        duration=arguments.duration,
        policies=tuple(arguments.policy),
        boundary=arguments.permissions_boundary or "",
        add_ca=arguments.add_ca,
        accepts_names=arguments.accept_role_session_name,
        trust_anchor_arn=settings.trust_anchor_arn or "",
        profile_arn=settings.profile_arn or "",
    )


def _identity(arguments: Arguments) -> dict[str, str | None]:
    """Return the certificate and the key for config.toml, and None for what they exclude. Paths become absolute.

    A PIN in one is an error, as it would be printed with the plan.
    """
    given = {"certificate": arguments.settings.certificate, "private-key": arguments.settings.private_key}
    for flag, text in given.items():
        if text and KeyURI.parse(text).pin_value is not None:
            raise UsageError(f"--{flag} has a pin-value, which would be printed", "Use pin-source in the key URI")
    found = {key: in_full_if_there(text) for key, text in given.items() if text}
    return {**(dict.fromkeys(("cert-selector", "use-latest-expiring-certificate")) if found else {}), **found}


def _write_profile(arguments: Arguments, name: str, values: Mapping[str, str | None]) -> str:
    """Write the values into a profile of config.toml, and return the file."""
    try:
        file = change_profile(name, values, os.environ, system=arguments.system)
        if arguments.system:
            share(values)
        return file
    except HwsignerError as error:
        again = "run the same command again"
        hint = f"{error.hint}. Once it can be written, {again}" if error.hint else again.capitalize()
        raise type(error)(f"the set-up in AWS is complete, but {error.message}", hint) from error


def _print(arguments: Arguments, name: str, file: str, values: Mapping[str, str | None], steps: Sequence[Step]) -> None:
    values = {key: value for key, value in values.items() if value}
    following = f"hwsigner credential-process --profile {name}"
    if arguments.system:
        following = f"hwsigner systemd install --system --allow-user USER --profile {name}"
    if not {"certificate", "cert-selector"} & profiles(os.environ, system=arguments.system)[name].values.keys():
        following = f"hwsigner install-certificate CERTIFICATE KEY-URI --profile {name}{' --system' * arguments.system}"
    if arguments.json:
        done = [step.operation for step in steps]
        text = json.dumps({**values, "done": done, "profile": name, "file": file, "next": following}, indent=2)
    else:
        rows = [
            *(f"{key} = {value}" for key, value in values.items()),
            f"{file}: [profile.{name}]",
            f"Next: {following}",
        ]
        text = printable_lines(rows)
    print_outcome("the set-up is complete", text)
