"""Keys of a TPM, on swtpm. tpm2-tools and tpm2-openssl make the keys, openssl judges the signatures."""

from __future__ import annotations

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

import pytest

from backends.contract import KeyContract, LockedKey, MakeKey, PinContract, openssl_verifies
from backends.tpm2.tpms import PASSWORD, SIGNING, Tools, sign_and_verify
from hwsigner.backends import state as _folders
from hwsigner.backends.tpm2 import process_lock as _tpm2_turns
from hwsigner.errors import (
    BackendUnavailableError,
    HwsignerError,
    KeyNotFoundError,
    PinError,
    PinLockedError,
    PinRequiredError,
    SigningKeyError,
    UnsafeConnectionWarning,
    WrongPinError,
)
from hwsigner.key import Key, open_key
from hwsigner.pins import AskPin, PinRequest, PinSource
from softhsm.command import run
from softhsm.tpm import SoftTPM

pytestmark = pytest.mark.usefixtures("refused_auth")


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
    with pytest.raises(PinLockedError, match=rf"lockout, so {path} can't be used\. Wait 321 seconds"):
        open_key(tools.tpm.uri(path))


@pytest.mark.parametrize("persistent_parent", [""], indirect=True)
def test_lockout_of_a_persistent_parent(tools: Tools, locked_file: Path, persistent_parent: str) -> None:
    path = tools.key_file_under(persistent_parent, tools.path("key.pem"), "-G", "ecc256")
    lock(tools, locked_file)
    with pytest.raises(PinLockedError, match=rf"lockout, so {persistent_parent} can't be used\. Wait 321 seconds"):
        open_key(tools.tpm.uri(path))


def test_a_tpm_without_lockout_counts_nothing(tools: Tools, locked_file: Path) -> None:
    tools.set_lockout(1, 0)
    with open_key(tools.tpm.uri(locked_file), "wrong") as key, pytest.raises(WrongPinError) as caught:
        key.sign(b"message")
    assert caught.value.message == f"wrong TPM auth value for {locked_file}"


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


@pytest.mark.usefixtures("hardware")
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
    root = Path(__file__).parents[3]
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
        with pytest.warns(UnsafeConnectionWarning):  # The storage root key is pinned in a state folder alone.
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
        monkeypatch.setattr(_folders, "_TEMPORARY", "/dev/null")
        uri = f"{uri}&session=plain"
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
        monkeypatch.setattr(_tpm2_turns, "_MANAGED", ("swtpm",))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with open_key(uri, PASSWORD) as key:
            assert not (tmp_path / "hwsigner").exists()
            assert key.sign(b"message")
            [lock] = (tmp_path / "hwsigner").iterdir()
        monkeypatch.setattr(_tpm2_turns, "_TURN_SECONDS", 0.1)
        with open_key(uri, "wrong") as key, lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(BackendUnavailableError, match="is busy"):
                key.sign(b"message")
        assert tools.counted_failures() == 0

    def test_of_several_at_once_behind_a_resource_manager_one_sends_it(
        self, tools: Tools, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_tpm2_turns, "_MANAGED", ("swtpm",))

        def attempt(key: Key) -> type[Exception] | None:
            try:
                key.sign(b"message")
            except HwsignerError as error:
                return type(error)
            return None

        keys = [open_key(f"{uri}&session=plain", "wrong") for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            errors = list(pool.map(attempt, keys))
        for key in keys:
            key.close()
        assert sorted(error.__name__ for error in errors if error) == ["PinLockedError", "WrongPinError"]
        assert tools.counted_failures() == 1

    def test_a_proven_key_behind_a_resource_manager_waits_for_nobody(
        self, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(_tpm2_turns, "_MANAGED", ("swtpm",))
        monkeypatch.setattr(_tpm2_turns, "_TURN_SECONDS", 0.1)
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
        monkeypatch.setattr(_folders, "_home_of_account", lambda: "/account")
        for name, value in ({"HOME": "/h"} | environment).items():
            monkeypatch.setenv(name, value)
        folders = list(_folders.state_folders("refused-auth"))
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
        monkeypatch.setattr(_tpm2_turns, "_TURN_SECONDS", 0.1)
        with open_key(tools.tpm.uri(ec_file)) as key:
            [lock] = runtime.iterdir()
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                with pytest.raises(BackendUnavailableError, match=rf"the TPM at {tools.tpm.tcti} is busy.*hangs"):
                    key.sign(b"message")
            assert key.sign(b"message")

    def test_a_lock_file_that_somebody_removes_is_made_anew(
        self, tools: Tools, ec_file: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_tpm2_turns, "_TURN_SECONDS", 0.1)
        with open_key(tools.tpm.uri(ec_file)) as key:
            [lock] = runtime.iterdir()
            lock.unlink()
            assert key.sign(b"message")
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                with pytest.raises(BackendUnavailableError, match="is busy"):
                    key.sign(b"message")

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
