"""Renewal: another certificate for a profile, in place only once the service accepts it. When it is due, and when not.

The old certificate stays in use until the new one is in.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509

from hwsigner._aws.create_session import create_session
from hwsigner._config.profiles import Profile, change_profile, check_name, file_of_new, profile
from hwsigner._config.settings import Prompts, Settings, service_for_daemon, session_request
from hwsigner._config.sharing import share_file
from hwsigner._identity import Identity
from hwsigner._identity.certificate import Certificate, Chain, extension_of, latest_expiring, leaves, load
from hwsigner._pins import PinSource
from hwsigner._refresh.schedule import RENEWAL_TIMING, renewal_pause
from hwsigner._uri import in_full
from hwsigner.enrolment.pace import life_of, set_pace
from hwsigner.enrolment.profile import (
    issuer_of,
    key_to_certify,
    profile_lock,
    renewal_lock,
    settings_of,
    with_certificate,
)
from hwsigner.enrolment.steps import ensure_key, install, request_certificate, sign_request
from hwsigner.errors import (
    AmbiguousCertificateError,
    CertificateError,
    ConfigError,
    HwsignerError,
    HwsignerWarning,
    LockError,
    ServiceError,
    ServiceUnreachableError,
    printable,
)
from hwsigner.key import Key, find_certificates
from hwsigner.key.management import KeyRequest, require_place_for_certificate

_NOT_IN_PLACE = "the new certificate was tried and not put in place, and the old one stays in use"
_SOON = 2 * RENEWAL_TIMING.longest_pause  # The timer may be late.


@dataclass(frozen=True)
class Renewed:
    """What there is after a renewal.

    `old_key` is the key URI that the profile had, if it has a new key. `timer` says how often its timer looks, if not
    as its unit says.
    """

    leaf: Certificate
    file: str
    old_key: str | None
    timer: str = ""


def renew(
    name: str, *, if_due: bool = False, new_key: str | None = None, prompts: Prompts = Settings.prompts
) -> Renewed | None:
    """Renew the certificate of a profile; return None if it is too early, or too soon after a failure.

    Without `if_due`, it is never too early. `new_key` is the URI of a key that is made for the new certificate; None
    for the profile's own. Warns if the certificate is in use without a trial.
    """
    check_name(name)
    config = profile(name, os.environ).file
    if if_due:  # A look does not wait for the renewals of other profiles, unless one of this profile goes on.
        with suppress(LockError), profile_lock(name, config) as file:
            if _is_early(name, config, _current(profile(name, os.environ)), Failures(file)):
                return None
    with renewal_lock(config), profile_lock(name, config) as file:
        found, failures = profile(name, os.environ), Failures(file)  # Read again: it may have been renewed meanwhile.
        old = _current(found)
        if if_due and _is_early(name, config, old, failures):
            return None
        try:
            renewed = _renew(found, old, new_key, prompts)
        except Exception as error:
            failures.add(error, time.time(), seconds_left(old, datetime.now(UTC)))
            raise
        failures.forget()
        return replace(renewed, timer=set_pace(name, config, renewed.leaf))


def _is_early(name: str, config: str, old: Certificate, failures: Failures) -> bool:
    """Return whether it is too early, or too soon after a failure. If so, set the timer's pace."""
    is_early = datetime.now(UTC) < due_at(old) or failures.pause_left(time.time()) > 0
    if is_early:
        set_pace(name, config, old)  # What installed it may have been another program, or killed.
    return is_early


def _current(found: Profile) -> Certificate:
    """Return the certificate that a profile names: of several, the one that expires last, as the providers do."""
    place = found.values.get("certificate")
    if not isinstance(place, str) or "private-key" not in found.values:
        problem = f"profile {found.name!r} names no certificate with its key, so there is nothing to renew"
        raise ConfigError(problem, f"Run hwsigner enroll {found.name}")
    if not (found.values.get("issuer") or found.values.get("issuer-command")):
        hint = f"Add one with hwsigner enroll {found.name} and --issuer NAME or --issuer-command PROGRAM"
        raise ConfigError(f"profile {found.name!r} names no issuer", hint)
    certificates = leaves(load(find_certificates(place, PinSource().without_pin(), allow_modules=True)))
    keys = len({one.public_key() for one in certificates})
    if keys > 1:  # The names of another key must not be asked for.
        problem = f"{place} has certificates of {keys} keys"
        raise AmbiguousCertificateError(problem, f"In profile {found.name!r}, name one alone")
    return latest_expiring(certificates)


