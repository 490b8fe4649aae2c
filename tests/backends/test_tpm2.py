"""Keys of a TPM, on swtpm. tpm2-tools and tpm2-openssl make the keys, openssl judges the signatures."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from asn1crypto import parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.contract import KeyContract, LockedKey, MakeKey, PinContract, openssl_verifies
from hwsigner.backends import _tpm2_connection, _tpm2_folders
from hwsigner.backends._tpm2_connection import tcti_of
from hwsigner.backends._tss2 import parse_tss2
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    HwsignerError,
    KeyNotFoundError,
    PinError,
    PinLockedError,
    PinRequiredError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import HashName, Key, open_key
from hwsigner.pin import AskPin, PinRequest, PinSource
from hwsigner.uri import KeyURI
from softhsm.command import run
from softhsm.tpm import SoftTPM

STORED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
SIGNING = f"{STORED}|sign"
PASSWORD = "right-4711"


class Tools:
    """Keys made with tpm2-tools, in a folder."""

    def __init__(self, tpm: SoftTPM, folder: Path) -> None:
        self.tpm = tpm
        self.folder = folder

    def run(self, *arguments: str) -> str:
        """Run a tool, and flush what it leaves in the TPM."""
        output = run(arguments, self.tpm.env).decode()
        for kind in ("-t", "-l"):
            run(["tpm2_flushcontext", kind], self.tpm.env)
        return output

    def key_file(
        self,
        kind: str = "ecc256",
        attributes: str = SIGNING,
        *,
        primary: tuple[str, ...] = ("-G", "ecc"),
        auth: str = "",
    ) -> Path:
        """Create a key under the primary that tpm2_createprimary makes of `primary`, and encode it."""
        parent, path = self.path("primary"), self.path("key.pem")
        self.run("tpm2_createprimary", "-Q", "-c", str(parent), *primary)
        return self.key_file_under(str(parent), path, "-G", kind, "-a", attributes, *(["-p", auth] if auth else []))

    def key_file_under(self, parent: str, path: Path, *create: str) -> Path:
        """Create a key under a parent, and encode it."""
        parts = ["-u", str(self.path("public")), "-r", str(self.path("private"))]
        self.run("tpm2_create", "-Q", "-C", parent, *parts, *create)
        self.run("tpm2_encodeobject", "-C", parent, *parts, "-o", str(path), *(["-p"] if "-p" not in create else []))
        return path

    def public_key(self) -> bytes:
        """Return the DER public key of the key made last."""
        pem = self.path("public.pem")
        output = run(["tpm2_print", "-t", "TPM2B_PUBLIC", "-f", "pem", str(self.path("public"))], self.tpm.env)
        pem.write_bytes(output)
        return run(["openssl", "pkey", "-pubin", "-in", str(pem), "-pubout", "-outform", "DER"], {})

    def path(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.folder / name

    def left_over(self) -> str:
        """Return the handles of what is still loaded in the TPM."""
        return self.run_getcap("handles-transient") + self.run_getcap("handles-loaded-session")

    def run_getcap(self, what: str) -> str:
        """Ask for a capability, and flush nothing."""
        return run(["tpm2_getcap", what], self.tpm.env).decode()

    def counted_failures(self) -> int:
        """Return how many wrong auth values the TPM counts."""
        lines = self.run_getcap("properties-variable").splitlines()
        return next(int(line.split()[1], 16) for line in lines if line.startswith("TPM2_PT_LOCKOUT_COUNTER"))

    def set_lockout(self, tries: int, seconds: int = 1000) -> None:
        """Set the TPM's lockout, and clear it."""
        self.run("tpm2_dictionarylockout", "-s", "-n", str(tries), "-t", str(seconds), "-l", "1000")
        self.run("tpm2_dictionarylockout", "-c")


@pytest.fixture(autouse=True)
def refused_auth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where a test's processes keep which keys' auth values were refused."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(_tpm2_folders, "_TEMPORARY", str(tmp_path / "temporary"))
    return tmp_path / "state" / "hwsigner" / "refused-auth"


@pytest.fixture
def tools(swtpm: SoftTPM, tmp_path: Path) -> Iterator[Tools]:
    made = Tools(swtpm, tmp_path)
    yield made
    made.set_lockout(3)
    assert made.left_over() == ""


@pytest.fixture(scope="module")
def key_files(swtpm: SoftTPM, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Key files by kind, made by tpm2-openssl when they are first wanted."""
    folder = tmp_path_factory.mktemp("keys")

    def key_file(kind: str) -> Path:
        path = folder / f"{kind}.pem"
        if not path.exists():
            algorithm, _, size = kind.replace("P-", "EC-P-", 1).partition("-")
            swtpm.create_key_file(path, f"{algorithm}:{size}")
        return path

    return key_file


@pytest.fixture(scope="module")
def locked_file(swtpm: SoftTPM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file with an auth value."""
    path = tmp_path_factory.mktemp("locked") / "key.pem"
    swtpm.create_key_file(path, "EC:P-256", PASSWORD)
    return path


@pytest.fixture
def ec_file(key_files: Callable[[str], Path]) -> Path:
    return key_files("P-256")


class TestOpensslKeyFile(KeyContract):
    """What `openssl genpkey -provider tpm2` writes."""

    KINDS = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072")

    @pytest.fixture
    def make_key(self, swtpm: SoftTPM, key_files: Callable[[str], Path]) -> MakeKey:
        return lambda kind: (open_key(swtpm.uri(key_files(kind))), swtpm.public_key(key_files(kind)))


HANDLES = {"ecc256": 0x81004711, "rsa2048": 0x81004712}


@pytest.fixture(scope="module")
def persistent_keys(swtpm: SoftTPM) -> Iterator[None]:
    for kind, handle in HANDLES.items():
        swtpm.persist(handle, kind)
    yield
    for handle in HANDLES.values():
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(handle)], swtpm.env)


