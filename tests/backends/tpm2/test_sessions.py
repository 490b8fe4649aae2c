"""What is sent to a TPM: sessions, the storage root key that they are salted with, and its pinned Name."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_PUBLIC

from backends.tpm2.test_faults import SIGN, uri_through
from backends.tpm2.tpms import PASSWORD, Tools, sign_and_verify
from hwsigner.errors import SigningKeyError, UnsafeConnectionWarning, UsageError
from hwsigner.key import open_key
from softhsm.command import run
from softhsm.tpm import SoftTPM
from tpm_proxy import Exchange, TPMProxy

SESSION_HANDLE, PASSWORD_HANDLE = 0x02, bytes.fromhex("40000009")
START_AUTH_SESSION, READ_PUBLIC, CREATE_PRIMARY, CONTEXT_SAVE = 0x176, 0x173, 0x131, 0x162
DECRYPT = 0x20  # Of a session's attributes: it encrypts the command's first parameter.
NULL_HANDLE = bytes.fromhex("40000007")
SRK = 0x81000001


@pytest.fixture
def pins(refused_auth: Path) -> Path:
    """The folder with pinned Names."""
    return refused_auth.parent / "srk"


@pytest.fixture
def uri(proxy: TPMProxy, locked_file: Path) -> str:
    return uri_through(proxy, locked_file)


@pytest.fixture
def persistent_srk(tools: Tools) -> str:
    """Make the storage root key persistent at the expected handle, and return its Name."""
    return persist_srk(tools, "ecc")


def persist_srk(tools: Tools, kind: str) -> str:
    primary, name = str(tools.path("srk")), tools.path("name")
    tools.run("tpm2_createprimary", "-Q", "-G", kind, "-c", primary)
    tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", primary, hex(SRK))
    tools.run("tpm2_readpublic", "-Q", "-c", hex(SRK), "-n", str(name))
    return name.read_bytes().hex()


@pytest.fixture(autouse=True)
def no_persistent_srk(swtpm: SoftTPM) -> object:
    yield
    if hex(SRK) in run(["tpm2_getcap", "handles-persistent"], swtpm.env).decode():
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(SRK)], swtpm.env)


def sign(uri: str, pin: str | None = PASSWORD, times: int = 1) -> None:
    with open_key(uri, pin) as key:
        for _ in range(times):
            assert key.sign(b"message")


def signing(proxy: TPMProxy) -> list[Exchange]:
    """Return the signatures. At the first use of a protected key, a TPM wants the command again (RETRY)."""
    return [one for one in proxy.exchanges if one.code == SIGN and one.answer[6:10] == bytes(4)]


class TestOnTheBus:
    def test_no_auth_value_is_sent(self, proxy: TPMProxy, uri: str) -> None:
        sign(uri, times=3)
        assert len(signing(proxy)) == 3
        assert PASSWORD.encode() not in proxy.stream

    def test_auth_value_is_sent_in_plain_sessions(self, proxy: TPMProxy, uri: str) -> None:
        sign(f"{uri}&session=plain", times=3)
        assert proxy.stream.count(PASSWORD.encode()) >= 3
        assert START_AUTH_SESSION not in proxy.codes

    def test_digest_is_encrypted(self, proxy: TPMProxy, uri: str) -> None:
        import hashlib

        digest = hashlib.sha256(b"message").digest()
        sign(uri)
        assert digest not in proxy.stream
        sign(f"{uri}&session=plain")
        assert digest in proxy.stream

    def test_each_signature_has_a_salted_session_without_a_resource_manager(self, proxy: TPMProxy, uri: str) -> None:
        sign(uri, times=3)
        starts = [exchange.command for exchange in proxy.exchanges if exchange.code == START_AUTH_SESSION]
        assert len(starts) == len(signing(proxy)) == 3
        for start in starts:
            salt_key, bound_to = start[10:14], start[14:18]
            assert salt_key[0] == 0x80
            assert bound_to == NULL_HANDLE
            assert start.endswith(bytes.fromhex("0006 0080 0043 000b"))  # AES-128-CFB, SHA-256
        for exchange in signing(proxy):
            session, attributes = exchange.command[18], exchange.command[18 + 4 + 2 + 32]
            assert session == SESSION_HANDLE
            assert attributes & DECRYPT

    def test_key_with_an_empty_auth_value_starts_no_session(self, proxy: TPMProxy, ec_file: Path) -> None:
        sign(uri_through(proxy, ec_file), None)
        assert START_AUTH_SESSION not in proxy.codes
        assert signing(proxy)[0].command[18:22] == PASSWORD_HANDLE

    def test_unknown_kind_of_session_is_refused(self, uri: str) -> None:
        with pytest.raises(UsageError, match=r"session=none.*encrypted, plain"):
            open_key(f"{uri}&session=none", PASSWORD)


class TestStorageRootKey:
    def test_srk_is_the_owner_s_primary_key(self, proxy: TPMProxy, uri: str, pins: Path) -> None:
        sign(uri)
        [pin] = pins.glob("[!.]*")
        esys = ESAPI(proxy.tcti)
        template = TPM2B_PUBLIC.parse(
            "ecc256:aes128cfb",
            objectAttributes="fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt",
        )
        primary, public, *_ = esys.create_primary(None, template, ESYS_TR.RH_OWNER)
        name = bytes(public.get_name()).hex()
        esys.flush_context(primary)
        esys.close()
        assert pin.read_text().splitlines() == [name, proxy.tcti]
        assert (pins.stat().st_mode & 0o777, pin.stat().st_mode & 0o777) == (0o700, 0o600)

    def test_srk_is_the_persistent_key_if_there_is_one(
        self, proxy: TPMProxy, uri: str, pins: Path, persistent_srk: str
    ) -> None:
        sign(uri)
        [pin] = pins.glob("[!.]*")
        assert pin.read_text().splitlines()[0] == persistent_srk
        [start] = [exchange.command for exchange in proxy.exchanges if exchange.code == START_AUTH_SESSION]
        assert start[10:14] == SRK.to_bytes(4)

    def test_signing_key_at_the_srk_s_handle_is_ignored(self, tools: Tools, proxy: TPMProxy, uri: str) -> None:
        tools.tpm.persist(SRK, "ecc256")
        sign(uri)
        [start] = [exchange.command for exchange in proxy.exchanges if exchange.code == START_AUTH_SESSION]
        assert start[10] == 0x80

    @pytest.mark.parametrize("persistent_parent", [""], indirect=True)
    def test_srk_is_the_key_s_persistent_parent(
        self, tools: Tools, proxy: TPMProxy, pins: Path, persistent_parent: str
    ) -> None:
        path = tools.key_file_under(persistent_parent, tools.path("key.pem"), "-G", "ecc256", "-p", PASSWORD)
        sign(uri_through(proxy, path))
        [start] = [exchange.command for exchange in proxy.exchanges if exchange.code == START_AUTH_SESSION]
        assert start[10:14] == bytes.fromhex(persistent_parent[2:])
        assert [pin.name.partition("-")[0] for pin in pins.glob("[!.]*")] == [persistent_parent]

    def test_another_srk_is_an_error_before_an_auth_value_is_sent(
        self, tools: Tools, proxy: TPMProxy, uri: str, pins: Path
    ) -> None:
        sign(uri)
        [pin] = pins.glob("[!.]*")
        first = pin.read_text()
        name = persist_srk(tools, "rsa")
        proxy.exchanges.clear()
        for _ in range(2):
            with pytest.raises(SigningKeyError, match=rf"{name}.*{pin}.*cleared.*--accept-new-srk") as caught:
                sign(uri)
            assert "takes its place" in caught.value.message
        assert not {SIGN, START_AUTH_SESSION} & set(proxy.codes)
        assert pin.read_text() == first

    def test_another_srk_is_pinned_when_it_is_accepted(self, tools: Tools, uri: str, pins: Path) -> None:
        sign(uri)
        name = persist_srk(tools, "rsa")
        sign(f"{uri}&accept-new-srk=true")
        sign(uri)
        assert [pin.read_text().splitlines()[0] for pin in pins.glob("[!.]*")] == [name]
        with pytest.raises(UsageError, match="accept-new-srk=yes"):
            sign(f"{uri}&accept-new-srk=yes")

    def test_plain_session_ignores_the_srk(self, tools: Tools, uri: str, pins: Path) -> None:
        sign(uri)
        persist_srk(tools, "rsa")
        sign(f"{uri}&session=plain")

    def test_name_in_the_uri_pins_the_srk(self, tools: Tools, uri: str, pins: Path) -> None:
        sign(uri)
        [pin] = pins.glob("[!.]*")
        name = pin.read_text().splitlines()[0]
        pin.unlink()
        for spelling in (name, name.upper()):
            sign(f"{uri}&srk-name={spelling}")
        assert list(pins.glob("[!.]*")) == []
        persist_srk(tools, "rsa")
        for query in ("", "&accept-new-srk=true"):
            with pytest.raises(SigningKeyError, match=f"srk-name says, {name}"):
                sign(f"{uri}&srk-name={name}{query}")

    @pytest.mark.parametrize("name", ["000b00", "000b" + "g" * 64, "0004" + "0" * 40, "000c" + "0" * 64])
    def test_invalid_srk_name_is_refused(self, uri: str, name: str) -> None:
        with pytest.raises(UsageError, match="is not a TPM Name"):
            open_key(f"{uri}&srk-name={name}", PASSWORD)

    def test_each_tcti_has_a_pinned_name_of_its_own(
        self, tools: Tools, uri: str, locked_file: Path, pins: Path
    ) -> None:
        sign(uri)
        sign(tools.tpm.uri(locked_file))
        assert len(list(pins.glob("[!.]*"))) == 2

    @pytest.mark.parametrize("place", ["/dev/null", "", "readable"])
    def test_warning_is_given_when_the_srk_can_not_be_pinned(
        self, uri: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if place == "readable":
            place = str(tmp_path / "others")
            (tmp_path / "others" / "hwsigner" / "srk").mkdir(parents=True)
        monkeypatch.setenv("XDG_STATE_HOME", place)
        monkeypatch.setenv("HOME", "/")
        with pytest.warns(UnsafeConnectionWarning, match=r"can't be pinned.*srk-name = '000b") as caught:
            sign(uri)
        name = str(caught[0].message).rpartition("srk-name = '")[2].partition("'")[0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sign(f"{uri}&srk-name={name}")


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
@pytest.mark.parametrize("is_there", [True, False])
def test_pin_in_a_folder_that_others_can_write_is_an_error(
    proxy: TPMProxy, uri: str, pins: Path, mode: int, is_there: bool
) -> None:
    sign(uri)
    [pin] = pins.glob("[!.]*")
    if not is_there:
        pin.unlink()
    pins.chmod(mode)
    proxy.exchanges.clear()
    with pytest.raises(SigningKeyError, match=f"{pins}.*can be changed by other users.*chmod 700"):
        sign(uri)
    assert not {SIGN, START_AUTH_SESSION} & set(proxy.codes)


@pytest.mark.parametrize("damage", ["empty", "cut", "dangling", "folder", "pipe", "others can write it"])
def test_damaged_pin_is_an_error_until_the_srk_is_accepted(proxy: TPMProxy, uri: str, pins: Path, damage: str) -> None:
    sign(uri)
    [pin] = pins.glob("[!.]*")
    text = pin.read_text()
    if damage == "others can write it":
        pin.chmod(0o666)
    else:
        pin.unlink()
    if damage in ("empty", "cut"):
        pin.write_text("" if damage == "empty" else text[:40])
    elif damage == "dangling":
        pin.symlink_to("nowhere")
    elif damage == "folder":
        pin.mkdir()
    elif damage == "pipe":
        os.mkfifo(pin)
    proxy.exchanges.clear()
    with pytest.raises(SigningKeyError, match=str(pin)):
        sign(uri)
    assert not {SIGN, START_AUTH_SESSION} & set(proxy.codes)
    if damage != "folder":
        sign(f"{uri}&accept-new-srk=true")
        assert pin.read_text() == text


def test_pin_in_a_folder_that_others_can_only_read_is_used(tools: Tools, uri: str, pins: Path) -> None:
    sign(uri)
    pins.chmod(0o755)
    sign(uri)
    persist_srk(tools, "rsa")
    with pytest.raises(SigningKeyError, match="another one than is pinned"):
        sign(uri)


def test_pin_is_on_disk_before_the_key_is_used(uri: str, pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    sign(uri)
    [pin] = pins.glob("[!.]*")
    assert synced == [f"{pins}/.{pin.name}.hwsigner-new", str(pins)]


class TestInterposer:
    """Something between hwsigner and the TPM that changes what passes."""

    def test_forged_public_area_is_refused_in_spite_of_its_name(
        self, tools: Tools, proxy: TPMProxy, uri: str, persistent_srk: str
    ) -> None:
        """The interposer sends a public area of its own with the Name of the TPM's key."""
        sign(uri)
        forward = proxy._forward
        replaced = []

        def forge(command: bytes) -> bytes:
            reply = forward(command)
            if int.from_bytes(command[6:10]) == READ_PUBLIC and command[10:14] == SRK.to_bytes(4):
                size = int.from_bytes(reply[10:12])
                area = bytearray(reply[12 : 12 + size])
                area[-1] ^= 1  # Of the public point.
                replaced.append(True)
                return reply[:12] + bytes(area) + reply[12 + size :]
            return reply

        proxy._forward = forge  # type: ignore[method-assign]
        proxy.exchanges.clear()
        with pytest.raises(SigningKeyError):
            sign(uri)
        assert replaced
        assert not {SIGN, START_AUTH_SESSION} & set(proxy.codes)

    def test_hidden_persistent_srk_is_an_error(self, proxy: TPMProxy, uri: str, tools: Tools) -> None:
        persist_srk(tools, "rsa")
        sign(uri)
        proxy.decide = lambda command: 0x18B if command[6:14] == READ_PUBLIC.to_bytes(4) + SRK.to_bytes(4) else "pass"
        proxy.exchanges.clear()
        with pytest.raises(SigningKeyError, match="another one than is pinned"):
            sign(uri)
        assert SIGN not in proxy.codes

    def test_pinned_srk_that_can_not_be_checked_is_an_error(self, proxy: TPMProxy, uri: str, pins: Path) -> None:
        with open_key(uri, PASSWORD) as key:
            assert key.sign(b"message")
        with open_key(uri, PASSWORD) as key:
            proxy.decide = lambda command: 0x9A2 if int.from_bytes(command[6:10]) == CREATE_PRIMARY else "pass"
            proxy.exchanges.clear()
            with pytest.raises(SigningKeyError, match="is pinned and can't be checked"):
                key.sign(b"message")
        assert SIGN not in proxy.codes


def test_null_hierarchy_salts_sessions_when_the_owner_has_an_auth_value(
    tools: Tools, proxy: TPMProxy, locked_file: Path, pins: Path
) -> None:
    with open_key(uri_through(proxy, locked_file), PASSWORD) as key:
        tools.run("tpm2_changeauth", "-Q", "-c", "owner", "owned")
        try:
            assert key.sign(b"message")
        finally:
            tools.run("tpm2_changeauth", "-Q", "-c", "owner", "-p", "owned")
    primaries = [exchange for exchange in proxy.exchanges if exchange.code == CREATE_PRIMARY]
    assert primaries[-1].command[10:14] == NULL_HANDLE
    assert not pins.exists()
    assert sign_and_verify(
        tools.tpm.uri(locked_file), tools.tpm.public_key(locked_file, PASSWORD), tools.folder, PASSWORD
    )