def _renew(found: Profile, old: Certificate, new_key: str | None, prompts: Prompts) -> Renewed:
    """Have a certificate issued, try it and put it in place."""
    given = Settings()
    given.prompts = prompts
    if new_key:
        given.private_key = new_key
    values = settings_of(found, given)
    if not values.subject:  # It was not enrolled, but set up by hand.
        values.subject = old.subject
        values.dns, values.uri = _alternative_names(old)
    target = key_to_certify(values, KeyRequest())
    issuer = issuer_of(values, target.access)
    require_place_for_certificate(target.access, target.nv_index)
    if new_key:
        ensure_key(target)
        if found.file == file_of_new(os.environ, system=True) and "path" in target.access.uri.path:
            share_file(target.access.uri.file)
    with target.access.open() as key:
        changes = (
            bool(new_key) and key.public_key() != old.public_key()
        )  # The same command may have been killed before.
        request = sign_request(target, key)
        chain = request_certificate(request, issuer, lambda: datetime.now(UTC), wait=values.timeout)
        if not new_key:  # The old key may have to go before its certificate ends.
            _check_later(chain.leaf, old)
        untried = _try(values, key, chain, may_skip=ends_soon(old, datetime.now(UTC)))
    installed = install(target.access, chain, target.nv_index)
    if untried:
        problem = f"the new certificate is in use without a trial, as the old one ends: {untried.message}"
        warnings.warn(HwsignerWarning(problem, untried.hint), stacklevel=3)
    kept = {"private-key": in_full(target.access.uri)} if new_key else {}
    file = change_profile(found.name, with_certificate(kept, installed), os.environ)
    return Renewed(chain.leaf, file, found.values["private-key"] if changes else None)


def _try(values: Settings, key: Key, chain: Chain, *, may_skip: bool) -> HwsignerError | None:
    """Get credentials with a new certificate, if the profile has its ARNs. The key is closed.

    If `may_skip`, return the error of a service that can't say yes or no now, instead of raising it.
    """
    if not (values.trust_anchor_arn and values.profile_arn and values.role_arn):
        return None
    request, service = session_request(values), service_for_daemon(values)
    try:
        with Identity(key, chain) as identity:
            create_session(identity, request, service)
    except (ServiceError, ServiceUnreachableError) as error:
        is_answer = isinstance(error, ServiceError) and not error.retryable
        if may_skip and not is_answer:
            return error
        error.message = f"{_NOT_IN_PLACE}: {error.message}"
        raise
    return None


def due_at(leaf: Certificate) -> datetime:
    """Return when a certificate is to be renewed: between two thirds and three quarters of its life.

    Its own bytes choose the moment, so it is the same each time, and another one for each certificate.
    """
    chance = int.from_bytes(hashlib.sha256(leaf.der).digest()[:8]) / 2**64
    lifetime = RENEWAL_TIMING.lifetime(0.0, life_of(leaf), lambda: chance)
    return leaf.x509.not_valid_after_utc - timedelta(seconds=lifetime.ahead)


def ends_soon(leaf: Certificate, now: datetime) -> bool:
    """Return whether a certificate may expire before another attempt at its renewal, or has expired."""
    return seconds_left(leaf, now) < _SOON


def seconds_left(leaf: Certificate, now: datetime) -> float:
    """Return the seconds until a certificate expires; negative if it has."""
    return (leaf.x509.not_valid_after_utc - now).total_seconds()


def _check_later(new: Certificate, old: Certificate) -> None:
    """Check that a new certificate ends after the old one."""
    end = new.x509.not_valid_after_utc
    if end <= old.x509.not_valid_after_utc:
        problem = f"the certificate from the issuer ends on {end:%Y-%m-%dT%H:%MZ}, no later than the one in use"
        raise CertificateError(problem, "The old one stays in use. The issuer's settings, or its own CA, must change")


def _alternative_names(leaf: Certificate) -> tuple[list[str], list[str]]:
    """Return the DNS names and URIs of a certificate, which must have no other alternative names."""
    names = extension_of(leaf.x509.extensions, x509.SubjectAlternativeName)
    if names is None:
        return [], []
    dns, uris = names.get_values_for_type(x509.DNSName), names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(dns) + len(uris) < len(list(names)):
        problem = f"{leaf.source} has alternative names that are neither DNS names nor URIs"
        raise CertificateError(problem, "hwsigner can't ask for them: use csr and install-certificate")
    return dns, uris


class Failures:
    """The failures of a profile's renewals since the last success: in a file, for the next process.

    Args:
        file: a descriptor of the file, which this process has locked. It holds their number, the time of the last one
            and when the next attempt is allowed, in seconds since 1970, and in a second line the cause; or nothing.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def pause_left(self, now: float) -> float:
        """Return the seconds until the next attempt is allowed; 0 for at once."""
        _, last, next_try = self._read()
        if now < last:  # The clock was wrong then, or is now.
            return 0.0
        return max(0.0, min(next_try - now, RENEWAL_TIMING.longest_pause + RENEWAL_TIMING.longest_asked))

    def add(self, error: Exception, now: float, left: float) -> None:
        """Note a failure.

        The issuer's wish to wait counts, but for no more than an eighth of `left`, the seconds until the certificate in
        use expires, which are negative if it has.
        """
        count = self._read()[0] + 1
        asked = error.retry_after if isinstance(error, ServiceError) else 0.0
        pause = renewal_pause(RENEWAL_TIMING.pause(count, random.random, asked=asked), left)
        with suppress(OSError):  # The disk is full, and the failure itself is to be reported.
            cause = printable(f"{error}") if isinstance(error, HwsignerError) else type(error).__name__
            self._write(f"{count} {int(now)} {now + pause:.0f}\n{cause[:1000]}\n")

    def forget(self) -> None:
        """Note a success."""
        self._write("")

    def _read(self) -> tuple[int, float, float]:
        try:
            count, last, next_try = os.pread(self._file, 100, 0).partition(b"\n")[0].split()
            return int(count), float(last), float(next_try)
        except ValueError:  # It is empty, or was cut off.
            return 0, 0.0, 0.0

    def _write(self, text: str) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)
