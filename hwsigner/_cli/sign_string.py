"""`hwsigner sign-string`: sign a fixed string, to test a key without AWS."""

from __future__ import annotations

import hashlib
import sys

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config import settings
from hwsigner._config.flags import IDENTITY, PROFILE, SESSION, Flag, one_of
from hwsigner.errors import KeyMismatchError, UsageError
from hwsigner.key import HashName, Key, open_key

HELP = "sign a fixed test string"

_PREFIX = b"AWS Roles Anywhere Credential Helper Signing Test"
_VERSION = b"1"
_HASHES: dict[str, HashName] = {"SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}
_FLAGS = (
    Flag("digest", "hash: SHA256, SHA384 or SHA512", "NAME", one_of(*_HASHES), "SHA256"),
    Flag("format", "json (quoted hex), text (hex) or bin (raw bytes)", "NAME", one_of("json", "text", "bin"), "json"),
)


def add_arguments(parser: Parser) -> None:
    """Add the flags of every command, also those without effect here."""
    parser.add_flags(_FLAGS, IDENTITY, SESSION, PROFILE)


def run(arguments: Arguments) -> int:
    """Print the signature, without a newline."""
    signature = _signature(arguments)
    if arguments.format == "bin":
        sys.stdout.buffer.write(signature)
    else:
        quote = '"' if arguments.format == "json" else ""
        sys.stdout.write(f"{quote}{signature.hex()}{quote}")
    return 0


def fixed_string(public_key: bytes) -> bytes:
    """Return the string to sign for a public key, given as an X9.62 point or RSAPublicKey DER."""
    return _PREFIX + _VERSION + hashlib.sha256(b"IAM RA" + public_key).digest()


def _signature(arguments: Arguments) -> bytes:
    digest = _HASHES[arguments.digest]
    if arguments.settings.certificate or arguments.settings.cert_selector:
        from hwsigner._identity import open_identity
        from hwsigner.key.public_key import plain_public_key

        with open_identity(settings.identity_source(arguments.settings, check=False)) as identity:
            return identity.sign(fixed_string(plain_public_key(identity.chain.leaf.public_key())), digest)
    if not arguments.settings.private_key:
        raise UsageError("no key was given", "Add --private-key, or --certificate if the key is in the same place")
    uri = settings.key_uri(arguments.settings, arguments.settings.private_key)
    with open_key(uri, settings.pin_source(arguments.settings, uri), allow_modules=True) as key:
        return _verified_signature(key, digest)


def _verified_signature(key: Key, digest: HashName) -> bytes:
    from hwsigner.key.public_key import plain_public_key, verify

    public_key = key.public_key()
    if public_key is None:
        raise KeyMismatchError("the token has no public key for this key", "Add --certificate with its certificate")
    message = fixed_string(plain_public_key(public_key))
    signature = key.sign(message, digest)
    if not verify(public_key, message, signature=signature, hash=digest):
        raise KeyMismatchError("the signature does not match the key's public key", "Check if the key is damaged")
    return signature
