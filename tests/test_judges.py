"""What a run of the tests leaves out: nothing on Debian 13 and later, and on Debian 12 what it is known to lack."""

from __future__ import annotations

import platform

from hwsigner import testing
from judges import ESTSERVER, OLD_PACKAGES, OPENSSL_3_4, OPENSSL_3_5, lacking

DEBIAN_12 = frozenset([OPENSSL_3_4, OPENSSL_3_5, ESTSERVER]) | OLD_PACKAGES


def test_only_debian_12_lacks_a_judge() -> None:
    release = platform.freedesktop_os_release()
    expected = DEBIAN_12 if release.get("VERSION_ID") == "12" else frozenset()
    assert lacking() == expected or release["ID"] != "debian"


def test_openssl_judges_ml_dsa_where_it_can() -> None:
    assert testing._openssl_has_mldsa() == (OPENSSL_3_5 not in lacking())
