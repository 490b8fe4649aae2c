"""A connection to a TPM: which one, how to take turns on it, and what its errors mean."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

os.environ.setdefault("TSS2_LOG", "all+NONE")  # The libraries print a line for each refusal otherwise.

from tpm2_pytss import ESAPI, TPM2_CAP, TPM2_PT, TSS2_Exception

from hwsigner.backends._tpm2_folders import is_usable, runtime_folders, state_folders, temporary_folders
from hwsigner.errors import BackendUnavailableError, SigningKeyError
from hwsigner.uri import KeyURI

# TPM 2.0 Library, part 2, 6.6.3, without the number of the handle, session or parameter.
AUTH_FAIL, BAD_AUTH, LOCKOUT = 0x8E, 0xA2, 0x921
HASH, HANDLE, SCHEME, INTEGRITY = 0x83, 0x8B, 0x92, 0x9F
_INITIALIZE, _OBJECT_MEMORY = 0x100, 0x902
_FORMAT_ONE = 0x80
_TPM_LAYERS = (0, 11)  # The TPM itself, and a resource manager that answers in its name (TSS 2.0 Overview, 3).
_TCTI_NOT_SUPPORTED = 0xA0015

_VARIABLES = ("TPM2_TCTI", "TPM2TOOLS_TCTI")
_ELSEWHERE = "If the TPM is elsewhere, name it with tcti= in the key URI or in TPM2_TCTI"
_MANAGED = ("tabrmd", "device:/dev/tpmrm")
_TURN_SECONDS, _POLL_SECONDS = 30.0, 0.005


class Lockout(NamedTuple):
    """The TPM's protection against guessing (TPM 2.0 Library, part 1, 19.8).

    Attributes:
        failures: wrong auth values that count now.
        limit: at so many, every protected key is locked.
        interval: seconds until one failure is forgotten; 0 where the protection is off.
    """

    failures: int
    limit: int
    interval: int

    @property
    def left(self) -> int | None:
        """How many more wrong auth values lock the TPM; None for any number."""
        return max(self.limit - self.failures, 0) if self.interval else None

    @property
    def way_out(self) -> str:
        """What to do about too many failures, as a hint."""
        return (
            f"Wait {self.interval} seconds, after which the TPM forgets one, "
            "or run tpm2_dictionarylockout --clear-lockout"
        )


class Connection:
    """One ESAPI context, opened when it is used, and used by one thread at a time.

    Args:
        tcti: the TPM's TCTI.
        subject: the key that the connection is for, as messages name it.
    """

    def __init__(self, tcti: str, subject: str) -> None:
        self.tcti = tcti
        self._subject = subject
        self._context: ESAPI | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    @contextmanager
    def use(self, *, exclusive: bool = False) -> Iterator[ESAPI]:
        """Yield the context. A connection that broke in an earlier use is made anew.

        Args:
            exclusive: keep this user's other processes from such a use, also where there is a resource manager.

        Raises:
            SigningKeyError: the connection is closed, or the TPM refused something; what it says is in the message.
            BackendUnavailableError: the TPM does not answer, or other processes keep it busy.
        """
        with self._lock, _turn(self.tcti, exclusive=exclusive):
            if self._is_closed:
                raise SigningKeyError(f"key {self._subject} is closed", "Open it again")
            if self._context is None:
                self._context = _connect(self.tcti)
            try:
                yield self._context
            except TSS2_Exception as error:
                if not is_answer(error):
                    self._drop()
                raise self._error(error) from error

    def close(self) -> None:
        """End the connection. Closing twice is allowed."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def _drop(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def _error(self, error: TSS2_Exception) -> SigningKeyError:
        if not is_answer(error):
            return _unavailable(self.tcti, error)
        if code(error) == _OBJECT_MEMORY:
            return BackendUnavailableError(
                f"the TPM at {self.tcti} has no free slot for key {self._subject}",
                "Use a resource manager (tcti=device:/dev/tpmrm0), or run tpm2_flushcontext -t",
            )
        if code(error) == _INITIALIZE:
            return BackendUnavailableError(f"the TPM at {self.tcti} was not started up", "Run tpm2_startup -c")
        return SigningKeyError(
            f"the TPM at {self.tcti} refused key {self._subject}: {error}", "See whether tpm2_sign can use the key"
        )