class TestPersistentHandle(KeyContract):
    """Keys made by tpm2_create and tpm2_evictcontrol."""

    KINDS = tuple(HANDLES)

    @pytest.fixture
    def make_key(self, swtpm: SoftTPM, persistent_keys: None) -> MakeKey:
        return lambda kind: (open_key(swtpm.uri(HANDLES[kind])), swtpm.public_key(HANDLES[kind]))


class TestPin(PinContract):
    @pytest.fixture
    def locked_key(self, swtpm: SoftTPM, locked_file: Path, tools: Tools) -> LockedKey:
        def open_and_sign(pin: str | AskPin | None) -> Key:
            key = open_key(swtpm.uri(locked_file), pin)
            try:
                key.sign(b"")  # A TPM has no login: the first signature shows whether the auth value is right.
            except HwsignerError:
                key.close()
                raise
            return key

        return LockedKey(open_and_sign, PASSWORD)


def read_der(path: Path) -> bytes:
    """Return what a PEM file holds."""
    body = "".join(line for line in path.read_text().splitlines() if "-----" not in line)
    return run(["openssl", "base64", "-d", "-A"], {}, body.encode())


OTHER_KEYS = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY")


def pem_block(label: str) -> str:
    """Return a PEM block that bears a label."""
    return f"-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n"


def sign_and_verify(
    uri: str, public_key: bytes, folder: Path, pin: str | None = None, hash: HashName = "sha256"
) -> bool:
    with open_key(uri, pin) as key:
        assert key.public_key() == public_key
        return openssl_verifies(folder, public_key, key.sign(b"message", hash), b"message", hash)


# -- Files of tpm2-tools ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ecc256", "ecc256:ecdsa-sha256", "rsa2048", "rsa2048:rsassa-sha256"])
def test_a_key_of_tpm2_tools_signs(tools: Tools, kind: str) -> None:
    path = tools.key_file(kind)
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


def test_a_key_of_tpm2_tools_with_an_auth_value_signs_in_spite_of_its_flag(tools: Tools) -> None:
    path = tools.key_file(auth=PASSWORD)
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, PASSWORD)


def test_a_file_that_denies_its_auth_value_is_tried_with_the_empty_one_once(tools: Tools) -> None:
    parent, path = tools.path("primary"), tools.path("key.pem")
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(parent))
    parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
    tools.run("tpm2_create", "-Q", "-C", str(parent), "-G", "ecc256", "-p", PASSWORD, *parts)
    tools.run("tpm2_encodeobject", "-C", str(parent), *parts, "-p", "-o", str(path))
    with open_key(tools.tpm.uri(path), lambda request: pytest.fail("asked")) as key:
        with pytest.raises(WrongPinError, match=rf"{path} is not the empty one.*2 tries are left"):
            key.sign(b"message")
        with pytest.raises(PinLockedError, match="not sent again"):
            key.sign(b"message")
    assert tools.counted_failures() == 1


def test_a_file_that_claims_an_auth_value_it_has_not(tools: Tools) -> None:
    parent, path = tools.path("primary"), tools.path("key.pem")
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(parent))
    parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
    for attributes, is_guarded in ((SIGNING, True), (f"{SIGNING}|noda", False)):
        tools.run("tpm2_create", "-Q", "-C", str(parent), "-G", "ecc256", "-a", attributes, *parts)
        tools.run("tpm2_encodeobject", "-C", str(parent), *parts, "-o", str(path))
        assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, "")
        if is_guarded:
            with pytest.raises(PinRequiredError, match="--no-tpm-key-password"):
                open_key(tools.tpm.uri(path))
        else:
            assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


# -- Parents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hierarchy", "handle"), [("o", 1), ("n", 7), ("e", 0xB), ("p", 0xC)])
def test_each_hierarchy_can_be_the_parent(tools: Tools, hierarchy: str, handle: int) -> None:
    path = tools.key_file(primary=("-C", hierarchy, "-G", "ecc"))
    # tpm2_encodeobject names the owner as the parent, whichever it is.
    der = read_der(path).replace(bytes.fromhex("020440000001"), bytes.fromhex(f"02044000{handle:04x}"), 1)
    path.write_bytes(der)
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


# TPMU_PUBLIC_ID as the tools keep it in memory: two TPM2B of 32 bytes in buffers of 128.
ZEROS = (bytes.fromhex("2000") + bytes(128)) * 2


@pytest.mark.parametrize("primary", ["default", "ecc", "noda", "zeros"])
def test_each_primary_key_that_is_in_use_is_tried(tools: Tools, primary: str) -> None:
    noda = f"{STORED}|restricted|decrypt|noda"
    tools.path("zeros").write_bytes(ZEROS)
    options = {
        "default": (),
        "ecc": ("-G", "ecc"),
        "noda": ("-G", "ecc", "-a", noda),
        "zeros": ("-G", "ecc", "-a", noda, "-u", str(tools.path("zeros"))),
    }
    path = tools.key_file(primary=options[primary])
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


@pytest.fixture
def persistent_parent(tools: Tools, request: pytest.FixtureRequest) -> Iterator[str]:
    """A persistent storage key; the fixture's parameter is its auth value."""
    primary, handle = tools.path("primary"), "0x81004713"
    auth = ["-p", request.param] if request.param else []
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(primary), *auth)
    tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(primary), handle)
    yield handle
    run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", handle], tools.tpm.env)


