"""When a certificate is renewed, and how long after a failure."""

from __future__ import annotations

import hashlib
import os
import random
from contextlib import suppress
from datetime import datetime, timedelta

from cryptography import x509

from hwsigner.errors import CertificateError, ServiceError
from hwsigner.identity.certificate import Certificate
from hwsigner.refresh.schedule import RENEWAL

_SOON = 2 * RENEWAL.longest_pause  # The timer may be late.


def due_at(leaf: Certificate) -> datetime:
    """Return when a certificate is to be renewed: between two thirds and three quarters of its life.

    Its own bytes choose the moment, so it is the same each time, and another one for each certificate.
    """
    begin, end = leaf.x509.not_valid_before_utc, leaf.x509.not_valid_after_utc
    chance = int.from_bytes(hashlib.sha256(leaf.der).digest()[:8]) / 2**64
    lifetime = RENEWAL.lifetime(0.0, (end - begin).total_seconds(), lambda: chance)
    return end - timedelta(seconds=lifetime.ahead)


def ends_soon(leaf: Certificate, now: datetime) -> bool:
    """Return whether a certificate may expire before another attempt at its renewal, or has expired."""
    return seconds_left(leaf, now) < _SOON


def seconds_left(leaf: Certificate, now: datetime) -> float:
    """Return the seconds until a certificate expires; negative if it has."""
    return (leaf.x509.not_valid_after_utc - now).total_seconds()


def check_later(new: Certificate, old: Certificate) -> None:
    """Check that a new certificate ends after the old one.

    Raises:
        CertificateError: it does not.
    """
    end = new.x509.not_valid_after_utc
    if end <= old.x509.not_valid_after_utc:
        problem = f"the certificate from the issuer ends on {end:%Y-%m-%dT%H:%MZ}, no later than the one in use"
        raise CertificateError(problem, "The old one stays in use. The issuer's settings, or its own CA, must change")


def alternative_names(leaf: Certificate) -> dict[str, list[str]]:
    """Return the DNS names and URIs of a certificate: `{"dns": […], "uri": […]}`.

    Raises:
        CertificateError: it has other alternative names too.
    """
    try:
        names = leaf.x509.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return {"dns": [], "uri": []}
    dns, uris = names.get_values_for_type(x509.DNSName), names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(dns) + len(uris) < len(list(names)):
        problem = f"{leaf.source} has alternative names that are neither DNS names nor URIs"
        raise CertificateError(problem, "hwsigner can't ask for them: use csr and install-certificate")
    return {"dns": dns, "uri": uris}


class Failures:
    """The failures of a profile's renewals since the last success: in a file, for the next process.

    Args:
        file: a descriptor of the file, which this process has locked. It holds their number, the time of the last one
            and when the next attempt is allowed, in seconds since 1970; or nothing.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def pause_left(self, now: float) -> float:
        """Return the seconds until the next attempt is allowed; 0 for at once."""
        _, last, next_try = self._read()
        if now < last:  # The clock was wrong then, or is now.
            return 0.0
        return max(0.0, min(next_try - now, RENEWAL.longest_pause + RENEWAL.longest_asked))

    def add(self, error: Exception, now: float, left: float) -> None:
        """Note a failure.

        Args:
            error: the failure. The issuer's wish to wait counts, but for no more than half of the certificate's rest.
            now: the time, in seconds since 1970.
            left: the seconds until the certificate in use expires; negative if it has.
        """
        count = self._read()[0] + 1
        asked = error.retry_after if isinstance(error, ServiceError) else 0.0
        pause = RENEWAL.pause(count, random.random, asked=min(asked, max(left / 2, RENEWAL.longest_pause)))
        with suppress(OSError):  # The disk is full, and the failure itself is to be reported.
            self._write(f"{count} {int(now)} {now + pause:.0f}\n")

    def forget(self) -> None:
        """Note a success."""
        self._write("")

    def _read(self) -> tuple[int, float, float]:
        try:
            count, last, next_try = os.pread(self._file, 100, 0).split()
            return int(count), float(last), float(next_try)
        except ValueError:  # It is empty, or was cut off.
            return 0, 0.0, 0.0

    def _write(self, text: str) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)
