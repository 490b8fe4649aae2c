"""Where PKCS #11 modules are: the file that a key URI names by `module-path` and `module-name`."""

from __future__ import annotations

import os
import sys

from hwsigner.errors import BackendUnavailableError, UsageError
from hwsigner.uri import KeyURI

_DEFAULT_MODULE = "p11-kit-proxy"
_MULTIARCH = str(getattr(sys.implementation, "_multiarch", ""))
_FOLDERS = (
    f"/usr/lib/{_MULTIARCH}/pkcs11",
    f"/usr/lib/{_MULTIARCH}",
    f"/usr/lib/{_MULTIARCH}/softhsm",
    "/usr/lib64/pkcs11",
    "/usr/lib64",
    "/usr/lib/pkcs11",
    "/usr/lib/softhsm",
    "/usr/lib",
    "/usr/local/lib/pkcs11",
    "/usr/local/lib",
)
FLAG_HINT = "Name the PKCS #11 module with --pkcs11-lib, or with module-path in the key URI"


def module_path(uri: KeyURI) -> str:
    """Return the path of the module that a key URI names, or of p11-kit's proxy; or a name for the dynamic linker.

    Raises:
        UsageError: a `module-name` that is a path.
        BackendUnavailableError: there is no such module; the message names the path.
    """
    path, name = uri.text("module-path"), uri.text("module-name")
    if name is not None and "/" in name:
        raise UsageError(f"module-name {name!r} is a path", "Write module-path for it")
    if path is None or (os.path.isdir(path) and name is not None):
        return _named_module(name or _DEFAULT_MODULE, _FOLDERS if path is None else (path,))
    if "/" not in path:
        return path
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise BackendUnavailableError(f"PKCS #11 module {path} {what}", FLAG_HINT)
    # A module may have several names (Debian's SoftHSM has) and can be initialised only once.
    return os.path.realpath(path)


def _named_module(name: str, folders: tuple[str, ...]) -> str:
    for folder in folders:
        for file in (f"{name}.so", f"lib{name}.so", f"{name}-pkcs11.so"):
            path = os.path.join(folder, file)
            if os.path.isfile(path):
                return os.path.realpath(path)
    raise BackendUnavailableError(f"PKCS #11 module {name}.so is in none of {', '.join(folders)}", FLAG_HINT)