@pytest.mark.parametrize("persistent_parent", [""], indirect=True)
def test_a_persistent_key_can_be_the_parent(tools: Tools, persistent_parent: str) -> None:
    path = tools.key_file_under(persistent_parent, tools.path("key.pem"), "-G", "ecc256")
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)
    tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", persistent_parent)
    try:
        with pytest.raises(KeyNotFoundError, match=rf"no parent {persistent_parent} for key {path}"):
            open_key(tools.tpm.uri(path))
    finally:
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(tools.path("primary")), persistent_parent)


@pytest.mark.parametrize("persistent_parent", ["secret"], indirect=True)
def test_a_parent_with_an_auth_value_is_named_and_gets_no_pin(tools: Tools, persistent_parent: str) -> None:
    parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
    tools.run("tpm2_create", "-Q", "-C", persistent_parent, "-P", "secret", "-G", "ecc256", *parts)
    path = tools.path("key.pem")
    tools.run("tpm2_encodeobject", "-C", persistent_parent, "-P", "secret", *parts, "-p", "-o", str(path))
    for _ in range(3):
        with pytest.raises(UnsupportedKeyError, match=rf"of key {path}, {persistent_parent}, wants an auth value"):
            open_key(tools.tpm.uri(path), "secret")
    assert tools.counted_failures() == 1  # The empty one was sent to the parent once.
    tools.run("tpm2_dictionarylockout", "-c")
    with pytest.raises(UnsupportedKeyError):
        open_key(tools.tpm.uri(path), "secret")
    assert tools.counted_failures() == 1


def test_the_key_of_another_tpm_is_named(tools: Tools, ec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = SoftTPM(tmp_path_factory.mktemp("other"))
    other.start()
    try:
        with pytest.raises(SigningKeyError, match=rf"does not take key {ec_file} .*another TPM"):
            open_key(other.uri(ec_file))
        assert Tools(other, tools.folder).left_over() == ""
    finally:
        other.stop()


# -- Keys that can't be used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attributes", "fault"),
    [
        ("rsa2048:rsapss-sha256:null", SIGNING, "signs with rsapss only"),
        ("ecc256:ecdaa4-sha256", SIGNING, "signs with ecdaa only"),
        ("rsa2048:rsassa-sha1:null", SIGNING, "signs with sha only"),
        ("rsa2048:null:null", f"{STORED}|decrypt", "may not sign"),
        ("ecc256:ecdsa-sha256:null", f"{SIGNING}|restricted", "is restricted"),
        ("ecc256", SIGNING.replace("|userwithauth", ""), "has a policy"),
        ("hmac:sha256", SIGNING, "neither RSA nor ECC"),
        ("rsa1024", SIGNING, "has 1024 bits"),
        ("ecc224", SIGNING, "on curve nist_p224"),
    ],
)
def test_a_key_that_can_not_be_used_is_refused_before_a_signature(
    tools: Tools, kind: str, attributes: str, fault: str
) -> None:
    path = tools.key_file(kind, attributes)
    with pytest.raises(UnsupportedKeyError, match=f"key {path} (is )?{fault}"):
        open_key(tools.tpm.uri(path), "")


def test_a_key_with_a_hash_of_its_own_signs_with_that_one_only(tools: Tools) -> None:
    path = tools.key_file("ecc256:ecdsa-sha384")
    public_key = tools.public_key()
    assert sign_and_verify(tools.tpm.uri(path), public_key, tools.folder, hash="sha384")
    with open_key(tools.tpm.uri(path)) as key, pytest.raises(UnsupportedKeyError, match="sha384 only, not sha256"):
        key.sign(b"message")


# -- Files that are not as they should be -----------------------------------------------------------------------------


def test_armour_is_read_as_people_leave_it(tools: Tools, ec_file: Path) -> None:
    pem = ec_file.read_text()
    der = tools.path("key.der")
    body = "".join(line for line in pem.splitlines() if "-----" not in line)
    der.write_bytes(read_der(ec_file))
    variants = {
        "crlf": pem.replace("\n", "\r\n"),
        "text": f"My key:\n\n{pem}\nKeep it.\n",
        "long": f"-----BEGIN TSS2 PRIVATE KEY-----\n{body}\n-----END TSS2 PRIVATE KEY-----",
    }
    for name, text in variants.items():
        tools.path(f"{name}.pem").write_text(text, newline="")
    for path in (der, *(tools.path(f"{name}.pem") for name in variants)):
        assert sign_and_verify(tools.tpm.uri(path), tools.tpm.public_key(ec_file), tools.folder), path


