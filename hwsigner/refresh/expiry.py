"""Warnings of a certificate that nears its end."""

from __future__ import annotations

from datetime import datetime, timedelta

from hwsigner.identity.certificate import Certificate

# Of a certificate's life.
_WARN_BELOW = 1 / 4
_URGENT_BELOW = 1 / 10
# Of what was left at the last notice: so notices become more frequent near the end.
_REPEAT_AFTER = 1 / 10


class ExpiryWatch:
    """Gives a notice once a certificate has a quarter of its life left, and again and again until it is replaced."""

    def __init__(self) -> None:
        self._serial = 0
        self._quiet_until: datetime | None = None

    def notice(self, leaf: Certificate, now: datetime) -> str | None:
        """Return a line for the log, or None if it is too early for the first or the next one.

        It begins with `warning:`, or with `error:` if less than a tenth of the certificate's life is left.
        """
        begin, end = leaf.x509.not_valid_before_utc, leaf.x509.not_valid_after_utc
        life, left = end - begin, end - now
        if left > life * _WARN_BELOW:
            return None
        if leaf.x509.serial_number == self._serial and self._quiet_until and now < self._quiet_until:
            return None
        self._serial, self._quiet_until = leaf.x509.serial_number, now + left * _REPEAT_AFTER
        kind = "error" if left <= life * _URGENT_BELOW else "warning"
        return f"{kind}: the certificate {leaf.subject} expires in {_words(left)}, on {end:%Y-%m-%dT%H:%MZ}. Renew it"


def _words(left: timedelta) -> str:
    minutes = max(0, int(left.total_seconds() // 60))
    for name, length in (("day", 24 * 60), ("hour", 60)):
        if minutes >= 2 * length:
            return f"{minutes // length} {name}s"
    return f"{minutes} minutes"
