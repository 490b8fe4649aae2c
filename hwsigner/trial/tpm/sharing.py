"""Questions on the owner's hierarchy, on room in the TPM, and on sharing it with other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_OBJECT, TPMT_SYM_DEF, TSS2_Exception

from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2.errors import OBJECT_MEMORY, SESSIONS_FULL, code
from hwsigner.backends.tpm2.srk import PROVISIONED, ecc_primary
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.key import open_key
from hwsigner.key.public_key import verify
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm.capabilities import handles_from
from hwsigner.trial.tpm.chip import TrialChip, with_tpm
from hwsigner.trial.tpm.making import MESSAGE, LoadedKey, TrialKey, load, parent, refusal, signs, template
from hwsigner.trial.tpm.questions import Ask

_MOST_OBJECTS, _MOST_SESSIONS, _BEHIND_MANAGER = 64, 512, 6
_TRANSIENT, _PERSISTENT = 0x80000000, 0x81000000
_SECONDS = 120.0
_STORAGE = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT
_SECOND = """
import sys
from hwsigner.key import open_key
with open_key(sys.argv[1], allow_modules=True) as key:
    sys.stdout.write(key.sign(sys.argv[2].encode()).hex())
"""
_ALONE = "a resource manager shares the TPM out"
_MANAGED = "no resource manager shares the TPM out"


def _owner_primary(chip: TrialChip, tpm: TPM) -> ESYS_TR:
    return chip.auth.as_owner(tpm, tpm.esys.create_primary, None, ecc_primary(), ESYS_TR.RH_OWNER)[0]


def _owner_key(chip: TrialChip) -> str:
    """Sign with a key file under the owner's primary key, as `keygen` writes it."""
    chip.require("owner")

    def work(tpm: TPM) -> TrialKey:
        with tpm.temporary(lambda: _owner_primary(chip, tpm)) as above:
            private, public, *_ = tpm.esys.create(above, None, template("ecc256"))
        return TrialKey(private, public)

    key = chip.use_hierarchy(work)
    with open_key(chip.key_file(key, "owner"), chip.pins, allow_modules=True) as opened:
        return _is_right(key, opened.sign(MESSAGE))


@with_tpm
def _provisioned(_: TrialChip, tpm: TPM) -> str:
    if PROVISIONED not in handles_from(tpm, _PERSISTENT):
        raise NotAskedError("there is nothing at this handle")
    with tpm.persistent(PROVISIONED) as found:
        outer = tpm.esys.read_public(found)[0]
    is_storage = int(outer.publicArea.objectAttributes) & _STORAGE == _STORAGE
    return "a storage key" if is_storage else "another object"


def _is_right(key: TrialKey, signature: bytes) -> str:
    return "signs" if verify(key.spki, MESSAGE, signature=signature) else "makes a wrong signature"


def _require(chip: TrialChip, *, is_managed: bool) -> None:
    if chip.is_managed is not is_managed:
        raise NotAskedError(_MANAGED if is_managed else _ALONE)


@contextmanager
def _filled(tpm: TPM, key: TrialKey, most: int) -> Iterator[tuple[list[ESYS_TR], str]]:
    """Load a key again and again, until the TPM refuses. Give the handles and the refusal."""
    answer = "no refusal"
    with ExitStack() as stack:
        above = stack.enter_context(parent(tpm))
        handles: list[ESYS_TR] = []
        while len(handles) < most and answer == "no refusal":
            try:
                handles.append(
                    stack.enter_context(tpm.temporary(lambda: tpm.esys.load(above, key.private, key.public)))
                )
            except TSS2_Exception as error:
                answer = "TPM_RC_OBJECT_MEMORY" if code(error) == OBJECT_MEMORY else refusal(error)
        yield handles, answer


@with_tpm
def _full(chip: TrialChip, tpm: TPM) -> str:
    _require(chip, is_managed=False)
    with _filled(tpm, chip.key(tpm, "ecc256"), _MOST_OBJECTS) as (_, answer):
        return answer


@with_tpm
def _managed_objects(chip: TrialChip, tpm: TPM) -> str:
    _require(chip, is_managed=True)
    key = chip.key(tpm, "ecc256")
    with _filled(tpm, key, _BEHIND_MANAGER) as (handles, answer):
        signed = [signs(tpm, LoadedKey(key, handle)) for handle in handles]
    return "all sign" if signed == ["signs"] * _BEHIND_MANAGER else f"{signed.count('signs')} sign, then {answer}"


@with_tpm
def _sessions(chip: TrialChip, tpm: TPM, *, is_managed: bool, most: int) -> str:
    """Start sessions until the TPM refuses, or until there are so many."""
    _require(chip, is_managed=is_managed)
    none, no_cipher = ESYS_TR.NONE, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
    start = partial(tpm.esys.start_auth_session, none, none, TPM2_SE.HMAC, no_cipher, TPM2_ALG.SHA256)
    with ExitStack() as stack:
        for _ in range(most):
            try:
                stack.enter_context(tpm.temporary(start))
            except TSS2_Exception as error:
                return "that no session is free" if code(error) in SESSIONS_FULL else refusal(error)
    return "nothing"


def _stays(chip: TrialChip) -> str:
    """Load a key, close the connection, and see whether the key is still loaded."""
    _require(chip, is_managed=False)
    if chip.tcti.startswith("libtpms"):
        raise NotAskedError("the TPM is a library in this process")

    def begin(tpm: TPM) -> int:
        handle = load(tpm, chip.key(tpm, "ecc256"))
        number = int(tpm.esys.tr_get_tpm_handle(handle))
        tpm.esys.tr_close(handle)
        return number

    def end(tpm: TPM) -> str:
        if handle not in handles_from(tpm, _TRANSIENT):
            return "is gone"
        tpm.flush_handle(handle)
        return "stays"

    handle = chip.use(begin)
    chip.reconnect()
    return chip.finish(end)


def _second_process(chip: TrialChip) -> str:
    """Sign here, in another process while the key is in use here, and here again."""
    if chip.tcti.startswith("libtpms"):
        raise NotAskedError("the TPM is a library in this process")
    key = chip.use(lambda tpm: chip.key(tpm, "ecc256"))
    uri = chip.key_file(key)
    with open_key(uri, chip.pins, allow_modules=True) as opened:
        before = _is_right(key, opened.sign(MESSAGE))
        other = _is_right(key, _signed_by_another(uri))
        after = _is_right(key, opened.sign(MESSAGE))
    return "all sign" if {before, other, after} == {"signs"} else "not all sign"


def _signed_by_another(uri: KeyURI) -> bytes:
    # Not in this terminal's group: Ctrl-C is for this process, which waits.
    command = [sys.executable, "-c", _SECOND, str(uri), MESSAGE.decode()]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, start_new_session=True, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return b""
    return bytes.fromhex(done.stdout) if done.returncode == os.EX_OK else b""


ASKS: Mapping[str, Ask] = {
    "owner.key-file": _owner_key,
    "owner.provisioned": _provisioned,
    "room.objects": _full,
    "room.sessions": partial(_sessions, is_managed=False, most=_MOST_SESSIONS),
    "room.managed": _managed_objects,
    "room.managed-sessions": partial(_sessions, is_managed=True, most=3),
    "sharing.second-process": _second_process,
    "sharing.stays": _stays,
}