def test_a_path_alone_is_enough(tools: Tools, ec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM2_TCTI", tools.tpm.tcti)
    assert sign_and_verify(str(ec_file), tools.tpm.public_key(ec_file), tools.folder)


def test_files_without_one_key_are_named(tools: Tools, ec_file: Path) -> None:
    path = tools.path("file.pem")
    with pytest.raises(KeyNotFoundError, match=str(path)):
        open_key(tools.tpm.uri(path))
    for text, error in (
        (ec_file.read_text() * 2, AmbiguousKeyError),
        *((ec_file.read_text() + pem_block(label), AmbiguousKeyError) for label in OTHER_KEYS),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", UnsupportedKeyError),
        ("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n", UnsupportedKeyError),
        ("-----BEGIN TSS2 PRIVATE KEY-----\n!\n-----END TSS2 PRIVATE KEY-----\n", SigningKeyError),
        ("nothing", SigningKeyError),
    ):
        path.write_text(text)
        with pytest.raises(error, match=str(path)):
            open_key(tools.tpm.uri(path))


@pytest.mark.parametrize(("number", "change"), [(0, b"\0"), (0, None), (1, b"\0"), (1, None)])
def test_a_damaged_area_is_named(tools: Tools, whole: bytes, number: int, change: bytes | None) -> None:
    key = parse_tss2(whole, "k.pem")
    areas = [key.public, key.private]
    areas[number] = areas[number] + change if change else areas[number][:-1]
    content = bytes.fromhex("06066781050a0103 020440000001")
    content += b"".join(parser.emit(0, 0, 4, area) for area in areas)
    path = tools.path("damaged.der")
    path.write_bytes(parser.emit(0, 1, 16, content))
    with pytest.raises(UnsupportedKeyError, match=f"key {path} is damaged"):
        open_key(tools.tpm.uri(path), "")


@pytest.fixture(scope="module")
def whole(key_files: Callable[[str], Path]) -> bytes:
    return read_der(key_files("P-256"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_signs_or_is_refused(tools: Tools, whole: bytes, data: st.DataObject) -> None:
    der = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    path = tools.path("damaged.der")
    path.write_bytes(der)
    try:
        with open_key(tools.tpm.uri(path), "") as key:
            key.sign(b"message")
    except (PinLockedError, WrongPinError):
        pytest.fail("damage was taken for a wrong auth value")
    except HwsignerError as error:
        refusal = error
    else:
        return
    assert str(path) in refusal.message


# -- Auth values ------------------------------------------------------------------------------------------------------


def test_a_key_without_an_auth_value_is_not_asked_for_one(tools: Tools, ec_file: Path) -> None:
    with open_key(tools.tpm.uri(ec_file), lambda request: pytest.fail("asked")) as key:
        assert key.sign(b"message")


def test_a_wrong_auth_value_is_sent_once(tools: Tools, locked_file: Path) -> None:
    with open_key(tools.tpm.uri(locked_file), "wrong") as key:
        with pytest.raises(WrongPinError, match=rf"wrong TPM auth value for {locked_file}: 2 tries are left"):
            key.sign(b"message")
        with ThreadPoolExecutor(4) as pool:
            errors = [pool.submit(key.sign, b"message").exception() for _ in range(8)]
    assert {type(error) for error in errors} == {PinLockedError}
    assert tools.counted_failures() == 1


def test_a_last_try_is_made_only_on_demand(tools: Tools, locked_file: Path) -> None:
    uri = tools.tpm.uri(locked_file)
    for left in ("2 tries are", "1 try is"):
        with open_key(uri, lambda request: "wrong") as key, pytest.raises(WrongPinError, match=f"{left} left"):
            key.sign(b"message")
    answers: list[str | AskPin] = [PASSWORD, lambda request: PASSWORD]
    for pin in answers:
        with open_key(uri, pin) as key, pytest.raises(PinLockedError, match=r"none was sent.*--allow-final-pin-try"):
            key.sign(b"message")
    assert tools.counted_failures() == 2
    with open_key(uri, PinSource(PASSWORD, allow_final_try=True)) as key:
        assert key.sign(b"message")


def test_lockout_says_how_long_to_wait(tools: Tools, locked_file: Path) -> None:
    tools.set_lockout(1, 321)
    source = PinSource("wrong", allow_final_try=True)
    with open_key(tools.tpm.uri(locked_file), source) as key, pytest.raises(WrongPinError, match="0 tries"):
        key.sign(b"message")
    source = PinSource(PASSWORD, allow_final_try=True)
    with open_key(tools.tpm.uri(locked_file), source) as key, pytest.raises(PinLockedError, match="Wait 321 seconds"):
        key.sign(b"message")


def test_a_key_outside_the_lockout_does_not_count_and_is_not_held_back(tools: Tools) -> None:
    path = tools.key_file(attributes=f"{SIGNING}|noda", auth=PASSWORD)
    for _ in range(4):
        with open_key(tools.tpm.uri(path), "wrong") as key, pytest.raises(WrongPinError) as caught:
            key.sign(b"message")
        assert caught.value.message == f"wrong TPM auth value for {path}"
    assert tools.counted_failures() == 0
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, PASSWORD)


def test_a_handle_is_used_with_the_pin_or_with_the_empty_auth_value(tools: Tools) -> None:
    tools.tpm.persist(0x81004714, "ecc256", PASSWORD)
    uri = tools.tpm.uri(0x81004714)
    try:
        assert sign_and_verify(f"{uri}&pin-value={PASSWORD}", tools.tpm.public_key(0x81004714), tools.folder)
        with (
            open_key(uri, lambda request: pytest.fail("asked")) as key,
            pytest.raises(WrongPinError, match=r"handle:0x81004714 is not the empty one.*pin-source"),
        ):
            key.sign(b"message")
    finally:
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81004714")
    with pytest.raises(KeyNotFoundError, match="no key at handle:0x81004714"):
        open_key(uri)


def test_an_auth_value_that_no_tpm_takes_is_not_sent(tools: Tools, locked_file: Path) -> None:
    with pytest.raises(PinError, match="more than 64 bytes") as caught:
        open_key(tools.tpm.uri(locked_file), "x" * 65)
    assert not isinstance(caught.value, WrongPinError)  # Nobody found out whether it is.
    assert tools.counted_failures() == 0


def lock(tools: Tools, locked_file: Path) -> None:
    """Put the TPM in lockout."""
    tools.set_lockout(1, 321)
    source = PinSource("wrong", allow_final_try=True)
    with open_key(tools.tpm.uri(locked_file), source) as key, pytest.raises(WrongPinError):
        key.sign(b"message")


def test_lockout_is_told_from_a_parent_with_an_auth_value(tools: Tools, locked_file: Path) -> None:
    path = tools.key_file()
    lock(tools, locked_file)
    with pytest.raises(PinLockedError, match=rf"lockout, so key {path} can't be loaded .* owner\. Wait 321 seconds"):
        open_key(tools.tpm.uri(path))


@pytest.mark.parametrize("persistent_parent", [""], indirect=True)
def test_lockout_of_a_persistent_parent(tools: Tools, locked_file: Path, persistent_parent: str) -> None:
    path = tools.key_file_under(persistent_parent, tools.path("key.pem"), "-G", "ecc256")
    lock(tools, locked_file)
    with pytest.raises(PinLockedError, match=rf"its parent, {persistent_parent}\. Wait 321 seconds"):
        open_key(tools.tpm.uri(path))


def test_a_tpm_without_lockout_counts_nothing(tools: Tools, locked_file: Path) -> None:
    tools.set_lockout(1, 0)
    with open_key(tools.tpm.uri(locked_file), "wrong") as key, pytest.raises(WrongPinError) as caught:
        key.sign(b"message")
    assert caught.value.message == f"wrong TPM auth value for {locked_file}"


# -- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "tpm2:",
        "tpm2:handle=0x81000001;path=/k.pem",
        "tpm2:handle=81000001",
        "tpm2:handle=0x80000001",
        "tpm2:handle=0x810000011",
        "tpm2:handle=0x81000001;object=k",
        "tpm2:handle=0x81000001?module-path=m",
        "handle:",
    ],
)
def test_a_uri_that_names_no_key(uri: str) -> None:
    with pytest.raises(UsageError):
        open_key(uri)


