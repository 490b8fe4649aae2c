"""Endorsement keys in the forms in which clouds and tools print them."""

from __future__ import annotations

import base64
import hashlib
import json
import textwrap
from codecs import BOM_UTF8

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hwsigner.attestation.documents import MAX_BYTES
from hwsigner.attestation.given_keys import read_given_key
from hwsigner.errors import UsageError

RSA = rsa.generate_private_key(65537, 2048).public_key()
EC = {curve.name: ec.generate_private_key(curve).public_key() for curve in (ec.SECP256R1(), ec.SECP384R1())}


def der(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def aws(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, form: str = "der") -> str:
    value = base64.b64encode(der(key)).decode()
    given = {"InstanceId": "i-1234567890abcdef0", "KeyType": "rsa-2048", "KeyFormat": form, "KeyValue": value}
    return json.dumps(given, indent=4)


def section(name: str, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return f"{name}:\n  ekPub: |\n{textwrap.indent(pem(key), '    ')}"


def gcloud_yaml(key: rsa.RSAPublicKey) -> str:
    """Return what `gcloud compute instances get-shielded-identity` prints by default."""
    other = EC["secp256r1"]
    named = (("eccP256EncryptionKey", other), ("encryptionKey", key), ("signingKey", other))
    parts = [section(name, one) for name, one in named]
    return "".join([*parts[:2], "kind: compute#shieldedInstanceIdentity\n", parts[2]])


def gcloud_json(key: rsa.RSAPublicKey) -> str:
    other = {"ekCert": "", "ekPub": pem(EC["secp256r1"])}
    return json.dumps({"eccP256EncryptionKey": other, "encryptionKey": {"ekPub": pem(key)}, "signingKey": other})


FORMS = {
    "pem": pem(RSA).encode(),
    "pem_with_text_around": f"The key:\r\n\r\n{pem(RSA)}\r\nend\r\n".encode(),
    "der": der(RSA),
    "pem_with_byte_order_mark": BOM_UTF8 + pem(RSA).encode(),
    "json_with_byte_order_mark": BOM_UTF8 + aws(RSA).encode(),
    "base64": base64.b64encode(der(RSA)) + b"\n",
    "base64_in_lines": base64.encodebytes(der(RSA)),
    "aws": aws(RSA).encode(),
    "gcloud_yaml": gcloud_yaml(RSA).encode(),
    "gcloud_json": gcloud_json(RSA).encode(),
    "attest_ek_json": json.dumps({"endorsementKey": "0" * 64, "publicKey": pem(RSA)}).encode(),
    "attest_ek": hashlib.sha256(der(RSA)).hexdigest().upper().encode() + b"\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_key_is_read_in_each_form(form: str) -> None:
    assert read_given_key(FORMS[form], "ek") == hashlib.sha256(der(RSA)).hexdigest()


@pytest.mark.parametrize("curve", EC)
def test_keys_on_curves_are_read(curve: str) -> None:
    for data in (pem(EC[curve]), aws(EC[curve])):
        assert read_given_key(data.encode(), "ek") == hashlib.sha256(der(EC[curve])).hexdigest()


PRIVATE = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
SMALL = rsa.generate_private_key(65537, 1024).public_key()
# 6,000 bits; its factors do not matter.
LONG = rsa.RSAPublicNumbers(65537, 1 << 5999 | 1).public_key()


UNREADABLE, UNUSUAL = "ek has no public key that can be read", "the key in ek is of a kind or size"
NO_KEY = "ek is JSON without an endorsement key"
SIGNING = "ek has a signing key, which is not an endorsement key"
REFUSED = {
    "nothing": (b"", UNREADABLE),
    "garbage": (b"garbage", UNREADABLE),
    "private_key": (PRIVATE, UNREADABLE),
    "cut_short": (der(RSA)[:-1], UNREADABLE),
    "63_digits": (b"1" * 63, UNREADABLE),
    "broken_json": (b"{", NO_KEY),
    "empty_json": (b"{}", NO_KEY),
    "list": (b'{"encryptionKey": []}', NO_KEY),
    "number": (b'{"encryptionKey": {"ekPub": 1}}', NO_KEY),
    "deep": (b'{"a":' * 10_000, NO_KEY),
    "signing_key": (b'{"signingKey": {"ekPub": "x"}}', NO_KEY),
    "tpmt": (aws(RSA, "tpmt").encode(), "ek has the key in the format tpmt. Add --key-format der"),
    "long_format": (
        json.dumps({"KeyFormat": "x" * 9000, "KeyValue": "x"}).encode(),
        f"ek has the key in the format {'x' * 20}. Add --key-format der",
    ),
    "signing_key_in_yaml": (section("signingKey", RSA).encode(), SIGNING),
    "signing_key_on_a_curve_in_yaml": (section("eccP256SigningKey", EC["secp256r1"]).encode(), SIGNING),
    "too_long": (pem(RSA).encode() + b"#" * MAX_BYTES + pem(RSA).encode(), "ek has more than 65536 bytes"),
    "two": ((pem(RSA) * 2).encode(), "ek has 2 public keys"),
    "short_rsa": (der(SMALL), UNUSUAL),
    "long_rsa": (der(LONG), UNUSUAL),
    "ed25519": (der(ed25519.Ed25519PrivateKey.generate().public_key()), UNUSUAL),
}


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_refused(what: str) -> None:
    data, message = REFUSED[what]
    with pytest.raises(UsageError) as raised:
        read_given_key(data, "ek")
    assert str(raised.value).startswith(message)
