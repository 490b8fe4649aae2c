"""A key's life in a TPM: made, described, certified and deleted. tpm2-tools and OpenSSL judge what is there."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

import certs
import judges
from backends.contract import openssl_verifies
from backends.tpm2.test_faults import uri_through
from backends.tpm2.test_policies import extend
from backends.tpm2.test_sharing import start
from backends.tpm2.test_uris import der
from backends.tpm2.tpms import NODA, PASSWORD, Tools, flush_handles, handles_in, openssl_signs, read_der
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._pins import PinSource
from hwsigner._system import notices
from hwsigner.backends.tpm2 import handles, keygen
from hwsigner.backends.tpm2.key_file import TSS2Key, parse_tss2
from hwsigner.errors import (
    BackendUnavailableError,
    CertificateError,
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
from hwsigner.key import FoundCertificate, HashName, find_certificates, open_key
from hwsigner.key.management import (
    InstalledCertificate,
    KeyAlgorithm,
    KeyDescription,
    KeyRequest,
    delete_key,
    describe_key,
    generate_key,
    install_certificate,
)
from softhsm.command import ToolError, run
from softhsm.tabrmd import ResourceManager
from softhsm.tpm import SoftTPM
from tpm_proxy import Fault, TPMProxy

pytestmark = pytest.mark.usefixtures("refused_auth")

HANDLE = 0x81004730
INDEX = "0x01c20000"
RESETTABLE = 16
CREATE, CREATE_PRIMARY, EVICT_CONTROL, SIGN = 0x153, 0x131, 0x120, 0x15D
NV_RATE = 0x920
NV_DEFINE_SPACE, NV_WRITE = 0x12A, 0x137
TEST_PARMS = 0x18A
ATTRIBUTES = {"fixedtpm", "fixedparent", "sensitivedataorigin", "sign"}
OWNER = "owner-4711"


def agree(doomed: Sequence[str]) -> None:
    """Let everything go."""


def read_file(path: Path) -> TSS2Key:
    return parse_tss2(read_der(path), str(path))


class Judge:
    """What tpm2-tools say of a key that hwsigner made."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    def load(self, path: Path) -> str:
        """Load the key of a file, and return its context."""
        key = read_file(path)
        assert key.parent == 0x40000001
        primary, context = str(self.tools.path("primary")), str(self.tools.path("judged"))
        for name, data in (("public", key.public), ("private", key.private)):
            self.tools.path(name).write_bytes(data)
        parts = ["-u", str(self.tools.path("public")), "-r", str(self.tools.path("private"))]
        self.tools.run("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", primary, *NODA)
        self.tools.run("tpm2_load", "-Q", "-C", primary, *parts, "-c", context)
        return context

    def read(self, key: str) -> dict[str, str]:
        """Return what tpm2_readpublic prints, by the names of the values."""
        lines = [line.strip() for line in self.tools.run("tpm2_readpublic", "-c", key).splitlines()]
        found = dict(line.split(": ", 1) for line in lines if ": " in line)
        found["attributes"] = lines[lines.index("attributes:") + 1].removeprefix("value: ")
        found["type"] = lines[lines.index("type:") + 1].removeprefix("value: ")
        return found

    def signs(self, key: str, public_key: bytes, hash: HashName = "sha256", auth: str = "") -> bool:
        """Return whether tpm2_sign makes a signature with the key."""
        message, signature = self.tools.path("message"), self.tools.path("signature")
        message.write_bytes(b"message")
        options = ["-p", auth] if auth else []
        self.tools.run("tpm2_sign", "-c", key, "-g", hash, "-f", "plain", "-o", str(signature), *options, str(message))
        return openssl_verifies(self.tools.folder, public_key, signature.read_bytes(), b"message", hash)


@pytest.fixture
def judge(tools: Tools) -> Judge:
    return Judge(tools)


@pytest.fixture
def path(tools: Tools) -> Path:
    """The path of the key file to make."""
    return tools.path("new.pem")


