"""Tests that every backend must pass, for pytest. A backend's test file inherits them and says how to get a key::

    from hwsigner import open_key
    from hwsigner.testing import KeyContract, LockedKey, PinContract

    class TestFileKey(KeyContract):
        KINDS = ("P-256", "RSA-2048")

        @pytest.fixture
        def make_key(self, tmp_path):
            def make(kind):
                ...
                return open_key(uri), public_key    # a DER SubjectPublicKeyInfo, from elsewhere
            return make

        @pytest.fixture
        def absent_key(self, tmp_path):             # where other keys are, if the URI can say that
            return lambda: open_key(uri_of_no_key)

        @pytest.fixture
        def unreachable_key(self, tmp_path):        # in a folder, device or server that there is not
            return lambda: open_key(other_uri)

        @pytest.fixture
        def lost_key(self, tmp_path):               # open, but its file, device or server has gone
            ...

    class TestFilePin(PinContract):
        @pytest.fixture
        def locked_key(self, tmp_path):
            return LockedKey(lambda pin: open_key(uri, pin), pin="right", wrong_pin="wrong")

The `openssl` program verifies the signatures. Before OpenSSL 3.5, cryptography verifies those of ML-DSA.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner import Algorithm, HashName, Key, PinRequest, PinSource
from hwsigner.errors import KeyNotFoundError, PinRequiredError, SigningKeyError, UnsupportedKeyError, WrongPinError

MakeKey = Callable[[str], tuple[Key, bytes]]
OpenKey = Callable[[], Key]
HASHES: tuple[HashName, ...] = get_args(HashName)
_LEAST_LONGEST_MESSAGE = 65536
_CHILD_SECONDS = 20


@dataclass(frozen=True)
class Opened:
    """An open key, and its DER SubjectPublicKeyInfo as the test got it from elsewhere."""

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
        return "AWS4-X509-RSA-SHA256"
    return "AWS4-X509-ECDSA-SHA256" if isinstance(loaded, ec.EllipticCurvePublicKey) else "AWS4-X509-MLDSA"


def openssl_verifies(folder: Path, public_key: bytes, signature: bytes, message: bytes, hash: HashName) -> bool:
    """Return whether the openssl program accepts a signature under a DER SubjectPublicKeyInfo.

    ML-DSA needs OpenSSL 3.5. With an older program, cryptography judges it.

    Args:
        folder: a folder for the files that openssl reads.
        public_key: the DER SubjectPublicKeyInfo.
        signature: the signature, as `Key.sign` returns it.
        message: the message.
        hash: the hash of RSA and ECDSA signatures.
    """
    is_mldsa = algorithm_of(public_key) == "AWS4-X509-MLDSA"
    if is_mldsa and not (message and _openssl_has_mldsa()):
        return _cryptography_verifies(public_key, signature, message)  # `openssl pkeyutl` can't read an empty file.
    files = {"public": public_key, "signature": signature, "message": message}
    for name, content in files.items():
        (folder / f"verified-{name}").write_bytes(content)
    public, signed, text = (str(folder / f"verified-{name}") for name in files)
    if is_mldsa:
        command = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-sigfile", signed, "-in", text]
    else:
        command = ["dgst", f"-{hash}", "-verify", public, "-signature", signed, text]
    return _openssl(*command).returncode == 0


def _openssl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, capture_output=True)


@functools.cache
def _openssl_has_mldsa() -> bool:
    return b"ML-DSA-44" in _openssl("list", "-signature-algorithms").stdout


def _cryptography_verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    loaded: Any = load_der_public_key(public_key)
    try:
        loaded.verify(signature, message)
    except InvalidSignature:
        return False
    return True


class KeyContract:
    """What every key of a backend must do. Subclasses set KINDS and define the fixtures.

    `make_key` gives keys. `absent_key` opens one that there is not, where other keys are; `unreachable_key` one in a
    place that there is not. `lost_key` is an open key whose place has gone since.

    Attributes:
        KINDS: the kinds of keys, the arguments of `make_key`. It returns a new key and its public key at each call;
            the test closes the key.
        HASHES: the hashes that every kind signs with. Others may be refused.
        MAX_MESSAGE: the length in bytes of the longest message, at least 64 KiB. Longer ones may be refused.
    """

    KINDS: ClassVar[tuple[str, ...]] = ()
    HASHES: ClassVar[tuple[HashName, ...]] = HASHES
    MAX_MESSAGE: ClassVar[int] = 1 << 20

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test that opens a key once for each kind."""
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.KINDS)

    @pytest.fixture
    def opened(self, kind: str, make_key: MakeKey, tmp_path: Path) -> Iterator[Opened]:
        """An open key of a kind."""
        key, public_key = make_key(kind)
        with key:
            yield Opened(key, public_key, tmp_path)

    def test_algorithm_is_that_of_the_public_key(self, opened: Opened) -> None:
        assert opened.key.algorithm == algorithm_of(opened.public_key)

    def test_public_key_is_the_expected_spki(self, opened: Opened) -> None:
        assert opened.key.public_key() == opened.public_key

    def test_messages_from_empty_to_the_longest_are_signed(self, opened: Opened) -> None:
        assert self.MAX_MESSAGE >= _LEAST_LONGEST_MESSAGE
        for size in (0, 9, _LEAST_LONGEST_MESSAGE, self.MAX_MESSAGE):
            message = (b"message %d " % size * size)[:size]
            assert opened.verify(opened.key.sign(message), message), size

    def test_longer_message_is_signed_or_refused(self, opened: Opened) -> None:
        message = bytes(self.MAX_MESSAGE + 1)
        try:
            signature = opened.key.sign(message)
        except UnsupportedKeyError:
            message = b"The key still signs."
            signature = opened.key.sign(message)
        assert opened.verify(signature, message)

    def test_each_hash_is_used_or_refused(self, opened: Opened) -> None:
        assert "sha256" in self.HASHES
        for name in HASHES:
            try:
                signature = opened.key.sign(b"message", hash=name)
            except UnsupportedKeyError:
                assert name not in self.HASHES
            else:
                assert opened.verify(signature, b"message", name), name

    def test_unknown_hash_is_refused(self, opened: Opened) -> None:
        with pytest.raises(UnsupportedKeyError):
            opened.key.sign(b"message", hash="md5")  # type: ignore[arg-type]

    @pytest.mark.parametrize("message", [5, None, "text"])
    def test_message_that_is_not_bytes_is_a_type_error(self, opened: Opened, message: Any) -> None:
        with pytest.raises(TypeError):  # bytes(5) would be five NUL bytes.
            opened.key.sign(message)

    def test_signature_is_valid_only_for_its_message(self, opened: Opened) -> None:
        assert not opened.verify(opened.key.sign(b"message"), b"massage")

    def test_signature_has_the_form_that_the_service_wants(self, opened: Opened) -> None:
        signatures = [opened.key.sign(b"message %d" % number) for number in range(8)]
        if opened.key.algorithm == "AWS4-X509-ECDSA-SHA256":
            for signature in signatures:
                assert encode_dss_signature(*decode_dss_signature(signature)) == signature
        if opened.key.algorithm == "AWS4-X509-RSA-SHA256":
            public: Any = load_der_public_key(opened.public_key)
            assert {len(signature) for signature in signatures} == {public.key_size // 8}

    def test_threads_share_a_key(self, opened: Opened) -> None:
        messages = [b"message %d" % number for number in range(16)]
        with ThreadPoolExecutor(4) as pool:
            signatures = list(pool.map(opened.key.sign, messages))
        for message, signature in list(zip(messages, signatures, strict=True))[::5]:
            assert opened.verify(signature, message)

    def test_key_signs_after_another_one_was_closed(self, opened: Opened, make_key: MakeKey, kind: str) -> None:
        other, _ = make_key(kind)
        other.close()
        assert opened.verify(opened.key.sign(b"message"), b"message")

    def test_child_of_a_fork_signs_or_refuses_and_its_parent_still_signs(self, opened: Opened) -> None:
        opened.key.sign(b"before the fork")
        signature = _signature_of_child(opened.key, b"in the child")
        assert not signature or opened.verify(signature, b"in the child")
        assert opened.verify(opened.key.sign(b"in the parent"), b"in the parent")

    def test_key_can_be_closed_twice(self, opened: Opened) -> None:
        opened.key.close()
        opened.key.close()

    def test_closed_key_does_not_sign(self, opened: Opened) -> None:
        opened.key.close()
        with pytest.raises(SigningKeyError, match="closed"):
            opened.key.sign(b"message")

    def test_name_of_no_key_opens_no_key(self, absent_key: OpenKey) -> None:
        with pytest.raises(KeyNotFoundError):
            absent_key()

    def test_unreachable_key_is_a_signing_key_error(self, unreachable_key: OpenKey) -> None:
        with pytest.raises(SigningKeyError):
            unreachable_key()

    def test_lost_key_signs_or_is_a_signing_key_error(self, lost_key: Key) -> None:
        with suppress(SigningKeyError):
            assert lost_key.sign(b"message")
        lost_key.close()


def _signature_of_child(key: Key, message: bytes) -> bytes:
    """Fork, sign and close the key in the child, and return the signature; empty if the key refused."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # That the process has threads.
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_CHILD_SECONDS)
        try:
            with suppress(SigningKeyError):
                os.write(write, key.sign(message))
            key.close()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        signature = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with status {status}"
    return signature


@dataclass(frozen=True)
class LockedKey:
    """A key behind a PIN. `open` takes what `hwsigner.open_key` takes for a PIN."""

    open: Callable[[Any], Key]
    pin: str
    wrong_pin: str = "not-the-pin-4711"


class PinContract:
    """What a backend must do with PINs. Subclasses define the fixture `locked_key`, which returns a LockedKey.

    Attributes:
        REMEMBERS: whether a right answer opens the key again without a question, if the same PinSource is used. That of
            a token must. A file or a TPM may ask each time, since a wrong answer there is about one key alone.
    """

    REMEMBERS: ClassVar[bool] = True

    def test_right_pin_opens_the_key(self, locked_key: LockedKey) -> None:
        with locked_key.open(locked_key.pin) as key:
            assert key.sign(b"message")

    def test_wrong_pin_is_asked_for_once_and_reported(self, locked_key: LockedKey) -> None:
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

    def test_missing_pin_error_says_where_a_pin_may_come_from(self, locked_key: LockedKey) -> None:
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

    def test_right_pin_opens_the_key_after_a_wrong_one(self, locked_key: LockedKey) -> None:
        with pytest.raises(WrongPinError):
            locked_key.open(locked_key.wrong_pin)
        with locked_key.open(lambda request: locked_key.pin) as key:
            assert key.sign(b"message")

    def test_wrong_answer_is_not_sent_again(self, locked_key: LockedKey) -> None:
        answers = [locked_key.wrong_pin, locked_key.pin]
        pins = PinSource(ask=lambda request: answers.pop(0))
        with pytest.raises(WrongPinError):
            locked_key.open(pins)
        with locked_key.open(pins) as key:
            assert key.sign(b"message")
        assert answers == []

    def test_right_answer_is_remembered(self, locked_key: LockedKey) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return locked_key.pin

        pins = PinSource(ask=ask)
        for _ in range(2):
            with locked_key.open(pins) as key:
                assert key.sign(b"message")
        assert len(asked) == 1 or not self.REMEMBERS
