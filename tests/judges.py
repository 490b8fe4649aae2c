"""What judges hwsigner and is not on each system: Debian 12 lacks programs, macOS all that only Linux has.

A test that can't do without has the marker `needs`. A run leaves it out where that is missing, and says so in its last
lines.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys

import pytest

from pages import ROOT

OPENSSL_3_4 = "OpenSSL 3.4"  # The first with PBMAC1.
OPENSSL_3_5 = "OpenSSL 3.5"  # The first with ML-DSA, both in the program and in libcrypto.
ESTSERVER = "estserver"
KUSTOMIZE = "kustomize"
PYTHON_3_11 = "Python 3.11 with C headers"

# By Debian's package, the first version seen to judge what Debian 12's can't.
_PACKAGES = {
    "AWS CLI 2.13": ("awscli", (2, 13)),  # The first that reads AWS_ENDPOINT_URL.
    "libykcs11 2.7": ("ykcs11", (2, 7)),  # 2.2 sets no policies and takes Triple DES for each management key.
    "NSS 3.132": ("libnss3", (3, 132)),  # Has ML-DSA. Debian 13 has 3.110.
    "OpenSC 0.26": ("opensc", (0, 26)),  # pkcs11-tool: URIs, private certificates, AES-KEY-WRAP-PAD.
    "p11-kit 0.25": ("p11-kit", (0, 25)),  # Its list of modules has their paths on lines of their own.
    "tpm2-openssl 1.2": ("tpm2-openssl", (1, 2)),  # 1.1 can't sign with a passphrase, or in TLS.
    "tpm2-tools 5.7": ("tpm2-tools", (5, 7)),  # 5.4 takes at most 8 PCRs, and no long unique data.
    "tpm2-tss 4.0": ("libtss2-dev", (4, 0)),  # The first with the TCTI libtpms.
    "yubico-piv-tool 2.7": ("yubico-piv-tool", (2, 7)),  # 2.2 can't sign requests with OpenSSL 3, nor set AES keys.
}
(
    needs_aws_cli,
    needs_libykcs11,
    needs_nss,
    needs_opensc,
    needs_p11_kit,
    needs_tpm2_openssl,
    needs_tpm2_tools,
    needs_tpm2_tss,
    needs_yubico_piv_tool,
) = map(pytest.mark.needs, _PACKAGES)
OLD_PACKAGES = frozenset(_PACKAGES)

# What only Linux has: macOS, and `make test-macos`, lack it.
_CLIENT = "hwsigner-credentials for Linux"
_PCSCD, _TPM = "pcscd", "a TPM"
_LINUX = (
    "abstract sockets",
    "access control lists of Linux",
    "a desktop with D-Bus",
    "Linux",
    "netlink",
    "/proc",
    "a folder for temporary files of all users",
    "namespaces and capabilities",
    "socket paths of more than 103 bytes",
    "strace",
    "systemd",
    "a start without a hook",
)
(
    needs_abstract_sockets,
    needs_acls,
    needs_desktop,
    needs_linux,
    needs_netlink,
    needs_proc,
    needs_shared_folder,
    needs_namespaces,
    needs_long_socket_paths,
    needs_strace,
    needs_systemd,
    needs_bare_start,
) = map(pytest.mark.needs, _LINUX)
LINUX = frozenset([*_LINUX, _CLIENT, _PCSCD, _TPM])
# tests/conftest.py marks the tests that use these fixtures.
FIXTURES = {
    "estserver": ESTSERVER,
    "hasty_program": _CLIENT,
    "pcsc": _PCSCD,
    "program": _CLIENT,
    "swtpm": _TPM,
}
needs_client_in_c = pytest.mark.needs(_CLIENT)
needs_tpm = pytest.mark.needs(_TPM)

needs_kustomize = pytest.mark.needs(KUSTOMIZE)
needs_python_3_11 = pytest.mark.needs(PYTHON_3_11)
needs_openssl_3_4 = pytest.mark.needs(OPENSSL_3_4)
needs_openssl_3_5 = pytest.mark.needs(OPENSSL_3_5)


@functools.cache
def lacking() -> frozenset[str]:
    """Return which of these programs the system lacks."""
    shown = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
    [numbers] = re.findall(r"^OpenSSL (\d+)\.(\d+)", shown)
    version = tuple(map(int, numbers))
    has = {
        OPENSSL_3_4: version >= (3, 4),
        OPENSSL_3_5: version >= (3, 5),
        ESTSERVER: shutil.which("estserver") is not None,
        KUSTOMIZE: shutil.which("kustomize") is not None,
        PYTHON_3_11: subprocess.run([ROOT / ".ci" / "find-python", "3.11"], capture_output=True).returncode == 0,
    }
    old = {name for name, (package, first) in _PACKAGES.items() if is_older(package, first)}
    without_linux = LINUX if sys.platform == "darwin" else frozenset[str]()
    return frozenset(name for name, is_there in has.items() if not is_there) | old | without_linux


def is_older(package: str, first: tuple[int, int]) -> bool:
    """Return whether dpkg has a package in an older version. What is not installed is not older: its tests fail."""
    if shutil.which("dpkg-query") is None:
        return False
    command = ["dpkg-query", "-W", "-f", "${Version}\n", package]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    return any(tuple(map(int, pair)) < first for pair in re.findall(r"^(?:\d+:)?(\d+)\.(\d+)", shown))
