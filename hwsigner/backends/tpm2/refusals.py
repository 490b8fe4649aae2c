"""What one process tells the next: for which keys the TPM refused an auth value.

A TPM counts wrong auth values of all keys as one, and locks them all. So it can't say that a stored one failed already.
Each refusal is a file named after the key, with the TPM's count after it: nothing of an auth value is kept. It counts
until the TPM counts fewer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from hwsigner.backends.state import is_private, is_usable, runtime_folders, state_folders, temporary_folders

Kind = Literal["given", "given-empty", "unstated"]
# An auth value that somebody gave; the empty one because somebody said so; and the empty one because nobody did.
GIVEN: Kind = "given"
GIVEN_EMPTY: Kind = "given-empty"
UNSTATED: Kind = "unstated"
_KINDS = (GIVEN, GIVEN_EMPTY, UNSTATED)


def record(name: str, kind: Kind, failures: int) -> None:
    """Keep it that the TPM refused an auth value.

    Args:
        name: the key's TPM Name in hexadecimal, which no other key has (TPM 2.0 Library, part 1, 16).
        kind: where the auth value came from.
        failures: how many wrong auth values the TPM counts, this one among them.
    """
    for folder in filter(is_usable, _folders()):
        with suppress(OSError):
            _write(os.path.join(folder, _file(name, kind)), b"%d" % failures)
            return


def held_back(name: str, kind: Kind, failures: int) -> int | None:
    """Return the TPM's count at an earlier refusal that still counts and holds back an auth value of this kind.

    A given one may be the answer to the refusal of another kind, so only its own holds it back; all hold back the
    empty one that nobody stated. None: the auth value may be sent.
    """
    kept = [_read(path) for blocking in _blocking(kind) for path in _paths(name, blocking)]
    return max((count for count in kept if count is not None and count <= failures), default=None)


def has_place() -> bool:
    """Return whether a refusal can be kept."""
    return any(map(is_usable, _folders()))


def forget(name: str, right: bytes) -> None:
    """Keep nothing that the right auth value of a key proves wrong: if it is not empty, the empty one stays refused."""
    for kind in (GIVEN,) if right else _KINDS:
        for path in _paths(name, kind):
            _unlink(path)


def forget_if_fewer(name: str, failures: int) -> None:
    """Keep only those refusals of a key that still count while the TPM counts so many failures."""
    for path in (path for kind in _KINDS for path in _paths(name, kind)):
        count = _read(path)
        if not failures or (count is not None and count > failures):
            _unlink(path)


def _blocking(kind: Kind) -> tuple[Kind, ...]:
    return _KINDS if kind == UNSTATED else (kind,)


def _write(path: str, data: bytes) -> None:
    """Write a file in one step, so that no process reads a part of it."""
    temporary = f"{path}.{os.getpid()}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(file, data)
    finally:
        os.close(file)
    os.replace(temporary, path)


def _read(path: str) -> int | None:
    """Return the count in a file; 0, which always counts, where it has none; None where there is no file."""
    try:
        with open(path, "rb") as file:
            data = file.read(20)
    except FileNotFoundError:
        return None
    except OSError:
        return 0
    return int(data) if data.isdigit() else 0


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _paths(name: str, kind: Kind) -> list[str]:
    return [os.path.join(folder, _file(name, kind)) for folder in filter(is_private, _folders())]


def _file(name: str, kind: Kind) -> str:
    return f"{name}.{kind}"


def _folders() -> Iterator[str]:
    yield from state_folders("refused-auth")
    yield from runtime_folders()
    yield from temporary_folders()
