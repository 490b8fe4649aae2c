"""Which TPM: its TCTI, and what to say of one that can't be reached.

A TCTI is a way to a TPM, such as `device:/dev/tpmrm0`, `tabrmd` or `swtpm:path=/run/swtpm/socket`.
"""

from __future__ import annotations

import errno
import os

from hwsigner.backends import _tpm2_tabrmd as tabrmd
from hwsigner.errors import BackendUnavailableError
from hwsigner.uri import KeyURI

_VARIABLES = ("TPM2_TCTI", "TPM2TOOLS_TCTI")
_DEVICE_VARIABLE = "TPM_DEVICE"
_DEVICES = ("/dev/tpmrm0", "/dev/tpm0")
_NAME_IT = "name it with --tcti, with tcti= in the key URI, or in TPM2_TCTI"
_ELSEWHERE = f"If the TPM is elsewhere, {_NAME_IT}"
_TCTI_NOT_SUPPORTED = 0xA0015


def tcti_of(uri: KeyURI) -> str:
    """Return the TCTI of a key URI: its own, the environment's, tabrmd where it runs, or the kernel's TPM device.

    Raises:
        BackendUnavailableError: none is named, and there is none of these.
    """
    given = uri.text("tcti") or next((tcti for _, tcti in _environment()), None)
    if given:
        return given
    if tabrmd.is_running():
        return "tabrmd"
    for path in _DEVICES:
        if os.path.exists(path):
            return f"device:{path}"
    raise BackendUnavailableError(
        f"found no TPM: tabrmd does not run, and there is no {' and no '.join(_DEVICES)}",
        f"Turn it on in the firmware and load its driver; if it is elsewhere, {_NAME_IT}",
    )


def unavailable(tcti: str, error: Exception) -> BackendUnavailableError:
    """Return the error for a TPM that could not be reached, or that failed without an answer."""
    kind, _, configuration = tcti.partition(":")
    source = next((f" ({name})" for name, value in _environment() if value == tcti), "")
    if getattr(error, "rc", 0) == _TCTI_NOT_SUPPORTED:
        return BackendUnavailableError(
            f"TCTI {tcti}{source} can't be loaded: {error}", f"Install libtss2-tcti-{kind}, or name another TPM"
        )
    if kind == "device":
        return _unavailable_device(configuration or _DEVICES[0], source, error)
    hint = "Join the group tss and log in again, or look at systemctl status tpm2-abrmd" if kind == "tabrmd" else ""
    return BackendUnavailableError(f"the TPM at {tcti}{source} does not answer: {error}", hint or _ELSEWHERE)


def _environment() -> list[tuple[str, str]]:
    """Return the TCTIs that variables name, and those variables, in the order in which they count."""
    found = [(name, os.environ.get(name, "")) for name in _VARIABLES]
    device = os.environ.get(_DEVICE_VARIABLE, "")
    return [item for item in (*found, (_DEVICE_VARIABLE, device and f"device:{device}")) if item[1]]


def _unavailable_device(path: str, source: str, error: Exception) -> BackendUnavailableError:
    """Say why a TPM device could not be used: the libraries report all reasons as one."""
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
