"""What a TPM's response codes mean, and the errors for a TPM that can't be reached."""

from __future__ import annotations

import errno
import os

from tpm2_pytss import TSS2_Exception

from hwsigner.errors import BackendUnavailableError, SigningKeyError

# TPM 2.0 Library, part 2, 6.6.3, without the number of the handle, session or parameter.
AUTH_FAIL, BAD_AUTH, LOCKOUT = 0x8E, 0xA2, 0x921
HASH, HANDLE, SCHEME, INTEGRITY = 0x83, 0x8B, 0x92, 0x9F
VALUE, SIGNATURE, POLICY_FAIL, SEQUENCE = 0x84, 0x9B, 0x9D, 0x103
SIZE, INSUFFICIENT, ECC_POINT, FAILURE = 0x95, 0x9A, 0xA7, 0x101
# The answers to a key under another parent than its own.
OTHER_PARENT = (INTEGRITY, VALUE, SIZE)
INITIALIZE, OBJECT_MEMORY = 0x100, 0x902
NV_SPACE, NV_DEFINED = 0x14B, 0x14C
BAD_TR = 0x70018  # ESYS has no such object (TSS 2.0 ESAPI, 7.2).
SESSIONS_FULL = (0x901, 0x903, 0x905)  # CONTEXT_GAP, SESSION_MEMORY, SESSION_HANDLES
_NOT_NOW = (0x908, 0x90A, 0x920, 0x922)  # YIELDED, TESTING, NV_RATE, RETRY
_REFERENCES = range(0x910, 0x91F)  # REFERENCE_H0 to REFERENCE_S6: nothing is loaded at a handle.
_FORMAT_ONE, _OF_PARAMETER, _OF_SESSION = 0x80, 0x40, 0x800
_TCTI_NOT_SUPPORTED = 0xA0015
_TPM_LAYERS = (0, 11)  # The TPM itself, and a resource manager that answers in its name (TSS 2.0 Overview, 3).

DEVICES = ("/dev/tpmrm0", "/dev/tpm0")
NAME_IT = "name it with --tcti, with tcti= in the key URI, or in TPM2_TCTI"
_ELSEWHERE = f"If the TPM is elsewhere, {NAME_IT}"
_VARIABLES = ("TPM2_TCTI", "TPM2TOOLS_TCTI")
_DEVICE_VARIABLE = "TPM_DEVICE"


def is_answer(error: TSS2_Exception) -> bool:
    """Return whether an error is the TPM's answer, after which the context can be used again."""
    return error.rc >> 16 in _TPM_LAYERS


def is_about_parameter(error: TSS2_Exception) -> bool:
    """Return whether the TPM refused a parameter of the command."""
    return is_answer(error) and error.rc & (_FORMAT_ONE | _OF_PARAMETER) == _FORMAT_ONE | _OF_PARAMETER


def is_not_now(error: TSS2_Exception) -> bool:
    """Return whether the TPM did nothing and wants the same command again later."""
    return code(error) in _NOT_NOW


def is_lost(error: TSS2_Exception) -> bool:
    """Return whether a handle's object is not in the TPM any more. The TPM checks that before any auth value."""
    is_of_handle = is_answer(error) and not error.rc & (_OF_PARAMETER | _OF_SESSION)
    reason = code(error)
    return reason == HANDLE or reason in _REFERENCES or (reason == VALUE and is_of_handle)


def code(error: TSS2_Exception) -> int:
    """Return the TPM's response code without the number of the handle, session or parameter; else the whole code."""
    if not is_answer(error):
        return int(error.rc)
    response = int(error.rc) & 0xFFFF
    return _FORMAT_ONE | response & 0x3F if response & _FORMAT_ONE else response


def signing_error(error: TSS2_Exception, tcti: str, subject: str) -> SigningKeyError:
    """Return the error of ours for an error of the TPM or of the connection to it, while a key was used."""
    if not is_answer(error):
        return unavailable(tcti, error)
    if code(error) == OBJECT_MEMORY:
        return BackendUnavailableError(
            f"the TPM at {tcti} has no free slot for key {subject}",
            "Run tpm2_flushcontext -t if a killed program left its keys there, "
            "or use a resource manager (tcti=device:/dev/tpmrm0)",
        )
    if code(error) in SESSIONS_FULL:
        return BackendUnavailableError(
            f"the TPM at {tcti} has no free session for key {subject}",
            "Run tpm2_flushcontext -l and -s if a killed program left its sessions there, "
            "or use a resource manager (tcti=device:/dev/tpmrm0)",
        )
    if is_not_now(error):
        return BackendUnavailableError(f"the TPM at {tcti} is busy with its own work", "Retry later")
    if code(error) == INITIALIZE:
        return BackendUnavailableError(f"the TPM at {tcti} was not started up", "Run tpm2_startup -c")
    if code(error) == FAILURE:  # libtpms answers it to an imported key's secret for another RSA key, too.
        return SigningKeyError(
            f"the TPM at {tcti} failed with key {subject}: {error}",
            "Restart the machine, and run tpm2_selftest -f; if only this key fails, its file is damaged or was made "
            "for another TPM",
        )
    return SigningKeyError(f"the TPM at {tcti} refused key {subject}: {error}", "Check if tpm2_sign can use it")


def unavailable(tcti: str, error: Exception) -> BackendUnavailableError:
    """Return the error for a TPM that could not be reached, or that failed without an answer."""
    kind, _, configuration = tcti.partition(":")
    source = next((f" ({name})" for name, value in environment_tctis() if value == tcti), "")
    if tcti.startswith("/dev/"):
        return BackendUnavailableError(f"TCTI {tcti}{source} is the path of a device", f"Write device:{tcti}")
    if getattr(error, "rc", 0) == _TCTI_NOT_SUPPORTED:
        return BackendUnavailableError(
            f"TCTI {tcti}{source} can't be loaded: {error}",
            f"Install the package with libtss2-tcti-{kind}.so, or name another TPM",
        )
    if kind == "device":
        return _unavailable_device(configuration or DEVICES[0], source, error)
    hint = "Join the group tss and log in again, or check systemctl status tpm2-abrmd" if kind == "tabrmd" else ""
    return BackendUnavailableError(f"the TPM at {tcti}{source} does not answer: {error}", hint or _ELSEWHERE)


def environment_tctis() -> list[tuple[str, str]]:
    """Return the variables that name a TCTI, and the TCTIs, in order of precedence."""
    found = [(name, os.environ.get(name, "")) for name in _VARIABLES]
    device = os.environ.get(_DEVICE_VARIABLE, "")
    return [item for item in (*found, (_DEVICE_VARIABLE, device and f"device:{device}")) if item[1]]


def _unavailable_device(path: str, source: str, error: Exception) -> BackendUnavailableError:
    """Return the error for a TPM device, with the reason: the libraries report all reasons as one."""
    device = f"TPM device {path}{source}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError:
        return BackendUnavailableError(f"there is no {device}", _ELSEWHERE)
    except PermissionError:
        return BackendUnavailableError(
            f"no permission to use {device}", f"Join its group ({_group(path)}) and log in again"
        )
    except OSError as reason:
        if reason.errno == errno.EBUSY:
            return BackendUnavailableError(
                f"{device} is in use by another program", "Use the resource manager: tcti=device:/dev/tpmrm0"
            )
        return BackendUnavailableError(f"{device} can't be opened: {reason.strerror}", _ELSEWHERE)
    return BackendUnavailableError(f"{device} does not answer: {error}", _ELSEWHERE)


def _group(path: str) -> str:
    import grp

    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "tss"
