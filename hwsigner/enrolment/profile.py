"""The profile of an enrolment: its lock, what its settings ask for, and what is written into it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hwsigner._config import settings
from hwsigner._config.flags import ENROLMENT, IDENTITY, SESSION, profile_values, secret_place
from hwsigner._config.profiles import Profile, file_of_new, renewal_file
from hwsigner._config.settings import Settings
from hwsigner._identity.certificate import Chain, load
from hwsigner._identity.certificate_request import check_names
from hwsigner._pins import PinSource
from hwsigner._pins.sources import read_pin_source
from hwsigner._system.files import LOCK_TIMEOUT, lock_within
from hwsigner._uri import KeyURI, in_full
from hwsigner.enrolment.issuers import Issuer, IssuerSettings, open_issuer
from hwsigner.enrolment.steps import KeyToCertify
from hwsigner.errors import HwsignerError, LockError, PinError, UsageError
from hwsigner.key import find_certificates
from hwsigner.key.management import InstalledCertificate, KeyAccess, KeyDescription, KeyRequest

# Of the flags, what a profile keeps. A PIN is not among them: its place may be, in the key URI.
_PASSING = ("debug", "strict", "accept-new-srk", "allow-final-pin-try", "overwrite")
_KEPT = {flag.name: flag for flag in (*IDENTITY, *SESSION, *ENROLMENT) if not flag.secret and flag.name not in _PASSING}
# What a profile must not keep once it names an installed certificate.
EXCLUDED = ("intermediates", "cert-selector", "use-latest-expiring-certificate")
STARTS_AGENT_NOTE = "The first use of the profile starts an agent, so that the next ones need no touch and no PIN"
# Seconds that a renewal waits for the one of another profile.
_RENEWAL_SECONDS = 120.0


@contextmanager
def profile_lock(name: str, config: str, *, system: bool = False) -> Iterator[int]:
    """Let one process at a time enrol or renew a profile. Give a descriptor of its lock file, for `Failures`.

    After ten seconds of waiting, this is a LockError. If `system`, a new folder is for all users to read.
    """
    path = renewal_file(name, config)
    running = f"another hwsigner enroll or renew of {name} is running"
    with _locked(path, LOCK_TIMEOUT, running, folder_mode=0o755 if system else 0o700) as file:
        yield file


@contextmanager
def renewal_lock(config: str) -> Iterator[None]:
    """Let one process at a time renew the profiles of a config.toml: for /etc/hwsigner, one on the whole machine.

    After two minutes of waiting, this is a LockError.
    """
    path = os.path.join(os.path.dirname(config), ".hwsigner-renew")
    with _locked(path, _RENEWAL_SECONDS, "another hwsigner renew is running"):
        yield


@contextmanager
def _locked(path: str, seconds: float, running: str, *, folder_mode: int = 0o700) -> Iterator[int]:
    try:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            os.makedirs(folder, mode=folder_mode, exist_ok=True)
            os.chmod(folder, folder_mode)  # Whatever the umask is.
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HwsignerError(f"can't lock {path}: {error.strerror}", "Check who may write its folder") from error
    try:
        if not lock_within(lock, seconds):
            raise LockError(running, "Wait until it ends, then run this again")
        yield lock
    finally:
        os.close(lock)


def settings_of(found: Profile | None, given: Settings) -> Settings:
    """Return the settings: those that were given, else the profile's, else the defaults."""
    return Settings({**(profile_values(found, vars(given)) if found else {}), **vars(given)})


def kept_values(given: Settings) -> dict[str, Any]:
    """Return what a profile is to keep of given settings, as TOML has it. Paths mean the same in every folder."""
    values = {attribute.replace("_", "-"): value for attribute, value in vars(given).items() if value is not None}
    kept = {name: _KEPT[name].toml(value) for name, value in values.items() if name in _KEPT}
    if "private-key" in kept:
        kept["private-key"] = in_full(kept["private-key"])
    for name in ("issuer-ca-file", "vendor-certificates"):
        if name in kept:
            kept[name] = os.path.abspath(kept[name])
    command = kept.get("issuer-command", "")
    if "/" in command and os.path.isfile(command):  # Without arguments. A bare name is looked up on the PATH alone.
        kept["issuer-command"] = shlex.quote(os.path.abspath(command))
    return kept


