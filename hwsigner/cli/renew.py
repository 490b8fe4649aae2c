"""`hwsigner renew`: another certificate for a profile, in place only once the service accepts it."""

from __future__ import annotations

import json
import os
import time
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hwsigner.aws.create_session import create_session
from hwsigner.cli import options
from hwsigner.cli.enrolling import profile_lock, renewal_lock, settings_of, share_key, wanted, write_profile
from hwsigner.cli.full_paths import in_full
from hwsigner.cli.issuer import issuer
from hwsigner.cli.parser import Arguments, Command, Parser
from hwsigner.cli.process import print_outcome, print_rows
from hwsigner.config import settings
from hwsigner.config.flags import ARNS, OUTPUT, Flag, attribute_of, switch
from hwsigner.config.profiles import Profile, check_name, file_of_new, profile
from hwsigner.enrolment.enroll import Wanted, ensure_key, install, obtain, sign_request
from hwsigner.enrolment.renewal import Failures, alternative_names, check_later, due_at, ends_soon, seconds_left
from hwsigner.errors import (
    AmbiguousCertificateError,
    ConfigError,
    HwsignerError,
    HwsignerWarning,
    ServiceError,
    ServiceUnreachableError,
)
from hwsigner.identity import Identity
from hwsigner.identity.certificate import Certificate, Chain, latest_expiring, leaves
from hwsigner.key.management import KeyRequest

HELP = "renew the certificate of a profile"

_NOT_IN_PLACE = "the new certificate was tried and not put in place, and the old one stays in use"
_FLAGS = (
    Flag("new-key", "make this key, and have the certificate issued for it instead of the old one", "KEY-URI"),
    switch("if-due", "for timers: do nothing if it is too early, or too soon after a failure"),
)


def add_arguments(parser: Parser) -> None:
    """Add the profile's name and the flags."""
    parser.add_argument("name", metavar="NAME", help="name of the profile")
    parser.add_flags(_FLAGS, OUTPUT)


def run(arguments: Arguments) -> int:
    """Renew the certificate, or do nothing if it is too early; the old one stays in use until the new one is in."""
    name = arguments.name
    check_name(name)
    with renewal_lock(profile(name, os.environ).file), profile_lock(name) as file:
        found, failures = profile(name, os.environ), Failures(file)  # Read again: it may have been renewed meanwhile.
        old = _current(found)
        if arguments.if_due and (datetime.now(UTC) < due_at(old) or failures.pause_left(time.time()) > 0):
            if arguments.json:
                print(json.dumps({"renewed": False, "profile": name}, indent=2))
            return 0
        try:
            new, path = _renew(found, old, arguments.new_key)
        except Exception as error:
            failures.add(error, time.time(), seconds_left(old, datetime.now(UTC)))
            raise
        failures.forget()
    _print(arguments, new, path, found.values["private-key"] if arguments.new_key else None)
    return 0


def _print(arguments: Arguments, new: Certificate, file: str, old_key: str | None) -> None:
    name, end = arguments.name, new.x509.not_valid_after_utc
    if arguments.json:
        about = {"subject": new.subject, "notAfter": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        data = {"renewed": True, "profile": name, "file": file, **about, "oldKey": old_key}
        print_outcome(f"{name} is renewed", json.dumps(data, indent=2))
        return
    rows = [("Renewed", f"{new.subject}, expires {end:%Y-%m-%dT%H:%MZ}"), ("Profile", f"{file}: [profile.{name}]")]
    if old_key:
        rows.append(("Old key", f"{old_key} is no longer used: hwsigner delete deletes it"))
    print_rows(f"{name} is renewed", rows)


def _current(found: Profile) -> Certificate:
    """Return the certificate that a profile names: of several, the one that expires last, as the providers do."""
    place = found.values.get("certificate")
    if not isinstance(place, str) or "private-key" not in found.values:
        problem = f"profile {found.name!r} names no certificate with its key, so there is nothing to renew"
        raise ConfigError(problem, f"Run hwsigner enroll {found.name}")
    if not (found.values.get("issuer") or found.values.get("issuer-command")):
        hint = f"Add one with hwsigner enroll {found.name} and --issuer NAME or --issuer-command PROGRAM"
        raise ConfigError(f"profile {found.name!r} names no issuer", hint)
    certificates = leaves(options.certificates_at(place))
    keys = len({one.public_key() for one in certificates})
    if keys > 1:  # The names of another key must not be asked for.
        problem = f"{place} has certificates of {keys} keys"
        raise AmbiguousCertificateError(problem, f"In profile {found.name!r}, name one alone")
    return latest_expiring(certificates)


def _renew(found: Profile, old: Certificate, new_key: str | None) -> tuple[Certificate, str]:
    """Have a certificate issued, try it and put it in place. Return it, and the path of the profile's file."""
    values = settings_of(found, {"private_key": new_key} if new_key else {})
    if not values.subject:  # It was not enrolled, but set up by hand.
        names = alternative_names(old)
        values.subject, values.dns, values.uri = old.subject, names["dns"], names["uri"]
    asked = wanted(values, KeyRequest())
    opened = issuer(values, asked.access)
    if new_key:
        ensure_key(asked)
        if found.file == file_of_new(os.environ, system=True):
            share_key(asked.access)
    chain = obtain(sign_request(asked), opened, lambda: datetime.now(UTC), wait=values.timeout)
    if not new_key:  # The old key may have to go before its certificate ends.
        check_later(chain.leaf, old)
    untried = _try(values, asked, chain, may_skip=ends_soon(old, datetime.now(UTC)))
    installed = install(asked, chain)
    if untried:
        problem = f"the new certificate is in use without a trial, as the old one ends: {untried.message}"
        warnings.warn(HwsignerWarning(problem, untried.hint), stacklevel=2)
    kept = {"private-key": in_full(asked.access.uri)} if new_key else {}
    return chain.leaf, write_profile(found.name, kept, installed)


def _try(values: settings.Settings, asked: Wanted, chain: Chain, *, may_skip: bool) -> HwsignerError | None:
    """Get credentials with a new certificate, if the profile has its ARNs.

    Args:
        values: the profile's settings.
        asked: the key.
        chain: the certificate.
        may_skip: whether a service that can't say yes or no now is no error.

    Returns:
        Why the service has not said yes or no.

    Raises:
        ServiceError: the service refused it.
        ServiceUnreachableError: the service was not reached.
    """
    if not all(getattr(values, attribute_of(arn)) for arn in ARNS):
        return None
    request, service = settings.session_request(values), settings.service_for_daemon(values)
    try:
        with Identity(asked.access.open(), chain) as identity:
            create_session(identity, request, service)
    except (ServiceError, ServiceUnreachableError) as error:
        is_answer = isinstance(error, ServiceError) and not error.retryable
        if may_skip and not is_answer:
            return error
        error.message = f"{_NOT_IN_PLACE}: {error.message}"
        raise
    return None


if TYPE_CHECKING:
    import hwsigner.cli.renew

    _: Command = hwsigner.cli.renew
