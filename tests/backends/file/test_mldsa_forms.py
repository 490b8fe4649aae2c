"""ML-DSA keys in PKCS #8 as no program should write them (RFC 9881, 6 and 8), plain and encrypted."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import format_exception

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwsigner._pins import sources as pin_sources
from hwsigner.backends.pkcs11.der import encode
from hwsigner.errors import UnsupportedKeyError, WrongPinError
from hwsigner.key import open_key
from judges import needs_openssl_3_5

pytestmark = needs_openssl_3_5

PASSPHRASE = "correct horse"
SEED = bytes(range(100, 132))
KEY = mldsa.MLDSA44PrivateKey.from_seed_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
NOT_ONE_KEY, UNREADABLE = "its parts are not of one key", "damaged, or of a kind that OpenSSL"
ML_DSA_44, ML_DSA_65, ML_DSA_87 = 0x11, 0x12, 0x13


@pytest.fixture(autouse=True)
def forget_pins() -> Iterator[None]:
    yield
    pin_sources.forget()


def pkcs8(private: bytes, kind: int = ML_DSA_44, parameters: bytes = b"") -> bytes:
    algorithm = encode(0x30, bytes.fromhex(f"06096086480165030403{kind:02x}") + parameters)
    return encode(0x30, b"\2\1\0" + algorithm + encode(0x04, private))


def seed(value: bytes) -> bytes:
    return encode(0x80, value)


def expanded(value: bytes) -> bytes:
    return encode(0x04, value)


def both(first: bytes, second: bytes) -> bytes:
    return encode(0x30, encode(0x04, first) + encode(0x04, second))


def flipped(value: bytes, place: int) -> bytes:
    return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]


def encrypted(der: bytes) -> bytes:
    """Return PKCS #8 as openssl encrypts it, which would refuse to do so with a wrong key: PBES2, AES-256-CBC."""
    salt, vector = bytes(16), bytes(16)
    key = PBKDF2HMAC(SHA256(), 32, salt, 1000).derive(PASSPHRASE.encode())
    padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    data = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    prf = encode(0x30, bytes.fromhex("06082a864886f70d02090500"))
    derived = encode(0x30, encode(0x04, salt) + b"\2\2\3\xe8" + prf)
    kdf = encode(0x30, bytes.fromhex("06092a864886f70d01050c") + derived)
    cipher = encode(0x30, bytes.fromhex("060960864801650304012a") + encode(0x04, vector))
    scheme = encode(0x30, bytes.fromhex("06092a864886f70d01050d") + encode(0x30, kdf + cipher))
    return encode(0x30, scheme + encode(0x04, data))


@pytest.fixture(scope="module")
def private() -> bytes:
    """The expanded key, by openssl."""
    command = ["openssl", "pkey", "-inform", "DER", "-outform", "DER", "-provparam", "ml-dsa.output_formats=bare-priv"]
    return subprocess.run(command, input=pkcs8(seed(SEED)), capture_output=True, check=True).stdout[-2560:]


@pytest.fixture(params=["plain", "encrypted"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written(folder: Path, der: bytes, form: str) -> str:
    path = folder / "key.pem"
    label, data = ("ENCRYPTED PRIVATE KEY", encrypted(der)) if form == "encrypted" else ("PRIVATE KEY", der)
    path.touch(0o600)
    path.write_bytes(
        f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(data) + f"-----END {label}-----\n".encode()
    )
    return str(path)


def test_each_form_of_rfc_9881_is_the_same_key(tmp_path: Path, private: bytes, form: str) -> None:
    for one in (seed(SEED), expanded(private), both(SEED, private)):
        with open_key(written(tmp_path, pkcs8(one), form), PASSPHRASE) as key:
            assert key.public_key() == PUBLIC
            KEY.public_key().verify(key.sign(b"message"), b"message")
        if form == "encrypted":
            with pytest.raises(WrongPinError):
                open_key(written(tmp_path, pkcs8(one), form), "wrong horse")


CASES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "the seed is another key's": (NOT_ONE_KEY, lambda private: pkcs8(both(bytes(32), private))),
    "a bit of the seed is flipped": (NOT_ONE_KEY, lambda private: pkcs8(both(flipped(SEED, 5), private))),
    "both, and the expanded key's tr is not its own": (
        NOT_ONE_KEY,
        lambda private: pkcs8(both(SEED, flipped(private, 70))),
    ),
    "both, and the expanded key's K is not its own": (
        NOT_ONE_KEY,
        lambda private: pkcs8(both(SEED, flipped(private, 40))),
    ),
    "tr is not that of the public key": (NOT_ONE_KEY, lambda private: pkcs8(expanded(flipped(private, 70)))),
    "t0 is not that of s1 and s2": (NOT_ONE_KEY, lambda private: pkcs8(expanded(flipped(private, 2555)))),
    "rho is another one": (NOT_ONE_KEY, lambda private: pkcs8(expanded(flipped(private, 0)))),
    "s1 is out of range": (
        "damaged",
        lambda private: pkcs8(expanded(private[:128] + bytes([255] * 96) + private[224:])),
    ),
    "the seed is short": (UNREADABLE, lambda _: pkcs8(seed(SEED[:-1]))),
    "the seed is long": (UNREADABLE, lambda _: pkcs8(seed(SEED + b"\0"))),
    "the seed is empty": (UNREADABLE, lambda _: pkcs8(seed(b""))),
    "the expanded key is short": (UNREADABLE, lambda private: pkcs8(expanded(private[:-1]))),
    "the expanded key is long": (UNREADABLE, lambda private: pkcs8(expanded(private + b"\0"))),
    "both, and the seed is short": (UNREADABLE, lambda private: pkcs8(both(SEED[:-1], private))),
    "both, and the expanded key is short": (UNREADABLE, lambda private: pkcs8(both(SEED, private[:-1]))),
    "both, in the other order": (UNREADABLE, lambda private: pkcs8(both(private, SEED))),
    "both, and the seed alone is there": (UNREADABLE, lambda _: pkcs8(encode(0x30, encode(0x04, SEED)))),
    "the expanded key is that of another parameter set": (
        UNREADABLE,
        lambda private: pkcs8(expanded(private), ML_DSA_65),
    ),
    "both are those of another parameter set": (
        UNREADABLE,
        lambda private: pkcs8(both(SEED, private), ML_DSA_87),
    ),
    "the algorithm has parameters": (UNREADABLE, lambda _: pkcs8(seed(SEED), parameters=b"\5\0")),
    "nothing is there": (UNREADABLE, lambda _: pkcs8(b"")),
}


@pytest.mark.parametrize("case", CASES)
def test_key_is_refused_and_nothing_of_it_is_shown_when(tmp_path: Path, private: bytes, form: str, case: str) -> None:
    words, make = CASES[case]
    path = written(tmp_path, make(private), form)
    with pytest.raises(UnsupportedKeyError, match=words) as caught:
        open_key(path, PASSPHRASE)
    shown = "".join(format_exception(caught.value))
    assert path in caught.value.message
    assert caught.value.hint
    for secret in (SEED, private[200:216], PASSPHRASE.encode()):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
