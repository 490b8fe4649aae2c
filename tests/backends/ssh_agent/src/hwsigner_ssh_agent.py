"""Keys in a running ssh-agent, for hwsigner. A complete backend in a package of its own.

    ssh-agent:                                  the certificate's key, or the only one
    ssh-agent:fingerprint=SHA256:…              the one that `ssh-add -l` shows so
    ssh-agent:comment=web?socket=/run/agent     another agent than that of SSH_AUTH_SOCK

RSA keys sign with SHA-256 and SHA-512, ECDSA keys on P-256 with SHA-256: an agent hashes by itself.
The protocol is draft-miller-ssh-agent; its numbers are big-endian, and its strings have their length in front.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from hwsigner import Algorithm, HashName, Key, KeyURI, PinSource
from hwsigner.backends import Backend
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    KeyNotFoundError,
    SigningKeyError,
    UnsupportedKeyError,
)

BACKEND = Backend(__name__, object_attributes=frozenset({"fingerprint", "comment"}))

_REQUEST_IDENTITIES, _IDENTITIES_ANSWER, _SIGN_REQUEST, _SIGN_RESPONSE = 11, 12, 13, 14
_FLAGS: dict[bytes, dict[HashName, int]] = {
    b"ssh-rsa": {"sha256": 2, "sha512": 4},
    b"ecdsa-sha2-nistp256": {"sha256": 0},
}
_MAX_ANSWER = 1 << 18
_MAX_MESSAGE = 1 << 17  # OpenSSH's agent takes requests of up to 256 KiB.
_SECONDS = 60.0  # The agent may ask its user.


class AgentKey(Key):
    """A key in an ssh-agent. Each signature has its own connection, so threads and forks share nothing."""

    def __init__(self, found: _Found, agent: str) -> None:
        self._found = found
        self._agent: str | None = agent

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the key's type."""
        return "AWS4-X509-RSA-SHA256" if self._found.kind == b"ssh-rsa" else "AWS4-X509-ECDSA-SHA256"

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo."""
        return self._found.public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message; see `Key.sign`."""
        if self._agent is None:
            raise SigningKeyError(f"key {self._found.fingerprint} is closed", "Open it again")
        flags = _FLAGS[self._found.kind].get(hash)
        if flags is None or len(message) > _MAX_MESSAGE:
            problem = f"an ssh-agent does not sign {len(message)} bytes with {hash} and key {self._found.fingerprint}"
            raise UnsupportedKeyError(problem, "Use SHA-256, and a message of 128 KiB at most")
        request = _string(self._found.blob) + _string(message) + struct.pack(">I", flags)
        kind, answer = _ask(self._agent, _SIGN_REQUEST, request)
        if kind != _SIGN_RESPONSE:
            hint = "Unlock the agent with ssh-add -X, or confirm the signature when it asks"
            raise SigningKeyError(f"the ssh-agent did not sign with key {self._found.fingerprint}", hint)
        _, signature = _strings(_strings(answer)[0])
        if self._found.kind == b"ssh-rsa":
            return signature
        r, s = _strings(signature)
        return encode_dss_signature(int.from_bytes(r), int.from_bytes(s))

    def close(self) -> None:
        """Forget the agent."""
        self._agent = None


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
    """Open the key that an `ssh-agent:` URI names.

    Args:
        uri: `fingerprint` or `comment`; the query's `socket`.
        pins: not used. An agent asks its user.
        public_key: the certificate's DER SubjectPublicKeyInfo, which chooses among several keys.
    """
    uri.require_known({"fingerprint", "comment"}, {"socket"})
    agent = uri.text("socket") or os.environ.get("SSH_AUTH_SOCK")
    if not agent:
        hint = "Start one, or name its socket: ssh-agent:?socket=/path"
        raise BackendUnavailableError("no ssh-agent is known: SSH_AUTH_SOCK is not set", hint)
    named = [found for found in _keys(agent) if found.is_named(uri)]
    usable = [found for found in named if found.kind in _FLAGS]
    matching = [found for found in usable if found.public_key == public_key] or usable
    if len(matching) == 1:
        return AgentKey(matching[0], agent)
    there = ", ".join(f"{found.fingerprint} ({found.comment})" for found in named)
    if matching:
        raise AmbiguousKeyError(f"{uri.name} names {len(matching)} keys of the ssh-agent: {there}", "Name one")
    if named:
        raise UnsupportedKeyError(f"{uri.name} names no RSA key and no ECDSA key on P-256: {there}", "Add such a key")
    raise KeyNotFoundError(f"the ssh-agent has no key {uri.name}", "See its keys with ssh-add -l")


class _Found(NamedTuple):
    """A key that an agent lists: its type, public key in both forms, and comment."""

    kind: bytes
    blob: bytes
    comment: str

    @property
    def fingerprint(self) -> str:
        digest = base64.b64encode(hashlib.sha256(self.blob).digest())
        return f"SHA256:{digest.decode().rstrip('=')}"

    @property
    def public_key(self) -> bytes:
        key = load_ssh_public_key(self.kind + b" " + base64.b64encode(self.blob))
        if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return b""

    def is_named(self, uri: KeyURI) -> bool:
        own = {"fingerprint": self.fingerprint, "comment": self.comment}
        return all(uri.text(name) == own[name] for name in uri.path)


def _keys(agent: str) -> list[_Found]:
    kind, answer = _ask(agent, _REQUEST_IDENTITIES, b"")
    if kind != _IDENTITIES_ANSWER:
        raise BackendUnavailableError(f"the ssh-agent at {agent} does not list its keys", "Is it an ssh-agent?")
    listed = _strings(answer[4:])  # A blob and a comment for each key.
    pairs = zip(listed[::2], listed[1::2], strict=True)
    return [_Found(_strings(blob)[0], blob, comment.decode("utf-8", "replace")) for blob, comment in pairs]


def _ask(agent: str, kind: int, content: bytes) -> tuple[int, bytes]:
    """Send a request and return the type and the content of the answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(agent)
            connection.sendall(_string(bytes([kind]) + content))
            with connection.makefile("rb") as answer:
                size = int.from_bytes(answer.read(4))
                found = answer.read(min(size, _MAX_ANSWER))
    except OSError as error:
        hint = "Check SSH_AUTH_SOCK, or the socket in the key URI"
        raise BackendUnavailableError(f"can't use the ssh-agent at {agent}: {error}", hint) from error
    if not found or len(found) != size:
        raise BackendUnavailableError(f"the ssh-agent at {agent} gave no whole answer", "Is it an ssh-agent?")
    return found[0], found[1:]


def _string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _strings(content: bytes) -> list[bytes]:
    """Return the strings in some content, as far as they are whole."""
    found = []
    while len(content) >= 4:
        end = 4 + int.from_bytes(content[:4])
        found.append(content[4:end])
        content = content[end:]
    return found
