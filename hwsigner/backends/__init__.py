"""Where keys live: what hwsigner knows of each backend before it loads it.

Three backends are built in. A package of its own adds another one through the entry-point group `hwsigner.backends`,
under the scheme of its key URIs; a program can also call `register`.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar, cast

from hwsigner.errors import BackendUnavailableError, PluginError, UsageError, install_command, place_of

if TYPE_CHECKING:
    from hwsigner.backends.plugins import Plugin

ENTRY_POINTS = "hwsigner.backends"
_OUR_OWN = "hwsigner.backends."
_TPMS = "hwsigner.backends.tpm2"  # Its library is for Linux.
# The dynamic linker's message.
_LIBRARY = r"(\S+\.so\S*): cannot open shared object file"
_SCHEME = r"[a-z][a-z0-9+.-]+"

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_Key = TypeVar("_Key")


class Backend(NamedTuple):
    """A place where keys live: its module, and what the rest of hwsigner must know without loading it.

    What its modules can do is said by the Protocols of `hwsigner.key`, `key.listing` and `key.management`. It must be
    able to open keys (`OpensKeys`).

    Attributes:
        module: the name of the module with `open_key`, and any of `find_certificates`, `list_tokens` and
            `check_modules`. It is imported when one of its key URIs is first used.
        install: the command that installs the module's library, for the error if that is missing.
        object_attributes: the path attributes that name an object on a token. Key URIs that differ only in these
            name the same token, so they share its PIN.
        shares_store: whether a token holds certificates beside its keys. If so, `find_certificates` gets URIs without
            the object attributes, too, and returns all that the token shows without a PIN; one that can't be read is
            skipped.
        password_flag: the flag that gives the PIN of its keys, such as `tpm-key-password`. The flag's name with `no-`
            in front says that the PIN is empty.
        query_flags: by query attribute of a key URI, the flag that sets it.
        flags_win: whether these flags replace what the key URI itself says.
        management: the name of a module with any of `generate_key`, `describe_key`, `install_certificate` and
            `delete_key`, which `hwsigner.key.management` calls. It is imported for these only.
        attestation: the name of a module with what `ProvesKeys` has, and perhaps `endorsement_key`, which
            `hwsigner.attestation` calls. It is imported for these only.
        recognises: takes the first 64 KiB of a file and returns whether it holds a key of this backend. Such a file
            is opened by this backend, not as a file. A backend from an entry point is asked once it is in use.
    """

    module: str
    install: str = ""
    object_attributes: frozenset[str] = frozenset()
    shares_store: bool = False
    password_flag: str = ""
    query_flags: Mapping[str, str] = {}
    flags_win: bool = False
    management: str = ""
    attestation: str = ""
    recognises: Callable[[bytes], bool] | None = None

    def _guarded(
        self,
        scheme: str,
        module: str,
        function: Callable[_Given, _Result],
        *,
        name: str = "",
        returns: type | list[type] = object,
    ) -> Callable[_Given, _Result]:
        """Return a function of one of its modules. If it is not built in, its failures are PluginErrors that name it.

        `returns` is the type that its result must have, or a list with that of each item.
        """
        if self.module.startswith(_OUR_OWN):
            return function
        return self._plugin(scheme, module).guarded(function, name, returns)

    def _guarded_key(self, scheme: str, key: _Key) -> _Key:
        """Return a key that it opened, such that the key's failures are those of `_guarded`."""
        if self.module.startswith(_OUR_OWN):
            return key
        from hwsigner.backends.plugins import PluginKey

        return cast(_Key, PluginKey(self._plugin(scheme, self.module), key))

    def _plugin(self, scheme: str, module: str) -> Plugin:
        from hwsigner.backends.plugins import Plugin

        return Plugin(ENTRY_POINTS, scheme, module, f"the backend for {scheme}: keys")

    def load(self, module: str) -> ModuleType:
        """Import one of its modules.

        Raises:
            BackendUnavailableError: its library is not installed.
            PluginError: it is not built in, and its import failed otherwise.
        """
        try:
            return importlib.import_module(module)
        except ImportError as error:
            library = re.match(_LIBRARY, str(error))
            if library:
                message = f"{module} needs {library[1]}, which is not installed"
                raise BackendUnavailableError(message, f"Install the system's package that has {library[1]}") from error
            if self.module == _TPMS:
                from hwsigner._system.support import require_linux

                require_linux("a key in a TPM", "Use a YubiKey, or a machine with Linux", error=BackendUnavailableError)
            if isinstance(error, ModuleNotFoundError):
                problem = f"{module} needs the Python library {error.name}, which is not installed"
            else:
                problem = f"{module} needs a library that can't be loaded ({error})"
            raise BackendUnavailableError(problem, self.install and f"Run {self.install}") from error
        except (Exception, SystemExit) as error:
            if self.module.startswith(_OUR_OWN):
                raise
            raise PluginError.of(f"{module}, a backend", error) from error


