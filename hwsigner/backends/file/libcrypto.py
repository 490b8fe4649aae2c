"""Keys that cryptography does not load, through the system's libcrypto (OpenSSL 3.0 or later; ML-DSA needs 3.5).

cryptography 50 loads ML-DSA keys only from a PKCS #8 with the seed alone. OpenSSL's default has the expanded key too.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_ulong, c_void_p
from typing import Any

from hwsigner._system.places import libcrypto_names
from hwsigner.errors import SigningKeyError, UnsupportedKeyError
from hwsigner.key import SUPPORTED_KEYS

_FIRST_WITH_MLDSA = (3, 5)
_NO_CIPHER = 0x0308010C  # digital envelope routines: unsupported
_INVALID_KEY = 0x1C80009E  # Provider routines: invalid key
_UNKNOWN_KIND = 0x03000076  # digital envelope routines: unsupported private key algorithm
_CONVERT = "openssl pkey -provparam ml-dsa.output_formats=seed-only -in OLD -out NEW"
_BYTES_OUT = POINTER(POINTER(c_ubyte))
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "OpenSSL_version_num": (c_ulong, []),
    "ERR_clear_error": (None, []),
    "ERR_get_error": (c_ulong, []),
    "BIO_new_mem_buf": (c_void_p, [c_char_p, c_int]),
    "BIO_free": (c_int, [c_void_p]),
    "PEM_read_bio_PrivateKey": (c_void_p, [c_void_p, c_void_p, c_void_p, c_char_p]),
    "EVP_PKEY_free": (None, [c_void_p]),
    "EVP_PKEY_get0_type_name": (c_char_p, [c_void_p]),
    "i2d_PUBKEY": (c_int, [c_void_p, _BYTES_OUT]),
    "i2d_PrivateKey": (c_int, [c_void_p, _BYTES_OUT]),
    "EVP_MD_CTX_new": (c_void_p, []),
    "EVP_MD_CTX_free": (None, [c_void_p]),
    "EVP_DigestSignInit": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]),
    "EVP_DigestSign": (c_int, [c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_size_t]),
    "d2i_PKCS12_bio": (c_void_p, [c_void_p, c_void_p]),
    "PKCS12_parse": (c_int, [c_void_p, c_char_p, POINTER(c_void_p), POINTER(c_void_p), POINTER(c_void_p)]),
    "PKCS12_free": (None, [c_void_p]),
    "i2d_X509": (c_int, [c_void_p, _BYTES_OUT]),
    "X509_free": (None, [c_void_p]),
    "OPENSSL_sk_num": (c_int, [c_void_p]),
    "OPENSSL_sk_value": (c_void_p, [c_void_p, c_int]),
    "OPENSSL_sk_free": (None, [c_void_p]),
}


class EvpKey:
    """A private key in libcrypto's memory, freed with the last reference to it. Thread-safe."""

    def __init__(self, lib: ctypes.CDLL, pointer: int) -> None:
        self._lib = lib
        self._pointer = pointer

    def __del__(self) -> None:
        self._lib.EVP_PKEY_free(self._pointer)

    @property
    def kind(self) -> str:
        """The type of key, as libcrypto names it: `ML-DSA-44`, `RSA`."""
        name: bytes = self._lib.EVP_PKEY_get0_type_name(self._pointer) or b"unknown"
        return name.decode()

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo."""
        return _to_der(self._lib.i2d_PUBKEY, self._pointer)

    def private_der(self) -> bytes:
        """Return the private key: PKCS #1 for RSA (RFC 8017, A.1.2), SEC1 for EC (RFC 5915), otherwise PKCS #8."""
        return _to_der(self._lib.i2d_PrivateKey, self._pointer)

    def sign(self, message: bytes) -> bytes:
        """Sign with ML-DSA, in its pure form with an empty context (FIPS 204, 5.2)."""
        context = self._lib.EVP_MD_CTX_new()
        size = c_size_t()
        arguments = (bytes(memoryview(message)), len(message))
        try:
            if self._lib.EVP_DigestSignInit(context, None, None, None, self._pointer) == 1:
                self._lib.EVP_DigestSign(context, None, byref(size), *arguments)
                signature = ctypes.create_string_buffer(size.value)
                if self._lib.EVP_DigestSign(context, signature, byref(size), *arguments) == 1:
                    return signature.raw[: size.value]
        finally:
            self._lib.EVP_MD_CTX_free(context)
            self._lib.ERR_clear_error()
        raise SigningKeyError(f"libcrypto can't sign with this {self.kind} key", "Check if the file is damaged")


