"""The log of a program that uses the library: records of the logger `hwsigner`, which are silent by default."""

from __future__ import annotations

import logging
from datetime import datetime

_LOGGER = logging.getLogger("hwsigner")
_LOGGER.addHandler(logging.NullHandler())


def session_created(role_arn: str, expiration: datetime) -> None:
    """Log that a role has new credentials."""
    _LOGGER.info("%s: session created, credentials until %s", role_arn, f"{expiration:%Y-%m-%dT%H:%M:%SZ}")


def no_session(role_arn: str, error: Exception) -> None:
    """Log that an attempt to get new credentials failed. The message of an error has no secret."""
    _LOGGER.warning("%s: no session: %s", role_arn, error)


def notice(level: str, text: str) -> None:
    """Log a notice, such as that the certificate is near its end, at the level `warning` or `error`."""
    _LOGGER.log(logging.ERROR if level == "error" else logging.WARNING, "%s", text)
