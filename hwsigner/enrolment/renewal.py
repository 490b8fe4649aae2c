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


def due_at(leaf: Certificate) -> datetime:
    """Return when a certificate is to be renewed: between two thirds and three quarters of its life.

    Its own bytes choose the moment, so it is the same each time, and another one for each certificate.
    """
    begin, end = leaf.x509.not_valid_before_utc, leaf.x509.not_valid_after_utc
    chance = int.from_bytes(hashlib.sha256(leaf.der).digest()[:8]) / 2**64
    lifetime = RENEWAL.lifetime(0.0, (end - begin).total_seconds(), lambda: chance)
    return end - timedelta(seconds=lifetime.ahead)


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
        file: a descriptor of the file, which this process has locked. It holds their number and when the next attempt
            is allowed, in seconds since 1970; or nothing.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def pause_left(self, now: float) -> float:
        """Return the seconds until the next attempt is allowed; 0 for at once."""
        next_try = self._read()[1]
        # A clock that was wrong may have left any time.
        return max(0.0, min(next_try - now, RENEWAL.longest_pause + RENEWAL.longest_asked))

    def add(self, error: Exception, now: float) -> None:
        """Note a failure."""
        count = self._read()[0] + 1
        asked = error.retry_after if isinstance(error, ServiceError) else 0.0
        self._write(f"{count} {now + RENEWAL.pause(count, random.random, asked=asked):.0f}\n")

    def forget(self) -> None:
        """Note a success."""
        self._write("")

    def _read(self) -> tuple[int, float]:
        try:
            count, next_try = os.pread(self._file, 100, 0).split()
            return int(count), float(next_try)
        except ValueError:  # It is empty, or was cut off.
            return 0, 0.0

    def _write(self, text: str) -> None:
        with suppress(OSError):  # A full disk must not hide the failure itself.
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)
