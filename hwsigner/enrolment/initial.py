"""The first enrolment: from a machine without a key to a profile with which the SDKs get credentials."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from hwsigner._aws.config_lines import edit_config_file
from hwsigner._aws.region import check_arns, check_known_arns
from hwsigner._config.flags import ARNS
from hwsigner._config.profiles import Profile, add_profile, change_profile, check_name, file_of_new, profiles
from hwsigner._config.settings import Settings
from hwsigner._config.sharing import check_writable, share, share_file
from hwsigner._identity.certificate import Certificate
from hwsigner.enrolment.chips import Confirm, change_chip
from hwsigner.enrolment.pace import set_pace
from hwsigner.enrolment.profile import (
    STARTS_AGENT_NOTE,
    agent_value,
    is_for_person,
    issuer_of,
    kept_values,
    key_to_certify,
    names_certificate,
    profile_lock,
    settings_of,
    with_certificate,
)
from hwsigner.enrolment.steps import ensure_key, install, installed_chain, request_certificate, sign_request
from hwsigner.errors import ConfigError, UsageError
from hwsigner.key.management import (
    InstalledCertificate,
    KeyAccess,
    KeyDescription,
    KeyRequest,
    require_place_for_certificate,
)


@dataclass(frozen=True)
class Enrolment:
    """What `enroll` is asked for.

    The profile keeps the settings in `given`, and has others already. `new_key` is what the key must be like if there
    is none yet. `command` gives the SDKs the credentials, for `~/.aws/config`; empty to write nothing there. `confirm`
    asks the user before a key of another chip is set aside, and raises an error to keep it. It returns False if there
    is no user: then a registrar must certify the new key, as it demands the proof that a TPM has it.
    """

    name: str
    given: Settings
    new_key: KeyRequest
    system: bool = False
    command: str = ""
    confirm: Confirm | None = None


@dataclass(frozen=True)
class Enrolled:
    """What there is after an enrolment, and whether the key was made and the leaf issued now.

    `installed` is None if the profile names the certificate already, and `aws_config` if that file was not to be
    written. `missing` are the ARNs that the profile does not have. `timer` is how often its timer looks, if not as the
    unit says. `starts_agent` is whether `agent = "auto"` was written. `kept` is the path of
    the key of another chip that was set aside; empty if none was.
    """

    key: KeyDescription
    made: bool
    leaf: Certificate
    issued: bool
    installed: InstalledCertificate | None
    file: str
    aws_config: str | None
    missing: tuple[str, ...]
    timer: str
    starts_agent: bool
    kept: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        agent = (STARTS_AGENT_NOTE,) if self.starts_agent else ()
        kept = (f"The key of another TPM is now {self.kept}. It comes back with its TPM",) if self.kept else ()
        return (*self.key.notes, *(self.installed.notes if self.installed else ()), *agent, *kept)


def enroll(asked: Enrolment) -> Enrolled:
    """Make what is missing of a key, its certificate, its profile and the line for the SDKs."""
    name, environ = asked.name, os.environ
    check_name(name)
    if asked.system:
        check_writable()
    existing = profiles(environ).get(name)
    config = existing.file if existing else file_of_new(environ, system=asked.system)
    with profile_lock(name, config, system=asked.system):
        return _enroll(asked, profiles(environ).get(name))


def _enroll(asked: Enrolment, found: Profile | None) -> Enrolled:
    """Enrol a profile, as it is now that this process has its lock."""
    name, environ = asked.name, os.environ
    if asked.system:
        _check_system(found)
    given = asked.given
    if given.issuer_command is not None and given.issuer is None and found and found.values.get("issuer"):
        given = Settings({**vars(given), "issuer": "command"})  # Not the issuer that the profile had.
    values, kept = settings_of(found, given), kept_values(given)
    region = _region(values)
    if asked.command:
        # What can't be written is an error before anything changes.
        edit_config_file(name, asked.command, region=region, write=False)
    target = key_to_certify(values, asked.new_key)
    access = target.access
    issuer = issuer_of(values, access)
    require_place_for_certificate(access, target.nv_index)
    _save_settings(asked, found, kept)
    key, made = ensure_key(target)
    _check_pin(access, key)
    kept_key, issued = "", False
    if not made and (changed := change_chip(target, key, values, asked.confirm)):
        kept_key, made, issued = changed
        key = access.describe()
    if asked.system and "path" in access.uri.path:
        share_file(access.uri.file)
    with access.open() as opened:
        request = sign_request(target, opened)
    there = None if made and not kept_key else installed_chain(target, request, datetime.now(UTC))
    chain = there or request_certificate(request, issuer, lambda: datetime.now(UTC), wait=values.timeout)
    is_named = there is not None and not kept_key and names_certificate(found, access, there)
    installed = None if is_named else install(access, chain, target.nv_index)
    agent = agent_value(found, given, for_person=is_for_person(key, access.pins), system=asked.system)
    file = change_profile(name, {**with_certificate(kept, installed), **agent}, environ)
    if asked.system:
        share(profiles(environ)[name].values)
    return Enrolled(
        key,
        made,
        chain.leaf,
        issued or there is None,
        installed,
        file,
        edit_config_file(name, asked.command, region=region) if asked.command else None,
        tuple(arn for arn in ARNS if arn not in {*(found.values if found else ()), *kept}),
        set_pace(name, file, chain.leaf),
        agent.get("agent") == "auto",
        kept_key,
    )


def _save_settings(asked: Enrolment, found: Profile | None, kept: Mapping[str, str]) -> None:
    """Write what was given into a profile that no one uses yet. If this run does not end, the next needs no flags."""
    if found is None:
        add_profile(asked.name, kept, os.environ, system=asked.system)
    elif "certificate" not in found.values:
        change_profile(asked.name, kept, os.environ)  # One in use changes at the end.


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
    """Check the ARNs that are known, and return the region; an empty string if it is not known."""
    arns = zip(ARNS, (values.trust_anchor_arn, values.profile_arn, values.role_arn), strict=True)
    known = {name: value for name, value in arns if value}
    check_known_arns(known)
    if len(known) < len(ARNS):
        return values.region or ""
    anchor, profile, role = known.values()
    return check_arns(anchor, profile, role=role, region=values.region)