def key_to_certify(values: Settings, new_key: KeyRequest) -> KeyToCertify:
    """Return the key and the names that the settings ask for."""
    if not values.private_key:
        raise UsageError("no key is named", "Add --private-key KEY-URI: where the key is, or is to be made")
    if not values.subject:
        raise UsageError("no subject was given", "Add --subject CN=bamboo-01")
    check_names(values.subject, dns_names=values.dns, uris=values.uri)
    KeyURI.of_new(values.private_key)
    uri = settings.argument_uri(values, values.private_key)
    secret_place(uri.text("pin-source") or "")
    pins = settings.pin_source(values, uri)
    access, nv_index = KeyAccess(uri, pins, allow_modules=True), values.nv_index or ""
    return KeyToCertify(access, values.subject, tuple(values.dns), tuple(values.uri), new_key, nv_index)


def issuer_of(values: Settings, key: KeyAccess | None = None) -> Issuer:
    """Return the issuer that the flags of `ISSUER` choose. Nothing is sent, and no secret is read yet.

    `key` is the key of the requests, for an issuer that wants more of it than their signatures.
    """
    name = values.issuer or ("command" if values.issuer_command else None)
    if name is None:
        raise UsageError("no issuer was given", "Add --issuer NAME, or --issuer-command PROGRAM")
    source, vendor = values.issuer_secret, values.vendor_certificates
    settings = IssuerSettings(
        url=values.issuer_url or "",
        command=values.issuer_command or "",
        ca_file=values.issuer_ca_file or "",
        user=values.issuer_user or "",
        secret=(lambda: _secret(source)) if source else None,
        arn=values.issuer_arn or "",
        certificate=(values.certificate or "") if values.issuer_certificate else "",
        timeout=values.timeout,
        key=key,
        vendor_certificates=tuple(one.der for one in find_certificates(vendor, allow_modules=True)) if vendor else (),
    )
    return open_issuer(name, settings)


def _secret(source: str) -> str:
    try:
        return read_pin_source(source, allow_commands=True)
    except PinError as error:
        # It is read like a PIN, and the error speaks of one.
        raise PinError(f"the secret of --issuer-secret can't be read: {error.message}", error.hint) from error


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


def certificate_values(installed: InstalledCertificate, key: str | KeyURI = "") -> dict[str, str]:
    """Return the flags that name an installed certificate, and its key if that is given, with their values."""
    places = {"certificate": installed.certificate, "private-key": key, "intermediates": installed.intermediates}
    return {flag: in_full(place) for flag, place in places.items() if place}


def is_for_person(key: KeyDescription, pins: PinSource) -> bool:
    """Return whether each session with a key needs a person: a touch, or a PIN that was typed when it was used."""
    is_touched = key.properties.get("touchPolicy") in ("always", "cached")
    return is_touched or bool(pins.typed - {"management key"})  # A card's management key can't sign.


def agent_value(found: Profile | None, given: Settings, *, for_person: bool, system: bool) -> dict[str, str | None]:
    """Return what to write into a profile so that its first use starts an agent, or not.

    `agent` of `given` takes precedence: `none` removes it. If `for_person`, the key needs a person, whom an agent asks
    less often.
    """
    if system or (found and found.file == file_of_new(os.environ, system=True)):
        return {}
    if said := vars(given).get("agent"):
        return {"agent": said if said == "auto" else None}
    return {"agent": "auto"} if for_person and not (found and "agent" in found.values) else {}


def with_certificate(kept: Mapping[str, Any], installed: InstalledCertificate | None) -> dict[str, Any]:
    """Return what to write into a profile that names an installed certificate; None removes what excludes it.

    If `installed` is None, the profile names the certificate already.
    """
    return {**dict.fromkeys(EXCLUDED), **kept, **certificate_values(installed)} if installed else dict(kept)