def load_key(name: str, pem: bytes, passphrase: bytes) -> EvpKey | None:
    """Load one PEM private key; None if it can't be read or the passphrase is wrong, which is empty for a plain key.

    Without libcrypto, or if it lacks the kind of key or the cipher, that is an UnsupportedKeyError.
    """
    lib = _library()
    bio = lib.BIO_new_mem_buf(pem, len(pem))
    # With a NULL passphrase, libcrypto would ask for it at the terminal.
    pointer = lib.PEM_read_bio_PrivateKey(bio, None, None, passphrase)
    lib.BIO_free(bio)
    key = EvpKey(lib, pointer) if pointer else None
    _take_errors(lib, name, failed=key is None)
    return key


def load_pkcs12(name: str, data: bytes, passphrase: bytes) -> tuple[EvpKey | None, list[bytes]] | None:
    """Load a PKCS #12 file's key, and its certificates as DER; None as for `load_key`, which has the errors."""
    lib = _library()
    bio = lib.BIO_new_mem_buf(data, len(data))
    bundle = lib.d2i_PKCS12_bio(bio, None)
    key, leaf, others = c_void_p(), c_void_p(), c_void_p()
    parsed = lib.PKCS12_parse(bundle, passphrase, byref(key), byref(leaf), byref(others)) if bundle else 0
    lib.PKCS12_free(bundle)
    lib.BIO_free(bio)
    _take_errors(lib, name, failed=parsed != 1)
    if parsed != 1:
        return None
    certificates = [leaf.value] if leaf.value else []
    certificates += [lib.OPENSSL_sk_value(others, i) for i in range(lib.OPENSSL_sk_num(others))]
    found = [_to_der(lib.i2d_X509, certificate) for certificate in certificates]
    for certificate in certificates:
        lib.X509_free(certificate)
    lib.OPENSSL_sk_free(others)
    return EvpKey(lib, key.value) if key.value else None, found


def _take_errors(lib: ctypes.CDLL, name: str, *, failed: bool) -> None:
    """Empty libcrypto's error queue, and raise an error if no passphrase would help."""
    errors = set(iter(lib.ERR_get_error, 0))
    if failed and _INVALID_KEY in errors:  # A seed and an expanded key of two ML-DSA keys (RFC 9881, 8), for example.
        problem = f"the private key in {name} is damaged: its parts are not of one key"
        raise UnsupportedKeyError(problem, "Restore the file from a copy, or make another key")
    if failed and _UNKNOWN_KIND in errors:
        raise _unknown_kind(name, _version(lib))
    if failed and _NO_CIPHER in errors:
        raise UnsupportedKeyError(
            f"{name} is encrypted with a cipher that is not supported",
            "Convert a copy: openssl pkcs12 (or pkey) -provider legacy -provider default -in OLD -out NEW",
        )


def _unknown_kind(name: str, version: tuple[int, int]) -> UnsupportedKeyError:
    hint = f"SigV4-X509 has {SUPPORTED_KEYS}"
    if version < _FIRST_WITH_MLDSA:
        hint = f"If it is ML-DSA, use OpenSSL 3.5 or later, or convert a copy where it is installed: {_CONVERT}"
    what = f"damaged, or of a kind that OpenSSL {version[0]}.{version[1]} lacks"
    return UnsupportedKeyError(f"the private key in {name} is {what}", hint)


def _version(lib: ctypes.CDLL) -> tuple[int, int]:
    """Return the major and minor version."""
    number: int = lib.OpenSSL_version_num()
    return number >> 28, number >> 20 & 0xFF


def _to_der(encode: Callable[[int | None, Any], int], pointer: int | None) -> bytes:
    """Call one of libcrypto's i2d functions, for the length and then for the bytes."""
    size = encode(pointer, None) if pointer else 0
    if size <= 0:
        return b""
    buffer = (c_ubyte * size)()
    encode(pointer, byref(ctypes.cast(buffer, POINTER(c_ubyte))))
    return bytes(buffer)


@functools.cache
def _library() -> ctypes.CDLL:
    lib = _first_library()
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _first_library() -> ctypes.CDLL:
    for name in libcrypto_names():
        with suppress(OSError):
            return ctypes.CDLL(name)
    raise UnsupportedKeyError(
        # Of 256 wrong passphrases, one leaves something that looks like a key in such a form.
        "the private key may be in a form that needs the libcrypto of OpenSSL 3, or for ML-DSA of 3.5, which is not "
        "installed",
        "Check its passphrase, if it has one; if that is right, install libcrypto, or convert a copy where OpenSSL 3.5 "
        f"is installed: {_CONVERT}",
    )
