"""What a run of the tests leaves out: only what Debian 12 and 13 are known to lack."""

from __future__ import annotations

import platform

from hwsigner import testing
from judges import ESTSERVER, KUSTOMIZE, OLD_PACKAGES, OPENSSL_3_4, OPENSSL_3_5, PYTHON_3_11, lacking

DEBIAN_12 = frozenset([OPENSSL_3_4, OPENSSL_3_5, ESTSERVER, KUSTOMIZE]) | OLD_PACKAGES
DEBIAN_13 = frozenset(["NSS 3.132"])


def test_only_known_judges_are_lacking() -> None:
    release = platform.freedesktop_os_release()
    expected = {"12": DEBIAN_12, "13": DEBIAN_13}.get(release.get("VERSION_ID", ""), frozenset())
    # An update of Debian may bring one of them, and .ci/run asks for Python 3.11 itself.
    assert lacking() <= expected | {PYTHON_3_11} or release["ID"] != "debian"


def test_openssl_judges_ml_dsa_where_it_can() -> None:
    assert testing._openssl_has_mldsa() == (OPENSSL_3_5 not in lacking())