def test_which_tpm(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = KeyURI.parse("handle:0x81000001")
    present = {"/dev/tpm0"}
    monkeypatch.setattr(os.path, "exists", present.__contains__)
    assert tcti_of(uri) == "device:/dev/tpm0"
    present.add("/dev/tpmrm0")
    assert tcti_of(uri) == "device:/dev/tpmrm0"
    present.clear()
    assert tcti_of(uri) == "device:/dev/tpmrm0"
    monkeypatch.setenv("TPM2TOOLS_TCTI", "swtpm:port=2")
    assert tcti_of(uri) == "swtpm:port=2"
    monkeypatch.setenv("TPM2_TCTI", "swtpm:port=1")
    assert tcti_of(uri) == "swtpm:port=1"
    assert tcti_of(uri.with_query("tcti", "device:/dev/tpm9")) == "device:/dev/tpm9"


# -- TPMs that can't be reached ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tcti", "message"),
    [
        ("device:/dev/hwsigner-none", "there is no TPM device /dev/hwsigner-none"),
        ("device:/dev/null", "TPM device /dev/null does not answer"),
        ("swtpm:path=/hwsigner-none/socket", "the TPM at swtpm:path=/hwsigner-none/socket does not answer"),
        ("none-such:x", "TCTI none-such:x can't be loaded.*libtss2-tcti-none-such"),
        ("swtpm:nonsense=1", "the TPM at swtpm:nonsense=1 does not answer"),
    ],
)
def test_a_tpm_that_is_not_there_is_named(ec_file: Path, tcti: str, message: str) -> None:
    for name in (f"path={ec_file}", "handle=0x81000001"):
        with pytest.raises(BackendUnavailableError, match=message):
            open_key(f"tpm2:{name}?tcti={quote(tcti)}")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, r"no permission to use TPM device /dev/null\. Join its group \(root\)"),
        (errno.EBUSY, r"TPM device /dev/null is in use by another program\. Use the resource manager"),
        (errno.EIO, "TPM device /dev/null can't be opened: Input/output error"),
    ],
)
def test_a_device_that_can_not_be_opened_says_why(monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    opened = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if path == "/dev/null":
            raise OSError(number, os.strerror(number))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BackendUnavailableError, match=message):
        open_key("tpm2:handle=0x81000001?tcti=device:/dev/null")


