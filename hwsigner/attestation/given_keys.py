"""Endorsement keys that the verifier's administrator gives, in the forms in which clouds and tools print them.

| From | Form |
|---|---|
| `aws ec2 get-instance-tpm-ek-pub --key-format der` | JSON whose `KeyValue` is DER in base64, or that value alone |
| `gcloud compute instances get-shielded-identity` | YAML or JSON whose `encryptionKey` has `ekPub`, a PEM; or that |
| `hwsigner attest --ek` | the SHA-256 in hexadecimal, or JSON whose `publicKey` is a PEM |
| openssl, tpm2-tools | PEM or DER |
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from codecs import BOM_UTF8

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner.attestation.chain import in_usual_form
from hwsigner.attestation.documents import MAX_BYTES
from hwsigner.attestation.structures import CURVES, RSA_BITS
from hwsigner.errors import UsageError

_HASH = re.compile(r"[0-9A-Fa-f]{64}")
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----")
# `gcloud` without --format. Its signing keys sign, so they are not endorsement keys.
_YAML = re.compile(r"^encryptionKey:[ \t]*\r?\n((?:[ \t]+.*\r?\n?)+)", re.MULTILINE)
_SIGNING_KEY = re.compile(r"^(?:signingKey|eccP256SigningKey):", re.MULTILINE)
_HINT = "Give the public key in PEM, DER or base64, or what the cloud's command or hwsigner attest --ek printed"


def read_given_key(data: bytes, name: str) -> str:
    """Return the SHA-256 of an endorsement key (DER SubjectPublicKeyInfo) in hexadecimal.

    More than one key, more than 64 KiB, and any other key than RSA of 2,048 to 4,096 bits or one on P-256, P-384 or
    P-521 are UsageErrors.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name} has more than {MAX_BYTES} bytes", _HINT)
    data = data.removeprefix(BOM_UTF8)
    text = data.decode("ascii", "replace").strip()
    if _HASH.fullmatch(text):
        return text.lower()
    public_key = in_usual_form(_der(data, text, name))
    if not public_key:
        raise UsageError(f"{name} has no public key that can be read", _HINT)
    key = load_der_public_key(public_key)
    is_usual = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, tuple(CURVES.values()))
    if not is_usual and not (isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS):
        raise UsageError(f"the key in {name} is of a kind or size that no endorsement key has", _HINT)
    return hashlib.sha256(public_key).hexdigest()


def _der(data: bytes, text: str, name: str) -> bytes:
    if text.startswith("{"):
        text = _of_json(text, name)
    elif section := _YAML.search(text):
        text = section[1]
    elif _SIGNING_KEY.search(text):
        raise UsageError(f"{name} has a signing key, which is not an endorsement key", _HINT)
    found = _PEM.findall(text)
    if len(found) > 1:
        raise UsageError(f"{name} has {len(found)} public keys", "Leave only the endorsement key's in it")
    try:
        return binascii.a2b_base64("".join((found[0] if found else text).split()), strict_mode=True)
    except ValueError:
        return data


def _of_json(text: str, name: str) -> str:
    """Return the key in a JSON object, in PEM or base64."""
    try:
        members = json.loads(text)
        if members.get("KeyFormat", "der") != "der":
            given = str(members["KeyFormat"])[:20]
            raise UsageError(f"{name} has the key in the format {given}", "Add --key-format der to aws ec2")
        for one in (members.get("KeyValue"), members.get("encryptionKey", {}).get("ekPub"), members.get("publicKey")):
            if isinstance(one, str):
                return one
    except (AttributeError, RecursionError, ValueError):
        pass
    raise UsageError(f"{name} is JSON without an endorsement key", _HINT)
