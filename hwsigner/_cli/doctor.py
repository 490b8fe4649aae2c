"""`hwsigner doctor`: what is wrong with profiles, certificates, keys, the SDKs' files and the machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hwsigner._cli.colours import GREEN, RED, coloured, indented
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import OUTPUT, Flag, switch
from hwsigner._system import host
from hwsigner._system.support import lacks
from hwsigner._version import __version__
from hwsigner.errors import UsageError, printable

if TYPE_CHECKING:
    from hwsigner.doctor import Finding
    from hwsigner.doctor.course import Checks, Course, Examination

HELP = "find what is wrong, and say how to fix it"

_FOUND = 1  # The exit status if there are findings.
_FLAGS = (
    Flag("profile", "profile of config.toml to check (default: that of HWSIGNER_PROFILE, else all)", "NAME"),
    switch("online", "also use the key, with its PIN, and ask for a session"),
    Flag("policy", "also check the trust policy in a file", "FILE"),
    Flag("pods", "policy of serve --pods to check too (default: pods.toml in the folder of config.toml)", "FILE"),
    switch("aws", "also check trust anchor, profile and role in AWS, as aws check does"),
    Flag("aws-profile", "profile of the AWS SDKs' files for --aws, with an administrator's credentials", "NAME"),
    Flag("endpoint", "URL of the AWS APIs for --aws (default: those that the SDKs choose)", "URL"),
    Flag(
        "report",
        "also write a new file to attach to a bug report, without names and secrets (-: only print it)",
        "FILE",
    ),
    *OUTPUT,
)


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(_FLAGS)


def run(arguments: Arguments) -> int:
    """Print the findings. The status is 1 if there are any."""
    from hwsigner._cli.documents import read_bytes
    from hwsigner._cli.pods_check import faults_of, policy_beside_config, session_names
    from hwsigner._cli.process import prompts
    from hwsigner.doctor.course import Checks, examine_and_time

    pods = arguments.pods or policy_beside_config()
    checks = Checks(
        pods_faults=faults_of(pods) if pods else (),
        session_names=session_names(pods),
        online=arguments.online,
        prompts=prompts,
        policy=read_bytes(arguments.policy) if arguments.policy else None,
        aws=arguments.aws,
        aws_profile=arguments.aws_profile,
        aws_endpoint=arguments.settings.endpoint,
        check_command=_check_command,
    )
    _check_report(arguments.report, arguments.json)
    course = examine_and_time(arguments.profile or os.environ.get("HWSIGNER_PROFILE"), checks=checks)
    examination = course.examination
    if arguments.report:
        _report(arguments.report, course, checks)
    if arguments.report == "-":
        pass
    elif arguments.json:
        findings = [_data(one) for one in examination.findings]
        print(json.dumps({"findings": findings, "facts": examination.facts, "lacks": lacks()}, indent=2))
    else:
        print("\n".join(_lines(examination)))
    return _FOUND if examination.findings else 0


def _check_report(path: str | None, json: bool) -> None:
    """Check that a report can be written, before anything is asked."""
    if path == "-" and json:
        raise UsageError("--report - can't be combined with --output json", "Name a file")
    if path and path != "-" and os.path.lexists(path):
        raise UsageError(f"{path} is there already", "Name a new file, or remove this one")


def _report(path: str, course: Course, checks: Checks) -> None:
    """Write what one attaches to a report of a bug."""
    from hwsigner._system.new_files import create_file
    from hwsigner.doctor.report import describe
    from hwsigner.sigv4.canonical import describe_implementation

    asked = {"online": checks.online, "aws": checks.aws, "policy": checks.policy is not None}
    implementation = describe_implementation().partition(" ")[0]  # The rest has a path.
    versions = {"hwsigner": __version__, "canonicalisation": implementation}
    text = json.dumps({**versions, "asked": asked, **describe(course)}, indent=2) + "\n"
    if path == "-":
        print(text, end="")
        return
    try:
        create_file(path, text.encode())
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}", "Name a new file in another folder") from error
    print(f"Wrote {path}, without names and secrets: read it, and attach it to your report", file=sys.stderr)


def _check_command(arguments: Sequence[str]) -> None:
    """Check the flags of a credential_process."""
    from hwsigner._cli import credential_process
    from hwsigner._config import settings

    parser = Parser("credential-process", "")
    credential_process.add_arguments(parser)
    completed = parser.complete(parser.parse(arguments))
    if not (completed.profile or completed.config_profile):
        settings.service(completed.settings)


def _data(one: Finding) -> dict[str, str]:
    return {"id": one.id, "found": one.found, "why": one.why, "fix": one.fix, "profile": one.profile}


def _lines(examination: Examination) -> Iterator[str]:
    """Yield the findings for people, 80 columns wide where words allow it, between facts and what the system lacks."""
    names, findings, facts = examination
    number = len(findings)
    of = f"profile {names[0]}" if len(names) == 1 else f"{len(names) or 'no'} profile{'s' if names else ''}"
    found = f"{number} finding{'s' if number > 1 else ''}" if number else coloured("Nothing is wrong", GREEN)
    yield f"{found}: {printable(of)}"
    for name, known in facts.items():
        for fact, text in known.items():
            yield indented(f"{name}: {fact} {text}")
    for one in findings:
        yield ""
        yield coloured(printable(f"{one.profile}: {one.id}") if one.profile else one.id, RED)
        yield indented(one.found)
        yield indented(f"Why: {one.why}")
        yield indented(f"Fix: {one.fix}")
    if lacking := lacks():
        yield ""
        yield f"What hwsigner lacks on this system, {printable(host.name())}:"
        yield from map(indented, lacking)
