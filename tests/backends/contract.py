"""What every backend's keys must do. A backend's test file inherits these classes and says how to get a key.

    class TestFileKey(KeyContract):
        KINDS = ("P-256", "RSA-2048")

        @pytest.fixture
        def make_key(self, tmp_path):
            def make(kind):                      # opens a new key at each call; the contract closes it
                ...
                return open_key(uri), spki_der
            return make

    class TestFilePin(PinContract):
        @pytest.fixture
        def locked_key(self, tmp_path):
            return LockedKey(lambda pin: open_key(uri, pin), pin="right", wrong_pin="wrong")

Test files import it with `from backends.contract import KeyContract, PinContract`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner.errors import PinRequiredError, SigningKeyError, WrongPinError
from hwsigner.key import ECDSA, MLDSA, RSA, Algorithm, HashName, Key
from hwsigner.pins import PinRequest, PinSource

HASHES: tuple[HashName, ...] = ("sha256", "sha384", "sha512")
MESSAGES = {"empty": b"", "short": b"AWS4-X509", "long": bytes(range(256)) * 4096}
MakeKey = Callable[[str], tuple[Key, bytes]]
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class Opened:
    """An opened key, and the DER SubjectPublicKeyInfo that the test got from elsewhere."""

    key: Key
    public_key: bytes
    folder: Path

    def verify(self, signature: bytes, message: bytes, hash: HashName = "sha256") -> bool:
        """Return whether openssl accepts the signature."""
        return openssl_verifies(self.folder, self.public_key, signature, message, hash)


def algorithm_of(public_key: bytes) -> Algorithm:
    """Return the SigV4-X509 algorithm of a DER SubjectPublicKeyInfo."""
    loaded = load_der_public_key(public_key)
    if isinstance(loaded, rsa.RSAPublicKey):
        return RSA
    return ECDSA if isinstance(loaded, ec.EllipticCurvePublicKey) else MLDSA


def openssl_verifies(folder: Path, public_key: bytes, signature: bytes, message: bytes, hash: HashName) -> bool:
    """Return whether the openssl program accepts a signature under a DER SubjectPublicKeyInfo."""
    if algorithm_of(public_key) == MLDSA and not message:
        return _cryptography_verifies(public_key, signature, message)  # `openssl pkeyutl` can't read an empty file.
    files = {"public": public_key, "signature": signature, "message": message}
    for name, content in files.items():
        (folder / f"verified-{name}").write_bytes(content)
    public, signed, text = (str(folder / f"verified-{name}") for name in files)
    if algorithm_of(public_key) == MLDSA:
        command = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-sigfile", signed, "-in", text]
    else:
        command = ["dgst", f"-{hash}", "-verify", public, "-signature", signed, text]
    return subprocess.run(["openssl", *command], env=ENVIRONMENT, capture_output=True).returncode == 0


def _cryptography_verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    loaded: Any = load_der_public_key(public_key)
    try:
        loaded.verify(signature, message)
    except InvalidSignature:
        return False
    return True


class KeyContract:
    """Every key of every kind that a backend serves. Subclasses set KINDS and define the fixture `make_key`."""

    KINDS: ClassVar[tuple[str, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test that opens a key once for each kind."""
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.KINDS)

    @pytest.fixture
    def opened(self, kind: str, make_key: MakeKey, tmp_path: Path) -> Iterator[Opened]:
        key, public_key = make_key(kind)
        with key:
            yield Opened(key, public_key, tmp_path)

    def test_algorithm_is_that_of_the_public_key(self, opened: Opened) -> None:
        assert opened.key.algorithm == algorithm_of(opened.public_key)

    def test_public_key_is_the_expected_spki(self, opened: Opened) -> None:
        assert opened.key.public_key() == opened.public_key

    @pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
    def test_openssl_verifies_messages_of_any_length(self, opened: Opened, message: bytes) -> None:
        assert opened.verify(opened.key.sign(message), message)

    def test_openssl_verifies_each_hash(self, opened: Opened) -> None:
        for name in HASHES:
            assert opened.verify(opened.key.sign(b"message", hash=name), b"message", name), name

    def test_a_signature_is_of_its_message_alone(self, opened: Opened) -> None:
        assert not opened.verify(opened.key.sign(b"message"), b"massage")

    def test_signature_has_the_form_that_the_service_wants(self, opened: Opened) -> None:
        signatures = [opened.key.sign(b"message %d" % number) for number in range(8)]
        if opened.key.algorithm == ECDSA:
            for signature in signatures:
                assert encode_dss_signature(*decode_dss_signature(signature)) == signature
        if opened.key.algorithm == RSA:
            public: Any = load_der_public_key(opened.public_key)
            assert {len(signature) for signature in signatures} == {public.key_size // 8}

    def test_threads_share_a_key(self, opened: Opened) -> None:
        messages = [b"message %d" % number for number in range(16)]
        with ThreadPoolExecutor(4) as pool:
            signatures = list(pool.map(opened.key.sign, messages))
        for message, signature in list(zip(messages, signatures, strict=True))[::5]:
            assert opened.verify(signature, message)

    def test_two_opened_keys_do_not_share_their_end(self, opened: Opened, make_key: MakeKey, kind: str) -> None:
        other, _ = make_key(kind)
        other.close()
        assert opened.verify(opened.key.sign(b"message"), b"message")

    def test_closing_twice_is_allowed(self, opened: Opened) -> None:
        opened.key.close()
        opened.key.close()

    def test_a_closed_key_does_not_sign(self, opened: Opened) -> None:
        opened.key.close()
        with pytest.raises(SigningKeyError, match="closed"):
            opened.key.sign(b"message")


@dataclass(frozen=True)
class LockedKey:
    """A key behind a PIN: `open` takes whatever `hwsigner.key.open_key` takes for a PIN."""

    open: Callable[[Any], Key]
    pin: str
    wrong_pin: str = "not-the-pin-4711"


class PinContract:
    """Every backend whose keys have PINs. Subclasses define the fixture `locked_key`, which returns a LockedKey."""

    def test_the_right_pin_opens(self, locked_key: LockedKey) -> None:
        with locked_key.open(locked_key.pin) as key:
            assert key.sign(b"message")

    def test_a_wrong_pin_is_tried_once_and_named_as_such(self, locked_key: LockedKey) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return locked_key.wrong_pin

        with pytest.raises(WrongPinError) as caught:
            locked_key.open(ask)
        assert len(asked) == 1
        assert asked[0].kind
        assert asked[0].subject
        assert asked[0].subject in caught.value.message

    def test_no_pin_anywhere_says_where_one_may_come_from(self, locked_key: LockedKey) -> None:
        with pytest.raises(PinRequiredError, match="pin-source=file:"):
            locked_key.open(None)

    def test_no_pin_is_printed(self, locked_key: LockedKey) -> None:
        with locked_key.open(locked_key.pin) as key:
            assert locked_key.pin not in repr(key)
        with pytest.raises(WrongPinError) as caught:
            locked_key.open(locked_key.wrong_pin)
        error: BaseException | None = caught.value
        while error is not None:
            assert locked_key.wrong_pin not in f"{error!r} {error}"
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def test_a_right_pin_works_after_a_wrong_one(self, locked_key: LockedKey) -> None:
        with pytest.raises(WrongPinError):
            locked_key.open(locked_key.wrong_pin)
        with locked_key.open(lambda request: locked_key.pin) as key:
            assert key.sign(b"message")

    def test_a_wrong_answer_is_not_sent_again(self, locked_key: LockedKey) -> None:
        answers = [locked_key.wrong_pin, locked_key.pin]
        pins = PinSource(ask=lambda request: answers.pop(0))
        with pytest.raises(WrongPinError):
            locked_key.open(pins)
        with locked_key.open(pins) as key:
            assert key.sign(b"message")
        assert answers == []