def test_a_key_outlives_its_tpm_s_restart(
    ec_file: Path, swtpm: SoftTPM, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("restarted")
    other = SoftTPM(folder)
    other.start()
    try:
        path = folder / "key.pem"
        other.create_key_file(path, "EC:P-256")
        other.persist(0x81000001, "ecc256")
        Tools(other, folder).set_lockout(32)  # A TPM that was not shut down in order counts a failure.
        with open_key(other.uri(path)) as file_key, open_key(other.uri(0x81000001)) as handle_key:
            for key in (file_key, handle_key):
                public_key = key.public_key()
                assert public_key
                assert key.sign(b"before")
                other.stop()
                with pytest.raises(BackendUnavailableError, match=f"TPM at {other.tcti} does not answer"):
                    key.sign(b"during")
                other.start()
                assert openssl_verifies(folder, public_key, key.sign(b"message"), b"message", "sha256")
                other.restart()
                assert openssl_verifies(folder, public_key, key.sign(b"message"), b"message", "sha256")
    finally:
        other.stop()


def test_a_tpm_that_was_not_started_up_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    other = SoftTPM(tmp_path_factory.mktemp("reset"))
    other.start()
    try:
        run(["swtpm_ioctl", "--unix", f"{other.socket}.ctrl", "-i"], {})
        with pytest.raises(BackendUnavailableError, match="was not started up"):
            open_key(other.uri(0x81000001))
    finally:
        other.stop()


def test_another_refusal_is_quoted(ec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = SoftTPM(tmp_path_factory.mktemp("disabled"))
    other.start()
    try:
        run(["tpm2_hierarchycontrol", "-C", "p", "shEnable", "clear"], other.env)
        with pytest.raises(SigningKeyError, match=f"TPM at {other.tcti} refused key {ec_file}: .*hierarchy"):
            open_key(other.uri(ec_file))
    finally:
        other.stop()


def test_a_tpm_without_a_free_slot_says_so(tools: Tools, ec_file: Path) -> None:
    for _ in range(3):
        run(["tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(tools.path("p"))], tools.tpm.env)
    try:
        with pytest.raises(BackendUnavailableError, match=r"no free slot.*tpmrm0"):
            open_key(tools.tpm.uri(ec_file))
    finally:
        run(["tpm2_flushcontext", "-t"], tools.tpm.env)


# -- Several at once --------------------------------------------------------------------------------------------------


def test_threads_and_their_keys_leave_nothing_in_the_tpm(tools: Tools, ec_file: Path) -> None:
    uri, public_key = tools.tpm.uri(ec_file), tools.tpm.public_key(ec_file)
    before = os.listdir("/proc/self/fd")
    with open_key(uri) as one, open_key(uri) as another, ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda number: (one, another)[number % 2].sign(b"%d" % number), range(200)))
        assert tools.left_over() == ""
    assert len(os.listdir("/proc/self/fd")) == len(before)
    for number in range(0, 200, 23):
        assert openssl_verifies(tools.folder, public_key, signatures[number], b"%d" % number, "sha256")


def test_threads_take_turns_without_a_lock_file_too(
    tools: Tools, ec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/null")
    with open_key(tools.tpm.uri(ec_file)) as key, ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(key.sign, [b"message"] * 80))) == 80


PROCESS = """
import sys
from hwsigner.key import open_key
for uri in sys.argv[1:]:
    with open_key(uri) as key:
        for number in range(10):
            print(key.sign(b"%d" % number).hex())
"""


def start_process(*uris: str, **environment: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(root)} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", PROCESS, *uris], env=env, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def test_processes_share_a_tpm_without_a_resource_manager(tools: Tools, ec_file: Path) -> None:
    processes = [start_process(tools.tpm.uri(ec_file)) for _ in range(4)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert len(output.split()) == 10


def test_the_tpm_s_libraries_print_only_on_demand(tools: Tools, locked_file: Path) -> None:
    for environment, is_printed in (({}, False), ({"TSS2_LOG": "all+ERROR"}, True)):
        process = start_process(f"{tools.tpm.uri(locked_file)}&pin-value=wrong", **environment)
        _, errors = process.communicate(timeout=60)
        assert "WrongPinError" in errors
        assert ("ERROR:esys" in errors) is is_printed
        tools.run("tpm2_dictionarylockout", "-c")


class TestRefusals:
    """What one process keeps for the next: no stored auth value is sent while an earlier one's failure counts."""

    @pytest.fixture
    def uri(self, tools: Tools, locked_file: Path) -> str:
        tools.set_lockout(5)
        return tools.tpm.uri(locked_file)

    @pytest.fixture
    def handle_uri(self, tools: Tools) -> Iterator[str]:
        """A handle with an auth value."""
        tools.set_lockout(5)
        tools.tpm.persist(0x81004715, "ecc256", PASSWORD)
        yield tools.tpm.uri(0x81004715)
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81004715")

    def sign(self, uri: str, pin: str | AskPin | PinSource | None) -> None:
        with open_key(uri, pin) as key:
            assert key.sign(b"message")

    def refuse(self, uri: str, pin: str | AskPin | None) -> None:
        with pytest.raises(WrongPinError):
            self.sign(uri, pin)

    def test_a_stored_one_is_sent_by_one_process_alone(self, tools: Tools, uri: str, refused_auth: Path) -> None:
        state = str(refused_auth.parents[1])
        for error in ("WrongPinError", "PinLockedError", "PinLockedError"):
            process = start_process(f"{uri}&pin-value=wrong", XDG_STATE_HOME=state)
            assert error in process.communicate(timeout=60)[1]
        assert tools.counted_failures() == 1
        with pytest.raises(PinLockedError, match=r"was wrong, so the stored one.*--clear-lockout, or wait 1000 sec"):
            self.sign(uri, PASSWORD)

    @pytest.mark.parametrize("way_out", ["typed", "allowed", "cleared"])
    def test_the_ways_out(self, tools: Tools, uri: str, way_out: str) -> None:
        self.refuse(uri, "wrong")
        if way_out == "cleared":
            tools.run("tpm2_dictionarylockout", "-c")
        elif way_out == "allowed":
            self.sign(uri, PinSource(PASSWORD, allow_final_try=True))
        else:
            self.sign(uri, lambda request: PASSWORD)
        self.sign(uri, PASSWORD)

    def test_a_typed_one_that_is_wrong_counts_as_well(self, uri: str) -> None:
        for _ in range(2):
            self.refuse(uri, lambda request: "wrong")
        with pytest.raises(PinLockedError, match="so the stored one was not sent"):
            self.sign(uri, PASSWORD)

    def test_the_tpm_s_count_alone_holds_nobody_back(self, tools: Tools, uri: str) -> None:
        self.refuse(uri, "wrong")
        other = tools.key_file(auth=PASSWORD)
        self.sign(tools.tpm.uri(other), PASSWORD)
        assert tools.counted_failures() == 1

    def test_what_is_kept_tells_the_key_and_nothing_else(self, tools: Tools, uri: str, refused_auth: Path) -> None:
        self.refuse(uri, "wrong")
        [kept] = refused_auth.iterdir()
        assert (refused_auth.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)
        assert kept.read_bytes() == b"1"
        path = tools.key_file(auth=PASSWORD)
        name = tools.path("name")
        public, context = str(tools.path("public")), str(tools.path("context"))
        tools.run("tpm2_loadexternal", "-Q", "-u", public, "-c", context, "-n", str(name))
        kept.unlink()
        self.refuse(tools.tpm.uri(path), "wrong")
        assert [file.name for file in refused_auth.iterdir()] == [f"{name.read_bytes().hex()}.given"]
        self.sign(tools.tpm.uri(path), lambda request: PASSWORD)
        assert list(refused_auth.iterdir()) == []

    def test_a_key_outside_the_lockout_leaves_nothing(self, tools: Tools, refused_auth: Path) -> None:
        path = tools.key_file(attributes=f"{SIGNING}|noda", auth=PASSWORD)
        self.refuse(tools.tpm.uri(path), "wrong")
        self.sign(tools.tpm.uri(path), PASSWORD)
        assert not refused_auth.exists()

    @pytest.mark.parametrize("place", ["/dev/null", "/proc"])
    def test_without_a_state_folder_another_will_do(
        self, tools: Tools, uri: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", place)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        self.refuse(uri, "wrong")
        assert list((tmp_path / "temporary" / f"hwsigner-{os.getuid()}").glob("*.given"))
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, PASSWORD)
        assert tools.counted_failures() == 1

    def test_without_any_place_a_failure_that_counts_may_be_this_key_s(
        self, tools: Tools, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            monkeypatch.setenv(name, "/dev/null")
        monkeypatch.setattr(_tpm2_folders, "_TEMPORARY", "/dev/null")
        self.refuse(uri, "wrong")
        with pytest.raises(PinLockedError, match=r"counts 1 wrong .* no folder can keep .*--allow-final-pin-try"):
            self.sign(uri, PASSWORD)
        with pytest.raises(PinRequiredError, match="an earlier try failed"):
            self.sign(uri, None)
        self.sign(uri, PinSource(PASSWORD, allow_final_try=True))
        tools.run("tpm2_dictionarylockout", "-c")
        self.sign(uri, PASSWORD)

    def test_a_folder_that_others_can_use_is_passed_over(self, uri: str, refused_auth: Path, tmp_path: Path) -> None:
        refused_auth.mkdir(parents=True)
        refused_auth.chmod(0o770)
        self.refuse(uri, "wrong")
        assert list(refused_auth.iterdir()) == []
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, PASSWORD)

    def test_an_empty_one_that_is_stated_is_sent_once_after_another_was_wrong(self, tools: Tools) -> None:
        tools.set_lockout(5)
        uri = tools.tpm.uri(tools.key_file())
        self.refuse(uri, "wrong")
        with pytest.raises(PinRequiredError, match=r"an earlier try failed.*--no-tpm-key-password"):
            self.sign(uri, None)
        self.sign(uri, "")
        self.sign(uri, None)
        assert tools.counted_failures() == 1

    def test_an_empty_one_that_is_stated_is_wrong_once(self, tools: Tools, uri: str) -> None:
        self.refuse(uri, "")
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, "")
        self.sign(uri, PASSWORD)
        assert tools.counted_failures() == 1

    def test_a_refusal_counts_until_the_tpm_counts_fewer(self, tools: Tools, uri: str, refused_auth: Path) -> None:
        other = tools.tpm.uri(tools.key_file(auth=PASSWORD))
        self.refuse(other, lambda request: "wrong")
        self.refuse(uri, "wrong")
        assert sorted(kept.read_bytes() for kept in refused_auth.iterdir()) == [b"1", b"2"]
        with pytest.raises(PinLockedError, match="wait 1000 seconds"):
            self.sign(uri, PASSWORD)
        tools.run("tpm2_dictionarylockout", "-c")
        self.refuse(other, lambda request: "wrong")
        self.sign(uri, PASSWORD)
        assert [kept.read_bytes() for kept in refused_auth.iterdir()] == [b"1"]

    @pytest.mark.parametrize("content", [b"", b"x"])
    def test_a_record_without_a_count_counts(self, uri: str, refused_auth: Path, content: bytes) -> None:
        self.refuse(uri, "wrong")
        [kept] = refused_auth.iterdir()
        kept.write_bytes(content)
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, PASSWORD)

    def test_a_first_signature_behind_a_resource_manager_waits_for_another_s(
        self, tools: Tools, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(_tpm2_connection, "_MANAGED", ("swtpm",))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with open_key(uri, PASSWORD) as key:
            assert not (tmp_path / "hwsigner").exists()
            assert key.sign(b"message")
            [lock] = (tmp_path / "hwsigner").iterdir()
        monkeypatch.setattr(_tpm2_connection, "_TURN_SECONDS", 0.1)
        with open_key(uri, "wrong") as key, lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(BackendUnavailableError, match="is busy"):
                key.sign(b"message")
        assert tools.counted_failures() == 0

    def test_of_several_at_once_behind_a_resource_manager_one_sends_it(
        self, tools: Tools, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_tpm2_connection, "_MANAGED", ("swtpm",))

        def attempt(key: Key) -> type[Exception] | None:
            try:
                key.sign(b"message")
            except HwsignerError as error:
                return type(error)
            return None

        keys = [open_key(uri, "wrong") for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            errors = list(pool.map(attempt, keys))
        for key in keys:
            key.close()
        assert sorted(error.__name__ for error in errors if error) == [*["PinLockedError"] * 3, "WrongPinError"]
        assert tools.counted_failures() == 1

    def test_a_proven_key_behind_a_resource_manager_waits_for_nobody(
        self, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(_tpm2_connection, "_MANAGED", ("swtpm",))
        monkeypatch.setattr(_tpm2_connection, "_TURN_SECONDS", 0.1)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with open_key(uri, PASSWORD) as key:
            assert key.sign(b"message")
            [lock] = (tmp_path / "hwsigner").iterdir()
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                assert key.sign(b"message")

    def test_the_empty_one_that_nobody_stated_is_tried_once(self, tools: Tools, handle_uri: str) -> None:
        self.refuse(handle_uri, lambda request: pytest.fail("asked"))
        for _ in range(2):
            with pytest.raises(PinRequiredError, match=r"pin-source=file:.*--no-tpm-key-password"):
                self.sign(handle_uri, None)
        assert tools.counted_failures() == 1

    def test_after_that_a_person_is_asked(self, handle_uri: str) -> None:
        self.refuse(handle_uri, None)
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return PASSWORD

        self.sign(handle_uri, ask)
        assert asked == [PinRequest("TPM auth value", "handle:0x81004715", "an earlier try failed")]

    def test_after_that_a_stored_one_is_sent_once(self, tools: Tools, handle_uri: str) -> None:
        """The error of the empty one says to store it, so it must not be held back."""
        self.refuse(handle_uri, None)
        self.refuse(handle_uri, "wrong")
        for pin in ("wrong", PASSWORD):
            with pytest.raises(PinLockedError):
                self.sign(handle_uri, pin)
        assert tools.counted_failures() == 2

    def test_a_stored_one_that_was_wrong_holds_back_the_empty_one(self, handle_uri: str) -> None:
        self.refuse(handle_uri, "wrong")
        with pytest.raises(PinRequiredError):
            self.sign(handle_uri, None)

    def test_what_happens_between_opening_and_signing_counts(self, uri: str) -> None:
        with open_key(uri, "wrong") as one, open_key(uri, "wrong") as another:
            with pytest.raises(WrongPinError):
                one.sign(b"message")
            with pytest.raises(PinLockedError):
                another.sign(b"message")

    @pytest.mark.parametrize(
        ("environment", "place"),
        [
            ({"XDG_STATE_HOME": "/x", "STATE_DIRECTORY": "/s"}, "/x"),
            ({"STATE_DIRECTORY": "/s:/t"}, "/s"),
            ({"XDG_STATE_HOME": "x"}, "/h/.local/state"),
            ({}, "/h/.local/state"),
            ({"HOME": ""}, "/account/.local/state"),
            ({"HOME": "h"}, None),
            ({"HOME": "/"}, None),
            ({"HOME": "//"}, None),
        ],
    )
    def test_where_it_is_kept(
        self, environment: dict[str, str], place: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setattr(_tpm2_folders, "_home_of_account", lambda: "/account")
        for name, value in ({"HOME": "/h"} | environment).items():
            monkeypatch.setenv(name, value)
        folders = list(_tpm2_folders.state_folders("refused-auth"))
        assert folders == ([] if place is None else [f"{place}/hwsigner/refused-auth"])


class TestTurns:
    """The lock file of a TPM without a resource manager."""

    @pytest.fixture
    def runtime(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "runtime"
        folder.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        return folder / "hwsigner"

    def test_a_signature_waits_for_another_process_s(self, tools: Tools, ec_file: Path, runtime: Path) -> None:
        with open_key(tools.tpm.uri(ec_file)) as key:
            [lock] = runtime.iterdir()
            assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
            signatures: list[bytes] = []
            thread = threading.Thread(target=lambda: signatures.append(key.sign(b"message")))
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                thread.start()
                time.sleep(0.1)
                assert signatures == []
            thread.join(10)
            assert len(signatures) == 1

    def test_a_process_that_keeps_the_tpm_is_not_waited_for_forever(
        self, tools: Tools, ec_file: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_tpm2_connection, "_TURN_SECONDS", 0.1)
        with open_key(tools.tpm.uri(ec_file)) as key:
            [lock] = runtime.iterdir()
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                with pytest.raises(BackendUnavailableError, match=rf"the TPM at {tools.tpm.tcti} is busy.*hangs"):
                    key.sign(b"message")
            assert key.sign(b"message")

    def test_each_tpm_has_a_file_of_its_own(self, tools: Tools, ec_file: Path, runtime: Path) -> None:
        for tcti in (tools.tpm.tcti, f"swtpm:path={tools.tpm.folder}/./socket"):
            open_key(f"tpm2:path={ec_file}?tcti={tcti}").close()
        assert len(list(runtime.iterdir())) == 2

    def test_none_is_made_where_a_resource_manager_is(self, runtime: Path) -> None:
        for tcti in ("tabrmd:bus_type=session", "device:/dev/tpmrm7"):
            with pytest.raises(BackendUnavailableError):
                open_key(f"tpm2:handle=0x81000001?tcti={tcti}")
        assert not runtime.exists()

    @pytest.mark.parametrize("fault", ["symlink", "open", "file"])
    def test_a_folder_that_is_not_this_user_s_alone_is_left_alone(
        self, tools: Tools, ec_file: Path, runtime: Path, fault: str
    ) -> None:
        target = tools.path("target")
        target.mkdir(mode=0o700)
        if fault == "symlink":
            runtime.symlink_to(target)
        elif fault == "open":
            runtime.mkdir()
            runtime.chmod(0o770)
            target = runtime
        else:
            runtime.write_bytes(b"")
        assert sign_and_verify(tools.tpm.uri(ec_file), tools.tpm.public_key(ec_file), tools.folder)
        assert list(target.iterdir()) == []