@pytest.fixture
def handle_uri(tools: Tools) -> Iterator[str]:
    """The URI of the handle to make a key at. It is free at the end."""
    yield tools.tpm.uri(HANDLE)
    if f"{HANDLE:#x}" in tools.run_getcap("handles-persistent"):
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", f"{HANDLE:#x}")


@pytest.fixture
def owner(tools: Tools) -> Iterator[str]:
    """The owner's auth value, in a file that a URI names."""
    place = tools.path("owner-auth")
    place.write_text(OWNER)
    place.chmod(0o600)
    tools.run("tpm2_changeauth", "-c", "owner", OWNER)
    yield f"&owner-pin-source=file:{place}"
    tools.run("tpm2_changeauth", "-c", "owner", "-p", OWNER)


def make(tools: Tools, path: Path, pin: str | None = None, **request: object) -> KeyDescription:
    return generate_key(tools.tpm.uri(path), KeyRequest(**request), pin)  # type: ignore[arg-type]


def handle_through(proxy: TPMProxy) -> str:
    return f"tpm2:handle={HANDLE:#x}?tcti={proxy.tcti}"


def sign(uri: str, pin: str | None = None) -> bytes:
    with open_key(uri, pin) as key:
        return key.sign(b"message")


class TestFile:
    @pytest.mark.parametrize(
        ("algorithm", "kind"),
        [("p256", "ecc"), ("p384", "ecc"), ("p521", "ecc"), ("rsa2048", "rsa"), ("rsa3072", "rsa")],
    )
    def test_key_signs_only_and_never_leaves_the_tpm(
        self, tools: Tools, judge: Judge, path: Path, algorithm: str, kind: str
    ) -> None:
        made = make(tools, path, algorithm=algorithm)
        context = judge.load(path)
        public = judge.read(context)
        assert set(public["attributes"].split("|")) == ATTRIBUTES | {"userwithauth", "noda"}
        assert public["type"] == kind
        # A null scheme: the key signs with every hash.
        assert made.public_key is not None
        assert judge.signs(context, made.public_key, "sha256")
        assert judge.signs(context, made.public_key, "sha384")
        assert openssl_verifies(tools.folder, made.public_key, sign(made.uri), b"message", "sha256")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_key_can_t_be_duplicated_to_another_parent(self, tools: Tools, judge: Judge, path: Path) -> None:
        make(tools, path)
        context, session = judge.load(path), str(tools.path("session"))
        outputs = ["-r", str(tools.path("copy")), "-s", str(tools.path("seed"))]
        tools.run("tpm2_startauthsession", "--policy-session", "-S", session, flush=False)
        tools.run("tpm2_policycommandcode", "-Q", "-S", session, "TPM2_CC_Duplicate", flush=False)
        use = ["-p", f"session:{session}", *outputs]
        try:
            with pytest.raises(ToolError, match=r"Esys_Duplicate\(0x99D\) .* policy check failed"):
                tools.run("tpm2_duplicate", "-C", "null", "-c", context, "-G", "null", *use, flush=False)
        finally:
            tools.run("tpm2_flushcontext", session)

    @judges.needs_tpm2_openssl
    def test_openssl_signs_with_the_key(self, tools: Tools, path: Path) -> None:
        make(tools, path, PASSWORD)
        tools.path("public").write_bytes(read_file(path).public)
        assert openssl_signs(tools, path, PASSWORD)

    def test_nothing_is_overwritten(self, tools: Tools, path: Path) -> None:
        make(tools, path)
        before, entries = path.read_bytes(), set(tools.folder.iterdir())
        with pytest.raises(SigningKeyError, match=r"new.pem is there already"):
            make(tools, path)
        assert (path.read_bytes(), set(tools.folder.iterdir())) == (before, entries)

    def test_file_that_appears_meanwhile_is_not_overwritten(
        self, tools: Tools, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keygen, "check_new_key_file", lambda path: Path(path).write_text("another"))
        with pytest.raises(SigningKeyError, match="is there already"):
            make(tools, path)
        assert path.read_text() == "another"
        assert not list(tools.folder.glob(".new.pem*"))

    def test_link_to_nothing_is_not_followed(self, tools: Tools, path: Path) -> None:
        path.symlink_to(tools.path("elsewhere.pem"))
        with pytest.raises(SigningKeyError, match="is there already"):
            make(tools, path)
        assert not tools.path("elsewhere.pem").exists()

    def test_missing_folder_is_an_error_before_the_tpm_is_asked(self, proxy: TPMProxy, tools: Tools) -> None:
        with pytest.raises(SigningKeyError, match=r"there is no folder .*/none for the new key"):
            generate_key(uri_through(proxy, tools.path("none") / "key.pem"))
        assert proxy.codes == []

    def test_process_that_is_killed_leaves_no_part_of_a_file(self, tools: Tools, path: Path) -> None:
        program = (
            "import os, sys\nfrom hwsigner.key.management import generate_key\n"
            "os.link = lambda *_, **__: os._exit(9)\ngenerate_key(sys.argv[1])\n"
        )
        assert start(program, tools.tpm.uri(path)).wait(60) == 9
        assert not path.exists()
        assert list(tools.folder.glob(".new.pem*")) == []
        make(tools, path)

    @pytest.mark.parametrize("algorithm", ["rsa4096", "mldsa44"])
    def test_key_that_the_tpm_can_t_make_is_refused_before_it_is_made(
        self, proxy: TPMProxy, path: Path, algorithm: KeyAlgorithm
    ) -> None:
        with pytest.raises(UnsupportedKeyError) as caught:
            generate_key(uri_through(proxy, path), KeyRequest(algorithm))
        assert f"can't make {algorithm} keys" in caught.value.message
        assert caught.value.hint == "Use one of p256, p384, p521, rsa2048, rsa3072"
        assert CREATE not in proxy.codes
        assert not path.exists()

    def test_tpm_that_failed_is_not_said_to_lack_the_algorithm(self, proxy: TPMProxy, path: Path) -> None:
        proxy.decide = lambda command: 0x101 if int.from_bytes(command[6:10]) == TEST_PARMS else "pass"
        with pytest.raises(SigningKeyError, match="failure") as caught:
            generate_key(uri_through(proxy, path))
        assert not isinstance(caught.value, UnsupportedKeyError)

    @pytest.mark.parametrize(
        "request_",
        [{"always_authenticate": True}, {"pin_policy": "once"}, {"touch_policy": "never"}, {"overwrite": True}],
    )
    def test_request_for_another_kind_of_key_is_refused(
        self, tools: Tools, path: Path, request_: dict[str, object]
    ) -> None:
        with pytest.raises(UsageError, match="does not apply to keys in a TPM"):
            generate_key(tools.tpm.uri(path), KeyRequest(**request_))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("session", "message"),
        [("", "authorization failure"), ("&session=plain", r"made another key for .* than was asked for")],
    )
    def test_key_that_was_changed_on_the_way_is_thrown_away(
        self, swtpm: SoftTPM, tools: Tools, path: Path, short_folder: Path, session: str, message: str
    ) -> None:
        with ChangingProxy(swtpm, short_folder) as proxy:
            with pytest.raises(SigningKeyError, match=message):
                generate_key(uri_through(proxy, path) + session)
            assert CREATE in proxy.codes
        assert not path.exists()

    def test_key_of_another_tpm_that_takes_the_place_of_the_pinned_one_is_refused(
        self, proxy: TPMProxy, tools: Tools, path: Path, short_folder: Path
    ) -> None:
        uri = uri_through(proxy, path)
        generate_key(uri)
        path.unlink()
        (short_folder / "other").mkdir()
        with SoftTPM(short_folder / "other") as proxy._tpm, pytest.raises(SigningKeyError, match="storage root key"):
            generate_key(uri)
        assert not path.exists()

    def test_user_is_told_when_it_takes_long(
        self, proxy: TPMProxy, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown, texts = threading.Event(), []

        def notify(text: str) -> None:
            texts.append(text)
            shown.set()

        def decide(command: bytes) -> Fault:
            if int.from_bytes(command[6:10]) == CREATE:
                shown.wait(60)
            return "pass"

        proxy.decide = decide
        monkeypatch.setattr(notices, "_notify", notify)
        generate_key(uri_through(proxy, path))
        assert texts == ["waiting for the TPM to make the key: some take a minute for RSA"]

    @pytest.mark.parametrize("fault", ["drop", "cut", 0x101])
    @pytest.mark.parametrize("pin", [None, PASSWORD])
    def test_fault_leaves_a_whole_key_or_none(
        self, proxy: TPMProxy, tools: Tools, swtpm: SoftTPM, path: Path, fault: Fault, pin: str | None
    ) -> None:
        uri = uri_through(proxy, path)
        for number in count():
            proxy.exchanges.clear()
            proxy.at(number, fault)
            try:
                generate_key(uri, pin=pin)
            except HwsignerError:
                assert not path.exists()
            else:
                assert sign(tools.tpm.uri(path), pin)
                path.unlink()
                if len(proxy.exchanges) <= number:
                    break
            assert [name for name in tools.folder.iterdir() if "new.pem" in name.name] == []
            flush_handles(swtpm, proxy.lost)
            proxy.lost.clear()
        assert number > 5


class ChangingProxy(TPMProxy):
    """A proxy that removes noDA from every key that is made through it."""

    def _forward(self, command: bytes) -> bytes:
        # TPMT_PUBLIC: the type, the nameAlg SHA-256, then the attributes.
        asked, changed = bytes.fromhex("0023000b00040472"), bytes.fromhex("0023000b00040072")
        return super()._forward(command.replace(asked, changed))


class TestPin:
    def test_pin_is_wanted_and_is_not_seen_on_the_way(self, proxy: TPMProxy, tools: Tools, path: Path) -> None:
        made = generate_key(uri_through(proxy, path), pin=PASSWORD)
        assert PASSWORD.encode() not in proxy.stream
        assert not read_file(path).empty_auth
        assert "Signatures need the key's PIN, its TPM auth value" in made.guards
        uri = tools.tpm.uri(path)
        assert sign(uri, PASSWORD)
        with pytest.raises(WrongPinError):
            sign(uri, "wrong")
        assert tools.counted_failures() == 1

    @pytest.mark.parametrize("place", ["query", "callable", "variable"])
    def test_pin_comes_from_any_place_but_a_prompt(
        self, tools: Tools, path: Path, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uri = tools.tpm.uri(path)
        if place == "query":
            generate_key(f"{uri}&pin-value={PASSWORD}")
        elif place == "callable":
            generate_key(uri, pin=lambda request: PASSWORD)
        else:
            monkeypatch.setenv("HWSIGNER_PIN", PASSWORD)
            generate_key(uri)
        assert sign(uri, PASSWORD)

    def test_user_is_not_asked_for_a_pin(self, tools: Tools, path: Path) -> None:
        def prompt(request: object) -> str:
            raise AssertionError("asked")

        generate_key(tools.tpm.uri(path), pin=PinSource(prompts=[prompt]))
        assert read_file(path).empty_auth

    @pytest.mark.parametrize("place", ["pin-value=", "pin-source=env:EMPTY"])
    def test_empty_pin_in_its_place_makes_no_key_without_a_pin(
        self, tools: Tools, path: Path, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMPTY", "")
        with pytest.raises(PinError, match=r"the PIN for \S+ is empty"):
            generate_key(f"{tools.tpm.uri(path)}&{place}")
        assert not path.exists()

    @pytest.mark.parametrize(("pin", "fault"), [("x" * 33, "more than 32 bytes"), ("x\0", "ends in a NUL")])
    def test_pin_that_the_tpm_can_t_keep_is_refused(self, tools: Tools, path: Path, pin: str, fault: str) -> None:
        with pytest.raises(PinError, match=fault) as caught:
            make(tools, path, pin)
        assert pin not in str(caught.value)

    def test_longest_pin_is_accepted(self, tools: Tools, path: Path) -> None:
        assert sign(make(tools, path, "x" * 32).uri, "x" * 32)

    @pytest.mark.parametrize(
        ("pin", "noda", "is_noda", "note"),
        [
            (None, None, True, ""),
            (PASSWORD, None, False, ""),
            (PASSWORD, True, True, "guess without limit"),
            (None, False, False, "while the TPM is in lockout"),
        ],
    )
    def test_noda_follows_from_the_pin_unless_it_is_said(
        self, tools: Tools, judge: Judge, path: Path, pin: str | None, noda: bool | None, is_noda: bool, note: str
    ) -> None:
        made = make(tools, path, pin, noda=noda)
        assert ("noda" in judge.read(judge.load(path))["attributes"]) == made.properties["noDA"] == is_noda
        assert bool(made.notes) == bool(note)
        assert note in "".join(made.notes)

    def test_key_is_made_and_signs_in_lockout_when_it_has_no_pin(
        self, tools: Tools, path: Path, locked_file: Path
    ) -> None:
        tools.set_lockout(1)
        with pytest.raises(WrongPinError), open_key(tools.tpm.uri(locked_file), _final("wrong")) as key:
            key.sign(b"message")
        made = make(tools, path)
        assert sign(made.uri)
        with (
            pytest.raises(PinLockedError, match="in lockout"),
            open_key(tools.tpm.uri(locked_file), _final("x")) as key,
        ):
            key.sign(b"message")


def _final(pin: str) -> PinSource:
    """Return a PIN to send even if it locks the TPM."""
    return PinSource(pin, allow_final_try=True)


class TestOwner:
    def test_key_is_made_with_the_owner_s_auth_value(self, tools: Tools, path: Path, owner: str) -> None:
        uri = tools.tpm.uri(path) + owner
        generate_key(uri)
        assert sign(uri)

    def test_missing_auth_value_of_the_owner_is_an_error(self, tools: Tools, path: Path, owner: str) -> None:
        with pytest.raises(PinRequiredError, match="the owner hierarchy needs its TPM owner auth value") as caught:
            make(tools, path)
        assert "owner-pin-source" in caught.value.hint
        assert not path.exists()

    def test_wrong_auth_value_of_the_owner_is_sent_once(
        self, proxy: TPMProxy, tools: Tools, path: Path, owner: str
    ) -> None:
        tools.path("owner-auth").write_text("wrong")
        with pytest.raises(WrongPinError, match="wrong TPM owner auth value"):
            generate_key(uri_through(proxy, path) + owner)
        # The empty one was tried before, for the storage root key that a session is salted with.
        refused = [exchange.code for exchange in proxy.exchanges if exchange.answer[6:10].hex() == "000009a2"]
        assert refused == [CREATE_PRIMARY] * 2

    def test_handle_takes_the_owner_s_auth_value_and_hides_it(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, owner: str
    ) -> None:
        uri = handle_through(proxy) + owner
        try:
            generate_key(uri)
        finally:
            gone = delete_key(uri, agree)
        assert f"handle:{HANDLE:#010x}" in gone[0]
        assert OWNER.encode() not in proxy.stream
        assert f"{HANDLE:#x}" not in tools.run_getcap("handles-persistent")

    def test_handle_stays_when_the_owner_s_auth_value_is_missing(
        self, tools: Tools, handle_uri: str, owner: str
    ) -> None:
        generate_key(handle_uri + owner)
        try:
            with pytest.raises(PinRequiredError, match="the owner hierarchy needs its TPM owner auth value"):
                delete_key(handle_uri, agree)
            assert f"{HANDLE:#x}" in tools.run_getcap("handles-persistent")
        finally:
            delete_key(handle_uri + owner, agree)


class TestPCRs:
    @pytest.fixture(autouse=True)
    def reset(self, tools: Tools) -> Iterator[None]:
        yield
        tools.run("tpm2_pcrreset", str(RESETTABLE), "23")

    @pytest.mark.parametrize("pin", [None, PASSWORD])
    def test_key_signs_until_a_pcr_changes_whatever_the_pin(
        self, tools: Tools, judge: Judge, path: Path, pin: str | None
    ) -> None:
        made = make(tools, path, pin, pcrs="sha256:7,16")
        attributes = set(judge.read(judge.load(path))["attributes"].split("|"))
        assert attributes == ATTRIBUTES | (set() if pin else {"noda"})  # No userwithauth, no adminwithpolicy.
        assert made.public_key is not None
        assert openssl_verifies(tools.folder, made.public_key, sign(made.uri, pin), b"message", "sha256")
        assert made.notes[0].startswith("An update of firmware, shim")
        extend(tools, RESETTABLE)
        for given in (PASSWORD, "wrong", None):
            with pytest.raises((SigningKeyError, PinRequiredError)):
                sign(made.uri, given)
        with pytest.raises(SigningKeyError, match="at least one has another value than the policy wants"):
            sign(made.uri, pin)
        assert tools.counted_failures() == 0

    def test_wrong_pin_and_none_are_refused_while_the_pcrs_are_right(self, tools: Tools, path: Path) -> None:
        made = make(tools, path, PASSWORD, pcrs="sha256:16")
        with pytest.raises(WrongPinError):
            sign(made.uri, "wrong")
        with pytest.raises(PinRequiredError):
            sign(made.uri)
        assert tools.counted_failures() >= 1

    @pytest.mark.parametrize("pin", [None, PASSWORD])
    def test_tpm2_sign_needs_the_policy(self, tools: Tools, judge: Judge, path: Path, pin: str | None) -> None:
        made = make(tools, path, pin, pcrs="sha256:16,23")
        context, session = judge.load(path), str(tools.path("session"))
        assert made.public_key is not None

        def signs_by_policy() -> bool:
            assert made.public_key is not None
            tools.run("tpm2_startauthsession", "--policy-session", "-S", session, flush=False)
            try:
                tools.run("tpm2_policypcr", "-Q", "-S", session, "-l", "sha256:16,23", flush=False)
                if pin:
                    tools.run("tpm2_policyauthvalue", "-Q", "-S", session, flush=False)
                return judge.signs(context, made.public_key, auth=f"session:{session}" + (f"+{pin}" if pin else ""))
            finally:
                tools.run("tpm2_flushcontext", session)

        assert signs_by_policy()
        with pytest.raises(ToolError):  # The auth value alone opens nothing.
            judge.signs(context, made.public_key, auth=pin or "")
        extend(tools, RESETTABLE)
        with pytest.raises(ToolError, match="policy"):
            signs_by_policy()

    def test_more_pcrs_than_the_tpm_reads_at_once_are_selected(self, tools: Tools, path: Path) -> None:
        numbers = ",".join(map(str, range(17)))
        made = make(tools, path, pcrs=f"sha384:{numbers}")
        assert sign(made.uri)
        extend_bank = f"{RESETTABLE}:sha384={'cd' * 48}"
        tools.run("tpm2_pcrextend", extend_bank)
        with pytest.raises(SigningKeyError, match="policy"):
            sign(made.uri)

    @pytest.mark.parametrize(
        "pcrs",
        ["7", "sha256", "sha256:", "sha256:24", "sha256:7,", "md5:7", "sha256:7+sha384:7", "sha256:-1", "sha256: 7"],
    )
    def test_malformed_selection_is_refused(self, tools: Tools, path: Path, pcrs: str) -> None:
        with pytest.raises(UsageError, match="names no PCRs"):
            make(tools, path, pcrs=pcrs)

    def test_pcr_that_any_program_can_reset_is_warned_of(self, tools: Tools, path: Path) -> None:
        assert "PCR 16 protects little" in make(tools, path, pcrs="sha256:16").notes[1]

    def test_handle_with_pcrs_is_refused(self, handle_uri: str) -> None:
        with pytest.raises(UsageError, match="a key with PCRs can't be at a handle"):
            generate_key(handle_uri, KeyRequest(pcrs="sha256:7"))


class TestHandle:
    def test_key_is_there_with_its_attributes(self, tools: Tools, judge: Judge, handle_uri: str) -> None:
        made = generate_key(handle_uri, pin=PASSWORD)
        public = judge.read(f"{HANDLE:#x}")
        assert set(public["attributes"].split("|")) == ATTRIBUTES | {"userwithauth"}
        assert public["name"] == made.properties["name"]
        assert made.public_key is not None
        assert judge.signs(f"{HANDLE:#x}", made.public_key, auth=PASSWORD)
        assert openssl_verifies(tools.folder, made.public_key, sign(handle_uri, PASSWORD), b"message", "sha256")
        assert made.properties["pin"] is True
        assert describe_key(handle_uri).properties["pin"] is None

    @pytest.mark.parametrize(
        ("handle", "whose"),
        [
            (0x81000000, "storage root keys"),
            (0x81000001, "storage root keys"),
            (0x810000FF, "storage root keys"),
            (0x81010000, "endorsement keys"),
            (0x81010001, "endorsement keys"),
            (0x8101FFFF, "endorsement keys"),
            (0x81800000, "the platform's firmware"),
            (0x81FFFFFF, "the platform's firmware"),
        ],
    )
    @pytest.mark.parametrize("do", [generate_key, lambda uri: delete_key(uri, agree)])
    def test_reserved_handle_is_refused_before_the_tpm_is_asked(
        self, proxy: TPMProxy, handle: int, whose: str, do: Callable[[str], object]
    ) -> None:
        with pytest.raises(UsageError, match=f"is reserved for {whose}"):
            do(f"tpm2:handle={handle:#010x}?tcti={proxy.tcti}")
        assert proxy.codes == []

    def test_taken_handle_is_refused_before_a_key_is_made(self, proxy: TPMProxy, tools: Tools, handle_uri: str) -> None:
        first = generate_key(handle_uri)
        with pytest.raises(SigningKeyError, match=f"has a key at handle:{HANDLE:#010x} already"):
            generate_key(handle_through(proxy))
        assert CREATE not in proxy.codes
        assert describe_key(handle_uri).properties["name"] == first.properties["name"]

    def test_handle_that_is_taken_meanwhile_is_refused(
        self, tools: Tools, handle_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = generate_key(handle_uri)
        monkeypatch.setattr(handles, "check_free", lambda *_: None)
        with pytest.raises(SigningKeyError, match="already"):
            generate_key(handle_uri)
        assert describe_key(handle_uri).properties["name"] == first.properties["name"]

    @pytest.mark.parametrize(("code", "message"), [(0x14B, "has no room for another key"), (0x14C, "already")])
    def test_tpm_without_room_is_an_error_that_says_so(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, code: int, message: str
    ) -> None:
        proxy.decide = lambda command: code if int.from_bytes(command[6:10]) == EVICT_CONTROL else "pass"
        with pytest.raises(SigningKeyError, match=message):
            generate_key(handle_through(proxy))

    def test_tpm_that_limits_the_rate_of_writing_is_asked_again(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str
    ) -> None:
        refusals = [NV_RATE] * 12  # More than the library repeats by itself.

        def decide(command: bytes) -> Fault:
            is_evicting = int.from_bytes(command[6:10]) == EVICT_CONTROL
            return refusals.pop() if is_evicting and refusals else "pass"

        proxy.decide = decide
        made = generate_key(handle_through(proxy))
        assert refusals == []
        assert describe_key(handle_uri).properties["name"] == made.properties["name"]

    @pytest.mark.parametrize("fault", ["drop", "cut"])
    def test_lost_connection_is_repaired(self, proxy: TPMProxy, tools: Tools, handle_uri: str, fault: Fault) -> None:
        faults: list[Fault] = [fault]

        def decide(command: bytes) -> Fault:
            is_evicting = int.from_bytes(command[6:10]) == EVICT_CONTROL
            return faults.pop() if is_evicting and faults else "pass"

        proxy.decide = decide
        uri = handle_through(proxy)
        made = generate_key(uri)
        assert describe_key(handle_uri).properties["name"] == made.properties["name"]
        faults.append(fault)
        assert delete_key(uri, agree)
        assert f"{HANDLE:#x}" not in tools.run_getcap("handles-persistent")

    @pytest.mark.parametrize("fault", ["drop", "cut", 0x101])
    def test_key_that_a_fault_leaves_is_named(
        self, proxy: TPMProxy, tools: Tools, swtpm: SoftTPM, handle_uri: str, fault: Fault
    ) -> None:
        for number in count():
            proxy.exchanges.clear()
            proxy.at(number, fault)
            message = ""
            try:
                generate_key(handle_through(proxy))
            except HwsignerError as error:
                message = str(error)
            is_there = f"{HANDLE:#x}" in tools.run_getcap("handles-persistent")
            assert is_there == (message == "") or f"handle:{HANDLE:#010x}" in message
            if is_there:
                delete_key(handle_uri, agree)
            flush_handles(swtpm, proxy.lost)
            proxy.lost.clear()
            assert handles_in(swtpm) == []
            if len(proxy.exchanges) <= number:
                break
        assert number > 10

    def test_key_that_may_be_left_is_named(self, proxy: TPMProxy, tools: Tools, handle_uri: str, owner: str) -> None:
        proxy.decide = lambda command: "drop" if int.from_bytes(command[6:10]) == EVICT_CONTROL else "pass"
        with pytest.raises(BackendUnavailableError, match=f"the new key may be at handle:{HANDLE:#010x}"):
            generate_key(handle_through(proxy) + owner)
        assert f"{HANDLE:#x}" in tools.run_getcap("handles-persistent")
        delete_key(handle_uri + owner, agree)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("call", "number"),
        [("fsync", 1), ("/^rename", 1), ("fsync", 2), *(("write", -number) for number in range(1, 8))],
    )
    def test_killed_keygen_leaves_a_whole_key_or_none_and_one_file_for_the_srk(
        self, tools: Tools, handle_uri: str, refused_auth: Path, call: str, number: int
    ) -> None:
        srk, log = refused_auth.parent / "srk", tools.path("log")
        keygen = [sys.executable, "-m", "hwsigner", "keygen", handle_uri]
        if number < 0:  # From the end: the last write prints, and those before it go to the TPM.
            subprocess.run(["strace", "-o", str(log), "-e", f"trace={call}", *keygen], check=True, capture_output=True)
            number += 1 + log.read_text(errors="replace").count(f"{call}(")
            delete_key(handle_uri, agree)
            shutil.rmtree(srk)
        kill = ["strace", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
        assert subprocess.run([*kill, *keygen], capture_output=True).returncode == -signal.SIGKILL
        tools.flush()  # As a resource manager does.
        again = subprocess.run(keygen, capture_output=True, text=True)
        assert again.returncode == 0 or "has a key at handle:0x81004730 already" in again.stderr
        assert openssl_verifies(tools.folder, tools.tpm.public_key(HANDLE), sign(handle_uri), b"message", "sha256")
        assert len([each for each in srk.iterdir() if not each.name.endswith("-lock")]) == 1

    def test_malformed_place_is_refused(self) -> None:
        for uri in ("tpm2:handle=0x82000000", "tpm2:nv=0x1c20000", "tpm2:", "tpm2:handle=0x81000100;path=/x"):
            with pytest.raises(UsageError):
                generate_key(uri)


LIFE = """
import sys
from hwsigner.key import open_key
from hwsigner.key.management import KeyRequest, delete_key, describe_key, generate_key
for uri in sys.argv[1:]:
    made = generate_key(uri, KeyRequest(), "right-4711")
    assert describe_key(uri).properties["name"] == made.properties["name"]
    with open_key(uri, "right-4711") as key:
        assert key.sign(b"message")
    print(*delete_key(uri, print))
"""


def test_life_of_a_key_behind_a_resource_manager(tools: Tools, path: Path, swtpm: SoftTPM) -> None:
    with ResourceManager(swtpm) as manager:
        uris = [f"tpm2:path={path}?tcti={manager.tcti}", f"tpm2:handle={HANDLE:#x}?tcti={manager.tcti}"]
        process = start(LIFE, *uris, env=manager.env)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    assert not path.exists()
    assert f"{HANDLE:#x}" not in tools.run_getcap("handles-persistent")
    assert handles_in(swtpm) == []


class TestDescription:
    def test_file_is_described_without_the_tpm(self, tools: Tools, path: Path) -> None:
        made = make(tools, path, PASSWORD, pcrs="sha256:7,16")
        described = describe_key(f"tpm2:path={path}?tcti=device:/dev/tpm77")
        assert described.properties == made.properties
        assert described.properties["pcrs"] == ["sha256:7", "sha256:16"]
        assert described.properties["policy"] == ["PolicyPCR", "PolicyAuthValue"]
        assert described.properties["parent"] == "owner"
        assert described.guards == (
            "Signatures need the values in PCR sha256:7, sha256:16 for which the key was made",
            "Signatures need the key's PIN, its TPM auth value",
            "Wrong PINs can put the TPM in lockout",
            "The key can't leave its TPM: fixedTPM and fixedParent are set",
        )

    def test_path_of_a_key_file_is_enough(self, tools: Tools, path: Path) -> None:
        made = make(tools, path)
        described = describe_key(str(path))
        assert (described.public_key, described.uri) == (made.public_key, f"tpm2:path={path}")
        assert described.guards[0] == "Signatures need no PIN: any user who may use the TPM and read the file can sign"

    def test_handle_is_described_without_a_signature_or_an_auth_value(self, proxy: TPMProxy, tools: Tools) -> None:
        tools.tpm.persist(HANDLE, "ecc256", PASSWORD)
        try:
            described = describe_key(f"tpm2:handle={HANDLE:#x}?tcti={proxy.tcti}")
        finally:
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", f"{HANDLE:#x}")
        assert described.place == f"the TPM, handle {HANDLE:#010x}"
        assert "Signatures may need a PIN, the TPM auth value: a handle does not say" in described.guards
        # No command has an authorization.
        assert all(exchange.command[:2] == b"\x80\x01" for exchange in proxy.exchanges)
        assert SIGN not in proxy.codes

    def test_policy_at_a_handle_is_said_to_be_unknown(self, tools: Tools, judge: Judge, path: Path) -> None:
        make(tools, path, pcrs="sha256:7")
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", judge.load(path), f"{HANDLE:#x}")
        try:
            described = describe_key(tools.tpm.uri(HANDLE))
        finally:
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", f"{HANDLE:#x}")
        assert described.properties["policy"] is None
        assert "Signatures need a policy to be satisfied: a handle does not say which" in described.guards

    def test_key_that_may_leave_the_tpm_is_said_to(self, tools: Tools) -> None:
        file = tools.key_file(attributes="userwithauth|sensitivedataorigin|sign", primary=("-G", "ecc", *NODA))
        described = describe_key(tools.tpm.uri(file))
        assert described.properties["extractable"] is True
        assert "The key may be copied to another TPM: fixedTPM or fixedParent is not set" in described.guards

    def test_missing_key_is_an_error(self, tools: Tools, path: Path) -> None:
        for place in (path, HANDLE):
            with pytest.raises(KeyNotFoundError):
                describe_key(tools.tpm.uri(place))


class TestDeletion:
    def test_file_goes_with_its_certificate_once_that_was_agreed(
        self, tools: Tools, path: Path, ca: certs.Authority
    ) -> None:
        made = make(tools, path)
        certificate = install_certificate(made.uri, certified(ca, made)).certificate
        asked: list[str] = []
        gone = delete_key(made.uri, asked.extend)
        assert asked == [
            f"the key in {path}, with all that is in the file; a copy of it would still sign with its TPM",
            f"its certificates in {certificate}",
        ]
        assert gone == (f"the key in {path}", f"its certificates in {certificate}")
        assert not path.exists()
        assert not os.path.exists(certificate)

    def test_certificate_of_another_key_stays(self, tools: Tools, path: Path, ca: certs.Authority) -> None:
        make(tools, path)
        other = path.with_suffix(".crt")
        other.write_bytes(certs.pem(ca.certificate))
        assert delete_key(tools.tpm.uri(path), agree) == (f"the key in {path}",)
        assert other.exists()

    @pytest.mark.parametrize("place", ["file", "handle"])
    def test_key_stays_when_the_user_refuses(self, tools: Tools, path: Path, handle_uri: str, place: str) -> None:
        uri = tools.tpm.uri(path) if place == "file" else handle_uri
        generate_key(uri)

        def refuse(doomed: Sequence[str]) -> None:
            raise UsageError("no")

        with pytest.raises(UsageError, match="no"):
            delete_key(uri, refuse)
        assert sign(uri)

    def test_link_is_followed_to_the_key(self, tools: Tools, path: Path) -> None:
        make(tools, path)
        link = tools.path("link.pem")
        link.symlink_to(path)
        [gone] = delete_key(tools.tpm.uri(link), agree)
        assert gone == f"the key in {path}"
        assert not path.exists()

    def test_file_that_is_no_tpm_key_is_left_alone(self, tools: Tools, path: Path) -> None:
        path.write_bytes(certs.pem(certs.make_ca().certificate))
        with pytest.raises(UnsupportedKeyError):
            delete_key(tools.tpm.uri(path), agree)
        assert path.exists()

    def test_persistent_key_is_gone(self, tools: Tools, handle_uri: str) -> None:
        made = generate_key(handle_uri)
        [gone] = delete_key(handle_uri, agree)
        assert made.properties["name"] in gone
        assert f"{HANDLE:#x}" not in tools.run_getcap("handles-persistent")
        with pytest.raises(KeyNotFoundError):
            delete_key(handle_uri, agree)

    def test_certificate_in_the_tpm_goes_with_its_key(
        self, tools: Tools, handle_uri: str, path: Path, ca: certs.Authority
    ) -> None:
        """That of another key stays, and so does one in an index that another tool defined."""
        leaf = certified(ca, generate_key(handle_uri))[:1]
        others = certified(ca, make(tools, path))[:1]
        asked: list[str] = []
        tools.run("tpm2_nvdefine", "-Q", "0x01500a03", "-C", "o", "-s", "900", "-a", "ownerwrite|ownerread|authread")
        for index, chain in ((INDEX, leaf), ("0x01500a02", others), ("0x01500a03", leaf)):
            install_certificate(handle_uri if chain == leaf else tools.tpm.uri(path), chain, nv_index=index)
        try:
            _, certificate = delete_key(handle_uri, asked.extend)
            assert certificate == asked[1] == f"its certificate in NV index {INDEX}"
            left = tools.run_getcap("handles-nv-index").lower()
            assert [index in left for index in ("0x1c20000", "0x1500a02", "0x1500a03")] == [False, True, True]
        finally:
            for index in ("0x01500a02", "0x01500a03"):
                tools.run("tpm2_nvundefine", "-Q", "-C", "o", index)

    @pytest.mark.parametrize("persistent_parent", [""], indirect=True)
    def test_parent_of_other_keys_is_left_alone(self, tools: Tools, persistent_parent: str) -> None:
        with pytest.raises(SigningKeyError, match="is a storage key"):
            delete_key(f"tpm2:handle={persistent_parent}?tcti={tools.tpm.tcti}", agree)
        assert persistent_parent in tools.run_getcap("handles-persistent")

    def test_key_that_was_replaced_meanwhile_stays(self, tools: Tools, handle_uri: str) -> None:
        generate_key(handle_uri)

        def replace(doomed: Sequence[str]) -> None:
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", f"{HANDLE:#x}")
            generate_key(handle_uri)

        with pytest.raises(SigningKeyError, match=r"another key is at handle:\S+ now"):
            delete_key(handle_uri, replace)
        assert sign(handle_uri)

    def test_key_that_is_gone_meanwhile_is_gone(self, tools: Tools, handle_uri: str) -> None:
        generate_key(handle_uri)

        def evict(doomed: Sequence[str]) -> None:
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", f"{HANDLE:#x}")

        assert delete_key(handle_uri, evict)

    def test_key_that_is_still_there_is_an_error(self, handle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        generate_key(handle_uri)
        monkeypatch.setattr(handles, "remove", lambda *_: None)
        with pytest.raises(SigningKeyError, match="is still there"):
            delete_key(handle_uri, agree)


def certified(ca: certs.Authority, key: KeyDescription) -> list[FoundCertificate]:
    """Return a leaf for a key, and an intermediate."""
    assert key.public_key is not None
    leaf = certs.issue(ca, load_der_public_key(key.public_key))
    return [FoundCertificate(der(leaf), "leaf"), FoundCertificate(der(ca.certificate), "intermediate")]


def nv_content(tools: Tools, index: str = INDEX) -> bytes:
    """Return what tpm2_nvread reads."""
    return run(["tpm2_nvread", "-C", "o", index], tools.tpm.env)


class TestCertificateFile:
    def test_leaf_and_intermediates_are_beside_the_key(self, tools: Tools, path: Path, ca: certs.Authority) -> None:
        made = make(tools, path)
        chain = certified(ca, made)
        installed = install_certificate(made.uri, chain)
        file = path.with_suffix(".crt")
        assert installed == InstalledCertificate(str(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert [found.der for found in find_certificates(str(file))] == [found.der for found in chain]
        printed = subprocess.run(["openssl", "x509", "-in", file, "-outform", "DER"], capture_output=True, check=True)
        assert printed.stdout == chain[0].der
        with open_identity(IdentitySource(installed.certificate, made.uri)) as identity:
            assert identity.sign(b"message")

    def test_certificate_is_replaced_in_one_step(
        self, tools: Tools, path: Path, ca: certs.Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = make(tools, path)
        chain = certified(ca, made)
        file = Path(install_certificate(made.uri, chain).certificate)
        before = file.read_bytes()

        def fail(*_: object, **__: object) -> None:
            assert file.read_bytes() == before
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(SigningKeyError, match="No space left"):
                install_certificate(made.uri, chain[:1])
        assert file.read_bytes() == before
        install_certificate(made.uri, chain[:1])
        assert [found.der for found in find_certificates(str(file))] == [chain[0].der]

    @pytest.mark.parametrize("content", ["another key's certificate", "no certificate"])
    def test_file_of_another_use_is_not_replaced(
        self, tools: Tools, path: Path, ca: certs.Authority, content: str
    ) -> None:
        made = make(tools, path)
        file = path.with_suffix(".crt")
        file.write_bytes(certs.pem(ca.certificate) if content == "another key's certificate" else b"text")
        before = file.read_bytes()
        with pytest.raises(CertificateError, match="is there already, and is not a certificate of this key"):
            install_certificate(made.uri, certified(ca, made))
        assert file.read_bytes() == before

    def test_key_and_certificate_have_names_of_their_own(self, tools: Tools, ca: certs.Authority) -> None:
        made = make(tools, tools.path("web.crt"))
        installed = install_certificate(made.uri, certified(ca, made))
        assert installed.certificate == f"{tools.path('web.crt')}.crt"

    @pytest.mark.parametrize("place", ["file", "handle"])
    def test_missing_key_is_an_error(self, tools: Tools, path: Path, ca: certs.Authority, place: str) -> None:
        uri = tools.tpm.uri(path if place == "file" else HANDLE)
        chain = [FoundCertificate(der(ca.certificate), "")]
        with pytest.raises(KeyNotFoundError):
            install_certificate(uri, chain, nv_index=INDEX)
        assert not path.with_suffix(".crt").exists()

    def test_handle_needs_an_nv_index(self, handle_uri: str, ca: certs.Authority) -> None:
        with pytest.raises(UsageError, match="there is no file beside tpm2:handle") as caught:
            install_certificate(handle_uri, [FoundCertificate(der(ca.certificate), "")])
        assert "--nv-index" in caught.value.hint


class TestNVIndex:
    @pytest.fixture(autouse=True)
    def undefined(self, tools: Tools, handle_uri: str) -> Iterator[None]:
        """Make a key at the handle, and remove the index at the end."""
        generate_key(handle_uri)
        yield
        if INDEX[4:] in tools.run_getcap("handles-nv-index").lower():
            tools.run("tpm2_nvundefine", "-C", "o", INDEX)

    @pytest.fixture
    def chain(self, ca: certs.Authority) -> list[FoundCertificate]:
        """A leaf and an intermediate. That they fit the key is the caller's to check."""
        leaf = certs.issue(ca, ca.key.public_key())
        return [FoundCertificate(der(leaf), "leaf"), FoundCertificate(der(ca.certificate), "intermediate")]

    def install(self, uri: str, chain: list[FoundCertificate], index: str = INDEX) -> InstalledCertificate:
        return install_certificate(uri, chain, nv_index=index)

    def found(self, tools: Tools) -> list[bytes]:
        return [found.der for found in find_certificates(f"tpm2:nv={INDEX}?tcti={tools.tpm.tcti}")]

    def test_leaf_is_in_the_index_for_every_reader(
        self, tools: Tools, handle_uri: str, chain: list[FoundCertificate]
    ) -> None:
        installed = self.install(handle_uri, chain)
        assert [found.der for found in find_certificates(installed.certificate)] == [chain[0].der]
        assert nv_content(tools).rstrip(b"\0") == chain[0].der
        public = tools.run("tpm2_nvreadpublic", INDEX)
        assert "friendly: ownerwrite|ownerread|authread|no_da|written" in public
        assert "owner's auth value can change or remove NV index 0x01c20000" in installed.notes[0]
        assert "keep their file" in installed.notes[1]

    def test_intermediates_are_beside_a_key_file(self, tools: Tools, path: Path, ca: certs.Authority) -> None:
        made = make(tools, path)
        chain = certified(ca, made)
        installed = self.install(made.uri, chain)
        assert installed.intermediates == str(path.with_suffix(".chain.crt"))
        assert [found.der for found in find_certificates(installed.intermediates)] == [chain[1].der]
        assert len(installed.notes) == 1
        assert f"its certificates in {installed.intermediates}" in delete_key(made.uri, agree)

    def test_next_leaf_replaces_the_old_one(
        self, tools: Tools, handle_uri: str, chain: list[FoundCertificate], ca: certs.Authority
    ) -> None:
        self.install(handle_uri, chain)
        other = der(certs.issue(ca, certs.make_ca().key.public_key()))
        self.install(handle_uri, [FoundCertificate(other, "")])
        assert self.found(tools) == [other]

    def test_owner_s_auth_value_is_used_and_hidden(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, chain: list[FoundCertificate], owner: str
    ) -> None:
        uri = handle_through(proxy)
        with pytest.raises(PinRequiredError, match="the owner hierarchy needs its TPM owner auth value"):
            self.install(uri, chain)
        assert INDEX[4:] not in tools.run_getcap("handles-nv-index").lower()
        self.install(uri + owner, chain)
        assert self.found(tools) == [chain[0].der]
        assert OWNER.encode() not in proxy.stream
        tools.run("tpm2_nvundefine", "-C", "o", "-P", OWNER, INDEX)

    def test_leaf_that_is_too_long_for_any_index_is_refused(self, tools: Tools, handle_uri: str) -> None:
        with pytest.raises(SigningKeyError, match=r"has 3000 bytes, and an NV index of the TPM at .* has 2048 at most"):
            self.install(handle_uri, [FoundCertificate(b"\x30".ljust(3000), "")])

    def test_leaf_that_is_too_long_for_the_index_leaves_the_old_one(
        self, tools: Tools, handle_uri: str, chain: list[FoundCertificate]
    ) -> None:
        self.install(handle_uri, chain)
        with pytest.raises(SigningKeyError, match="has 1900 bytes, and NV index 0x01c20000 has"):
            self.install(handle_uri, [FoundCertificate(b"\x30".ljust(1900), "")])
        assert self.found(tools) == [chain[0].der]

    def test_new_index_is_removed_when_writing_fails(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, chain: list[FoundCertificate]
    ) -> None:
        proxy.decide = lambda command: 0x101 if int.from_bytes(command[6:10]) == NV_WRITE else "pass"
        with pytest.raises(SigningKeyError):
            self.install(handle_through(proxy), chain)
        assert INDEX[4:] not in tools.run_getcap("handles-nv-index").lower()

    @pytest.mark.parametrize("failing", [0, 1])
    def test_old_content_is_written_back_when_writing_fails(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, chain: list[FoundCertificate], failing: int
    ) -> None:
        old = chain[0].der + chain[1].der
        size = 2048
        tools.run("tpm2_nvdefine", "-Q", INDEX, "-C", "o", "-s", str(size), "-a", "ownerwrite|ownerread|authread|no_da")
        tools.path("old").write_bytes(old.ljust(size, b"\xff"))
        tools.run("tpm2_nvwrite", INDEX, "-C", "o", "-i", str(tools.path("old")))
        writes = count()

        def decide(command: bytes) -> Fault:
            return 0x101 if int.from_bytes(command[6:10]) == NV_WRITE and next(writes) == failing else "pass"

        proxy.decide = decide
        with pytest.raises(SigningKeyError):
            self.install(handle_through(proxy), chain[1:])
        assert nv_content(tools) == old.ljust(size, b"\xff")
        assert next(writes) > failing + 1

    @pytest.mark.parametrize("fault", ["drop", "cut", 0x101])
    def test_fault_leaves_the_old_leaf_or_the_new_one(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, ca: certs.Authority, fault: Fault
    ) -> None:
        old, new = (certified(ca, describe_key(handle_uri))[:1] for _ in range(2))
        for number in count():
            self.install(handle_uri, old)
            proxy.exchanges.clear()
            proxy.at(number, fault)
            try:
                self.install(handle_through(proxy), new)
            except HwsignerError:
                assert self.found(tools) == [old[0].der]
            else:
                assert self.found(tools) == [new[0].der]
            if len(proxy.exchanges) <= number:
                break
        assert number > 10

    def test_index_that_can_t_be_put_back_is_named(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, chain: list[FoundCertificate]
    ) -> None:
        self.install(handle_uri, chain)
        proxy.decide = lambda command: 0x101 if int.from_bytes(command[6:10]) == NV_WRITE else "pass"
        with pytest.raises(SigningKeyError, match="NV index 0x01c20000 was not written, and can't be put back"):
            self.install(handle_through(proxy), chain)
        assert self.found(tools) == [chain[0].der]

    def test_index_with_something_else_is_not_overwritten(
        self, tools: Tools, handle_uri: str, chain: list[FoundCertificate]
    ) -> None:
        tools.run("tpm2_nvdefine", "-Q", INDEX, "-C", "o", "-s", "900", "-a", "ownerwrite|ownerread|authread|no_da")
        tools.path("other").write_bytes(b"secret".ljust(900, b"\0"))
        tools.run("tpm2_nvwrite", INDEX, "-C", "o", "-i", str(tools.path("other")))
        with pytest.raises(SigningKeyError, match=r"holds no certificate.* so it is not overwritten"):
            self.install(handle_uri, chain)
        assert nv_content(tools).startswith(b"secret")

    @pytest.mark.parametrize("attributes", ["authwrite|authread|no_da", "nt=counter|ownerwrite|authread|no_da"])
    def test_index_that_the_owner_can_t_write_is_refused(
        self, tools: Tools, handle_uri: str, chain: list[FoundCertificate], attributes: str
    ) -> None:
        size = "8" if "counter" in attributes else "900"
        tools.run("tpm2_nvdefine", "-Q", INDEX, "-C", "o", "-s", size, "-a", attributes)
        with pytest.raises(SigningKeyError, match="the owner can't write to NV index 0x01c20000"):
            self.install(handle_uri, chain)

    def test_index_without_room_in_the_tpm_is_an_error_that_says_so(
        self, proxy: TPMProxy, tools: Tools, handle_uri: str, chain: list[FoundCertificate]
    ) -> None:
        proxy.decide = lambda command: 0x14B if int.from_bytes(command[6:10]) == NV_DEFINE_SPACE else "pass"
        with pytest.raises(SigningKeyError, match=r"has no room for an NV index of \d+ bytes"):
            self.install(handle_through(proxy), chain)

    @pytest.mark.parametrize(
        ("index", "fault"),
        [("0x01c00002", "is reserved for certificates of endorsement keys"), ("0x81000001", "has no NV index")],
    )
    def test_index_of_another_use_is_refused(
        self, handle_uri: str, chain: list[FoundCertificate], index: str, fault: str
    ) -> None:
        with pytest.raises(UsageError, match=fault):
            self.install(handle_uri, chain, index)

    def test_key_with_its_certificate_in_the_tpm_makes_an_identity(self, handle_uri: str, ca: certs.Authority) -> None:
        installed = self.install(handle_uri, certified(ca, describe_key(handle_uri))[:1])
        with open_identity(IdentitySource(installed.certificate, handle_uri)) as identity:
            assert identity.sign(b"message")
