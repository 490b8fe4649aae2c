"""What one attaches to a report of a bug: an examination without any name, value or secret of the configuration.

Everything in it is a number, a version, or a word from hwsigner's own lists. Only the makers and models of tokens and
the system's name come from elsewhere. They are left out if they have a part of the configuration.
"""

from __future__ import annotations

import builtins
import getpass
import os
import platform
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hwsigner._aws.config_file import config_path, credentials_path
from hwsigner._config.flags import IN_PROFILES
from hwsigner._config.profiles import SYSTEM_FILE, user_file
from hwsigner._system import host
from hwsigner._system.support import is_wsl
from hwsigner._uri import KeyURI
from hwsigner.errors import UsageError
from hwsigner.findings import Finding, local
from hwsigner.key.public_key import kind_of

if TYPE_CHECKING:
    from hwsigner.doctor.course import Course
    from hwsigner.doctor.profile_checks import ProfileState

LIBRARIES = (
    *("cryptography", "asn1crypto", "python-pkcs11", "tpm2-pytss", "requests", "boto3", "botocore", "tomlkit", "rich"),
    *("httptools", "uvloop", "PyJWT"),
)
MODULES = (
    *("libykcs11", "opensc-pkcs11", "libsofthsm2", "p11-kit-proxy", "libtpm2_pkcs11", "libopencryptoki", "libsoftokn3"),
    *("libCryptoki2_64", "libcs_pkcs11_R3", "libcknfast", "libcloudhsm_pkcs11", "yubihsm_pkcs11", "libIDPrimePKCS11"),
    *("libeToken", "libykpiv", "libCryptoki", "libp11-kit"),
)
# docs/reference/files.md says what they are for.
VARIABLES = (
    *("HWSIGNER_PROFILE", "HWSIGNER_PIN", "HWSIGNER_PINENTRY", "HWSIGNER_AGENT", "CREDENTIALS_DIRECTORY", "SUDO_USER"),
    *("AWS_ENDPOINT_URL_ROLESANYWHERE", "AWS_ENDPOINT_URL", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
    *("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_MAX_ATTEMPTS", "AWS_CA_BUNDLE", "SSL_CERT_FILE"),
    *("SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "REQUEST_METHOD", "AWS_CONFIG_FILE", "AWS_PROFILE"),
    *("AWS_DEFAULT_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "TPM2_TCTI"),
    *("TPM2TOOLS_TCTI", "TPM_DEVICE", "DBUS_SYSTEM_BUS_ADDRESS", "SOFTHSM2_CONF", "TSS2_LOG", "XDG_CONFIG_HOME"),
    *("XDG_STATE_HOME", "STATE_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR", "HOME", "NO_COLOR", "FORCE_COLOR"),
    *("CLICOLOR_FORCE", "DISPLAY", "WAYLAND_DISPLAY", "LC_ALL", "LC_CTYPE", "LANG", "TERM", "DBUS_SESSION_BUS_ADDRESS"),
    *("SSH_CONNECTION", "NODE_NAME", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
)
_SCHEMES = ("file", "env", "fd", "pkcs11", "tpm2")
_FAILED = re.compile(r"the check of ([a-zA-Z' ]+) failed(?:: (\w+) at (\w+\.py):(\d+))?.*", re.DOTALL)


class _Shown:
    """Which texts of others may be shown: those without any part of the configuration."""

    def __init__(self, values: Collection[str]) -> None:
        self._values = {value.casefold() for value in values if len(value) > 2}

    def __call__(self, text: str) -> str | None:
        """Return the text; None if it has a part of the configuration, or signs that no name of a maker has."""
        is_plain = re.fullmatch(r"[\w ().,#:/+-]{1,64}", text, re.ASCII)
        return text if is_plain and not any(value in text.casefold() for value in self._values) else None


def describe(course: Course, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what one attaches to a report of a bug, as values for JSON. Profiles are numbered from 1."""
    shown = _Shown({*_configured(course, environ)})
    numbers = {state.profile.name: number for number, state in enumerate(course.states, 1)}
    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "system": _system(shown),
        "libraries": {library: _version(library) for library in LIBRARIES},
        "profiles": [{"profile": number, **_profile(state, shown)} for number, state in enumerate(course.states, 1)],
        "findings": [_finding(one, numbers.get(one.profile)) for one in course.examination.findings],
        "files": _files(environ),
        "variables": [name for name in VARIABLES if environ.get(name)],
        "seconds": dict(course.seconds),
    }


def _configured(course: Course, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the texts of the configuration and of this machine, and the parts of key URIs."""
    yield from environ.values()
    yield from (socket.gethostname(), os.path.expanduser("~"))
    with suppress(KeyError, OSError):  # A container's user may have no name.
        yield getpass.getuser()
    for state in course.states:
        yield from (state.profile.name, state.profile.file)
        for value in _texts(state.profile.values):
            yield value
            yield from map(unquote, re.split(r"[:;?&=]", value))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif not isinstance(value, bool):
        yield str(value)


def _system(shown: _Shown) -> dict[str, Any]:
    name, version = map(shown, host.release())
    kernel = re.match(r"\d+(\.\d+)*", platform.release())
    return {
        "name": name,
        "version": version,
        "kernel": kernel[0] if kernel else None,  # The rest may be a name that its builder gave it.
        "is_wsl": is_wsl(),
        "machine": shown(platform.machine()),
        "libc": shown(" ".join(platform.libc_ver())),
        "is_root": os.geteuid() == 0,
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library).partition("+")[0]  # The rest is a name that its builder gave it.
    except metadata.PackageNotFoundError:
        return None


def _profile(state: ProfileState, shown: _Shown) -> dict[str, Any]:
    values, key = state.profile.values, state.key
    return {
        "file": "system" if state.profile.file == SYSTEM_FILE else "user",
        "settings": sorted(values.keys() & IN_PROFILES.keys()),
        "unknown_settings": len(values.keys() - IN_PROFILES.keys()),
        "key": _place(key),
        "key_kind": kind_of(state.leaf.public_key()) if state.leaf else None,
        "certificate": _place(_uri(values.get("certificate"))),
        "certificates": len(state.certificates),
        "module": _module(state),
        "hardware": [[shown(token.manufacturer), shown(token.model)] for token in state.tokens],
        "pin_states": [shown(token.pin_state) for token in state.tokens],
        "seconds": state.seconds,
    }


def _uri(text: object) -> KeyURI | None:
    try:
        return KeyURI.parse(text).resolved() if isinstance(text, str) else None
    except UsageError:
        return None


def _place(uri: KeyURI | None) -> str | None:
    """Return where a key or certificate is: `file`, `tpm2 path`, `tpm2 handle`, `pkcs11`, or `plugin`."""
    if uri is None:
        return None
    if uri.scheme not in _SCHEMES:
        return "plugin"
    attribute = next((name for name in ("path", "handle", "nv") if name in uri.path), "")
    return f"tpm2 {attribute}".strip() if uri.scheme == "tpm2" else uri.scheme


def _module(state: ProfileState) -> str | None:
    """Return the name of a known PKCS #11 module, `other`, or None."""
    if state.key is None or state.key.scheme != "pkcs11":
        return None
    named = [token.module for token in state.tokens] + [
        state.key.text("module-path") or state.settings.pkcs11_lib or ""
    ]
    names = [name for name in MODULES if any(name in os.path.basename(path) for path in named)]
    return names[0] if names else "other"


def _finding(one: Finding, number: int | None) -> dict[str, Any]:
    """Return a finding: not its text, but the settings that this names."""
    words = set(re.findall(r"(?<![\w-])(?:--)?([a-z][a-z0-9-]+)", one.found))
    data = {"id": one.id, "level": one.level, "profile": number, "settings": sorted(words & IN_PROFILES.keys())}
    failed = _FAILED.fullmatch(one.found) if one.mistake is local.CHECK_FAILED else None
    return {**data, **_failure(*failed.groups())} if failed else data


def _failure(check: str, error: str | None, file: str | None, line: str | None) -> dict[str, Any]:
    """Return which check failed, and where in hwsigner."""
    own = {path.name for path in Path(__file__).parents[1].rglob("*.py")}
    where = f"{file}:{line}" if file in own else None
    return {"check": check, "error": error if hasattr(builtins, error or "") else None, "where": where}


def _files(environ: Mapping[str, str]) -> dict[str, bool]:
    """Return which files of hwsigner and the SDKs this user can read."""
    paths = {
        "config.toml of the user": user_file(environ),
        "config.toml of the system": SYSTEM_FILE,
        "config of the SDKs": config_path(environ),
        "credentials of the SDKs": credentials_path(environ),
    }
    return {name: os.access(path, os.R_OK) for name, path in paths.items()}
