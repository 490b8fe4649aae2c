"""PKCS #7 in the answers of EST servers."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from hypothesis import example, given
from hypothesis import strategies as st

import certs
from hwsigner.enrolment.issuers.est import read_pkcs7
from hwsigner.errors import CertificateError

WHOLE = serialize_certificates([certs.make_ca().certificate], Encoding.DER)


def test_certificate_of_a_version_that_there_is_not_is_an_error() -> None:
    version = WHOLE.index(b"\xa0\x03\x02\x01\x02")  # Version 3, as 2.
    with pytest.raises(CertificateError, match="not PKCS #7"):
        read_pkcs7(WHOLE[: version + 4] + b"\x07" + WHOLE[version + 5 :], "the answer")


# cryptography warns when it reads as BER, which CMS allows, what is not DER.
@pytest.mark.filterwarnings("ignore:PKCS#7 certificates could not be parsed as DER")
@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
@example(25, 128)
def test_no_changed_byte_is_a_fault_of_our_own(place: int, byte: int) -> None:
    with suppress(CertificateError):
        read_pkcs7(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :], "the answer")
