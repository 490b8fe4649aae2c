"""Key files of other tools, and damaged ones. openssl judges the signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import judges
from backends.contract import openssl_verifies
from backends.tpm2.tpms import NODA, PASSWORD, SIGNING, Tools, openssl_signs, read_der, sign_and_verify
from hwsigner.backends.tpm2.key_file import TSS2Key, parse_tss2
from hwsigner.errors import (
    AmbiguousKeyError,
    HwsignerError,
    KeyNotFoundError,
    PinLockedError,
    SigningKeyError,
    UnsupportedKeyError,
    WrongPinError,
)
from hwsigner.key import open_key
from softhsm.tpm import SoftTPM

pytestmark = pytest.mark.usefixtures("refused_auth")


# -- Files of tpm2-tools ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ecc256", "ecc256:ecdsa-sha256", "rsa2048", "rsa2048:rsassa-sha256"])
def test_key_of_tpm2_tools_signs(tools: Tools, kind: str) -> None:
    path = tools.key_file(kind)
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


@pytest.mark.parametrize("says_empty", [False, True])
def test_key_of_tpm2_tools_with_an_auth_value_signs_whatever_its_file_says(tools: Tools, says_empty: bool) -> None:
    path = tools.key_file(auth=PASSWORD)
    tools.encode(str(tools.path("primary")), path, is_empty=says_empty)
    assert parse_tss2(read_der(path), path.name).empty_auth is says_empty
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, PASSWORD)


def test_empty_auth_value_is_tried_once_when_the_file_denies_that_there_is_one(tools: Tools) -> None:
    parent, path = tools.path("primary"), tools.path("key.pem")
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(parent))
    parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
    tools.run("tpm2_create", "-Q", "-C", str(parent), "-G", "ecc256", "-p", PASSWORD, *parts)
    tools.encode(str(parent), path, is_empty=True)
    with open_key(tools.tpm.uri(path), lambda request: pytest.fail("asked")) as key:
        with pytest.raises(WrongPinError, match=rf"{path} is not the empty one.*2 attempts are left"):
            key.sign(b"message")
        with pytest.raises(PinLockedError, match="not sent again"):
            key.sign(b"message")
    assert tools.counted_failures() == 1


@pytest.mark.parametrize("attributes", [SIGNING, f"{SIGNING}|noda"])
def test_empty_auth_value_is_tried_when_the_file_claims_one_that_no_place_gives(tools: Tools, attributes: str) -> None:
    """tpm2_encodeobject before 5.8 writes such files for keys without an auth value."""
    parent, path = tools.path("primary"), tools.path("key.pem")
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(parent))
    parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
    tools.run("tpm2_create", "-Q", "-C", str(parent), "-G", "ecc256", "-a", attributes, *parts)
    tools.encode(str(parent), path, is_empty=False)
    for pin in (None, ""):
        assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, pin)
    assert tools.counted_failures() == 0


# -- Parents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hierarchy", "handle"), [("o", 1), ("n", 7), ("e", 0xB), ("p", 0xC)])
def test_each_hierarchy_can_be_the_parent(tools: Tools, hierarchy: str, handle: int) -> None:
    path = tools.key_file(primary=("-C", hierarchy, "-G", "ecc"))
    # tpm2_encodeobject names the owner as the parent, whichever it is.
    der = read_der(path).replace(bytes.fromhex("020440000001"), bytes.fromhex(f"02044000{handle:04x}"), 1)
    path.write_bytes(der)
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


# TPMU_PUBLIC_ID as the tools keep it in memory: TPM2B of 32 and 256 bytes, in buffers of 128 and 512.
ZEROS = {"ecc": (bytes.fromhex("2000") + bytes(128)) * 2, "rsa": bytes.fromhex("0001") + bytes(512)}


RSA_ZEROS = pytest.param("rsa zeros", marks=judges.needs_tpm2_tools)


@pytest.fixture
def primary(tools: Tools, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What makes tpm2_createprimary create the primary key that the fixture's parameter describes."""
    kind, _, form = request.param.partition(" ")
    tools.path("zeros").write_bytes(ZEROS[kind])
    forms = {"tools": (), "noda": NODA, "zeros": (*NODA, "-u", str(tools.path("zeros")))}
    return ("-G", kind, *forms[form])


@pytest.mark.parametrize("primary", ["rsa tools", "ecc tools", "ecc noda", "ecc zeros"], indirect=True)
def test_each_primary_key_that_is_in_use_is_tried(tools: Tools, primary: tuple[str, ...]) -> None:
    path = tools.key_file(primary=primary)
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


@pytest.mark.parametrize("primary", ["rsa tools", "rsa noda", RSA_ZEROS], indirect=True)
def test_file_can_say_that_its_parent_is_rsa(tools: Tools, primary: tuple[str, ...]) -> None:
    tools.key_file(primary=primary)
    path = tools.write(TSS2Key(True, 0x40000001, *tools.parts(), rsa_parent=True))
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)


