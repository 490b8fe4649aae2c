"""What the PCRs of a policy were when it was last satisfied. The policy itself has but a digest of them all.

The values are public. Those that are kept count only where the policy's digest is theirs, so nobody can lie with them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from hwsigner.backends.state import is_private, is_usable, state_folders
from hwsigner.backends.tpm2.pcrs import HASHES, PCR, Selection

_MAX_FILE_BYTES = 65536
_MAX_GUESSES = 1 << 12
_DYNAMIC = range(17, 23)  # All ones until a dynamic launch (PC Client profile, 3.3.4).


def is_kept(selection: Selection, digest: bytes) -> bool:
    """Return whether values are kept for a policy, or can't be."""
    folder = next(filter(is_usable, state_folders("pcrs")), None)
    return folder is None or os.path.exists(os.path.join(folder, _file(selection, digest)))


def keep(selection: Selection, digest: bytes, values: Mapping[PCR, bytes]) -> None:
    """Keep the values that satisfy a policy."""
    lines = "".join(f"{values[pcr].hex()}\n" for pcr in selection.pcrs)
    for folder in filter(is_usable, state_folders("pcrs")):
        path = os.path.join(folder, _file(selection, digest))
        with suppress(OSError):
            temporary = f"{path}.{os.getpid()}"
            with open(temporary, "w", encoding="ascii") as file:
                file.write(lines)
            os.replace(temporary, path)
            return


def wanted(selection: Selection, digest: bytes, values: Mapping[PCR, bytes], hash_name: str) -> dict[PCR, bytes] | None:
    """Return the values that a policy wants where they differ from the present ones; None where that can't be told.

    It can where its values were kept, and where the PCRs that differ had not been extended yet when it was made.
    """
    for before in itertools.chain(_kept(selection, digest), _guesses(selection, values)):
        if selection.digest(before, hash_name) == digest:
            return {pcr: value for pcr, value in before.items() if value != values[pcr]}
    return None


def _kept(selection: Selection, digest: bytes) -> Iterator[dict[PCR, bytes]]:
    for folder in filter(is_private, state_folders("pcrs")):
        with suppress(OSError, ValueError), open(os.path.join(folder, _file(selection, digest)), "rb") as file:
            lines = file.read(_MAX_FILE_BYTES).decode("ascii").splitlines()
            yield dict(zip(selection.pcrs, map(bytes.fromhex, lines), strict=True))


def _guesses(selection: Selection, values: Mapping[PCR, bytes]) -> Iterator[dict[PCR, bytes]]:
    """Yield the values with one or more of them, the fewest first, as they are before the first extension."""
    extended = [pcr for pcr in selection.pcrs if values[pcr] != _initial(pcr)]
    sizes = range(1, len(extended) + 1)
    subsets = itertools.chain.from_iterable(itertools.combinations(extended, size) for size in sizes)
    for subset in itertools.islice(subsets, _MAX_GUESSES):
        yield {**values, **{pcr: _initial(pcr) for pcr in subset}}


def _initial(pcr: PCR) -> bytes:
    size = hashlib.new(HASHES.get(pcr.bank, "sha256")).digest_size
    return (b"\xff" if pcr.number in _DYNAMIC else b"\0") * size


def _file(selection: Selection, digest: bytes) -> str:
    return hashlib.sha256(selection.marshalled + digest).hexdigest()
