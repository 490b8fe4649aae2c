"""`native/module.c`: the C twin of `hwsigner.sigv4.reference`, where each function is described."""

from collections.abc import Iterable

_Text = bytes | str
_Pairs = Iterable[tuple[_Text, _Text]]

OPENSSL_VERSION: str
"""libcrypto's own name and version, `OpenSSL 3.5.9 29 Sep 2026`."""
LIBCRYPTO: str
"""The path of the libcrypto in use, or an empty string if the C library can't tell."""

def request_to_sign(
    method: _Text,
    target: _Text,
    headers: _Pairs,
    payload: _Text,
    context: tuple[_Text, _Text, _Text],
    s3: bool = False,
    /,
) -> tuple[bytes, bytes]: ...
def sign_hmac(
    method: _Text,
    target: _Text,
    headers: _Pairs,
    payload: _Text,
    context: tuple[_Text, _Text, _Text],
    s3: bool,
    key: _Text,
    /,
) -> tuple[bytes, bytes]: ...
