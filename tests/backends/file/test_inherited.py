"""Keys and certificates in environment variables, open files and standard input, in every form and with every fault."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from hypothesis import given
from hypothesis import strategies as st

import certs
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._uri import KeyURI
from hwsigner.backends.file import inherited
from hwsigner.errors import CertificateError, HwsignerError, KeyNotFoundError, UsageError, WrongPinError
from hwsigner.key import find_certificates, open_key
from judges import needs_proc

PASSPHRASE = "hunter2-passphrase"
NAME = "WEB_KEY"


@dataclass(frozen=True)
class Made:
    """A key and its certificate in each form."""

    key: bytes
    encrypted: bytes
    der: bytes
    certificate: bytes
    pkcs12: bytes


@pytest.fixture(scope="module")
def made(ca: certs.Authority) -> Made:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certs.issue(ca, key.public_key())
    encryption = BestAvailableEncryption(PASSPHRASE.encode())

    def written(encoding: Encoding, encryption: NoEncryption | BestAvailableEncryption) -> bytes:
        return key.private_bytes(encoding, PrivateFormat.PKCS8, encryption)

    return Made(
        written(Encoding.PEM, NoEncryption()),
        written(Encoding.PEM, encryption),
        written(Encoding.DER, NoEncryption()),
        certs.pem(leaf),
        serialize_key_and_certificates(None, key, leaf, None, encryption),
    )


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(NAME, "")  # Put back after the test.
    inherited.forget()
    yield
    inherited.forget()


Fill = Callable[[bytes], str]


@pytest.fixture(params=["env", "fd"])
def fill(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fill]:
    """A function that puts bytes into a variable or an open file, and returns its URI."""
    opened: list[int] = []

    def put(data: bytes) -> str:
        if request.param == "env":
            os.environb[NAME.encode()] = data
            return f"env:{NAME}"
        path = tmp_path / "data"
        path.write_bytes(data)
        opened.append(os.open(path, os.O_RDONLY))
        os.set_inheritable(opened[-1], True)
        return f"fd:{opened[-1]}"

    yield put
    for number in opened:
        os.close(number)


def can_sign(uri: str, pin: str | None = None) -> bool:
    with open_key(uri, pin, allow_modules=True) as key:
        return bool(key.sign(b"message"))


def test_key_and_certificate_are_read_from_one_place(fill: Fill, made: Made) -> None:
    uri = fill(made.certificate + made.key)
    for place in (IdentitySource(uri, allow_modules=True), IdentitySource(uri, uri, allow_modules=True)):
        with open_identity(place) as identity:
            assert identity.sign(b"message")


@pytest.mark.parametrize("form", ["key", "der", "pkcs12", "encrypted"])
def test_key_is_read_from_base64_without_newlines(fill: Fill, made: Made, form: str) -> None:
    uri = fill(base64.b64encode(getattr(made, form)))
    assert can_sign(uri, PASSPHRASE)
    with pytest.raises(HwsignerError) if form in ("pkcs12", "encrypted") else open_key(uri, allow_modules=True):
        open_key(uri, "wrong", allow_modules=True).close()


def test_binary_key_is_read_from_an_open_file(made: Made, tmp_path: Path) -> None:
    (tmp_path / "der").write_bytes(made.der)
    number = os.open(tmp_path / "der", os.O_RDONLY)
    os.set_inheritable(number, True)
    assert can_sign(f"fd:{number}")
    os.close(number)


def test_encrypted_key_gets_its_passphrase_from_a_pin_source(
    fill: Fill, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = fill(made.encrypted)
    monkeypatch.setenv("PASSPHRASE_OF_KEY", PASSPHRASE)
    assert can_sign(f"{uri}?pin-source=env:PASSPHRASE_OF_KEY")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "key.pin").write_text(PASSPHRASE)
    (tmp_path / "key.pin").chmod(0o600)
    assert can_sign(f"{uri}?pin-source=credential:key.pin")
    with pytest.raises(WrongPinError, match=f"wrong passphrase for {uri}"):
        can_sign(uri, "wrong")


def test_variable_is_gone_from_the_environment_once_it_was_read(made: Made) -> None:
    os.environ[NAME] = made.key.decode()
    assert can_sign(f"env:{NAME}")
    assert NAME not in os.environ
    assert subprocess.run(["printenv", NAME], capture_output=True).stdout == b""


def test_variable_that_is_set_again_is_read_again(made: Made) -> None:
    os.environ[NAME] = "nonsense"
    with pytest.raises(KeyNotFoundError):
        can_sign(f"env:{NAME}")
    os.environ[NAME] = made.key.decode()
    assert can_sign(f"env:{NAME}")
    assert NAME not in os.environ


@needs_proc
def test_open_file_is_read_to_its_end_and_closed(made: Made) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    os.write(writer, made.key[:50])
    os.write(writer, made.key[50:])
    os.close(writer)
    try:
        assert can_sign(f"fd:{reader}")
        assert os.readlink(f"/proc/self/fd/{reader}") == "/dev/null"
        assert not os.get_inheritable(reader)
        assert can_sign(f"fd:{reader}")  # From memory.
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hunter2-no-key", "is not a key or certificate: it is neither PEM nor DER"),
        (b"aHVudGVyMi1uby1rZXk=", "is not a key or certificate: it is neither PEM nor DER"),
        (b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----", "the PRIVATE KEY block is not base64"),
        (b"-----BEGIN PRIVATE KEY-----\nhunter2", "the PRIVATE KEY block has no matching BEGIN and END lines"),
    ],
)
def test_bad_content_is_an_error_that_names_the_place_and_shows_nothing_of_it(
    fill: Fill, content: bytes, problem: str
) -> None:
    uri = fill(content)
    for call, kind in ((open_key, KeyNotFoundError), (find_certificates, CertificateError)):
        with pytest.raises(kind) as caught:
            call(uri, allow_modules=True)
        assert f"{uri} " in caught.value.message
        assert problem in caught.value.message
        assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def test_content_over_1_mib_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(made.key + b"\n" * (1 << 20))
    number = os.open(tmp_path / "long", os.O_RDONLY)
    os.set_inheritable(number, True)
    with pytest.raises(KeyNotFoundError, match=f"fd:{number} has more than 1048576 bytes"):
        can_sign(f"fd:{number}")
    os.close(number)


def test_key_without_a_certificate_is_named_as_such(fill: Fill, made: Made) -> None:
    uri = fill(made.key)
    with pytest.raises(CertificateError, match=f"{uri} has a private key and no certificate"):
        find_certificates(uri, allow_modules=True)


def test_place_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    del os.environ[NAME]
    with pytest.raises(KeyNotFoundError, match=f"environment variable {NAME} is not set"):
        can_sign(f"env:{NAME}")
    with pytest.raises(KeyNotFoundError, match="fd:54321 is not open"):
        can_sign("fd:54321")
    with open(tmp_path / "write-only", "wb") as file:
        os.set_inheritable(file.fileno(), True)
        with pytest.raises(KeyNotFoundError, match=f"can't read fd:{file.fileno()}: Bad file descriptor"):
            can_sign(f"fd:{file.fileno()}")


def test_file_that_this_process_opened_itself_is_not_taken_for_an_inherited_one(tmp_path: Path, made: Made) -> None:
    (tmp_path / "key").write_bytes(made.key)
    with open(tmp_path / "key", "rb") as file:  # As a server's socket would be.
        with pytest.raises(KeyNotFoundError, match=f"fd:{file.fileno()} is not open"):
            can_sign(f"fd:{file.fileno()}")
        assert file.read() == made.key


def test_uri_from_elsewhere_must_not_name_what_this_process_inherited(fill: Fill, made: Made) -> None:
    uri = fill(made.key)
    for call in (open_key, find_certificates):
        with pytest.raises(UsageError, match="a key URI from elsewhere must not name it"):
            call(uri)
    assert can_sign(uri)  # It was not read.


@pytest.mark.parametrize("text", ["env:A-B", "env:$KEY", "env:1A", "env:Ü", "fd:x", "fd:-1", "fd:999999"])
def test_invalid_name_is_a_usage_error_that_does_not_quote_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        KeyURI.parse(text)
    assert text not in str(caught.value)


def test_key_in_place_of_its_name_is_a_usage_error_that_does_not_quote_it(made: Made) -> None:
    for form in (made.key, made.encrypted, base64.b64encode(made.key), base64.b64encode(made.der)):
        for text in (form.decode(), f"env:{form.decode()}"):
            with pytest.raises(UsageError) as caught:
                KeyURI.parse(text)
            assert form.decode()[30:60] not in str(caught.value)


@pytest.mark.parametrize("key", ["LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t", "MIGH" + "a" * 200])
def test_key_whose_base64_is_a_valid_name_is_a_usage_error(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        KeyURI.parse(f"env:{key}")
    assert key[10:30] not in str(caught.value)


@given(name=st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True), number=st.integers(0, 99999))
def test_uri_is_parsed_again_from_its_text(name: str, number: int) -> None:
    for text in (f"env:{name}", f"fd:{number}", f"env:{name}?pin-source=env:{name}"):
        uri = KeyURI.parse(text)
        assert str(uri) == text
        assert KeyURI.parse(str(uri)) == uri


def test_dash_is_standard_input() -> None:
    assert KeyURI.parse("-") == KeyURI.parse("fd:0") == KeyURI.parse("fd:00")
    assert KeyURI.parse("-").name == "standard input"
    assert KeyURI.parse("-?pin-source=env:A").text("pin-source") == "env:A"
    assert KeyURI.parse("./-").file == "./-"
    assert KeyURI.parse("-x").file == "-x"


@pytest.mark.parametrize("text", ["env:", "fd:", "env:?pin-source=env:A", "-?x"])
def test_missing_name_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        KeyURI.parse(text)
