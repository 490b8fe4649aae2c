"""Where PKCS #11 modules are: the file that a key URI names by `module-path` and `module-name`, or those known."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsigner.errors import BackendUnavailableError, UsageError
from hwsigner.uri import KeyURI

_SYSTEM = Path("/etc/pkcs11")
_PACKAGES = Path("/usr/share/p11-kit/modules")
_MAX_BYTES = 65536


@dataclass(frozen=True)
class ConfiguredModule:
    """A module of the configuration.

    Attributes:
        name: the name of its file, without `.module`.
        path: the module's file.
        has_user_keys: whether p11-kit's proxy shows it. Stores of trusted CAs it does not.
    """

    name: str
    path: str
    has_user_keys: bool


def configured_modules(folders: Sequence[str]) -> list[ConfiguredModule]:
    """Return the modules that p11-kit would load in this process, by name.

    Args:
        folders: where a module without a folder of its own lies; those called pkcs11 count.
    """
    merged: dict[str, dict[str, str]] = {}
    for file in _files():
        # What was said first holds: the user's files come before the system's, those before the packages'.
        merged[file.stem] = {**_read(file), **merged.get(file.stem, {})}
    found = []
    for name, settings in sorted(merged.items()):
        if path := _path(settings.get("module", ""), folders):
            found.append(ConfiguredModule(name, path, _is_shown(settings)))
    return found


def _files() -> Iterator[Path]:
    for folder in _folders():
        try:
            yield from sorted(folder.glob("*.module"))
        except OSError:
            continue  # As p11-kit does with a folder that it may not read.


def _folders() -> list[Path]:
    system = [_SYSTEM / "modules", _PACKAGES]
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    mode = _read(_SYSTEM / "pkcs11.conf").get("user-config", "merge")
    if mode == "none" or os.geteuid() == 0:  # p11-kit reads no user's files as root.
        return system
    user = Path(home, "pkcs11", "modules")
    return [user] if mode == "only" else [user, *system]


def _read(file: Path) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            lines = opened.read(_MAX_BYTES).splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in lines if not line.lstrip().startswith("#")]
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _path(module: str, folders: Sequence[str]) -> str | None:
    if os.path.isabs(module):
        return module
    for folder in folders if module else ():
        path = os.path.join(folder, module)
        if os.path.basename(folder) == "pkcs11" and os.path.isfile(path):
            return path
    return None


def _is_shown(settings: Mapping[str, str]) -> bool:
    enabled, disabled = settings.get("enable-in"), settings.get("disable-in", "")
    names = {"p11-kit-proxy", "hwsigner"}
    if enabled is not None and not names & set(enabled.replace(",", " ").split()):
        return False
    return settings.get("trust-policy") != "yes" and not names & set(disabled.replace(",", " ").split())


_PROXY = "p11-kit-proxy.so"
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
# The modules that are looked for where there is no p11-kit, and for the list: in these folders, or at these paths.
_KNOWN = (
    "libsofthsm2.so",
    "opensc-pkcs11.so",
    "libykcs11.so*",
    "yubihsm_pkcs11.so",
    "libtpm2_pkcs11.so*",
    "libsc-hsm-pkcs11.so",
    "libeTPkcs11.so",
    "libIDPrimePKCS11.so",
    "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
    "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "/opt/nfast/toolkits/pkcs11/libcknfast.so",
    "/opt/utimaco/lib/libcs_pkcs11_R*.so",
    "/opt/fortanix/pkcs11/fortanix_pkcs11.so",
    "/usr/lib/*/opencryptoki/libopencryptoki.so",
    "/usr/lib64/opencryptoki/libopencryptoki.so",
)
FLAG_HINT = "Name the PKCS #11 module with --pkcs11-lib, or with module-path in the key URI"


def module_path(uri: KeyURI) -> str:
    """Return the first of `module_paths`; raises as it does."""
    return module_paths(uri)[0]


def module_paths(uri: KeyURI) -> list[str]:
    """Return the path of the module that a key URI names, or of p11-kit's proxy; without that, of all that are known.

    `module-path` may be a bare name, for the dynamic linker to look up, or a folder, with `module-name` a module in it.
    `module-name` is a name in p11-kit's configuration or a file's, without `lib` and `.so` (RFC 7512, 2.3).

    Raises:
        UsageError: a `module-name` that is a path.
        BackendUnavailableError: there is no such module; the message says what was tried.
    """
    path, name = uri.text("module-path"), uri.text("module-name")
    if name is not None and "/" in name:
        raise UsageError(f"module-name {name!r} is a path", "Write module-path for it")
    if name is not None and path is None:
        return [_configured(name) or _named(name, _FOLDERS)]
    if path is not None:
        return [_named(name, (path,)) if name is not None and os.path.isdir(path) else _existing(path)]
    for folder in _FOLDERS:
        proxy = os.path.join(folder, _PROXY)
        if os.path.isfile(proxy):
            return [proxy]
    return listed_paths(uri)


def listed_paths(uri: KeyURI) -> list[str]:
    """Return the path of the module that a key URI names, or those of p11-kit's configuration and all that are known.

    Raises as `module_paths`.
    """
    if names_module(uri):
        return module_paths(uri)
    paths = [module.path for module in _configured_modules() if module.has_user_keys] + unconfigured_paths()
    if not paths:
        tried = f"{_PROXY} is in none of {', '.join(_FOLDERS)}; p11-kit has no module configured, no other one is known"
        raise BackendUnavailableError(f"no PKCS #11 module is found: {tried}", FLAG_HINT)
    return _distinct(paths)


def unconfigured_paths() -> list[str]:
    """Return the modules of well-known kinds that this system has and p11-kit knows nothing of, and so its proxy not.

    Those that its configuration hides stay hidden.
    """
    configured = {os.path.realpath(module.path) for module in _configured_modules()}
    return [path for path in _distinct(_known_paths()) if os.path.realpath(path) not in configured]


def names_module(uri: KeyURI) -> bool:
    """Tell whether a key URI names a module."""
    return bool({"module-path", "module-name"} & uri.query.keys())


def _known_paths() -> list[str]:
    """Return the modules of well-known kinds that this system has, by the shortest of their names first."""
    import glob

    # Joined to a folder, an absolute path stands for itself.
    patterns = [os.path.join(folder, known) for known in _KNOWN for folder in _FOLDERS]
    return [path for pattern in patterns for path in sorted(glob.glob(pattern), key=len)]


def _distinct(paths: Sequence[str]) -> list[str]:
    """Return each module by the first of its names: it may have several, as Debian's SoftHSM has."""
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]


