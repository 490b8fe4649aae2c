"""Refused auth values, and what keeps a wrong one from being sent again."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.tpm2.tpms import NODA, PASSWORD, SIGNING, Tools, start_signer
from hwsigner._pins import AskPin, PinRequest, PinSource
from hwsigner._system import environment
from hwsigner.backends.tpm2 import connection, tpm
from hwsigner.errors import (
    BackendUnavailableError,
    HwsignerError,
    PinLockedError,
    PinRequiredError,
    UnsafeConnectionWarning,
    UnsafeKeyWarning,
    WrongPinError,
)
from hwsigner.key import Key, open_key

# Signs, and is killed before it learns what came of it.
_KILLED = """
import os, sys
from hwsigner.backends.tpm2 import auth
from hwsigner.key import open_key
auth.AuthAttempt._wrong = lambda *_: os._exit(9)
with open_key(sys.argv[1]) as key:
    auth.refusals.forget = lambda *_, **__: os._exit(9)
    key.sign(b"message")
"""
pytestmark = pytest.mark.usefixtures("refused_auth")


class TestRefusals:
    """Refusals that one process keeps for the next: no stored auth value is sent while an earlier refusal counts."""

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

    @pytest.fixture
    def managed(self, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Take swtpm for a resource manager, which would flush what a closed connection leaves."""
        monkeypatch.setattr(tpm, "_MANAGED", ("swtpm",))
        monkeypatch.setattr(connection, "_connections", {})  # An open connection knows what it leads to.
        yield
        tools.flush()

    def sign(self, uri: str, pin: str | AskPin | PinSource | None) -> None:
        with open_key(uri, pin) as key:
            assert key.sign(b"message")

    def refuse(self, uri: str, pin: str | AskPin | None) -> None:
        with pytest.raises(WrongPinError):
            self.sign(uri, pin)

    def test_stored_auth_value_is_sent_by_only_one_process_when_it_is_wrong(
        self, tools: Tools, uri: str, refused_auth: Path
    ) -> None:
        state = str(refused_auth.parents[1])
        for error in ("WrongPinError", "PinLockedError", "PinLockedError"):
            process = start_signer(f"{uri}&pin-value=wrong", XDG_STATE_HOME=state)
            assert error in process.communicate(timeout=60)[1]
        assert tools.counted_failures() == 1
        with pytest.raises(PinLockedError, match=r"was wrong, so the stored one.*--clear-lockout, or wait 1000 sec"):
            self.sign(uri, PASSWORD)

    @pytest.mark.parametrize("way_out", ["typed", "allowed", "cleared"])
    def test_stored_auth_value_is_sent_again_after_a_success_or_a_cleared_lockout(
        self, tools: Tools, uri: str, way_out: str
    ) -> None:
        self.refuse(uri, "wrong")
        if way_out == "cleared":
            tools.run("tpm2_dictionarylockout", "-c")
        elif way_out == "allowed":
            self.sign(uri, PinSource(PASSWORD, allow_final_try=True))
        else:
            self.sign(uri, lambda request: PASSWORD)
        self.sign(uri, PASSWORD)

    def test_stored_auth_value_is_held_back_after_a_wrong_typed_one(self, uri: str) -> None:
        for _ in range(2):
            self.refuse(uri, lambda request: "wrong")
        with pytest.raises(PinLockedError, match="so the stored one was not sent"):
            self.sign(uri, PASSWORD)

    def test_failure_of_another_key_holds_nothing_back(self, tools: Tools, uri: str) -> None:
        self.refuse(uri, "wrong")
        other = tools.key_file(auth=PASSWORD)
        self.sign(tools.tpm.uri(other), PASSWORD)
        assert tools.counted_failures() == 1

    def test_refusal_is_kept_by_the_key_s_name_without_the_auth_value(
        self, tools: Tools, uri: str, refused_auth: Path
    ) -> None:
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
        assert [file.name for file in refused_auth.iterdir()] == [f"tpm2-{name.read_bytes().hex()}.given"]
        self.sign(tools.tpm.uri(path), lambda request: PASSWORD)
        assert list(refused_auth.iterdir()) == []

    def test_refusal_of_a_noda_key_is_not_kept(self, tools: Tools, refused_auth: Path) -> None:
        path = tools.key_file(attributes=f"{SIGNING}|noda", auth=PASSWORD)
        self.refuse(tools.tpm.uri(path), "wrong")
        self.sign(tools.tpm.uri(path), PASSWORD)
        assert not refused_auth.exists()

    @pytest.mark.parametrize("place", ["/dev/null", "/proc"])
    def test_refusal_is_kept_in_the_runtime_folder_when_the_state_folder_is_unusable(
        self, tools: Tools, uri: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", place)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        with pytest.warns(UnsafeConnectionWarning):  # The storage root key is pinned in a state folder alone.
            self.refuse(uri, "wrong")
        assert list((tmp_path / "run" / "hwsigner").glob("*.given"))
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, PASSWORD)
        assert tools.counted_failures() == 1

    def test_stored_auth_value_is_held_back_after_any_failure_when_no_folder_keeps_refusals(
        self, tools: Tools, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR"):
            monkeypatch.setenv(name, "/dev/null")
        monkeypatch.setattr(environment, "_TEMPORARY", "/dev/null")
        uri = f"{uri}&session=plain"
        with pytest.warns(UnsafeKeyWarning, match="no folder can keep whether the stored PIN of"):
            self.refuse(uri, "wrong")
        with pytest.raises(PinLockedError, match=r"counts 1 wrong .* no folder can keep .*--allow-final-pin-try"):
            self.sign(uri, PASSWORD)
        with pytest.raises(PinRequiredError, match="an earlier try failed"):
            self.sign(uri, None)
        self.sign(uri, PinSource(PASSWORD, allow_final_try=True))
        tools.run("tpm2_dictionarylockout", "-c")
        with pytest.warns(UnsafeKeyWarning):
            self.sign(uri, PASSWORD)

    @pytest.mark.parametrize("pin", ["wrong", PASSWORD])
    def test_auth_value_is_not_sent_again_when_a_process_was_killed_that_sent_a_wrong_one(
        self, tools: Tools, uri: str, refused_auth: Path, pin: str
    ) -> None:
        for _ in range(2):
            process = subprocess.run(
                [sys.executable, "-c", _KILLED, f"{uri}&pin-value={pin}"],
                env={**os.environ, "XDG_STATE_HOME": str(refused_auth.parents[1])},
                stderr=subprocess.DEVNULL,
            )
        assert process.returncode == (1 if pin == "wrong" else 9)
        assert tools.counted_failures() == (1 if pin == "wrong" else 0)
        tools.flush()

    def test_refusal_is_not_kept_in_a_folder_that_others_can_use(
        self, uri: str, refused_auth: Path, tmp_path: Path
    ) -> None:
        refused_auth.mkdir(parents=True)
        refused_auth.chmod(0o770)
        self.refuse(uri, "wrong")
        assert list(refused_auth.iterdir()) == []
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, PASSWORD)

    def test_given_empty_auth_value_is_sent_after_another_was_wrong(self, tools: Tools) -> None:
        tools.set_lockout(5)
        uri = tools.tpm.uri(tools.key_file())
        self.refuse(uri, "wrong")
        with pytest.raises(PinRequiredError, match=r"an earlier try failed.*--no-tpm-key-password"):
            self.sign(uri, None)
        self.sign(uri, "")
        self.sign(uri, None)
        assert tools.counted_failures() == 1

    def test_given_empty_auth_value_is_sent_once_when_it_is_wrong(self, tools: Tools, uri: str) -> None:
        self.refuse(uri, "")
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, "")
        self.sign(uri, PASSWORD)
        assert tools.counted_failures() == 1

    def test_refusal_counts_until_the_tpm_counts_fewer_failures(
        self, tools: Tools, uri: str, refused_auth: Path
    ) -> None:
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
    def test_refusal_counts_when_its_file_is_damaged(self, uri: str, refused_auth: Path, content: bytes) -> None:
        self.refuse(uri, "wrong")
        [kept] = refused_auth.iterdir()
        kept.write_bytes(content)
        with pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            self.sign(uri, PASSWORD)

    def test_first_signature_waits_for_other_processes_behind_a_resource_manager(
        self, tools: Tools, uri: str, managed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with open_key(uri, PASSWORD) as key:
            assert not (tmp_path / "hwsigner").exists()
            assert key.sign(b"message")
            [lock] = (tmp_path / "hwsigner").iterdir()
        monkeypatch.setattr(connection, "_LONGEST_WAIT_SECONDS", 0.1)
        with open_key(uri, "wrong") as key, lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(BackendUnavailableError, match="is busy"):
                key.sign(b"message")
        assert tools.counted_failures() == 0

    def test_wrong_auth_value_is_sent_once_by_threads_behind_a_resource_manager(
        self, tools: Tools, uri: str, managed: None
    ) -> None:
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

    def test_proven_key_waits_for_no_process_behind_a_resource_manager(
        self, uri: str, managed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(connection, "_LONGEST_WAIT_SECONDS", 0.1)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with open_key(uri, PASSWORD) as key:
            assert key.sign(b"message")
            [lock] = (tmp_path / "hwsigner").iterdir()
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                assert key.sign(b"message")

    def test_empty_auth_value_that_was_not_given_is_tried_once(self, tools: Tools, handle_uri: str) -> None:
        self.refuse(handle_uri, lambda request: pytest.fail("asked"))
        for _ in range(2):
            with pytest.raises(PinRequiredError, match=r"pin-source=file:.*--no-tpm-key-password"):
                self.sign(handle_uri, None)
        assert tools.counted_failures() == 1

    def test_user_is_asked_after_the_empty_auth_value_was_wrong(self, handle_uri: str) -> None:
        self.refuse(handle_uri, None)
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return PASSWORD

        self.sign(handle_uri, ask)
        assert asked == [PinRequest("TPM auth value", "handle:0x81004715", "an earlier try failed")]

    def test_stored_auth_value_is_sent_once_after_the_empty_one_was_wrong(self, tools: Tools, handle_uri: str) -> None:
        """The error of the empty one says to store it, so it must not be held back."""
        self.refuse(handle_uri, None)
        self.refuse(handle_uri, "wrong")
        for pin in ("wrong", PASSWORD):
            with pytest.raises(PinLockedError):
                self.sign(handle_uri, pin)
        assert tools.counted_failures() == 2

    def test_empty_auth_value_is_held_back_after_a_wrong_stored_one(self, handle_uri: str) -> None:
        self.refuse(handle_uri, "wrong")
        with pytest.raises(PinRequiredError):
            self.sign(handle_uri, None)

    def fail(self, tools: Tools, times: int) -> None:
        """Have the TPM count wrong auth values of another key."""
        other = tools.tpm.uri(tools.key_file(auth=PASSWORD))
        for _ in range(times):
            self.refuse_allowed(other)

    def refuse_allowed(self, uri: str) -> None:
        with pytest.raises(WrongPinError):
            self.sign(uri, PinSource(ask=lambda request: "wrong", allow_final_try=True))

    def test_key_without_an_auth_value_signs_with_one_try_left_when_it_has_signed_before(self, tools: Tools) -> None:
        tools.set_lockout(5)
        uri = tools.tpm.uri(tools.key_file())
        fresh = tools.folder / "fresh.pem"
        self.sign(uri, None)
        (tools.folder / "key.pem").rename(fresh)
        self.fail(tools, 4)
        self.sign(tools.tpm.uri(fresh), None)
        with pytest.raises(PinLockedError, match="locks at 5"):
            self.sign(tools.tpm.uri(tools.key_file()), None)  # Its empty auth value may be wrong.
        self.fail(tools, 1)
        with pytest.raises(PinLockedError, match=r"is in lockout, so .*fresh.pem can't be used"):
            self.sign(tools.tpm.uri(fresh), None)

    def test_noda_key_signs_in_lockout(self, tools: Tools) -> None:
        tools.set_lockout(2)
        primary = ("-G", "ecc", *NODA)  # The key's parent must be usable too.
        path = tools.key_file(attributes=f"{SIGNING}|noda", primary=primary).rename(tools.folder / "noda.pem")
        self.fail(tools, 1)
        self.sign(tools.tpm.uri(path), None)
        self.fail(tools, 1)
        self.sign(tools.tpm.uri(path), None)

    def test_refused_empty_auth_value_is_not_sent_again_until_the_file_changes(self, tools: Tools) -> None:
        tools.set_lockout(5)
        primary = str(tools.path("primary"))
        tools.run("tpm2_createprimary", "-Q", "-c", primary, "-G", "ecc")
        parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
        tools.run("tpm2_create", "-Q", "-C", primary, "-G", "ecc256", "-a", SIGNING, "-p", PASSWORD, *parts)
        path = tools.encode(primary, tools.path("lie.pem"), is_empty=True)
        uri = tools.tpm.uri(path)
        self.refuse(uri, None)
        tools.run("tpm2_dictionarylockout", "-c")
        for _ in range(2):
            with pytest.raises(PinRequiredError, match="an earlier try failed"):
                self.sign(uri, None)
        assert tools.counted_failures() == 0
        self.sign(uri, PASSWORD)
        path.write_bytes(path.read_bytes() + b"\n")
        self.refuse(uri, None)
        assert tools.counted_failures() == 1

    @pytest.mark.parametrize(
        ("tries", "typed", "states", "failures"),
        [
            (5, ["wrong", PASSWORD], ["", "the last one was wrong"], 1),
            (2, ["wrong", PASSWORD], [""], 1),  # One attempt is left.
            (5, ["wrong", "wrong"], ["", "the last one was wrong"], 1),
        ],
    )
    def test_wrong_auth_value_that_the_user_types_is_asked_again_while_more_than_one_attempt_is_left(
        self, tools: Tools, locked_file: Path, tries: int, typed: list[str], states: list[str], failures: int
    ) -> None:
        tools.set_lockout(tries)
        asked: list[str] = []

        def ask(request: PinRequest) -> str:
            asked.append(request.state)
            return typed[len(asked) - 1]

        with open_key(tools.tpm.uri(locked_file), PinSource(prompts=[ask])) as key:
            if len(states) == len(typed) and PASSWORD in typed:
                assert key.sign(b"message")
                assert key.sign(b"another")
            else:
                with pytest.raises(WrongPinError):
                    key.sign(b"message")
                with pytest.raises(PinLockedError):  # This key does not send it again.
                    key.sign(b"message")
        assert asked == states
        assert tools.counted_failures() == failures
        tools.run("tpm2_dictionarylockout", "-c")

    @pytest.mark.parametrize("typed", [PASSWORD, ""])
    def test_user_at_a_terminal_is_asked_for_a_handle_s_auth_value_before_the_empty_one_is_tried(
        self, tools: Tools, handle_uri: str, typed: str
    ) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return typed

        uri = handle_uri
        if not typed:
            tools.tpm.persist(0x81004716, "ecc256")
            uri = tools.tpm.uri(0x81004716)
        self.sign(uri, PinSource(prompts=[ask]))
        assert tools.counted_failures() == 0
        self.sign(uri, PinSource(prompts=[ask]))  # An empty one is not asked for again.
        subject = "handle:0x81004715" if typed else "handle:0x81004716"
        request = PinRequest("TPM auth value", subject, "Enter if there is none")
        assert asked == [request] * (2 if typed else 1)
        if not typed:
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81004716")

    def test_refusal_counts_for_keys_that_were_opened_before_it(self, uri: str) -> None:
        with open_key(uri, "wrong") as one, open_key(uri, "wrong") as another:
            with pytest.raises(WrongPinError):
                one.sign(b"message")
            with pytest.raises(PinLockedError):
                another.sign(b"message")
