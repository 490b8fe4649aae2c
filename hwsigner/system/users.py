"""Users of this machine, by name or number."""

from __future__ import annotations

import pwd


def find_uid(user: str) -> int | None:
    """Return the uid of a user, or None where this machine knows no such name; a number is taken as it is."""
    try:
        return int(user) if user.isascii() and user.isdigit() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # A ValueError: no name has a zero byte, no number thousands of digits.
        return None