def register(scheme: str, backend: Backend) -> None:
    """Add a backend. Registering it again changes nothing.

    Args:
        scheme: the scheme of its key URIs, in lower case (RFC 3986, 3.1), at least two characters.
        backend: its description.

    Raises:
        UsageError: the scheme is invalid, or belongs to another backend.
    """
    if not re.fullmatch(_SCHEME, scheme) or scheme in SHORT_FORMS or BACKENDS.get(scheme, backend) != backend:
        raise UsageError(f"a backend can't have the scheme {scheme!r}", "Use a valid scheme that no other backend has")
    BACKENDS[scheme] = backend


def find_backend(scheme: str) -> Backend | None:
    """Return the backend for a scheme in lower case, or None.

    Entry points are read only for a scheme that is neither built in nor registered, once for each scheme.

    Raises:
        BackendUnavailableError: an entry point names a backend that can't be loaded.
    """
    if scheme not in BACKENDS and re.fullmatch(_SCHEME, scheme):
        _load_entry_point(scheme)
    return BACKENDS.get(scheme)


@functools.cache
def _load_entry_point(scheme: str) -> None:
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=scheme):
        try:
            backend = entry.load()
            if not isinstance(backend, Backend):
                raise ImportError(f"it is of type {type(backend).__name__}, not Backend")
        except (Exception, SystemExit) as error:
            # Another message could be a secret.
            reason = str(error) if isinstance(error, ImportError | AttributeError) else place_of(error)
            problem = f"{entry.value}, the backend for {scheme}: keys, can't be loaded ({reason})"
            raise BackendUnavailableError(problem, "Install its package again") from error
        register(scheme, backend)


def _holds_tss2_key(start: bytes) -> bool:
    """Return whether a file with this start holds a TSS2 PRIVATE KEY. In DER, the OID 2.23.133.10.1 is in front."""
    return b"-----BEGIN TSS2 PRIVATE KEY-----" in start or bytes.fromhex("06066781050a01") in start[:16]


# By the scheme of their key URIs.
BACKENDS = {
    "file": Backend(
        "hwsigner.backends.file",
        password_flag="pkcs8-password",  # noqa: S106  the flag's name
        management="hwsigner.backends.file.management",
    ),
    # What a process inherits: an environment variable, an open file.
    **dict.fromkeys(
        ("env", "fd"),
        Backend(
            "hwsigner.backends.file",
            password_flag="pkcs8-password",  # noqa: S106
            management="hwsigner.backends.file.description",
        ),
    ),
    "pkcs11": Backend(
        "hwsigner.backends.pkcs11",
        install=install_command("pkcs11"),
        object_attributes=frozenset({"object", "id", "type"}),
        shares_store=True,
        query_flags={"module-path": "pkcs11-lib"},
        flags_win=True,
        management="hwsigner.backends.pkcs11.management",
        attestation="hwsigner.backends.pkcs11.attest",
    ),
    "tpm2": Backend(
        _TPMS,
        # PyPI has no wheels of tpm2-pytss.
        install=f"{install_command('tpm2')} with --find-links FOLDER, for a folder with the wheels of a release "
        "(hwsigner help install). Without them, first install gcc, pkg-config, libtss2-dev and python3-dev",
        password_flag="tpm-key-password",  # noqa: S106
        query_flags={name: name for name in ("tcti", "srk-name", "accept-new-srk")},
        management="hwsigner.backends.tpm2.management",
        attestation="hwsigner.backends.tpm2.attest",
        recognises=_holds_tss2_key,
    ),
}
# Schemes that name one attribute: `handle:X` is short for `tpm2:handle=X`.
SHORT_FORMS = {"handle": "tpm2"}
