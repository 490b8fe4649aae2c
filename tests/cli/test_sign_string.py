"""sign-string: the bytes that it signs and its formats, with signatures verified by openssl."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import certs
from scene import Outcome, Scene

KEYS: dict[str, Any] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


def plain(public_key: Any) -> bytes:
    """Return a public key as an X9.62 point or RSAPublicKey DER, made by openssl."""
    form = (
        (Encoding.DER, PublicFormat.PKCS1)
        if isinstance(public_key, rsa.RSAPublicKey)
        else (Encoding.X962, PublicFormat.UncompressedPoint)
    )
    data: bytes = public_key.public_bytes(*form)
    return data


def verifies(folder: Path, public_key: Any, signature: bytes, digest: str) -> bool:
    message = (
        b"AWS Roles Anywhere Credential Helper Signing Test1" + hashlib.sha256(b"IAM RA" + plain(public_key)).digest()
    )
    (folder / "message").write_bytes(message)
    (folder / "signature").write_bytes(signature)
    (folder / "public").write_bytes(public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    command = ["openssl", "dgst", f"-{digest.lower()}", "-verify", "public", "-signature", "signature", "message"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("digest", ["SHA256", "SHA384", "SHA512"])
def test_signature_is_verified_by_openssl(scene: Scene, kind: str, digest: str) -> None:
    key = KEYS[kind]()
    path = certs.write_key(scene.folder / "k", key)
    outcome = scene.call("sign-string", "--private-key", path, "--digest", digest, "--format", "text")
    assert (outcome.status, outcome.err) == (0, "")
    assert verifies(scene.folder, key.public_key(), bytes.fromhex(outcome.out), digest)


def test_signature_is_printed_in_each_format(scene: Scene) -> None:
    key = KEYS["RSA"]()  # its signatures are the same each time
    path = str(certs.write_key(scene.folder / "k", key))
    text = scene.call("sign-string", "--private-key", path, "--format=text").out
    assert text == text.lower().strip()
    assert scene.call("sign-string", "--private-key", path).out == json.dumps(text)
    assert scene.call("sign-string", "--private-key", path, "--format", "json").out == json.dumps(text)


def test_key_must_match_the_certificate(scene: Scene) -> None:
    both = ("sign-string", "--certificate", scene.leaf, "--private-key")
    assert scene.call(*both, scene.key).status == 0
    other = certs.write_key(scene.folder / "k", KEYS["P-256"]())
    assert scene.call(*both, other).status == 3


def test_expired_certificate_is_accepted(scene: Scene) -> None:
    key = KEYS["P-256"]()
    leaf = scene.issue(key.public_key(), certs.Shape(begin=certs.ago(9), end=certs.ago(8)))
    path = certs.write_key(scene.folder / "k", key)
    assert scene.call("sign-string", "--certificate", leaf, "--private-key", path).status == 0


@pytest.mark.parametrize(
    "flags", [(), ("--private-key", "k", "--digest", "MD5"), ("--private-key", "k", "--format", "xml")]
)
def test_invalid_arguments_give_one_line_and_a_status(scene: Scene, flags: tuple[str, ...]) -> None:
    outcome: Outcome = scene.call("sign-string", *flags)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1


def test_bin_format_prints_raw_bytes(scene: Scene) -> None:
    key = KEYS["RSA"]()
    path = str(certs.write_key(scene.folder / "k", key))
    command = [sys.executable, "-m", "hwsigner", "sign-string", "--private-key", path, "--format=bin"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    assert raw.hex() == scene.call("sign-string", "--private-key", path, "--format=text").out
