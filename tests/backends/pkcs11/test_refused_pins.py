"""A stored PIN that a token refused is not sent again, by this process or others, whatever the module shows."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from any_module import list_tokens, open_key
from hwsigner._pins import PinSource
from hwsigner._system import environment
from hwsigner.backends import refusals
from hwsigner.errors import BackendUnavailableError, PinLockedError, WrongPinError
from pkcs11_shim import LOGIN, ROOT, Person, Shim, forget_refusals, refusals_folder
from softhsm.yubikey import OPENSC, YKCS11, YubiKey

AUTHENTICATION, SIGNATURE = 0x9A, 0x9C
WRONG = "000000"
PIN_INCORRECT, DEVICE_ERROR = 0xA0, 0x30
COUNT_LOW = 0x10000
_OPEN = """
import sys
from hwsigner.errors import HwsignerError
from hwsigner.key import open_key
try:
    with open_key(sys.argv[1], allow_modules=True) as key:
        key.sign(b"message")
    print("signed")
except HwsignerError as error:
    print(type(error).__name__)
"""


@pytest.fixture(params=[YKCS11, OPENSC])
def uri(yubikey: YubiKey, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A key of the card, whose stored PIN is wrong."""
    for slot in (AUTHENTICATION, SIGNATURE):
        yubikey.generate(slot)
        yubikey.self_sign(slot, "hwsigner")
    store(tmp_path, WRONG)
    return f"{yubikey.uri(AUTHENTICATION, request.param)}&pin-source=file:{tmp_path / 'pin'}"


def store(folder: Path, pin: str) -> None:
    (folder / "pin").write_text(pin)
    (folder / "pin").chmod(0o600)


