"""What `enroll` and the renewals after it share: a profile's settings, its lock, and what is written back."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwsigner.cli import options
from hwsigner.cli.full_paths import in_full
from hwsigner.cli.install_certificate import certificate_flags, change_flags
from hwsigner.cli.parser import Arguments
from hwsigner.config.flags import ENROLMENT, IDENTITY, SESSION, profile_values, secret_place
from hwsigner.config.profiles import Profile, change_profile, file_of_new, profiles
from hwsigner.config.settings import Settings
from hwsigner.enrolment.enroll import Wanted
from hwsigner.errors import HwsignerError, LockError, UsageError
from hwsigner.identity.certificate import Chain, load
from hwsigner.identity.certificate_request import check_names
from hwsigner.key import find_certificates
from hwsigner.key.management import InstalledCertificate, KeyAccess, KeyRequest
from hwsigner.pins import PinSource
from hwsigner.system.files import LOCK_TIMEOUT, lock_within
from hwsigner.system.users import share_with_agent
from hwsigner.uri import KeyURI

# Of the flags, what a profile keeps. A PIN is not among them: its place may be, in the key URI.
_PASSING = ("debug", "strict", "accept-new-srk", "allow-final-pin-try", "overwrite")
# Seconds that a renewal waits for the one of another profile.
_RENEWAL_SECONDS = 120.0
_KEPT = {flag.name for flag in (*IDENTITY, *SESSION, *ENROLMENT) if not flag.secret and flag.name not in _PASSING}


@contextmanager
def profile_lock(name: str, *, system: bool = False) -> Iterator[int]:
    """Let one process at a time enrol or renew a profile. Give a descriptor of its lock file, for `Failures`.

    Raises:
        LockError: another one has been doing it for ten seconds.
        HwsignerError: the folder of config.toml can't be written.
    """
    found = profiles(os.environ).get(name)
    config = found.file if found else file_of_new(os.environ, system=system)
    path, running = config.parent / f".{name}.hwsigner-enroll", f"another hwsigner enroll or renew of {name} is running"
    with _locked(path, LOCK_TIMEOUT, running, folder_mode=0o755 if system else 0o700) as file:
        yield file


@contextmanager
def renewal_lock(config: Path) -> Iterator[None]:
    """Let one process at a time renew the profiles of a config.toml: for /etc/hwsigner, one on the whole machine.

    Raises:
        LockError: another one has been doing it for two minutes.
        HwsignerError: the folder of config.toml can't be written.
    """
    with _locked(config.parent / ".hwsigner-renew", _RENEWAL_SECONDS, "another hwsigner renew is running"):
        yield


@contextmanager
def _locked(path: Path, seconds: float, running: str, *, folder_mode: int = 0o700) -> Iterator[int]:
    try:
        path.parent.mkdir(mode=folder_mode, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HwsignerError(f"can't lock {path}: {error.strerror}", "Check who may write its folder") from error
    try:
        if not lock_within(lock, seconds):
            raise LockError(running, "Wait until it ends, then run this again")
        yield lock
    finally:
        os.close(lock)


def settings_of(found: Profile | None, given: Mapping[str, Any]) -> Settings:
    """Return the settings: those given, by attribute, else the profile's, else the defaults.

    Raises:
        ConfigError: the profile is invalid.
    """
    return Settings({**(profile_values(found, given) if found else {}), **given})


def kept_settings(arguments: Arguments) -> dict[str, Any]:
    """Return what a profile is to keep of the flags of a command line. Paths mean the same in every folder."""
    given = [(flag, value) for flag, value in arguments.given if flag.name in _KEPT and value is not None]
    kept = {flag.name: flag.toml(value) for flag, value in given}
    if "private-key" in kept:
        kept["private-key"] = in_full(kept["private-key"])
    for name in ("issuer-ca-file", "vendor-certificates"):
        if name in kept:
            kept[name] = os.path.abspath(kept[name])
    command = kept.get("issuer-command", "")
    if "/" in command and os.path.isfile(command):  # Without arguments. A bare name is looked up on the PATH alone.
        kept["issuer-command"] = shlex.quote(os.path.abspath(command))
    return kept


def wanted(values: Settings, new_key: KeyRequest) -> Wanted:
    """Return what the settings ask for, with a key like this one if it is to be made.

    Raises:
        UsageError: no key or no subject is named, or a name is invalid.
    """
    if not values.private_key:
        raise UsageError("no key is named", "Add --private-key KEY-URI: where the key is, or is to be made")
    if not values.subject:
        raise UsageError("no subject was given", "Add --subject CN=bamboo-01")
    check_names(values.subject, dns_names=values.dns, uris=values.uri)
    KeyURI.of_new(values.private_key)
    uri = options.key_uri(values, values.private_key)
    secret_place(uri.text("pin-source") or "")
    return Wanted(
        KeyAccess(uri, options.pin_source(values, uri), allow_modules=True),
        values.subject,
        tuple(values.dns),
        tuple(values.uri),
        new_key,
        values.nv_index or "",
    )


def share_key(access: KeyAccess) -> None:
    """Let the system's agent read the key file of a new TPM key, which is of no use without the TPM.

    A file whose group or mode was changed since, a link, and what belongs to another user stay as they are.

    Raises:
        HwsignerError: the file's group or mode can't be changed.
    """
    if access.uri.scheme != "tpm2" or "path" not in access.uri.path:
        return
    path = access.uri.file
    if os.path.islink(path):  # Not a new one.
        return
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # Not by its path: it may be replaced.
        try:
            status = os.fstat(file)
            if (status.st_uid, status.st_gid, status.st_mode) == (os.geteuid(), os.getegid(), stat.S_IFREG | 0o600):
                share_with_agent(file)
        finally:
            os.close(file)
    except OSError as error:
        problem = f"the system's agent was not allowed to read {path}: {error.strerror}"
        raise HwsignerError(problem, f"Run chgrp hwsigner {path}; chmod 640 {path}") from error


def names_certificate(found: Profile | None, access: KeyAccess, chain: Chain) -> bool:
    """Return whether a profile names a key and its certificate, and a kill left no other one of the key there."""
    values = found.values if found else {}
    certificate, private_key = values.get("certificate"), values.get("private-key")
    if not (isinstance(certificate, str) and isinstance(private_key, str)):
        return False
    try:
        if KeyURI.of(private_key).place != access.uri.place:
            return False
        there = load(find_certificates(certificate, PinSource().without_pin(), allow_modules=True))
    except HwsignerError:
        return False
    return {one.der for one in there if one.public_key() == chain.leaf.public_key()} == {chain.leaf.der}


def write_profile(name: str, kept: Mapping[str, Any], installed: InstalledCertificate | None) -> str:
    """Write settings and the certificate's place into a profile, without what excludes them.

    Args:
        name: the profile's name.
        kept: the settings, as TOML holds them.
        installed: where the certificate was put; None if the profile names it already.

    Returns:
        The file's path.

    Raises:
        ConfigError, HwsignerError, LockError: as `change_profile`.
    """
    if installed is None:
        return str(change_profile(name, kept, os.environ))
    return change_flags(name, {**kept, **certificate_flags(installed)})
