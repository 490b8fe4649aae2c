"""The state of a challenge, sealed, so that the registrar keeps none: the client brings it back with the answer.

Sealed bytes are one byte of version (1), 8 bytes of key ID, 12 of nonce, and the ciphertext of ChaCha20-Poly1305 (RFC
8439). The version and the key ID are authenticated too. The plaintext is 8 bytes of end, in seconds since 1970, and the
state.

All registrars behind one address share the file of keys. The first key of two seals, and both open, so that challenges
from before a rotation are still answered.
"""

from __future__ import annotations

import re
import secrets
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hwsigner._system.files import edit_file
from hwsigner._system.reloading import read_file
from hwsigner.errors import ConfigError

# How long a challenge may be answered. No sealed state is accepted that would last longer than five minutes: together
# they leave the clocks of the registrars one minute to differ.
LIFE_SECONDS = 240
MOST_SECONDS = 300
_LABEL = b"hwsigner-registrar-1\0"
_VERSION = b"\1"
_ID_BYTES, _NONCE_BYTES, _KEY_BYTES = 8, 12, 32
_HEAD_BYTES = len(_VERSION) + _ID_BYTES + _NONCE_BYTES
_MOST_KEYS = 2
_LINE = re.compile(rf"([0-9a-f]{{{2 * _ID_BYTES}}}) ([0-9a-f]{{{2 * _KEY_BYTES}}})")
_MAKE = "Make it with hwsigner registrar rotate-keys --keys {}, as the registrar's user"
_HEADER = "# Sealing keys of hwsigner registrar, the newest first. Secret: change them with rotate-keys only.\n"


class SealError(Exception):
    """Bytes that none of the keys has sealed, or a challenge whose time is over."""


@dataclass(frozen=True)
class SealingKeys:
    """The keys that are valid now. The newest is first."""

    keys: tuple[tuple[bytes, bytes], ...] = field(repr=False)

    def seal(self, state: bytes, now: float) -> bytes:
        """Return a state, sealed for LIFE_SECONDS from `now` (seconds since 1970)."""
        identifier, key = self.keys[0]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = struct.pack(">Q", int(now) + LIFE_SECONDS) + state
        head = _VERSION + identifier
        return head + nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, _LABEL + head)

    def open(self, sealed: bytes, now: float) -> bytes:
        """Return a state. If it was not sealed with one of the keys, or is too old, this is a SealError."""
        head, nonce = sealed[: _HEAD_BYTES - _NONCE_BYTES], sealed[_HEAD_BYTES - _NONCE_BYTES : _HEAD_BYTES]
        key = dict(self.keys).get(head[len(_VERSION) :])
        if head[: len(_VERSION)] != _VERSION or key is None:
            raise SealError("the state was sealed with a key that is not valid here")
        try:
            plain = ChaCha20Poly1305(key).decrypt(nonce, sealed[_HEAD_BYTES:], _LABEL + head)
        except (InvalidTag, ValueError):  # A ValueError: the nonce is too short.
            raise SealError("the state was changed on its way") from None
        end = int.from_bytes(plain[:8])
        if not now <= end <= now + MOST_SECONDS:
            raise SealError("the challenge is too old")
        return plain[8:]


def read_keys(path: str) -> SealingKeys:
    """Read a file of keys: one or two lines of ID and key, in hexadecimal. Lines that start with # are comments."""
    return _parse(read_file(path, private=True, hint=_MAKE.format(path)), path)


def rotate_keys(path: str) -> SealingKeys:
    """Put a new key in front of the newest one, and remove the others. A new file gets mode 0600."""
    new = (secrets.token_bytes(_ID_BYTES), secrets.token_bytes(_KEY_BYTES))

    def edit(old: bytes) -> bytes:
        newest = read_keys(path).keys[:1] if old else ()
        lines = [f"{identifier.hex()} {key.hex()}\n" for identifier, key in (new, *newest)]
        return "".join([_HEADER, *lines]).encode()

    edit_file(path, edit)
    return read_keys(path)


def _parse(data: bytes, path: str) -> SealingKeys:
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    found = [_LINE.fullmatch(line) for line in lines if line and not line.startswith("#")]
    keys = [(bytes.fromhex(match[1]), bytes.fromhex(match[2])) for match in found if match]
    if not 1 <= len(keys) <= _MOST_KEYS or len(keys) != len(found) or len(dict(keys)) != len(keys):
        problem = f"{path} does not have one or two lines of key ID and key"
        raise ConfigError(problem, _MAKE.format(path))
    return SealingKeys(tuple(keys))