@pytest.mark.parametrize("persistent_parent", [""], indirect=True)
def test_persistent_key_can_be_the_parent(tools: Tools, persistent_parent: str) -> None:
    path = tools.key_file_under(persistent_parent, tools.path("key.pem"), "-G", "ecc256")
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder)
    tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", persistent_parent)
    try:
        with pytest.raises(KeyNotFoundError, match=rf"no parent {persistent_parent} for key {path}"):
            open_key(tools.tpm.uri(path))
    finally:
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(tools.path("primary")), persistent_parent)


def test_key_of_another_tpm_is_refused_by_name(
    tools: Tools, ec_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = SoftTPM(tmp_path_factory.mktemp("other"))
    other.start()
    try:
        with pytest.raises(SigningKeyError, match=rf"does not accept key {ec_file} .*another TPM"):
            open_key(other.uri(ec_file))
        assert Tools(other, tools.folder).left_over() == ""
    finally:
        other.stop()


# -- Importable keys --------------------------------------------------------------------------------------------------


@pytest.fixture
def new_parent(tools: Tools, primary: tuple[str, ...]) -> Path:
    """The public area of a primary key."""
    context, public = tools.path("parent.ctx"), tools.path("parent.pub")
    tools.run("tpm2_createprimary", "-Q", "-c", str(context), *primary)
    tools.run("tpm2_readpublic", "-Q", "-c", str(context), "-o", str(public))
    return public


@pytest.mark.parametrize(
    "primary", ["ecc noda", "ecc zeros", "ecc tools", "rsa noda", RSA_ZEROS, "rsa tools"], indirect=True
)
def test_key_that_tpm2_duplicate_made_is_imported(tools: Tools, new_parent: Path) -> None:
    path = tools.write(tools.duplicated(new_parent))
    with open_key(tools.tpm.uri(path)) as key:
        for number in range(3):
            signature = key.sign(b"%d" % number)
            assert openssl_verifies(tools.folder, tools.public_key(), signature, b"%d" % number, "sha256")


@pytest.mark.parametrize("primary", ["ecc noda"], indirect=True)
@pytest.mark.parametrize("kind", ["ecc384", "rsa2048"])
def test_importable_key_of_another_kind_signs_with_its_auth_value(tools: Tools, new_parent: Path, kind: str) -> None:
    path = tools.write(tools.duplicated(new_parent, kind, PASSWORD))
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, PASSWORD)
    with open_key(tools.tpm.uri(path), "wrong") as key, pytest.raises(WrongPinError):
        key.sign(b"message")


@pytest.mark.parametrize("persistent_parent", [""], indirect=True)
def test_key_is_imported_under_a_persistent_parent(tools: Tools, persistent_parent: str) -> None:
    public = tools.path("parent.pub")
    tools.run("tpm2_readpublic", "-Q", "-c", persistent_parent, "-o", str(public))
    key = tools.duplicated(public)._replace(parent=int(persistent_parent, 16))
    assert sign_and_verify(tools.tpm.uri(tools.write(key)), tools.public_key(), tools.folder)


@pytest.mark.parametrize("primary", ["ecc noda", "rsa noda"], indirect=True)
def test_key_that_is_encrypted_to_another_parent_is_refused_by_name(tools: Tools, new_parent: Path) -> None:
    key = tools.duplicated(new_parent)
    other = key._replace(parent=0x4000000C)
    with pytest.raises(SigningKeyError) as caught:
        open_key(tools.tpm.uri(tools.write(other)))
    assert str(tools.path("written.pem")) in caught.value.message


# -- Files of ours, used by others ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
@pytest.mark.parametrize("auth", ["", pytest.param(PASSWORD, marks=judges.needs_tpm2_openssl)])
def test_tpm2_openssl_signs_with_a_file_of_ours(tools: Tools, kind: str, auth: str) -> None:
    tools.key_file(kind, primary=("-G", "ecc", *NODA), auth=auth)
    path = tools.write(TSS2Key(not auth, 0x40000001, *tools.parts()))
    assert openssl_signs(tools, path, auth)


OTHER_KEYS = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY")


def pem_block(label: str) -> str:
    """Return a PEM block that bears a label."""
    return f"-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n"


# -- Unusual and damaged files ----------------------------------------------------------------------------------------


def test_pem_is_read_with_crlf_or_text_around_it_or_in_one_line(tools: Tools, ec_file: Path) -> None:
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


def test_path_alone_names_the_key(tools: Tools, ec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM2_TCTI", tools.tpm.tcti)
    assert sign_and_verify(str(ec_file), tools.tpm.public_key(ec_file), tools.folder)


def test_file_without_exactly_one_key_is_refused_by_name(tools: Tools, ec_file: Path) -> None:
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


def test_file_in_the_obsolete_format_is_refused_by_name(tools: Tools) -> None:
    path = tools.path("old.pem")
    path.write_text(pem_block("TSS2 KEY BLOB"))
    with pytest.raises(UnsupportedKeyError, match="TSS2 KEY BLOB is obsolete"):
        open_key(tools.tpm.uri(path))


@pytest.mark.parametrize(("number", "change"), [(0, b"\0"), (0, None), (1, b"\0"), (1, None)])
def test_damaged_area_is_refused_by_name(tools: Tools, whole: bytes, number: int, change: bytes | None) -> None:
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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_file_signs_or_is_refused_by_name(tools: Tools, whole: bytes, data: st.DataObject) -> None:
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
