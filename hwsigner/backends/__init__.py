"""Where keys live: the table of backends. A module of it is imported when `open_key` needs it, and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """Where keys live: the module that opens them, and what it needs.

    The module has `open_key(uri, pins, *, public_key=None) -> Key`. One whose keys come with certificates also has
    `find_certificates(uri, pins) -> list[FoundCertificate]`, and one that can list what it holds
    `list_tokens(uri, pins, *, log_in=False) -> Iterator[ListedToken]`.

    Attributes:
        module: its name.
        library: the package that it alone imports; empty where it needs none of its own.
        extra: the extra of this project that installs the library.
    """

    module: str
    library: str = ""
    extra: str = ""


# By the scheme of their key URIs.
BACKENDS = {
    "file": Backend("hwsigner.backends.file"),
    "pkcs11": Backend("hwsigner.backends.pkcs11", library="pkcs11", extra="pkcs11"),
    "tpm2": Backend("hwsigner.backends.tpm2", library="tpm2_pytss", extra="tpm2"),
}
