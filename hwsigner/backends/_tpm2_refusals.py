"""What one process tells the next: for which keys the TPM refused an auth value.

A TPM counts wrong auth values of all keys as one, and locks them all. So it can't say that a stored one failed already.
Each refusal is an empty file named after the key: nothing of an auth value is kept. Where none can be made or found,
the processes go on without: the TPM's own count is still looked at.
"""

from __future__ import annotations

import os
from contextlib import suppress

# An auth value that somebody gave, and the empty one because nobody did.
_GIVEN, _UNSTATED = "given", "unstated"


def record(name: str, *, is_given: bool) -> None:
    """Keep it that the TPM refused an auth value.

    Args:
        name: the key's TPM Name in hexadecimal, which no other key has (TPM 2.0 Library, part 1, 16).
        is_given: whether somebody gave the auth value, or it was empty because nobody did.
    """
    folder = _folder()
    if folder is None:
        return
    with suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, _file(name, _GIVEN if is_given else _UNSTATED))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))


def is_recorded(name: str, *, is_given: bool) -> bool:
    """Return whether an auth value failed before one of this kind.

    The empty one that nobody stated says nothing of a given one, which may be the answer to its refusal.
    """
    folder = _folder()
    kinds = (_GIVEN,) if is_given else (_GIVEN, _UNSTATED)
    return folder is not None and any(os.path.lexists(os.path.join(folder, _file(name, kind))) for kind in kinds)


def forget(name: str) -> None:
    """Keep nothing of a key: its auth value was right, or the TPM forgot that one was wrong."""
    folder = _folder()
    if folder is None:
        return
    for kind in (_GIVEN, _UNSTATED):
        with suppress(OSError):
            os.unlink(os.path.join(folder, _file(name, kind)))


def _file(name: str, kind: str) -> str:
    return f"{name}.{kind}"


def _folder() -> str | None:
    """Return the folder of this user's refusals, or systemd's for the service; None where there is no place for it."""
    service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    places = (os.environ.get("XDG_STATE_HOME", ""), service, os.path.expanduser("~/.local/state"))
    place = next(filter(os.path.isabs, places), None)
    return place and os.path.join(place, "hwsigner", "refused-auth")
