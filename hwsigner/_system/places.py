"""Where this system has PKCS #11 modules and their configuration, a pinentry, and users' settings."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

_MULTIARCH = str(getattr(sys.implementation, "_multiarch", ""))
# Homebrew on Apple's processors and on Intel's, where Yubico's installers put their files too; and MacPorts.
_PREFIXES = ("/opt/homebrew", "/usr/local", "/opt/local")
_LIBCRYPTO = (
    *(f"{each}/opt/openssl@3/lib/libcrypto.3.dylib" for each in _PREFIXES[:2]),
    "/opt/local/lib/libcrypto.3.dylib",
)
_LIBCRYPTO_ON_LINUX = ("libcrypto.so.4", "libcrypto.so.3")
# Homebrew's, and those of GPG Suite and MacPorts.
_PINENTRIES = (
    *(f"{each}/bin/pinentry-mac" for each in _PREFIXES),
    "/usr/local/MacGPG2/libexec/pinentry-mac.app/Contents/MacOS/pinentry-mac",
    "/Applications/MacPorts/pinentry-mac.app/Contents/MacOS/pinentry-mac",
)


class ModulePlaces(NamedTuple):
    """Where a system has its PKCS #11 modules.

    Attributes:
        trusted: folders that only root can write to, and what is in them.
        trusts_names: whether the dynamic linker looks for a bare name in such folders only. That of macOS looks in the
            current folder too.
        folders: where modules are.
        proxies: names of p11-kit's proxy.
        known: the modules to look for without p11-kit, and for the list: names in these folders, or paths.
        settings: the folder of p11-kit's configuration.
        packages: the folder of that of packages.
        softhsm_files: SoftHSM's configuration.
        softhsm_tokens: the folder of its tokens.
        install: how to install a module.
    """

    trusted: tuple[str, ...]
    trusts_names: bool
    folders: tuple[str, ...]
    proxies: tuple[str, ...]
    known: tuple[str, ...]
    settings: str
    packages: str
    softhsm_files: tuple[str, ...]
    softhsm_tokens: str
    install: str


def _on_linux() -> ModulePlaces:
    return ModulePlaces(
        trusted=("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"),
        trusts_names=True,
        folders=(
            *(f"/usr/lib/{_MULTIARCH}/pkcs11", f"/usr/lib/{_MULTIARCH}", f"/usr/lib/{_MULTIARCH}/softhsm"),
            *("/usr/lib64/pkcs11", "/usr/lib64", "/usr/lib/pkcs11", "/usr/lib/softhsm", "/usr/lib"),
            *("/usr/local/lib/pkcs11", "/usr/local/lib"),
        ),
        proxies=("p11-kit-proxy.so",),
        known=(
            *("libsofthsm2.so", "opensc-pkcs11.so", "libykcs11.so*", "yubihsm_pkcs11.so", "libtpm2_pkcs11.so*"),
            *("libsc-hsm-pkcs11.so", "libeTPkcs11.so", "libIDPrimePKCS11.so"),
            "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
            "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
            "/opt/nfast/toolkits/pkcs11/libcknfast.so",
            "/opt/utimaco/lib/libcs_pkcs11_R*.so",
            "/opt/fortanix/pkcs11/fortanix_pkcs11.so",
            "/usr/lib/*/opencryptoki/libopencryptoki.so",
            "/usr/lib64/opencryptoki/libopencryptoki.so",
        ),
        settings="/etc/pkcs11",
        packages="/usr/share/p11-kit/modules",
        softhsm_files=("~/.config/softhsm2/softhsm2.conf", "/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf"),
        softhsm_tokens="/var/lib/softhsm/tokens",
        install="Install its package: ykcs11 for a YubiKey (Fedora: yubico-piv-tool), opensc for another smart card",
    )


def _on_macos() -> ModulePlaces:
    prefix = next((each for each in _PREFIXES if os.path.isdir(f"{each}/etc/pkcs11")), _PREFIXES[0])
    return ModulePlaces(
        # Not /usr/local/lib, which Homebrew gives to the user who installs it.
        trusted=("/usr/lib", "/Library/OpenSC/lib"),
        trusts_names=False,
        folders=(
            *(f"{each}/{name}" for each in _PREFIXES for name in ("lib/pkcs11", "lib", "lib/softhsm")),
            "/Library/OpenSC/lib",
        ),
        proxies=("p11-kit-proxy.dylib", "p11-kit-proxy.so"),
        known=(
            *("libsofthsm2.so", "libsofthsm2.dylib", "opensc-pkcs11.so", "opensc-pkcs11.dylib", "libykcs11.dylib"),
            *("libykcs11.*.dylib", "yubihsm_pkcs11.dylib", "libsc-hsm-pkcs11.dylib", "libeTPkcs11.dylib"),
            "libIDPrimePKCS11.dylib",
        ),
        settings=f"{prefix}/etc/pkcs11",
        packages=f"{prefix}/share/p11-kit/modules",
        softhsm_files=(
            "~/.config/softhsm2/softhsm2.conf",
            *(f"{each}/etc/softhsm/softhsm2.conf" for each in _PREFIXES),
        ),
        softhsm_tokens=f"{prefix}/var/lib/softhsm/tokens",
        install="Install it: brew install yubico-piv-tool for a YubiKey, brew install opensc for another smart card",
    )


def module_places(system: str = sys.platform) -> ModulePlaces:
    """Return where a system, as Python names it, has its PKCS #11 modules."""
    return _on_macos() if system == "darwin" else _on_linux()


MODULES: Final = module_places()


def libcrypto_names(system: str = sys.platform) -> list[str]:
    """Return the names of OpenSSL's libcrypto, the best first: what the dynamic linker finds, or paths.

    macOS has none for programs, and looks for a bare name in the current folder too. So there it is Homebrew's or
    MacPorts', if only root or this user can write it: native/libcrypto.c has the same rule.
    """
    return [path for path in _LIBCRYPTO if _is_closed(path)] if system == "darwin" else list(_LIBCRYPTO_ON_LINUX)


def _is_closed(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def has_display(environ: Mapping[str, str]) -> bool:
    """Return whether a graphical display can show a dialogue. On macOS it can, except in a login over ssh."""
    if sys.platform == "darwin":
        return not environ.get("SSH_CONNECTION")
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def usual_pinentry() -> str | None:
    """Return the pinentry for a display: `pinentry`, or the path of pinentry-mac; None if it is not on this Mac."""
    if sys.platform == "darwin":
        import shutil

        return next(filter(None, map(shutil.which, ("pinentry-mac", *_PINENTRIES))), None)
    return "pinentry"
