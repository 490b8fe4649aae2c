"""The programs that judge hwsigner and that Debian 12 lacks, or has in an older version.

A test that can't do without one has the marker `needs`. A run leaves it out where the program is missing, and says so
in its last lines.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess

import pytest

OPENSSL_3_4 = "OpenSSL 3.4"  # The first with PBMAC1.
OPENSSL_3_5 = "OpenSSL 3.5"  # The first with ML-DSA, both in the program and in libcrypto.
ESTSERVER = "estserver"  # tests/conftest.py marks the tests that use the fixture of this name.

needs_openssl_3_4 = pytest.mark.needs(OPENSSL_3_4)
needs_openssl_3_5 = pytest.mark.needs(OPENSSL_3_5)
needs_estserver = pytest.mark.needs(ESTSERVER)


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
    }
    return frozenset(name for name, is_there in has.items() if not is_there)
