"""Where PKCS #11 modules are: the file that a key URI names by `module-path` and `module-name`, or those known."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Final

from hwsigner._system.places import MODULES
from hwsigner._system.users import reading_group
from hwsigner._uri import KeyURI
from hwsigner.errors import BackendUnavailableError, UsageError

FLAG_HINT = "Name the PKCS #11 module with --pkcs11-lib, or with module-path in the key URI"
_INSTALL_HINT = f"{MODULES.install}; or name the module with --pkcs11-lib, or with module-path in the key URI"
_FOLDERS, _KNOWN = MODULES.folders, MODULES.known
# p11-kit's configuration: the system's, and that of packages.
_SYSTEM, _PACKAGES = MODULES.settings, MODULES.packages
_MAX_BYTES = 65536
_SOFTHSM_VARIABLE = "SOFTHSM2_CONF"
_TOKEN_FOLDER = re.compile(r"^\s*directories\.tokendir\s*=\s*(\S.*?)\s*$", re.MULTILINE)


def module_paths(uri: KeyURI) -> list[str]:
    """Return the path of the module that a key URI names, or of p11-kit's proxy; without that, of all known modules.

    `module-path` may be a bare name, for the dynamic linker to look up, or a folder, with `module-name` a module in it.
    `module-name` is a name in p11-kit's configuration or a file's, without `lib` and `.so` or `.dylib` (RFC 7512, 2.3).
    If there is no such module, that is a BackendUnavailableError, which says what was tried.
    """
    path, name = uri.text("module-path"), uri.text("module-name")
    if name is not None and "/" in name:
        raise UsageError(f"module-name {name!r} is a path", "Write module-path for it")
    if path == "":
        raise UsageError("module-path is empty", "Name a PKCS #11 module, or leave it out")
    if name is not None and (path is None or os.path.isdir(path)):
        configured = (one.path for one in configured_modules() if one.name.casefold() == name.casefold())
        return [(None if path else next(configured, None)) or _named(name, (path,) if path else _FOLDERS)]
    if path is not None:
        return [path]
    proxies = (os.path.join(folder, proxy) for folder in _FOLDERS for proxy in MODULES.proxies)
    found = next(filter(os.path.isfile, proxies), None)
    return [found] if found else listed_paths(uri)


def listed_paths(uri: KeyURI) -> list[str]:
    """Return the path of the module that a key URI names, or of all modules that are configured or known."""
    if names_module(uri):
        return module_paths(uri)
    paths = [module.path for module in configured_modules() if module.has_user_keys] + unconfigured_paths()
    if not paths:
        absent = f"{MODULES.proxies[0]} is in none of {', '.join(_FOLDERS)}"
        tried = f"{absent}; p11-kit has no module configured, no other one is known"
        raise BackendUnavailableError(f"no PKCS #11 module is found: {tried}", _INSTALL_HINT)
    return _distinct(paths)


def unconfigured_paths() -> list[str]:
    """Return the modules of well-known kinds on this system that p11-kit's configuration does not mention.

    Its proxy does not show them. Modules that the configuration hides stay hidden.
    """
    import glob

    configured = {os.path.realpath(module.path) for module in configured_modules()}
    # Joined to a folder, an absolute path stays as it is.
    patterns = [os.path.join(folder, known) for known in _KNOWN for folder in _FOLDERS]
    # The shortest of a module's names comes first.
    found = [path for pattern in patterns for path in sorted(glob.glob(pattern), key=len)]
    return [path for path in _distinct(found) if os.path.realpath(path) not in configured]


def names_module(uri: KeyURI) -> bool:
    """Whether a key URI names a module."""
    return bool({"module-path", "module-name"} & uri.query.keys())


def is_trusted(path: str) -> bool:
    """Return whether a URI from elsewhere may load a module: the system's, p11-kit's, or one of a well-known kind.

    The path may be a bare name, if the dynamic linker looks for it in the system's folders only. Links are not
    followed, because another user could change one before the module is loaded.
    """
    if "/" not in path:
        return MODULES.trusts_names
    if ".." not in path.split("/") and os.path.normpath(path).startswith(tuple(f"{one}/" for one in MODULES.trusted)):
        return True
    known = [module.path for module in configured_modules()] + unconfigured_paths()
    return path in {*known, *map(os.path.realpath, known)}


def _distinct(paths: list[str]) -> list[str]:
    """Return each module by the first of its names: it may have several, as Debian's SoftHSM has."""
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]


