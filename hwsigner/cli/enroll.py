"""`hwsigner enroll`: from a machine without a key to credentials for the SDKs, in one command."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hwsigner.aws.config_file import config_path
from hwsigner.aws.config_lines import check_no_keys, with_credential_process
from hwsigner.aws.credentials_file import credentials_path
from hwsigner.aws.region import check_arns, check_known_arns
from hwsigner.cli.enrolling import (
    kept_settings,
    names_certificate,
    profile_lock,
    settings_of,
    share_key,
    wanted,
    write_profile,
)
from hwsigner.cli.issuer import issuer
from hwsigner.cli.keygen import NEW_KEY, key_request
from hwsigner.cli.parser import Arguments, Command, Parser
from hwsigner.cli.process import print_outcome, print_rows
from hwsigner.config.flags import ARNS, ISSUER, KEY, NAMES, OUTPUT, PLACE, PROOF, SESSION, Flag, attribute_of, switch
from hwsigner.config.profiles import Profile, change_profile, check_name, file_of_new, profiles
from hwsigner.config.settings import Settings
from hwsigner.enrolment.enroll import ensure_key, install, installed_chain, obtain, sign_request
from hwsigner.errors import ConfigError, UsageError
from hwsigner.identity.certificate import Certificate
from hwsigner.key.management import InstalledCertificate, KeyAccess, KeyDescription
from hwsigner.system.files import edit_file
from hwsigner.system.processes import python_command

HELP = "make a key, have it certified, and write its profile"

_KEY = Flag("private-key", "where the key is, or is to be made: a path or a key URI", "KEY")
_FLAGS = (
    switch("no-aws-config", "do not write credential_process into ~/.aws/config"),
    switch("system", "for the system's agent: write the profile into /etc/hwsigner/config.toml, and no ~/.aws/config"),
)


@dataclass(frozen=True)
class _Enrolled:
    """What there is after an enrolment.

    Attributes:
        key: the key.
        made: whether it was made now.
        leaf: its certificate.
        issued: whether that was issued now.
        installed: where it was put; None if the profile names it already.
    """

    key: KeyDescription
    made: bool
    leaf: Certificate
    issued: bool
    installed: InstalledCertificate | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        return (*self.key.notes, *(self.installed.notes if self.installed else ()))


def add_arguments(parser: Parser) -> None:
    """Add the profile's name and the flags."""
    parser.add_argument("name", metavar="NAME", help="name of the profile, in config.toml and in ~/.aws/config")
    parser.add_flags([_KEY], NAMES, ISSUER, _FLAGS, NEW_KEY, PLACE, PROOF, OUTPUT, KEY, SESSION)


def run(arguments: Arguments) -> int:
    """Do what is left to do of an enrolment, and print what there is then."""
    name = arguments.name
    check_name(name)
    writes_line = not (arguments.no_aws_config or arguments.system)
    with profile_lock(name, system=arguments.system):
        found = profiles(os.environ).get(name)
        if arguments.system:
            _check_system(found)
        values = settings_of(found, vars(arguments.settings))
        region = _region(values)
        if writes_line:
            _aws_config(name, region)  # What can't be written is an error before anything is changed.
        kept = kept_settings(arguments)
        if "issuer-command" in kept and "issuer" not in kept and values.issuer:
            values.issuer = kept["issuer"] = "command"  # Not the issuer that the profile had.
        enrolled = _enroll(arguments, found, values, kept)
        file = write_profile(name, kept, enrolled.installed)
        aws_config = _aws_config(name, region, write=True) if writes_line else None
        missing = [arn for arn in ARNS if arn not in profiles(os.environ)[name].values]
    if arguments.json:
        data = {"profile": name, "file": file, **_data(enrolled), "awsConfig": aws_config, "missing": missing}
        print_outcome(f"{name} is enrolled", json.dumps({**data, "next": _next(arguments, missing)}, indent=2))
        return 0
    rows = [*_rows(enrolled), ("Profile", f"{file}: [profile.{name}]")]
    if aws_config:
        rows.append(("SDKs", f"{aws_config}: [{name if name == 'default' else f'profile {name}'}]"))
    following = _next(arguments, missing)
    rows.append(("Missing", f"Run {following}") if missing else ("Next", following))
    print_rows(f"{name} is enrolled", rows)
    return 0


