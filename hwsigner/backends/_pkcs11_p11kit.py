"""The modules of p11-kit's configuration (pkcs11.conf(5)): files `NAME.module` of lines `name: value`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
