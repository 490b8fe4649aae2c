"""Keys of a TPM, on swtpm. tpm2-tools and tpm2-openssl make the keys, openssl judges the signatures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from backends.contract import ENVIRONMENT, KeyContract, LockedKey, MakeKey, OpenKey, PinContract, openssl_verifies
from backends.tpm2.tpms import PASSWORD, SIGNING, Tools, sign_and_verify, start_signer
from hwsigner._pins import AskPin, PinSource
from hwsigner.errors import (
    BackendUnavailableError,
    HwsignerError,
    KeyNotFoundError,
    PinError,
    PinLockedError,
    SigningKeyError,
    WrongPinError,
)
from hwsigner.key import Key, open_key
from hwsigner.key.listing import list_tokens
from softhsm.command import run
from softhsm.tpm import SoftTPM
from tpm_proxy import TPMProxy

pytestmark = pytest.mark.usefixtures("refused_auth")


class PlacesInTPM:
    """Keys that are not there, or no longer."""

    @pytest.fixture
    def absent_key(self, swtpm: SoftTPM) -> OpenKey:
        return lambda: open_key(swtpm.uri(0x8100FFF0))

    @pytest.fixture
    def unreachable_key(self, tmp_path: Path) -> OpenKey:
        return lambda: open_key(f"tpm2:handle=0x81004711?tcti={quote(f'swtpm:path={tmp_path}/none')}")

    @pytest.fixture
    def lost_key(self, swtpm: SoftTPM, key_files: Callable[[str], Path], short_folder: Path) -> Key:
        with TPMProxy(swtpm, short_folder) as proxy:
            return open_key(f"tpm2:path={key_files('P-256')}?tcti={quote(proxy.tcti)}")


class TestOpensslKeyFile(PlacesInTPM, KeyContract):
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


class TestPersistentHandle(PlacesInTPM, KeyContract):
    """Keys made by tpm2_create and tpm2_evictcontrol."""

    KINDS = tuple(HANDLES)

    @pytest.fixture
    def make_key(self, swtpm: SoftTPM, persistent_keys: None) -> MakeKey:
        return lambda kind: (open_key(swtpm.uri(HANDLES[kind])), swtpm.public_key(HANDLES[kind]))


@pytest.mark.usefixtures("persistent_keys")
class TestList:
    def test_persistent_keys_that_can_sign_are_listed(self, swtpm: SoftTPM, tools: Tools, tmp_path: Path) -> None:
        storage = str(tmp_path / "storage.ctx")
        tools.run("tpm2_createprimary", "-Q", "-C", "o", "-c", storage)
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", storage, "0x81004799")
        try:
            (listed,) = list_tokens(f"tpm2:?tcti={quote(swtpm.tcti)}")
        finally:
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81004799")
        shown = {one.uri: one.public_key for one in listed.objects if one.kind == "key"}
        assert {swtpm.public_key(handle) for handle in HANDLES.values()} <= set(shown.values())
        assert not any("81004799" in one for one in shown)
        assert [one.label for one in listed.other_keys if "81004799" in one.uri] == ["storage key"]
        for uri, public_key in shown.items():
            with open_key(uri) as key:
                assert key.public_key() == public_key

    def test_command_lists_the_tpm_with_the_tokens(self, swtpm: SoftTPM, tmp_path: Path) -> None:
        # It loads the modules of the system, and libtpm2-pkcs11 makes its store in the working folder otherwise.
        environment = {**ENVIRONMENT, "TPM2_PKCS11_STORE": str(tmp_path)}
        command = [sys.executable, "-m", "hwsigner", "list", "--tcti", swtpm.tcti, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        *_, tpm = json.loads(done.stdout)["tokens"]
        assert (tpm["label"], tpm["model"], tpm["wantsLogin"]) == ("TPM", "TPM 2.0", False)
        assert {"EC P-256", "RSA 2048"} <= {key["algorithm"] for key in tpm["keys"]}
        assert f"tpm2:handle=0x81004711?tcti={swtpm.tcti}" in {key["uri"] for key in tpm["keys"]}


class TestPin(PinContract):
    REMEMBERS = False

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


# -- Auth values ------------------------------------------------------------------------------------------------------


def test_key_without_an_auth_value_signs_without_asking(tools: Tools, ec_file: Path) -> None:
    with open_key(tools.tpm.uri(ec_file), lambda request: pytest.fail("asked")) as key:
        assert key.sign(b"message")


def test_wrong_auth_value_is_sent_once(tools: Tools, locked_file: Path) -> None:
    with open_key(tools.tpm.uri(locked_file), "wrong") as key:
        with pytest.raises(WrongPinError, match=rf"wrong TPM auth value for {locked_file}: 2 attempts are left"):
            key.sign(b"message")
        with ThreadPoolExecutor(4) as pool:
            errors = [pool.submit(key.sign, b"message").exception() for _ in range(8)]
    assert {type(error) for error in errors} == {PinLockedError}
    assert tools.counted_failures() == 1


def test_last_try_is_made_only_when_allowed(tools: Tools, locked_file: Path) -> None:
    uri = tools.tpm.uri(locked_file)
    for left in ("2 attempts are", "1 attempt is"):
        with open_key(uri, lambda request: "wrong") as key, pytest.raises(WrongPinError, match=f"{left} left"):
            key.sign(b"message")
    answers: list[str | AskPin] = [PASSWORD, lambda request: PASSWORD]
    for pin in answers:
        with open_key(uri, pin) as key, pytest.raises(PinLockedError, match=r"none was sent.*--allow-final-pin-try"):
            key.sign(b"message")
    assert tools.counted_failures() == 2
    with open_key(uri, PinSource(PASSWORD, allow_final_try=True)) as key:
        assert key.sign(b"message")


def test_lockout_is_an_error_that_says_how_long_to_wait(tools: Tools, locked_file: Path) -> None:
    tools.set_lockout(1, 321)
    source = PinSource("wrong", allow_final_try=True)
    with open_key(tools.tpm.uri(locked_file), source) as key, pytest.raises(WrongPinError, match="0 attempts"):
        key.sign(b"message")
    source = PinSource(PASSWORD, allow_final_try=True)
    with open_key(tools.tpm.uri(locked_file), source) as key, pytest.raises(PinLockedError, match="Wait 321 seconds"):
        key.sign(b"message")


def test_wrong_auth_value_of_a_noda_key_does_not_count_and_holds_nothing_back(tools: Tools) -> None:
    path = tools.key_file(attributes=f"{SIGNING}|noda", auth=PASSWORD)
    for _ in range(4):
        with open_key(tools.tpm.uri(path), "wrong") as key, pytest.raises(WrongPinError) as caught:
            key.sign(b"message")
        assert caught.value.message == f"wrong TPM auth value for {path}"
    assert tools.counted_failures() == 0
    assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, PASSWORD)


def test_handle_is_used_with_the_pin_or_with_the_empty_auth_value(tools: Tools) -> None:
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


def test_auth_value_of_more_than_64_bytes_is_not_sent(tools: Tools, locked_file: Path) -> None:
    with pytest.raises(PinError, match="more than 64 bytes") as caught:
        open_key(tools.tpm.uri(locked_file), "x" * 65)
    assert not isinstance(caught.value, WrongPinError)  # It was not tried.
    assert tools.counted_failures() == 0


def lock(tools: Tools, locked_file: Path) -> None:
    """Put the TPM in lockout."""
    tools.set_lockout(1, 321)
    source = PinSource("wrong", allow_final_try=True)
    with open_key(tools.tpm.uri(locked_file), source) as key, pytest.raises(WrongPinError):
        key.sign(b"message")


def test_lockout_is_reported_when_a_key_is_opened(tools: Tools, locked_file: Path) -> None:
    path = tools.key_file()
    lock(tools, locked_file)
    with pytest.raises(PinLockedError, match=rf"lockout, so {path} can't be used\. Wait 321 seconds"):
        open_key(tools.tpm.uri(path))


@pytest.mark.parametrize("persistent_parent", [""], indirect=True)
def test_lockout_is_reported_when_a_persistent_parent_is_used(
    tools: Tools, locked_file: Path, persistent_parent: str
) -> None:
    path = tools.key_file_under(persistent_parent, tools.path("key.pem"), "-G", "ecc256")
    lock(tools, locked_file)
    with pytest.raises(PinLockedError, match=rf"lockout, so {persistent_parent} can't be used\. Wait 321 seconds"):
        open_key(tools.tpm.uri(path))


def test_tpm_without_lockout_reports_no_tries_left(tools: Tools, locked_file: Path) -> None:
    tools.set_lockout(1, 0)
    with open_key(tools.tpm.uri(locked_file), "wrong") as key, pytest.raises(WrongPinError) as caught:
        key.sign(b"message")
    assert caught.value.message == f"wrong TPM auth value for {locked_file}"


def test_key_signs_after_its_tpm_restarted(
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


@pytest.mark.usefixtures("hardware")
def test_tpm_that_was_not_started_up_is_an_error_that_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    other = SoftTPM(tmp_path_factory.mktemp("reset"))
    other.start()
    try:
        run(["swtpm_ioctl", "--unix", f"{other.socket}.ctrl", "-i"], {})
        with pytest.raises(BackendUnavailableError, match="was not started up"):
            open_key(other.uri(0x81000001))
    finally:
        other.stop()


def test_refusal_to_open_a_key_is_quoted(ec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = SoftTPM(tmp_path_factory.mktemp("disabled"))
    other.start()
    try:
        run(["tpm2_hierarchycontrol", "-C", "p", "shEnable", "clear"], other.env)
        with pytest.raises(SigningKeyError, match=f"TPM at {other.tcti} refused key {ec_file}: .*hierarchy"):
            open_key(other.uri(ec_file))
    finally:
        other.stop()


def test_tpm_without_a_free_slot_is_an_error_that_says_so(tools: Tools, ec_file: Path) -> None:
    for _ in range(3):
        run(["tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(tools.path("p"))], tools.tpm.env)
    try:
        with pytest.raises(BackendUnavailableError, match=r"no free slot.*tpmrm0"):
            open_key(tools.tpm.uri(ec_file))
    finally:
        run(["tpm2_flushcontext", "-t"], tools.tpm.env)


# -- Several at once --------------------------------------------------------------------------------------------------


def test_threads_with_two_keys_leave_nothing_in_the_tpm(tools: Tools, ec_file: Path) -> None:
    uri, public_key = tools.tpm.uri(ec_file), tools.tpm.public_key(ec_file)
    before = os.listdir("/proc/self/fd")
    with open_key(uri) as one, open_key(uri) as another, ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda number: (one, another)[number % 2].sign(b"%d" % number), range(200)))
        assert tools.left_over() == ""
    assert len(os.listdir("/proc/self/fd")) == len(before)
    for number in range(0, 200, 23):
        assert openssl_verifies(tools.folder, public_key, signatures[number], b"%d" % number, "sha256")


def test_threads_take_turns_when_there_is_no_lock_file(
    tools: Tools, ec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/null")
    with open_key(tools.tpm.uri(ec_file)) as key, ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(key.sign, [b"message"] * 80))) == 80


def test_processes_share_a_tpm_without_a_resource_manager(tools: Tools, ec_file: Path) -> None:
    processes = [start_signer(tools.tpm.uri(ec_file)) for _ in range(4)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert len(output.split()) == 10


def test_tpm_libraries_print_only_when_tss2_log_says_so(tools: Tools, locked_file: Path) -> None:
    for environment, is_printed in (({}, False), ({"TSS2_LOG": "all+ERROR"}, True)):
        process = start_signer(f"{tools.tpm.uri(locked_file)}&pin-value=wrong", **environment)
        _, errors = process.communicate(timeout=60)
        assert "WrongPinError" in errors
        assert ("ERROR:esys" in errors) is is_printed
        tools.run("tpm2_dictionarylockout", "-c")