def _enroll(arguments: Arguments, found: Profile | None, values: Settings, kept: Mapping[str, Any]) -> _Enrolled:
    """Make what is missing of key and certificate, and put the certificate beside the key."""
    asked, system = wanted(values, key_request(arguments)), arguments.system
    opened = issuer(values, asked.access)
    if found is None or "certificate" not in found.values:
        # If this run does not come to its end, the next one needs no flags. A profile in use changes at the end.
        change_profile(arguments.name, kept, os.environ, system=system)
    key, made = ensure_key(asked)
    if system:
        share_key(asked.access)
    _check_pin(asked.access, key)
    request = sign_request(asked)
    there = installed_chain(asked, request, datetime.now(UTC))
    chain = there or obtain(request, opened, lambda: datetime.now(UTC), wait=values.timeout)
    is_named = there is not None and names_certificate(found, asked.access, there)
    installed = None if is_named else install(asked, chain)
    return _Enrolled(key, made, chain.leaf, there is None, installed)


def _check_system(found: Profile | None) -> None:
    """Check that a profile is not one of this user's."""
    file = file_of_new(os.environ, system=True)
    if found and found.file != file:
        problem = f"profile {found.name!r} is in {found.file}, not in {file}"
        raise ConfigError(problem, "Leave out --system, or take another name")


def _check_pin(access: KeyAccess, key: KeyDescription) -> None:
    """Check that the management key of a PIV card would not be sent as its PIN."""
    if "pivSlot" in key.properties and access.uri.has_pin:
        problem = "a PIV slot is written with the management key and used with the PIN, and the key URI has one of them"
        raise UsageError(problem, "Leave it out and run from a terminal, or use keygen, csr and install-certificate")


def _region(values: Settings) -> str:
    """Check the ARNs that are known, and return the region; an empty string if it is not known.

    Raises:
        UsageError: an ARN is malformed, or their regions differ.
    """
    known = {name: value for name in ARNS if (value := getattr(values, attribute_of(name)))}
    check_known_arns(known)
    if len(known) < len(ARNS):
        return values.region or ""
    anchor, profile, role = known.values()
    return check_arns(anchor, profile, role=role, region=values.region)


def _aws_config(name: str, region: str, *, write: bool = False) -> str:
    """Check that the SDKs' config file can get the profile's line, or write it; return the file's path."""
    path, keys = config_path(os.environ), credentials_path(os.environ)
    command = _command(name)

    def edit(data: bytes) -> bytes:
        return with_credential_process(data, name, command, path=path, region=region)

    check_no_keys(_content(keys), name, path=keys)
    data = _content(path)
    if edit(data) != data and write:
        edit_file(path, edit)
    return path


def _content(path: str) -> bytes:
    """Return a file's content, empty if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", "Fix that file, or add --no-aws-config") from error


def _command(name: str) -> str:
    """Return the command that gives the SDKs a profile's credentials."""
    program = os.path.abspath(sys.argv[0])
    is_ours = os.path.basename(program) == "hwsigner" and os.access(program, os.X_OK)
    words = [program] if is_ours else python_command("hwsigner")
    command = shlex.join([*words, "credential-process", "--profile", name])
    if not command.isprintable():
        raise UsageError(f"the path {program!r} can't be written into a file", "Install hwsigner into another folder")
    return command


def _rows(enrolled: _Enrolled) -> list[tuple[str, str]]:
    leaf, end = enrolled.leaf, enrolled.leaf.x509.not_valid_after_utc
    issued = "issued now" if enrolled.issued else "already there"
    return [
        ("Key", f"{enrolled.key.uri}, {'made now' if enrolled.made else 'already there'}"),
        ("Certified", f"{leaf.subject}, expires {end:%Y-%m-%d}, {issued}"),
        *(("Note", note) for note in enrolled.notes),
    ]


def _data(enrolled: _Enrolled) -> dict[str, Any]:
    leaf = enrolled.leaf
    certificate = {"subject": leaf.subject, "notAfter": f"{leaf.x509.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"}
    return {
        "key": {"uri": enrolled.key.uri, "made": enrolled.made},
        "certificate": {**certificate, "issued": enrolled.issued},
        "notes": list(enrolled.notes),
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


if TYPE_CHECKING:
    import hwsigner.cli.enroll

    _: Command = hwsigner.cli.enroll
