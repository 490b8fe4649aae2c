"""The canonicalisation in use, and the name of its implementation. `hwsigner.sigv4.reference` defines what it does.

What every signature waits for, `request_to_sign` and `sign_hmac`, is in C where that could be built; single stages
are not.
"""

from __future__ import annotations

from hwsigner.sigv4.reference import (
    canonical_headers,
    canonical_path_s3,
    canonical_query,
    canonical_request,
    payload_hash,
    percent_decode,
    percent_encode,
    string_to_sign,
)

try:
    from hwsigner._native import request_to_sign, sign_hmac

    IMPLEMENTATION = "native"
except ImportError:  # No compiler where it was built, a Python without the limited API, or no libcrypto here.
    from hwsigner.sigv4.reference import request_to_sign, sign_hmac

    IMPLEMENTATION = "python"

__all__ = [
    "IMPLEMENTATION",
    "canonical_headers",
    "canonical_path_s3",
    "canonical_query",
    "canonical_request",
    "payload_hash",
    "percent_decode",
    "percent_encode",
    "request_to_sign",
    "sign_hmac",
    "string_to_sign",
]
