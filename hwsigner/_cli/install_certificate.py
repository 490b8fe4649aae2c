"""`hwsigner install-certificate`: put a certificate beside its key, once it is known to fit."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping

from hwsigner._aws.region import check_known_arns
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome, print_rows
from hwsigner._config import settings
from hwsigner._config.flags import ARNS, KEY, OUTPUT, PLACE, STARTS_AGENT, SYSTEM, Flag, switch
from hwsigner._config.profiles import change_profile, check_name, profiles
from hwsigner._config.sharing import check_writable, share
from hwsigner._identity.certificate import Certificate
from hwsigner.enrolment.installing import InstalledLeaf, install_leaf
from hwsigner.enrolment.profile import EXCLUDED, STARTS_AGENT_NOTE, agent_value
from hwsigner.errors import CertificateError, HwsignerError, UsageError
from hwsigner.key.management import KeyAccess

HELP = "check a certificate, and put it beside its key"

_MOST_CERTIFICATES = 64
_FLAGS = (
    Flag("intermediates", "file of more certificates of the chain", "FILE"),
    *PLACE,
    Flag("profile", "profile of config.toml to write the flags into; its other values stay", "NAME"),
    SYSTEM,
    switch("no-preflight", "install the certificate even if the service will refuse it"),
    *OUTPUT,
)


def add_arguments(parser: Parser) -> None:
    """Add the certificate, the key URI and the flags."""
    parser.add_argument(
        "certificate", metavar="CERTIFICATE", help="file of the certificate; the chain may be there too"
    )
    parser.add_argument("key", metavar="KEY-URI", help="key URI of its key")
    parser.add_flags(_FLAGS, KEY, [STARTS_AGENT])


def run(arguments: Arguments) -> int:
    """Check the certificate, install it, and print the flags for credential-process."""
    if arguments.system:
        check_writable()
    if arguments.profile:
        _check_profile(arguments.profile, system=arguments.system)
    uri = settings.argument_uri(arguments.settings, arguments.key)
    pins = settings.pin_source(arguments.settings, uri)
    installed = install_leaf(
        KeyAccess(uri, pins, allow_modules=True),
        _certificates(arguments),
        nv_index=arguments.settings.nv_index or "",
        check=not arguments.settings.no_preflight,
    )
    _print(arguments, installed)
    return 0


def _check_profile(name: str, *, system: bool) -> None:
    """Check the name and the ARNs of the profile to be written, before anything is changed."""
    check_name(name)
    existing = profiles(os.environ, system=system).get(name)
    if existing is not None:
        try:
            check_known_arns(existing.values)
        except UsageError as error:
            raise UsageError(f"profile {name!r} in {existing.file}: {error.message}", error.hint) from error


def _certificates(arguments: Arguments) -> list[Certificate]:
    """Return the certificates of the argument and of `--intermediates`."""
    places = filter(None, (arguments.certificate, arguments.settings.intermediates))
    found = [one for place in places for one in settings.certificates_at(place)]
    if len(found) > _MOST_CERTIFICATES:  # More would make looking for the chain slow.
        problem = f"{arguments.certificate} has {len(found)} certificates, more than {_MOST_CERTIFICATES}"
        raise CertificateError(problem, "Give the certificate and its chain alone")
    return found


def _print(arguments: Arguments, installed: InstalledLeaf) -> None:
    """Print what was done; if a profile is named, write it first."""
    leaf, flags, notes = installed.leaf, installed.values, list(installed.notes)
    text = " ".join(f"--{flag} {shlex.quote(value)}" for flag, value in flags.items())
    end = leaf.x509.not_valid_after_utc
    file = None
    if arguments.profile:
        name, system = arguments.profile, arguments.system
        found = profiles(os.environ, system=system).get(name)
        if found is None:
            notes.append(f"There was no profile {name}: it is new")
        agent = agent_value(found, arguments.settings, for_person=installed.for_person, system=system)
        notes += [STARTS_AGENT_NOTE] if agent.get("agent") else []
        file = _write_profile(name, {**flags, **agent}, text, system=system)
        missing = [arn for arn in ARNS if arn not in profiles(os.environ, system=system)[name].values]
        if missing:
            command = f"hwsigner profile edit {shlex.quote(name)}{' --system' * system}"
            flags_missing = " ".join(f"--{arn} ARN" for arn in missing)
            notes.append(f"The profile has no {', '.join(missing)}: run {command} {flags_missing}")
    if arguments.system:
        share(flags)
    done = f"the certificate is installed as {flags['certificate']}"
    if arguments.json:
        data = {
            "certificate": flags["certificate"],
            "privateKey": flags["private-key"],
            "intermediates": flags.get("intermediates"),
            "subject": leaf.subject,
            "notAfter": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "notes": notes,
            "profile": file,
        }
        print_outcome(done, json.dumps(data, indent=2))
        return
    rows = [("Installed", f"{leaf.subject}, expires {end:%Y-%m-%d}"), *(("Note", note) for note in notes)]
    rows += [("Profile", f"{file}: [profile.{arguments.profile}]")] if file else []
    rows += [("Flags", text)]
    if file and arguments.system:
        rows.append(("Next", f"hwsigner systemd install --system --allow-user USER --profile {arguments.profile}"))
    print_rows(done, rows)


def _write_profile(name: str, values: Mapping[str, str | None], text: str, *, system: bool) -> str:
    """Write values into a profile; return its file."""
    try:
        return change_profile(name, {**dict.fromkeys(EXCLUDED), **values}, os.environ, system=system)
    except HwsignerError as error:
        raise type(error)(f"the certificate is installed, but {error.message}", f"Its flags are {text}") from error