def _named(name: str, folders: Iterable[str]) -> str:
    stem = re.sub(r"(\.so[\d.]*|(\.\d+)*\.dylib)$", "", name.casefold()).removeprefix("lib")
    wanted = re.compile(rf"(lib)?{re.escape(stem)}([-_]pkcs11)?(\.so(\.\d+)*|(\.\d+)*\.dylib)", re.IGNORECASE)
    for folder in folders:
        try:
            files = [file for file in os.listdir(folder) if wanted.fullmatch(file)]
        except OSError:
            continue  # There is no such folder, or this user may not read it.
        # The plain name before one with a version.
        for file in sorted(files, key=lambda file: (len(file), file)):
            return os.path.join(folder, file)
    raise BackendUnavailableError(
        f"PKCS #11 module {stem}.so is in none of {', '.join(folders)}, nor in p11-kit's configuration", FLAG_HINT
    )


class ConfiguredModule:
    """A module of p11-kit's configuration.

    p11-kit's proxy does not show one without user keys, a store of trusted CAs.
    """

    def __init__(self, name: str, path: str, has_user_keys: bool) -> None:
        self.name: Final = name  # That of its configuration file, without `.module`.
        self.path: Final = path
        self.has_user_keys: Final = has_user_keys


def configured_modules() -> list[ConfiguredModule]:
    """Return the modules that p11-kit would load in this process, sorted by name."""
    merged: dict[str, dict[str, str]] = {}
    for folder in _configuration_folders():
        try:
            names = sorted(file.removesuffix(".module") for file in os.listdir(folder) if file.endswith(".module"))
        except OSError:
            continue  # There is no such folder, or p11-kit ignores it because it may not read it.
        for name in names:
            # The first file wins: the user's come before the system's, and those before the packages'.
            merged[name] = {**_read(os.path.join(folder, f"{name}.module")), **merged.get(name, {})}
    found = []
    for name, settings in sorted(merged.items()):
        if path := _configured_path(settings.get("module", "")):
            found.append(ConfiguredModule(name, path, _is_shown(settings)))
    return found


def _configuration_folders() -> list[str]:
    system = [os.path.join(_SYSTEM, "modules"), _PACKAGES]
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    mode = _read(os.path.join(_SYSTEM, "pkcs11.conf")).get("user-config", "merge")
    # p11-kit ignores users' files as root. A relative path could lead to someone else's files in the current folder.
    if mode == "none" or os.geteuid() == 0 or not os.path.isabs(home):
        return system
    user = os.path.join(home, "pkcs11", "modules")
    return [user] if mode == "only" else [user, *system]


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in lines if not line.lstrip().startswith("#")]
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _configured_path(module: str) -> str | None:
    """Return a module's file. A relative path is in a folder that is called pkcs11."""
    if os.path.isabs(module) or not module:
        return module or None
    paths = (os.path.join(folder, module) for folder in _FOLDERS if os.path.basename(folder) == "pkcs11")
    return next(filter(os.path.isfile, paths), None)


def _is_shown(settings: dict[str, str]) -> bool:
    enabled, disabled = settings.get("enable-in"), settings.get("disable-in", "")
    names = {"p11-kit-proxy", "hwsigner"}
    if enabled is not None and not names & set(enabled.replace(",", " ").split()):
        return False
    return settings.get("trust-policy") != "yes" and not names & set(disabled.replace(",", " ").split())


def access_hint(module: str, otherwise: str) -> str:
    """Return the hint if a module does not start: the group to join, or `otherwise`.

    A module reports a file that this user may not read as a general error. Those of SoftHSM are known.
    """
    if not is_softhsm(module):
        return otherwise
    for path in _softhsm_files():
        group = reading_group(path)
        if group:
            return f"Join the group {group}, which may read {path}, and log in again"
    return f"Check {softhsm_setting()}, and that you may read what it names"


def is_softhsm(module: str) -> bool:
    """Return whether a module is SoftHSM's, by its name."""
    return "softhsm" in os.path.basename(module)


def softhsm_setting() -> str:
    """Return the variable that names SoftHSM's configuration, with its value or the default."""
    chosen = os.environ.get(_SOFTHSM_VARIABLE) or f"not set: {', '.join(MODULES.softhsm_files)}"
    return f"{_SOFTHSM_VARIABLE} ({chosen})"


def _softhsm_files() -> Iterator[str]:
    """Yield SoftHSM's configuration file, and the folder of its tokens."""
    chosen = os.environ.get(_SOFTHSM_VARIABLE)
    for path in [chosen] if chosen else map(os.path.expanduser, MODULES.softhsm_files):
        yield path
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                match = _TOKEN_FOLDER.search(file.read())
        except OSError:
            continue
        yield match[1] if match else MODULES.softhsm_tokens
        return
