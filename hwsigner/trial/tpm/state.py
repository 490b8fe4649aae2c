"""What a trial must leave as it was; the journal of a trial that runs; and removing what a killed one left."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tpm2_pytss import TPM2_RH, TPM2B_PUBLIC, TPMA_OBJECT, TSS2_Exception

from hwsigner._system.environment import is_usable, state_folders
from hwsigner.backends.tpm2 import handles
from hwsigner.backends.tpm2.errors import HANDLE, SEQUENCE, code, is_answer
from hwsigner.backends.tpm2.nv import open_index
from hwsigner.backends.tpm2.objects import ParentAuth
from hwsigner.backends.tpm2.srk import ecc_primary
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import BackendUnavailableError, HwsignerError, SigningKeyError
from hwsigner.trial.tpm.capabilities import (
    LOCKOUT_COUNTER,
    LOCKOUT_INTERVAL,
    LOCKOUT_RECOVERY,
    MOST_FAILURES,
    PERMANENT,
    STARTUP_CLEAR,
    handles_from,
    variable_properties,
)
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import MARK, parent

# The first handles of each kind (TPM 2.0 Library, part 2, 7.2).
_NV, _LOADED_SESSIONS = 0x01000000, 0x02000000
_TRANSIENT, _PERSISTENT = 0x80000000, 0x81000000
_COUNTED = "count of wrong auth values"
_STORAGE = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT
_ENDORSEMENT_KEY = _STORAGE | TPMA_OBJECT.ADMINWITHPOLICY
_ATTESTATION_KEY = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.NODA


def snapshot(tpm: TPM) -> dict[str, Any]:
    """Return what a trial must not change, by name, but for what is loaded: see `left_loaded`."""
    get = variable_properties(tpm).get
    return {
        "persistent objects": _names(tpm, handles_from(tpm, _PERSISTENT)),
        "NV indices": tuple(handles_from(tpm, _NV)),
        "limits of wrong auth values": (get(MOST_FAILURES), get(LOCKOUT_INTERVAL), get(LOCKOUT_RECOVERY)),
        "auth values of hierarchies": get(PERMANENT),
        "enabled hierarchies": get(STARTUP_CLEAR),
        _COUNTED: get(LOCKOUT_COUNTER, 0),
    }


def _names(tpm: TPM, found: Sequence[int]) -> Mapping[int, bytes]:
    """Return the Names of objects by their handles; empty ones if the TPM has no room to read them."""
    names = dict.fromkeys(found, b"")
    for handle in found:
        with suppress(TSS2_Exception):
            public = _public_at(tpm, handle)
            names[handle] = bytes(public.get_name()) if public else b""
    return names


def _public_at(tpm: TPM, handle: int) -> TPM2B_PUBLIC | None:
    """Return the public area at a handle, or None if there is nothing."""
    try:
        found = tpm.esys.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if code(error) != HANDLE:
            raise
        return None
    try:
        return tpm.esys.read_public(found)[0]
    finally:
        tpm.esys.tr_close(found)


class Journal:
    """The file of a trial that runs: what was loaded in the TPM when it began. A trial that ends removes it.

    Only one trial of a TPM runs at a time.

    Raises:
        BackendUnavailableError: another trial of this TPM runs.
        HwsignerError: there is no place for the file, so nothing could be told from others' after a kill.
    """

    def __init__(self, tcti: str) -> None:
        folder = next(filter(is_usable, state_folders("trial")), None)
        if folder is None:
            problem = "there is no private folder to note what is loaded in the TPM before the trial"
            raise HwsignerError(problem, "Set XDG_STATE_HOME to a folder of yours with mode 0700")
        self._path = Path(folder, f"tpm-{hashlib.sha256(tcti.encode()).hexdigest()[:16]}.json")
        self._file: int = self._locked(self._path)

    @staticmethod
    def _locked(path: Path) -> int:
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(file)
                raise BackendUnavailableError("another trial of this TPM runs", "Wait until it ends") from error
            if os.fstat(file).st_nlink:
                return file
            os.close(file)  # The trial before has ended meanwhile, and removed it.

    def read(self) -> dict[str, list[int]] | None:
        """Return what a killed trial wrote, or None."""
        with suppress(ValueError):
            found = json.loads(self._path.read_bytes())
            return found if isinstance(found, dict) else None
        return None

    def write(self, content: Mapping[str, Sequence[int]]) -> None:
        """Keep what is loaded before the trial."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(content).encode(), 0)
        os.fsync(self._file)

    def end(self, *, keep: bool = False) -> None:
        """Remove the file, unless what it tells is still needed."""
        if not keep:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


def begin(chip: TrialChip, journal: Journal) -> int:
    """Remove from the TPM what a killed trial left loaded, keep what is loaded now, and return how much was removed."""
    before, removed = journal.read(), 0
    if before is not None and not chip.is_managed:
        removed = chip.finish(lambda tpm: flush_left(tpm, before, sessions=True))
    found = chip.finish(_loaded)
    journal.write(found)  # The next line loads something.
    with suppress(SigningKeyError):  # If it can't be made, no key will be.
        journal.write({**found, "parent": list(chip.finish(_parent_name))})
    return removed


