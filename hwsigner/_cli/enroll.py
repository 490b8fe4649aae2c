"""`hwsigner enroll`: from a machine without a key to credentials for the SDKs, in one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hwsigner._cli.confirmation import confirm, has_terminal
from hwsigner._cli.keygen import NEW_KEY, key_request
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome, print_rows
from hwsigner._config.flags import ISSUER, KEY, NAMES, OUTPUT, PLACE, PROOF, SESSION, STARTS_AGENT, Flag, switch
from hwsigner._system.processes import credential_process
from hwsigner.enrolment.initial import Enrolled, Enrolment, enroll

HELP = "make a key, have it certified, and write its profile"

_KEY = Flag("private-key", "where the key is, or is to be made: a path or a key URI", "KEY")
_FLAGS = (
    switch("no-aws-config", "do not write credential_process into ~/.aws/config"),
    switch("system", "for the system's agent: write the profile into /etc/hwsigner/config.toml, and no ~/.aws/config"),
)


def add_arguments(parser: Parser) -> None:
    """Add the profile's name and the flags."""
    parser.add_argument("name", metavar="NAME", help="name of the profile, in config.toml and in ~/.aws/config")
    parser.add_flags([_KEY], NAMES, ISSUER, _FLAGS, NEW_KEY, PLACE, PROOF, OUTPUT, KEY, SESSION, [STARTS_AGENT])


def run(arguments: Arguments) -> int:
    """Do what is left to do of an enrolment, and print what there is then."""
    name = arguments.name
    writes_none = arguments.no_aws_config or arguments.system
    command = "" if writes_none else credential_process(name)
    request = key_request(arguments)
    asked = Enrolment(name, arguments.settings, request, system=arguments.system, command=command, confirm=_ask)
    enrolled = enroll(asked)
    following = _next(arguments, enrolled.missing)
    if arguments.json:
        print_outcome(f"{name} is enrolled", json.dumps({**_data(name, enrolled), "next": following}, indent=2))
        return 0
    rows = [*_rows(enrolled), ("Profile", f"{enrolled.file}: [profile.{name}]")]
    if enrolled.aws_config:
        rows.append(("SDKs", f"{enrolled.aws_config}: [{name if name == 'default' else f'profile {name}'}]"))
    rows.append(("Missing", f"Run {following}") if enrolled.missing else ("Next", following))
    print_rows(f"{name} is enrolled", rows)
    return 0


def _ask(lines: Sequence[str]) -> bool:
    if is_asked := has_terminal():
        confirm(lines, "Type yes to set it aside", nothing="the key stays in place")
    return is_asked


def _rows(enrolled: Enrolled) -> list[tuple[str, str]]:
    leaf, end = enrolled.leaf, enrolled.leaf.x509.not_valid_after_utc
    issued = "issued now" if enrolled.issued else "already there"
    return [
        ("Key", f"{enrolled.key.uri}, {'made now' if enrolled.made else 'already there'}"),
        ("Place", enrolled.key.whereabouts),
        ("Certified", f"{leaf.subject}, expires {end:%Y-%m-%d}, {issued}"),
        *([("Timer", enrolled.timer)] if enrolled.timer else ()),
        *(("Note", note) for note in enrolled.notes),
    ]


def _data(name: str, enrolled: Enrolled) -> dict[str, Any]:
    leaf = enrolled.leaf
    certificate = {"subject": leaf.subject, "notAfter": f"{leaf.x509.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"}
    return {
        "profile": name,
        "file": enrolled.file,
        "key": {"uri": enrolled.key.uri, "made": enrolled.made, "place": enrolled.key.whereabouts},
        "certificate": {**certificate, "issued": enrolled.issued},
        "notes": list(enrolled.notes),
        "awsConfig": enrolled.aws_config,
        "missing": list(enrolled.missing),
        "timer": enrolled.timer or None,
    }


def _next(arguments: Arguments, missing: Sequence[str]) -> str:
    """Return the command to run next: this one again, if an ARN is missing."""
    name = arguments.name
    if missing:
        return f"hwsigner enroll {name} again with {', '.join(f'--{arn}' for arn in missing)}"
    if arguments.system:  # Renewing is root's work, and asking the agent is that of other users.
        return f"systemctl enable --now hwsigner-renew@{name}.timer"
    command = "hwsigner credential-process" if arguments.no_aws_config else "aws sts get-caller-identity"
    return f"{command} --profile {name}"