def tcti_of(uri: KeyURI) -> str:
    """Return the TCTI of a key URI: its own, the environment's, or that of the kernel's TPM device."""
    given = [uri.text("tcti"), *map(os.environ.get, _VARIABLES)]
    missing = os.path.exists("/dev/tpm0") and not os.path.exists("/dev/tpmrm0")
    return next(filter(None, given), "device:/dev/tpm0" if missing else "device:/dev/tpmrm0")


def is_answer(error: TSS2_Exception) -> bool:
    """Return whether an error is the TPM's answer, after which the context can be used on."""
    return error.rc >> 16 in _TPM_LAYERS


def code(error: TSS2_Exception) -> int:
    """Return the TPM's response code without the number of the handle, session or parameter; else the whole code."""
    if not is_answer(error):
        return int(error.rc)
    response = int(error.rc) & 0xFFFF
    return _FORMAT_ONE | response & 0x3F if response & _FORMAT_ONE else response


def read_lockout(tpm: ESAPI) -> Lockout:
    """Ask the TPM how many wrong auth values it counts, and how many it stands."""
    _, answer = tpm.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 3)
    return Lockout(*(item.value for item in answer.data.tpmProperties))


def _connect(tcti: str) -> ESAPI:
    try:
        return ESAPI(tcti)
    except (TSS2_Exception, ValueError) as error:  # ValueError: a TCTI that is no UTF-8.
        raise _unavailable(tcti, error) from error


def _unavailable(tcti: str, error: Exception) -> BackendUnavailableError:
    kind, _, configuration = tcti.partition(":")
    if getattr(error, "rc", 0) == _TCTI_NOT_SUPPORTED:
        return BackendUnavailableError(
            f"TCTI {tcti} can't be loaded: {error}", f"Install libtss2-tcti-{kind}, or correct tcti= in the key URI"
        )
    if kind == "device":
        return _unavailable_device(configuration or "/dev/tpmrm0", error)
    return BackendUnavailableError(f"the TPM at {tcti} does not answer: {error}", _ELSEWHERE)


def _unavailable_device(path: str, error: Exception) -> BackendUnavailableError:
    """Say why a TPM device could not be used: the libraries report all reasons as one."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError:
        return BackendUnavailableError(f"there is no TPM device {path}", _ELSEWHERE)
    except PermissionError:
        return BackendUnavailableError(
            f"no permission to use TPM device {path}", f"Join its group ({_group(path)}) and log in again"
        )
    except OSError as reason:
        if reason.errno == errno.EBUSY:
            return BackendUnavailableError(
                f"TPM device {path} is in use by another program", "Use the resource manager: tcti=device:/dev/tpmrm0"
            )
        return BackendUnavailableError(f"TPM device {path} can't be opened: {reason.strerror}", _ELSEWHERE)
    return BackendUnavailableError(f"TPM device {path} does not answer: {error}", _ELSEWHERE)


def _group(path: str) -> str:
    import grp

    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "tss"


@contextmanager
def _turn(tcti: str, *, exclusive: bool) -> Iterator[None]:
    """Wait for this user's other processes, unless a resource manager shares out the TPM's three slots for keys."""
    is_managed = tcti.startswith(_MANAGED)
    file = None
    if exclusive or not is_managed:
        file = _lock_file("managed" if is_managed else tcti)  # Resource managers lead to one TPM by several TCTIs.
    if file is None:
        yield
        return
    try:
        _lock(file, tcti)
        yield
    finally:
        os.close(file)


def _lock(file: int, tcti: str) -> None:
    deadline = time.monotonic() + _TURN_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BackendUnavailableError(
                    f"the TPM at {tcti} is busy: other processes of this user used it for {_TURN_SECONDS:g} seconds",
                    "End the one that hangs, or share the TPM through a resource manager (tcti=device:/dev/tpmrm0)",
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _lock_file(subject: str) -> int | None:
    """Open the file to lock, in a folder that is this user's alone; None where there can be none."""
    name = hashlib.sha256(os.fsencode(subject)).hexdigest()[:16]
    for folder in filter(is_usable, (*runtime_folders(), *state_folders("locks"), *temporary_folders())):
        with suppress(OSError):
            return os.open(os.path.join(folder, f"tpm-{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    return None
