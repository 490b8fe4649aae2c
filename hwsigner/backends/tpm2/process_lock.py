"""The lock file by which this user's processes take turns at a TPM. It is named after the TCTI."""

from __future__ import annotations

import fcntl
import os

from hwsigner.errors import BackendUnavailableError
from hwsigner.system.environment import open_lock_file
from hwsigner.system.files import lock_within

_MANAGED = ("tabrmd", "device:/dev/tpmrm")
_EXCLUSIVE = ("device:",)
_LONGEST_WAIT_SECONDS = 30.0


def is_managed(tcti: str) -> bool:
    """Return whether a resource manager shares out the slots of the TPM at a TCTI."""
    return tcti.startswith(_MANAGED)


def is_exclusive(tcti: str) -> bool:
    """Return whether only one process at a time can open the TPM at a TCTI, as with /dev/tpm0."""
    return tcti.startswith(_EXCLUSIVE) and not is_managed(tcti)


class ProcessLock:
    """A lock on a TPM that one of this user's processes holds at a time. For one thread at a time.

    The file stays open between uses. If no folder is private, processes don't wait for each other.
    """

    def __init__(self, tcti: str) -> None:
        self._tcti = tcti
        self._file: int | None = None

    def __enter__(self) -> None:
        """Take the lock, waiting for other processes if needed.

        Raises:
            BackendUnavailableError: other processes held it for too long.
        """
        if self._file is not None and not os.fstat(self._file).st_nlink:
            self.close()  # The file was removed, so other processes lock a new one.
        if self._file is None:
            # Several TCTIs lead to the TPM of a resource manager.
            self._file = open_lock_file("tpm", "managed" if is_managed(self._tcti) else self._tcti)
        if self._file is None:
            return
        if not lock_within(self._file, _LONGEST_WAIT_SECONDS):
            raise BackendUnavailableError(
                f"the TPM at {self._tcti} is busy: other processes of this user have used it for "
                f"{_LONGEST_WAIT_SECONDS:g} seconds",
                "Stop the process that hangs, or use a resource manager (tcti=device:/dev/tpmrm0)",
            )

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. In the child of a fork, too: the parent keeps its lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