def _configured_modules() -> list[ConfiguredModule]:
    from hwsigner.backends.pkcs11.paths import configured_modules

    return configured_modules(_FOLDERS)


def _existing(path: str) -> str:
    if not path:
        raise UsageError("module-path is empty", "Name a PKCS #11 module, or leave it out")
    if "/" not in path:
        return path
    if not os.path.isfile(path):
        is_there = "is a folder" if os.path.isdir(path) else "is not a file"
        what = is_there if os.path.exists(path) else "does not exist"
        raise BackendUnavailableError(f"PKCS #11 module {path} {what}", FLAG_HINT)
    return path


def _configured(name: str) -> str | None:
    named = (module.path for module in _configured_modules() if module.name.casefold() == name.casefold())
    return next(named, None)


def _named(name: str, folders: tuple[str, ...]) -> str:
    stem = re.sub(r"\.so[\d.]*$", "", name.casefold()).removeprefix("lib")
    wanted = re.compile(rf"(lib)?{re.escape(stem)}([-_]pkcs11)?\.so(\.\d+)*", re.IGNORECASE)
    for folder in folders:
        files = [file for file in _files_in(folder) if wanted.fullmatch(file)]
        # The plain name before one with a version.
        for file in sorted(files, key=lambda file: (len(file), file)):
            return os.path.join(folder, file)
    raise BackendUnavailableError(
        f"PKCS #11 module {stem}.so is in none of {', '.join(folders)}, nor in p11-kit's configuration", FLAG_HINT
    )


def _files_in(folder: str) -> list[str]:
    """Return the names of a folder's files; none where there is no folder, or one that this user may not read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []
