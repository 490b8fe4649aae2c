"""`hwsigner doctor`: what is wrong with profiles, certificates, keys, the SDKs' files and the machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hwsigner.cli.colours import GREEN, RED, coloured
from hwsigner.cli.parser import Arguments, Command, Parser
from hwsigner.config.flags import OUTPUT, Flag, switch
from hwsigner.config.monitoring import read_monitoring
from hwsigner.config.profiles import Profile, is_system_file_hidden, profile, profiles
from hwsigner.errors import ConfigError, NoProfileError, UsageError, printable
from hwsigner.findings import Finding, local

HELP = "find what is wrong, and say how to fix it"

_FOUND = 1  # The exit status if there are findings.
_HARMLESS = {
    local.SETTING_UNSAFE,
    local.CHAIN_ORDER,
    local.CHAIN_GAP,
    local.NAME_EMPTY,
}  # A session may be possible all the same.
_BY_CLOCK = {local.CERTIFICATE_EXPIRED, local.CERTIFICATE_NOT_YET_VALID}  # A wrong clock may be why.
_FLAGS = (
    Flag("profile", "profile of config.toml to check (default: that of HWSIGNER_PROFILE, else all)", "NAME"),
    switch("online", "also use the key, with its PIN, and ask for a session"),
    Flag("policy", "also check the trust policy in a file", "FILE"),
    switch("aws", "also check trust anchor, profile and role in AWS, as aws check does"),
    Flag("aws-profile", "profile of the AWS SDKs' files for --aws, with an administrator's credentials", "NAME"),
    Flag("endpoint", "URL of the AWS APIs for --aws (default: those that the SDKs choose)", "URL"),
    *OUTPUT,
)


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(_FLAGS)


def run(arguments: Arguments) -> int:
    """Print the findings. The status is 1 if there are any."""
    checked, findings = _profiles(arguments.profile or os.environ.get("HWSIGNER_PROFILE"))
    findings += _of_machine(checked, has_none=not checked and not findings and not is_system_file_hidden())
    for each in checked:
        findings += [one.about(each.name) for one in _of_profile(each, arguments)]
    if not checked and arguments.policy:
        from hwsigner.cli.doctor import trust_policy

        findings += trust_policy.check(None, arguments)
    findings = list(dict.fromkeys(findings))
    if arguments.json:
        print(json.dumps({"findings": [_data(one) for one in findings]}, indent=2))
    else:
        print("\n".join(_lines(findings, [each.name for each in checked])))
    return _FOUND if findings else 0


def _profiles(name: str | None) -> tuple[list[Profile], list[Finding]]:
    """Return the profiles to check, and a finding if config.toml is wrong beyond one profile."""
    try:
        found = [profile(name, os.environ)] if name else list(profiles(os.environ).values())
    except NoProfileError:
        raise  # A misspelt name is not a mistake of the set-up.
    except ConfigError as error:
        return [], [local.PROFILES_UNREADABLE.found_by(error)]
    try:
        read_monitoring(os.environ)
    except UsageError as error:
        return found, [local.MONITORING_INVALID.found_by(error)]
    return found, []


def _of_machine(checked: Sequence[Profile], *, has_none: bool) -> Iterator[Finding]:
    """Yield what does not belong to one profile."""
    from hwsigner.cli.doctor import aws_config, environment, machine
    from hwsigner.cli.status import ask_agents

    environ = os.environ
    if has_none:
        yield local.PROFILE_NONE.found("there are no profiles in config.toml")
    yield from _twice(checked)
    yield from environment.check_variables(environ)
    yield from aws_config.check(environ)
    yield from machine.check_agents(ask_agents(environ), {each.name for each in checked})
    yield from machine.check_units(environ)


def _twice(checked: Sequence[Profile]) -> Iterator[Finding]:
    """Yield the profiles of this user whose names the system's agent has for other profiles."""
    with suppress(ConfigError):  # That it can't be used is a finding of its own.
        of_system = profiles({**os.environ, "XDG_CONFIG_HOME": "/etc"})
        for each in checked:
            other = of_system.get(each.name)
            if other and "allow-users" in other.values and other.values != each.values:
                found = f"{each.file} and {other.file} have different profiles of this name"
                yield local.PROFILE_TWICE.found(found).about(each.name)


def _of_profile(checked: Profile, arguments: Arguments) -> Iterator[Finding]:
    from hwsigner.cli.doctor import certificate, environment, hybrid_node, machine, session
    from hwsigner.cli.doctor.subject import read

    subject, findings = read(checked, os.environ, datetime.now(UTC))
    of_session = list(session.check(subject))
    findings += [*of_session, *certificate.check(subject), *environment.check(subject), *machine.check(subject)]
    findings += hybrid_node.check(subject)
    yield from findings
    if arguments.policy or (arguments.aws and not of_session):
        from hwsigner.cli.doctor import trust_policy

        yield from trust_policy.check(subject, arguments)
    grave = {one.mistake for one in findings} - _HARMLESS
    if arguments.online and grave <= _BY_CLOCK:
        from hwsigner.cli.doctor import online

        # A PIN or a session is not spent on what can't succeed.
        yield from online.check(subject, clock_only=bool(grave))


def _data(one: Finding) -> dict[str, str]:
    return {"id": one.id, "found": one.found, "why": one.why, "fix": one.fix, "profile": one.profile}


def _lines(findings: Sequence[Finding], names: Sequence[str]) -> Iterator[str]:
    """Yield the findings for people, 80 columns wide where words allow it."""
    from hwsigner.cli.aws.check import indented

    number = len(findings)
    of = f"profile {names[0]}" if len(names) == 1 else f"{len(names) or 'no'} profile{'s' if names else ''}"
    found = f"{number} finding{'s' if number > 1 else ''}" if number else coloured("Nothing is wrong", GREEN)
    yield f"{found}: {printable(of)}"
    for one in findings:
        yield ""
        yield coloured(printable(f"{one.profile}: {one.id}") if one.profile else one.id, RED)
        yield indented(one.found)
        yield indented(f"Why: {one.why}")
        yield indented(f"Fix: {one.fix}")


if TYPE_CHECKING:
    import hwsigner.cli.doctor

    _: Command = hwsigner.cli.doctor
