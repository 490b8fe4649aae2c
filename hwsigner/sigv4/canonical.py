"""The implementation in use of the two functions that every signature needs, in C if it is there."""

from __future__ import annotations

import hashlib  # noqa: F401  Before the extension, which then uses the libcrypto of Python's hashlib, if it has one.

try:
    from hwsigner._native import request_to_sign, sign_hmac

    IMPLEMENTATION = "native"
except ImportError:  # There was no compiler, this Python has no limited API, or libcrypto is missing.
    from hwsigner.sigv4.reference import request_to_sign, sign_hmac

    IMPLEMENTATION = "python"

__all__ = ["IMPLEMENTATION", "request_to_sign", "sign_hmac"]


def describe_implementation() -> str:
    """Return the implementation in use and, in brackets, its file and libcrypto, or why it is not the native one."""
    try:
        from hwsigner._native import LIBCRYPTO, OPENSSL_VERSION, __file__
    except ImportError as error:
        return f"{IMPLEMENTATION} ({error})"
    if IMPLEMENTATION != "native":
        return f"{IMPLEMENTATION} ({__file__} is of another version)"
    return f"{IMPLEMENTATION} ({__file__}, {OPENSSL_VERSION} in {LIBCRYPTO})"