def start(uri: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", _OPEN, uri], env=environment, stdout=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60)[0].strip()


def test_refused_pin_is_sent_once_by_several_processes_in_a_row(uri: str, yubikey: YubiKey, tmp_path: Path) -> None:
    outcomes = [outcome(start(uri)) for _ in range(3)]
    assert outcomes == ["WrongPinError", "PinLockedError", "PinLockedError"]
    assert yubikey.pin_tries == [0x63C2]
    store(tmp_path, yubikey.pin)
    assert outcome(start(uri)) == "PinLockedError"
    open_key(uri.partition("&pin-source")[0], Person(yubikey.pin)).close()
    assert [outcome(start(uri)) for _ in range(2)] == ["signed"] * 2
    assert set(yubikey.pin_tries[1:]) == {0x9000}


def test_refused_pin_is_sent_once_by_several_processes_at_once(uri: str, yubikey: YubiKey) -> None:
    processes = [start(uri) for _ in range(3)]
    assert sorted(map(outcome, processes)) == ["PinLockedError", "PinLockedError", "WrongPinError"]
    assert yubikey.pin_tries == [0x63C2]


@pytest.fixture
def silent(shim: Shim) -> Iterator[Shim]:
    """A token that shows no flag after a wrong PIN, as OpenSC's module does."""
    assert list(list_tokens(shim.uri()))
    shim.flags(cleared=COUNT_LOW)
    yield shim
    shim.fail(LOGIN, 0)
    open_key(shim.uri(), PinSource("1234", allow_final_try=True)).close()


def wrong_once(shim: Shim) -> None:
    with pytest.raises(WrongPinError):
        open_key(shim.uri(), WRONG)


def test_record_of_a_refusal_is_an_empty_private_file(silent: Shim) -> None:
    wrong_once(silent)
    [kept] = (file for file in refusals_folder().iterdir() if file.suffix != ".lock")
    assert kept.read_bytes() == b""
    assert (kept.stat().st_mode & 0o777, refusals_folder().stat().st_mode & 0o777) == (0o600, 0o700)


def test_error_for_a_refused_pin_says_what_to_do(silent: Shim) -> None:
    wrong_once(silent)
    with pytest.raises(PinLockedError, match="an earlier PIN failed at token 'one'") as caught:
        open_key(silent.uri(), "1234")
    assert "--allow-final-pin-try" in caught.value.hint
    assert silent.count(LOGIN) == 1


def test_stored_pin_is_sent_again_after_the_user_typed_the_right_one(silent: Shim) -> None:
    wrong_once(silent)
    open_key(silent.uri(), Person("1234")).close()
    open_key(silent.uri(), "1234").close()
    assert silent.count(LOGIN) == 3


def test_flag_allows_one_try_after_a_refusal(silent: Shim) -> None:
    wrong_once(silent)
    with pytest.raises(WrongPinError):
        open_key(silent.uri(), PinSource(WRONG, allow_final_try=True))
    with pytest.raises(PinLockedError):
        open_key(silent.uri(), "1234")
    open_key(silent.uri(), PinSource("1234", allow_final_try=True)).close()
    open_key(silent.uri(), "1234").close()


def test_refusal_of_one_token_does_not_stop_the_pin_of_another(silent: Shim) -> None:
    wrong_once(silent)
    open_key(silent.uri(token="two"), "1234").close()
    with pytest.raises(PinLockedError):
        open_key(silent.uri(), "1234")


def test_login_by_another_program_ends_a_refusal_that_the_token_shows_itself(shim: Shim) -> None:
    wrong_once(shim)
    with pytest.raises(PinLockedError):
        open_key(shim.uri(), "1234")
    # A login by another program clears the flag, and nothing else stops the PIN.
    with_pkcs11_tool(shim)
    open_key(shim.uri(), "1234").close()


def with_pkcs11_tool(shim: Shim) -> None:
    login = ["--token-label", "one", "--login", "--pin", "1234", "--list-objects"]
    environment = {**os.environ, "SOFTHSM2_CONF": str(shim.hsm.conf)}
    subprocess.run(
        ["pkcs11-tool", "--module", shim.hsm.module, *login], env=environment, check=True, capture_output=True
    )


def test_stored_pin_is_sent_after_a_typed_one_was_wrong(silent: Shim) -> None:
    with pytest.raises(WrongPinError):
        open_key(silent.uri(), Person(WRONG))
    open_key(silent.uri(), "1234").close()


def test_typed_pin_is_forgotten_when_it_is_wrong_later(silent: Shim) -> None:
    person = Person("1234", "1234")
    pins = PinSource(ask=person)
    with open_key(silent.uri(), pins) as key:
        silent.remove()
        silent.insert()
        silent.fail(LOGIN, PIN_INCORRECT)  # Another program has changed the PIN.
        for _ in range(2):
            with pytest.raises(WrongPinError):
                key.sign(b"message")
    assert (silent.count(LOGIN), len(person.asked)) == (2, 1)
    silent.fail(LOGIN, 0)
    open_key(silent.uri(), pins).close()
    assert len(person.asked) == 2


def test_failed_login_for_another_reason_is_not_recorded(silent: Shim) -> None:
    silent.fail(LOGIN, DEVICE_ERROR)
    with pytest.raises(Exception, match="device error"):
        open_key(silent.uri(), "1234")
    silent.fail(LOGIN, 0)
    open_key(silent.uri(), "1234").close()


def test_refusal_is_recorded_in_the_next_folder_when_the_first_is_unusable(
    silent: Shim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    refusals_folder().parent.mkdir(mode=0o700, exist_ok=True)
    refusals_folder().touch()
    try:
        wrong_once(silent)
        with pytest.raises(PinLockedError):
            open_key(silent.uri(), "1234")
        open_key(silent.uri(), PinSource("1234", allow_final_try=True)).close()
    finally:
        refusals_folder().unlink()


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that can't be written to, and no runtime folder. Return the folder of last resort."""
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")  # Not even root can make it.
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/none")
    return Path(f"/tmp/hwsigner-{os.getuid()}")


def test_refused_pin_is_sent_once_by_several_processes_when_the_home_folder_is_read_only(
    no_home: Path, uri: str, yubikey: YubiKey
) -> None:
    assert [outcome(start(uri)) for _ in range(3)] == ["WrongPinError", "PinLockedError", "PinLockedError"]
    assert yubikey.pin_tries == [0x63C2]
    assert no_home.stat().st_mode & 0o777 == 0o700
    open_key(uri.partition("&pin-source")[0], Person(yubikey.pin)).close()


def test_stored_pin_is_sent_by_two_processes_that_are_killed_when_the_home_folder_is_read_only(
    silent: Shim, no_home: Path
) -> None:
    assert [run_killed(silent, f"{silent.uri()}&pin-value=1234") for _ in range(4)] == [9, 9, 1, 1]


@pytest.mark.parametrize("owner", ["nobody", "another user"])
def test_stored_pin_is_not_sent_when_no_folder_can_keep_a_refusal(
    silent: Shim, no_home: Path, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    monkeypatch.setattr(environment, "_TEMPORARY", str(place) if owner == "another user" else "/proc/none")
    monkeypatch.setenv("TMPDIR", "/proc/none")
    (place / f"hwsigner-{os.getuid()}").mkdir(parents=True)
    (place / f"hwsigner-{os.getuid()}").chmod(0o777)
    with pytest.raises(
        PinLockedError, match="no folder can keep whether the stored PIN of token 'one' is wrong, so it"
    ):
        open_key(silent.uri(), "1234")
    assert silent.count(LOGIN) == 0
    open_key(silent.uri(), Person("1234")).close()
    with pytest.raises(WrongPinError):
        open_key(silent.uri(), PinSource(WRONG, allow_final_try=True))
    assert silent.count(LOGIN) == 2
    open_key(silent.uri(), Person("1234")).close()


def test_refusal_is_kept_in_tmpdir_when_the_folder_in_tmp_is_another_user_s(
    silent: Shim, no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_TEMPORARY", "/proc/none")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    wrong_once(silent)
    with pytest.raises(PinLockedError):
        open_key(silent.uri(), "1234")
    assert list((tmp_path / f"hwsigner-{os.getuid()}").glob("pkcs11-*"))
    open_key(silent.uri(), PinSource("1234", allow_final_try=True)).close()


def test_refusal_is_kept_before_the_record_of_the_login_goes(silent: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may be killed between the two."""
    done, keep, forget = list[str](), refusals.keep, refusals.forget

    def noted_keep(name: str) -> None:
        done.append("keep")
        keep(name)

    def noted_forget(name: str) -> None:
        done.append("forget")
        forget(name)

    monkeypatch.setattr(refusals, "keep", noted_keep)
    monkeypatch.setattr(refusals, "forget", noted_forget)
    wrong_once(silent)
    assert done == ["keep", "forget"]


_KILLED = """
import os, sys
from hwsigner.backends.pkcs11.functions import PKCS11Session
from hwsigner.key import open_key
PKCS11Session.log_in = lambda *_, **__: os._exit(9)
open_key(sys.argv[1], allow_modules=True)
"""


def run_killed(silent: Shim, uri: str) -> int:
    """Return the status of a process: 9 if it was killed in a login, 1 if it sent no PIN."""
    environment = {**os.environ, **silent.env, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _KILLED, uri]
    return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL).returncode


def test_stored_pin_that_was_right_is_sent_after_two_logins_that_were_cut_short(silent: Shim, tmp_path: Path) -> None:
    store(tmp_path, "1234")
    uri = f"{silent.uri()}&pin-source=file:{tmp_path / 'pin'}"
    open_key(uri).close()
    assert [run_killed(silent, uri) for _ in range(4)] == [9] * 4
    with pytest.raises(PinLockedError, match="two logins to token 'one' were cut short") as caught:
        open_key(silent.uri(), "1234")  # Nothing is known of this one.
    assert "hwsigner list --login" in caught.value.hint
    open_key(uri).close()
    open_key(silent.uri(), "1234").close()


def test_stored_pin_is_sent_by_two_processes_when_each_is_killed_in_the_login(silent: Shim) -> None:
    uri = f"{silent.uri()}&pin-value=1234"
    assert run_killed(silent, uri) == 9
    open_key(silent.uri(), "1234").close()  # The right one survives a crash.
    assert [run_killed(silent, uri) for _ in range(4)] == [9, 9, 1, 1]
    with pytest.raises(PinLockedError, match="two logins to token 'one' were cut short"):
        open_key(silent.uri(), "1234")
    open_key(silent.uri(), Person("1234")).close()
    open_key(silent.uri(), "1234").close()


def test_slow_login_does_not_hold_up_the_login_to_another_token(silent: Shim) -> None:
    open_key(silent.uri(), "1234").close()
    [lock] = refusals_folder().glob("*.lock")
    late = threading.Thread(target=lambda: open_key(silent.uri(), "1234").close(), daemon=True)
    other = threading.Thread(target=lambda: open_key(silent.uri(token="two"), "1234").close(), daemon=True)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # As another process does while the token is slow.
        late.start()
        other.start()
        other.join(30)
        assert (other.is_alive(), late.is_alive(), silent.count(LOGIN)) == (False, True, 2)
    late.join(30)
    assert silent.count(LOGIN) == 3


def test_login_of_another_process_is_not_waited_for_for_ever(silent: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_LOGIN_SECONDS", 0.1)
    open_key(silent.uri(), "1234").close()
    [lock] = refusals_folder().glob("*.lock")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BackendUnavailableError, match="another process of this user has been logging in"):
            open_key(silent.uri(), "1234")
    assert silent.count(LOGIN) == 1
    open_key(silent.uri(), "1234").close()


@pytest.fixture
def signature_uri(yubikey: YubiKey) -> str:
    """A key of the card that needs its PIN for each signature."""
    for slot in (AUTHENTICATION, SIGNATURE):
        yubikey.generate(slot)
        yubikey.self_sign(slot, "hwsigner")
    return yubikey.uri(SIGNATURE, OPENSC)


def test_refused_pin_for_a_signature_is_sent_once(yubikey: YubiKey, signature_uri: str) -> None:
    pins = PinSource(yubikey.pin, reuse=True)
    with open_key(signature_uri, pins) as key:
        yubikey.state.pin.set(b"654321\xff\xff")
        for error in (WrongPinError, PinLockedError, PinLockedError):
            with pytest.raises(error):
                key.sign(b"message")
    assert [status for status in yubikey.pin_tries if status != 0x9000] == [0x63C2]


def test_typed_pin_that_failed_for_a_signature_is_not_sent_for_the_next_login(
    yubikey: YubiKey, signature_uri: str
) -> None:
    person = Person(yubikey.pin, "654321")
    with open_key(signature_uri, PinSource(ask=person, reuse=True)) as key:
        yubikey.state.pin.set(b"654321\xff\xff")
        with pytest.raises(WrongPinError):
            key.sign(b"message")
        assert key.sign(b"message")
    assert [status for status in yubikey.pin_tries if status != 0x9000] == [0x63C2]


def test_key_signs_again_after_a_pin_was_held_back(silent: Shim) -> None:
    silent.library.shim_careful(1)
    with open_key(silent.uri(), PinSource("1234", reuse=True)) as key:
        assert key.sign(b"message")
        assert outcome(start(f"{silent.uri()}&pin-value={WRONG}")) == "WrongPinError"
        with pytest.raises(PinLockedError):
            key.sign(b"message")
        forget_refusals()  # As a login by hand does.
        assert key.sign(b"message")
    assert silent.context_logins() == 2


class TestRightBefore:
    """A stored PIN that was right is still sent after another program has sent a wrong one."""

    @pytest.fixture
    def stored_uri(self, shim: Shim, tmp_path: Path) -> str:
        assert list(list_tokens(shim.uri()))
        store(tmp_path, "1234")
        return f"{shim.uri()}&pin-source=file:{tmp_path / 'pin'}"

    def mistype(self, shim: Shim) -> None:
        with pytest.raises(WrongPinError):
            open_key(shim.uri(), PinSource(ask=Person(WRONG)))

    def test_stored_pin_is_sent_after_a_wrong_one_when_it_was_right_before(
        self, shim: Shim, stored_uri: str, tmp_path: Path
    ) -> None:
        self.mistype(shim)
        with pytest.raises(PinLockedError):
            open_key(stored_uri)  # Nothing is known of it.
        open_key(shim.uri(), Person("1234")).close()
        open_key(stored_uri).close()
        [note] = refusals_folder().glob("*.right")
        assert note.read_text().startswith(f"{tmp_path / 'pin'} ")
        assert "1234" not in note.read_text().split()
        self.mistype(shim)
        open_key(stored_uri).close()

    def test_stored_pin_that_has_changed_is_held_back(self, shim: Shim, stored_uri: str, tmp_path: Path) -> None:
        open_key(stored_uri).close()
        self.mistype(shim)
        (tmp_path / "pin").unlink()
        store(tmp_path, WRONG)
        with pytest.raises(PinLockedError):
            open_key(stored_uri)
        open_key(shim.uri(), Person("1234")).close()

    def test_stored_pin_that_was_right_is_held_back_after_it_was_refused(self, shim: Shim, stored_uri: str) -> None:
        open_key(stored_uri).close()
        shim.fail(LOGIN, PIN_INCORRECT)  # Another program has changed the PIN.
        with pytest.raises(WrongPinError):
            open_key(stored_uri)
        shim.fail(LOGIN, 0)
        with pytest.raises(PinLockedError):
            open_key(stored_uri)
        open_key(shim.uri(), Person("1234")).close()
