"""Taking turns on a TPM: one process of this user's at a time, by a lock file named after the TCTI."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress

from hwsigner.backends.state import is_usable, runtime_folders, state_folders, temporary_folders
from hwsigner.errors import BackendUnavailableError
from hwsigner.system.files import lock_within

_MANAGED = ("tabrmd", "device:/dev/tpmrm")
_EXCLUSIVE = ("device:",)
_TURN_SECONDS = 30.0


def is_exclusive(tcti: str) -> bool:
    """Return whether the TPM at a TCTI can be open in one process at a time, as /dev/tpm0 can."""
    return tcti.startswith(_EXCLUSIVE) and not is_managed(tcti)


def is_managed(tcti: str) -> bool:
    """Return whether a resource manager shares out the slots of the TPM at a TCTI."""
    return tcti.startswith(_MANAGED)


class Turns:
    """The lock file of a TPM, which stays open between uses. It is used by one thread at a time.

    Args:
        tcti: the TPM's.
    """

    def __init__(self, tcti: str) -> None:
        self._tcti = tcti
        self._file: int | None = None
        self._is_taken = False

    def take(self, *, exclusive: bool = False) -> None:
        """Wait for this user's other processes, unless a resource manager shares out the TPM's three slots for keys.

        Args:
            exclusive: wait in any case, for the others that do too.

        Raises:
            BackendUnavailableError: the others used the TPM for too long.
        """
        if is_managed(self._tcti) and not exclusive:
            return
        file = self._opened()
        if file is None:
            return
        if not lock_within(file, _TURN_SECONDS):
            raise BackendUnavailableError(
                f"the TPM at {self._tcti} is busy: other processes of this user used it for {_TURN_SECONDS:g} seconds",
                "End the one that hangs, or share the TPM through a resource manager (tcti=device:/dev/tpmrm0)",
            )
        self._is_taken = True

    def give(self) -> None:
        """Let the others have their turn."""
        if self._is_taken and self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._is_taken = False

    def file(self) -> int | None:
        """Return the file that a turn has locked; None where there is none."""
        return self._file

    def close(self) -> None:
        """Close the file, in the child of a fork too: its lock is the parent's."""
        if self._file is not None:
            os.close(self._file)
            self._file, self._is_taken = None, False

    def _opened(self) -> int | None:
        if self._file is not None and not os.fstat(self._file).st_nlink:
            self.close()  # Somebody tidied up: others lock another file by now.
        if self._file is None:
            # Resource managers lead to one TPM by several TCTIs.
            self._file = _lock_file("managed" if is_managed(self._tcti) else self._tcti)
        return self._file


def _lock_file(subject: str) -> int | None:
    """Open the file to lock, in a folder that is this user's alone; None where there can be none."""
    name = hashlib.sha256(os.fsencode(subject)).hexdigest()[:16]
    for folder in filter(is_usable, (*runtime_folders(), *state_folders("locks"), *temporary_folders())):
        with suppress(OSError):
            return os.open(os.path.join(folder, f"tpm-{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    return None
