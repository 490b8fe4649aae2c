"""`hwsigner aws setup`: make or complete the trust anchor, the role and the profile."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hwsigner.aws.region import parse_canonical_arn
from hwsigner.cli.asking import ask
from hwsigner.cli.aws.certificates import read_leaf, warn_of_untaggable
from hwsigner.cli.aws.clients import AWS, clients
from hwsigner.cli.aws.matching import MATCH, matching_policy, wanted_tags, what_it_lets_in
from hwsigner.cli.aws.wanted import CA_AND_ROLE, NAME, read_ca
from hwsigner.cli.full_paths import in_full_if_there
from hwsigner.cli.parser import Arguments, Parser
from hwsigner.cli.process import print_outcome, report
from hwsigner.cli.without_secrets import without_secret
from hwsigner.config.flags import IDENTITY, KEY, OUTPUT, Flag, session_duration, switch
from hwsigner.config.profiles import change_profile, check_name, profiles
from hwsigner.control_plane.apply import apply, check_unchanged
from hwsigner.control_plane.plan import Step, notes, plan
from hwsigner.control_plane.resources import Existing, read
from hwsigner.control_plane.wanted import Wanted
from hwsigner.errors import HwsignerError, UsageError, printable
from hwsigner.uri import KeyURI

HELP = "make or complete trust anchor, role and profile in AWS"

_COMMON = (
    switch("plan", "show what would be done, and change nothing"),
    Flag("profile", "profile of config.toml to write the ARNs into (default: the role's name)", "NAME"),
)
_FLAGS = (
    switch("yes", "do not ask first; needed without a terminal"),
    *OUTPUT,
    NAME,
    Flag("duration", "longest session of the profile, 900 to 43200 (default: 3600)", "SECONDS", session_duration),
    Flag("policy", "ARN of a policy to attach to the role; repeatable", "ARN", many=True),
    Flag("trust-anchor-arn", "trust anchor to use, if several match", "ARN"),
    Flag("profile-arn", "Roles Anywhere profile to use, if several match", "ARN"),
    switch("add-ca", "add the CA to a trust anchor that has another one, for a rollover"),
)
_IDENTITY = tuple(flag for flag in IDENTITY if flag.name in ("certificate", "private-key"))


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(CA_AND_ROLE, MATCH, _COMMON, _FLAGS, AWS, _IDENTITY, KEY)


def run(arguments: Arguments) -> int:
    """Show the plan, ask, carry it out, and write the profile."""
    wanted = _wanted(arguments)
    name = arguments.profile or wanted.role
    check_name(name)
    profiles(os.environ)  # A config.toml that can't be read is an error before anything is changed.
    found = clients(arguments, region=_region(arguments))
    existing = read(found, wanted)
    shown = _Plan(existing, wanted, name, _identity(arguments))
    if arguments.plan:
        print(json.dumps(shown.data(), indent=2) if arguments.json else "\n".join(map(printable, shown.lines())))
        return 0
    if arguments.yes:
        for line in shown.lines() if shown.is_needed() else ():
            report(printable(line))
    elif shown.is_needed():
        ask(shown.lines(), "Type yes to do this", nothing="nothing was changed")
        check_unchanged(found, existing, wanted)
    steps: list[Step] = []

    def done(step: Step) -> None:
        steps.append(step)
        report(printable(f"done: {step.resource}: {step.short}"))

    values = {**arns(apply(found, existing, wanted, done)), **_identity(arguments)}
    _print(arguments, name, _write_profile(name, values), values, steps)
    return 0


class _Plan:
    """What would be done, in AWS and in config.toml."""

    def __init__(self, existing: Existing, wanted: Wanted, name: str, identity: Mapping[str, str | None]) -> None:
        self._existing, self._wanted, self._name = existing, wanted, name
        self.steps, self._notes = plan(existing, wanted), notes(existing, wanted)
        known = profiles(os.environ)
        self._before = known[name].values if name in known else {}
        self._after = {**arns(existing), **identity}

    def is_needed(self) -> bool:
        """Return whether anything is to be done."""
        return bool(self.steps) or any(self._before.get(key) != value for key, value in self._after.items())

    def lines(self) -> list[str]:
        """Return the plan for people."""
        lines = [
            f"{kind.removesuffix('-arn').replace('-', ' ')}: {arn} exists"
            for kind, arn in arns(self._existing).items()
            if arn
        ]
        for step in self.steps:
            lines += [f"{step.resource}: {step.words}", *(f"    {line}" for line in step.lines)]
        if any(step.lines for step in self.steps):
            lines += [f"This {each}" for each in what_it_lets_in(self._wanted.tags, "the trust anchor")]
        lines += [f"Note: {each}" for each in self._notes]
        return [*lines, *self._of_config()]

    def data(self) -> dict[str, Any]:
        """Return the plan for programs."""
        steps = [
            {"resource": s.resource, "words": s.words, "call": s.operation, "difference": list(s.lines)}
            for s in self.steps
        ]
        return {"steps": steps, "notes": self._notes, "config": self._of_config(), **arns(self._existing)}

    def _of_config(self) -> list[str]:
        if not self.is_needed():
            return ["There is nothing to do"]
        lines = []
        for key, value in self._after.items():
            before, after = self._before.get(key), "nothing" if value is None else value or "the new one's ARN"
            if before != value:
                former = f", not {without_secret(key, before)}" if before else ""
                lines.append(f"config.toml: [profile.{self._name}] {key} = {after}{former}")
        return lines


def arns(existing: Existing) -> dict[str, str]:
    """Return the ARNs as a profile of config.toml has them; those that are not known yet are empty."""
    return {
        "trust-anchor-arn": existing.anchor.arn if existing.anchor else "",
        "role-arn": existing.role.arn if existing.role else "",
        "profile-arn": existing.profile.arn if existing.profile else "",
    }


def _wanted(arguments: Arguments) -> Wanted:
    given = {"--trust-anchor-arn": arguments.settings.trust_anchor_arn, "--profile-arn": arguments.settings.profile_arn}
    for flag, text in given.items():
        if text:
            parse_canonical_arn(text, flag)
    cas = read_ca(arguments)
    leaves = [read_leaf(arguments.settings, arguments.settings.certificate)] if arguments.settings.certificate else []
    tags = wanted_tags(arguments.match, leaves)
    matching_policy(tags, leaves, None)
    for leaf in leaves:
        warn_of_untaggable(leaf)
    return Wanted(
        name=arguments.name or arguments.role,
        role=arguments.role,
        cas=cas,
        tags=tags,
        duration=arguments.duration,
        policies=tuple(arguments.policy),
        add_ca=arguments.add_ca,
        trust_anchor_arn=arguments.settings.trust_anchor_arn or "",
        profile_arn=arguments.settings.profile_arn or "",
    )


def _region(arguments: Arguments) -> str | None:
    given = arguments.settings.trust_anchor_arn or arguments.settings.profile_arn
    return given.split(":")[3] if given else None


def _identity(arguments: Arguments) -> dict[str, str | None]:
    """Return the certificate and the key for config.toml, and None for what they exclude. Paths become absolute.

    Raises:
        UsageError: one is malformed, or has a PIN, which would be printed with the plan.
    """
    given = {"certificate": arguments.settings.certificate, "private-key": arguments.settings.private_key}
    for flag, text in given.items():
        if text and KeyURI.parse(text).pin_value is not None:
            raise UsageError(f"--{flag} has a pin-value, which would be printed", "Use pin-source in the key URI")
    found = {key: in_full_if_there(text) for key, text in given.items() if text}
    return {**(dict.fromkeys(("cert-selector", "use-latest-expiring-certificate")) if found else {}), **found}


def _write_profile(name: str, values: Mapping[str, str | None]) -> str:
    """Write the values into a profile of config.toml, and return the file."""
    try:
        return str(change_profile(name, values, os.environ))
    except HwsignerError as error:
        again = "run the same command again"
        hint = f"{error.hint}. Once it can be written, {again}" if error.hint else again.capitalize()
        raise type(error)(f"the set-up in AWS is complete, but {error.message}", hint) from error


def _print(arguments: Arguments, name: str, file: str, values: Mapping[str, str | None], steps: Sequence[Step]) -> None:
    values = {key: value for key, value in values.items() if value}
    following = f"hwsigner credential-process --profile {name}"
    if not {"certificate", "cert-selector"} & profiles(os.environ)[name].values.keys():
        following = f"hwsigner install-certificate CERTIFICATE KEY-URI --profile {name}"
    if arguments.json:
        done = [step.operation for step in steps]
        text = json.dumps({**values, "done": done, "profile": name, "file": file, "next": following}, indent=2)
    else:
        rows = [
            *(f"{key} = {value}" for key, value in values.items()),
            f"{file}: [profile.{name}]",
            f"Next: {following}",
        ]
        text = "\n".join(map(printable, rows))
    print_outcome("the set-up is complete", text)