def _parent_name(tpm: TPM) -> bytes:
    with parent(tpm) as above:
        return bytes(tpm.esys.read_public(above)[2])


def _loaded(tpm: TPM) -> dict[str, list[int]]:
    return {
        "objects": handles_from(tpm, _TRANSIENT),
        "sessions": handles_from(tpm, _LOADED_SESSIONS),
        "resets": _resets(tpm),
    }


def _resets(tpm: TPM) -> list[int]:
    clock = tpm.esys.read_clock().clockInfo
    return [int(clock.resetCount), int(clock.restartCount)]


def flush_left(tpm: TPM, before: Mapping[str, Sequence[int]], *, sessions: bool) -> int:
    """Flush what a trial left loaded in a TPM without a resource manager, and return how much that was."""
    doomed = left_loaded(tpm, before, sessions=sessions)
    for handle in doomed:
        tpm.flush_handle(handle)
    return len(doomed)


def left_loaded(tpm: TPM, before: Mapping[str, Sequence[int]], *, sessions: bool) -> list[int]:
    """Return the handles of what a trial left loaded in a TPM without a resource manager.

    Others' objects are left out: those that were loaded before, as the journal says, and those that the trial does not
    make. Of sessions, nothing shows whose they are: if a trial was killed, or lost an answer, all count that were not
    loaded before.
    """
    if _resets(tpm) != before.get("resets"):
        return []  # All that was loaded is gone.
    objects = set(handles_from(tpm, _TRANSIENT)) - set(before.get("objects", ()))
    above = bytes(before.get("parent", ()))
    doomed = [handle for handle in sorted(objects) if _is_of_trial(tpm, handle, above)]
    if sessions:
        doomed += set(handles_from(tpm, _LOADED_SESSIONS)) - set(before.get("sessions", ()))
    return doomed


def _is_of_trial(tpm: TPM, handle: int, above: bytes) -> bool:
    """Return whether a loaded object is one that a trial makes; `above` is the trial's storage key's qualified name."""
    try:
        found = tpm.esys.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if not is_answer(error):
            raise
        return code(error) == SEQUENCE
    try:
        outer, name, qualified = tpm.esys.read_public(found)
    finally:
        tpm.esys.tr_close(found)

    def is_under(higher: bytes) -> bool:
        """Whether this is the qualified name of its parent or hierarchy (part 1, 16)."""
        return bytes(qualified)[2:] == hashlib.sha256(higher + bytes(name)).digest()

    if bytes(outer.publicArea.authPolicy) == MARK or is_under(above):
        return True
    if _is_storage_key(outer):
        return any(is_under(hierarchy.to_bytes(4, "big")) for hierarchy in (TPM2_RH.NULL, TPM2_RH.OWNER))
    attributes = int(outer.publicArea.objectAttributes)
    is_endorsing = any(attributes & bits == bits for bits in (_ENDORSEMENT_KEY, _ATTESTATION_KEY))
    return is_endorsing and is_under(TPM2_RH.ENDORSEMENT.to_bytes(4, "big"))


def _is_storage_key(outer: TPM2B_PUBLIC) -> bool:
    """Return whether a public area is of the template of storage keys."""
    template = ecc_primary()
    if outer.publicArea.type != template.publicArea.type:
        return False  # The library can't put another type's key into the template.
    template.publicArea.unique = outer.publicArea.unique
    return bytes(template.marshal()) == bytes(outer.marshal())


def left_by_writing(tpm: TPM) -> list[int]:
    """Return the handles and indices of what trials with `--write` left in the TPM. It outlasts a reset."""
    return [place for first in (_PERSISTENT, _NV) for place in handles_from(tpm, first) if _marked_at(tpm, place)]


def _marked_at(tpm: TPM, place: int) -> bytes:
    """Return the Name of what is at a handle or index, or empty bytes if it has no mark."""
    if place >= _PERSISTENT:
        public = _public_at(tpm, place)
        return bytes(public.get_name()) if public and bytes(public.publicArea.authPolicy) == MARK else b""
    with open_index(tpm, place) as found:
        if found is None:
            return b""
        index, name = tpm.esys.nv_read_public(found.handle)
        return bytes(name) if bytes(index.nvPublic.authPolicy) == MARK else b""


def remove_left(tpm: TPM, auth: ParentAuth, places: Sequence[int]) -> None:
    """Remove marked things from their handles and indices. What is there by now without the mark stays."""
    for place in places:
        name = _marked_at(tpm, place)
        if name and place >= _PERSISTENT:
            handles.remove(tpm, auth, name, place)
        elif name:
            with open_index(tpm, place) as there:
                if there is not None:
                    auth.as_owner(tpm, tpm.esys.nv_undefine_space, there.handle)


def count_loaded(tpm: TPM) -> int:
    """Return how many objects and sessions are loaded."""
    return len(handles_from(tpm, _TRANSIENT)) + len(handles_from(tpm, _LOADED_SESSIONS))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the names of what differs between two snapshots, as an answer."""
    changed = [name for name in before if before[name] != after.get(name)]
    if before[_COUNTED] > after[_COUNTED]:
        changed.remove(_COUNTED)  # The TPM forgets one after a while.
    return ", ".join(changed) or "nothing"
