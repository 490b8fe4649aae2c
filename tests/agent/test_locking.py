"""Profiles that need a PIN: locked, unlocked, locked again. A wrong PIN is sent once, and no PIN is left in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.homes import PASSPHRASE, Home, Running, run_agent
from hwsigner._agent import control
from hwsigner._agent.client import command, find_credentials
from hwsigner._agent.profile import UnlockedPins
from hwsigner._agent.protocol import AgentRequest, Verb, with_body
from hwsigner._pins import PinRequest
from hwsigner.errors import AgentError, PinRequiredError

UNLOCK = AgentRequest(Verb.UNLOCK, "web")


def locked_home(home: Home) -> Path:
    """Give the profile `web` a key with a passphrase that is stored nowhere, and return its path."""
    path = home.encrypted_key("web")
    home.write_profiles(web={"private-key": str(path)})
    return path


def unlock(home: Home, *pins: str) -> str:
    """Unlock the profile `web`, answering each question with the next PIN."""
    answers = iter(pins)
    said = command(home.address, UNLOCK, lambda _: next(answers, None))
    assert list(answers) == []
    return said


def state(running: Running) -> list[str]:
    """Return the fields of the status of the only profile."""
    head, _, body = running.ask(b"1 status\n").decode().partition("\n")
    assert head.startswith("1 ok ")
    return body.splitlines()[1].split("\t")


class TestLocked:
    def test_locked_profile_names_the_command_that_unlocks(self, home: Home) -> None:
        path = locked_home(home)
        with run_agent(home) as running:
            text = f"profile 'web' is locked: {path} needs its passphrase. Run hwsigner agent unlock web"
            for _ in range(2):
                assert running.get() == b"1 error 3 %d pin\n%s" % (len(text), text.encode())
            with pytest.raises(AgentError, match="is locked") as caught:
                find_credentials("web", home.environ)
            assert caught.value.exit_status == 3
            assert state(running)[:2] == ["web", "locked"]
        assert home.emulator.requests == []

    def test_user_can_t_unlock_a_profile_of_the_system_s_agent(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home, is_system=True) as running:
            head, _, body = running.get().partition(b"\n")
        assert head == b"1 error 3 %d" % len(body)
        assert body.endswith(b"Run hwsigner agent unlock --system web")

    def test_wrong_stored_pin_is_sent_once(self, home: Home, tmp_path: Path) -> None:
        path = locked_home(home)
        asked = tmp_path / "asked"
        script = tmp_path / "pin"
        script.write_text(f"#!/bin/sh\necho once >> {asked}\necho wrong\n")
        script.chmod(0o755)
        home.write_profiles(web={"private-key": f"file:{path}?pin-source=cmd:{script}"})
        with run_agent(home) as running:
            for _ in range(3):
                answer = running.get()
                assert answer.startswith(b"1 error 3 ")
                assert b"hwsigner agent unlock web" in answer
            assert running.ask(b"1 refresh web\n").startswith(b"1 error 3 ")
            assert asked.read_text() == "once\n"
            unlock(home, PASSPHRASE)
            assert running.get().startswith(b"1 ok ")
            assert asked.read_text() == "once\n"


class TestUnlock:
    def test_right_pin_unlocks(self, home: Home) -> None:
        path = locked_home(home)
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return PASSPHRASE

        with run_agent(home) as running:
            said = command(home.address, UNLOCK, ask)
            assert asked == [PinRequest("passphrase", str(path))]
            assert said.startswith("profile 'web' has credentials until ")
            assert running.get().startswith(b"1 ok ")
            assert state(running)[1] == "ready"
            assert command(home.address, UNLOCK) == said  # No question is asked any more.

    def test_wrong_pin_is_sent_once_and_another_may_follow(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            for _ in range(2):
                with pytest.raises(PinRequiredError):  # It is asked again, and there is no answer.
                    unlock(home, "wrong-wrong")
                assert running.get().startswith(b"1 error 3 ")
            assert running.secrets() == 0
            unlock(home, PASSPHRASE)
            assert running.get().startswith(b"1 ok ")

    def test_wrong_passphrase_is_asked_again_but_not_forever(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            with pytest.raises(AgentError, match="wrong passphrase") as caught:
                unlock(home, *(f"wrong {number}" for number in range(5)))
            assert caught.value.exit_status == 3
            unlock(home, "wrong-wrong", PASSPHRASE)
            assert running.get().startswith(b"1 ok ")

    def test_pin_serves_again_when_the_key_is_reopened(self, home: Home) -> None:
        path = locked_home(home)
        with run_agent(home) as running:
            unlock(home, PASSPHRASE)
            path.touch()
            assert running.ask(b"1 refresh web\n").count(b"1 ok ") == 1
            assert len(home.emulator.requests) == 2

    def test_pin_is_in_no_log_and_no_status(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            unlock(home, "wrong-wrong", PASSPHRASE)
            told = " ".join([*running.log, *state(running), repr(vars(running.server)), repr(running.memory)])
        assert PASSPHRASE not in told
        assert "wrong-wrong" not in told

    def test_unlock_without_an_answer_changes_nothing(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            with pytest.raises(PinRequiredError):
                command(home.address, UNLOCK, lambda _: None)
            assert running.get().startswith(b"1 error 3 ")

    @pytest.mark.parametrize(
        "answer",
        [b"", b"garbage\n", b"1 ok 1\nx", with_body("pin", b"\xff\xfe"), b"1 pin 5000\n", b"1 pin 5\nab", b"1 pin 0\n"],
    )
    def test_invalid_pin_message_changes_nothing(self, home: Home, answer: bytes) -> None:
        locked_home(home)
        with run_agent(home) as running:
            with running.conversation(UNLOCK.line()) as channel:
                assert channel.answer()[0].kind == "ask"
                channel.send(answer)
            assert running.get().startswith(b"1 error 3 ")
            assert not [line for line in running.log if "wrong" in line]
            unlock(home, PASSPHRASE)
            assert running.get().startswith(b"1 ok ")

    def test_key_without_a_pin_is_unlocked_without_a_question(self, running: Running) -> None:
        assert command(running.home.address, UNLOCK).startswith("profile 'web' has credentials until ")

    def test_fault_that_no_pin_fixes_is_reported(self, home: Home) -> None:
        home.write_profiles(web={"private-key": "/nonexistent"})
        with run_agent(home), pytest.raises(AgentError, match="/nonexistent"):
            command(home.address, UNLOCK)

    def test_number_of_commands_at_once_is_limited(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        locked_home(home)
        with run_agent(home) as running:
            talks = [running.connect() for _ in range(9)]
            try:
                for talk in talks:
                    talk.sendall(UNLOCK.line())
                running.settle()
                assert running.ask(b"1 status\n").startswith(b"1 error 7 ")
                assert running.get().startswith(b"1 error 3 ")
            finally:
                for talk in talks:
                    talk.close()


class TestLock:
    @pytest.mark.parametrize("line", [b"1 lock\n", b"1 lock web\n"])
    def test_locked_profile_gives_nothing_and_forgets_all(self, running: Running, line: bytes) -> None:
        running.get()
        assert running.secrets() == 1
        assert running.ask(line).endswith(b"locked: web")
        answer = running.get()
        assert answer.startswith(b"1 error 3 ")
        assert b" locked\n" in answer
        assert answer.endswith(b"Run hwsigner agent unlock web")
        assert running.ask(b"1 refresh web\n").startswith(b"1 error 3 ")
        assert running.secrets() == 0
        assert state(running) == ["web", "locked", "", ""]

    def test_pin_is_asked_for_again_after_a_lock(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            unlock(home, PASSPHRASE)
            running.ask(b"1 lock\n")
            assert running.secrets() == 0
            unlock(home, PASSPHRASE)
            assert running.get().startswith(b"1 ok ")

    def test_profile_can_be_locked_before_its_first_use(self, running: Running) -> None:
        running.ask(b"1 lock\n")
        assert running.get().startswith(b"1 error 3 ")
        command(running.home.address, UNLOCK)
        assert running.get().startswith(b"1 ok ")

    def test_lock_of_an_unknown_profile_is_an_error(self, running: Running) -> None:
        with pytest.raises(AgentError, match="no profile 'other'"):
            command(running.home.address, AgentRequest(Verb.LOCK, "other"))


class TestPins:
    REQUEST = PinRequest("user PIN", "token 'alpha'", serial="1")

    @pytest.fixture
    def add_pin(self) -> Callable[[UnlockedPins, PinRequest, str], None]:
        return lambda pins, request, pin: pins.add(request, memoryview(pin.encode()))

    def test_pin_is_given_only_for_the_request_it_answers(
        self, add_pin: Callable[[UnlockedPins, PinRequest, str], None]
    ) -> None:
        pins = UnlockedPins()
        add_pin(pins, self.REQUEST, "1234")
        others = [
            PinRequest("passphrase", "token 'alpha'", serial="1"),
            PinRequest("user PIN", "token 'beta'", serial="1"),
            PinRequest("user PIN", "token 'alpha'", serial="2"),
        ]
        assert [pins(request) for request in others] == [None, None, None]
        assert pins(PinRequest("user PIN", "token 'alpha'", "an earlier try failed", "1")) == "1234"
        assert pins.wanted is not None
        assert pins.wanted.state == "an earlier try failed"

    def test_pin_is_given_again_unless_it_is_for_one_signature(
        self, add_pin: Callable[[UnlockedPins, PinRequest, str], None]
    ) -> None:
        pins = UnlockedPins()
        once = PinRequest("PIN for this signature", "token 'alpha'", serial="1", for_one_signature=True)
        add_pin(pins, self.REQUEST, "1234")
        add_pin(pins, once, "1234")
        assert [pins(request) for request in (self.REQUEST, once) * 2] == ["1234", "1234", "1234", None]

    def test_pins_are_forgotten(self, add_pin: Callable[[UnlockedPins, PinRequest, str], None]) -> None:
        pins = UnlockedPins()
        add_pin(pins, self.REQUEST, "1234")
        pins.forget()
        assert pins(self.REQUEST) is None


def test_status_shows_every_state(home: Home) -> None:
    home.write_profiles(idle={}, ready={}, failing={"private-key": "/nonexistent"}, locked={})
    with run_agent(home) as running:
        running.get("ready")
        running.get("failing")
        running.ask(b"1 lock locked\n")
        lines = running.ask(b"1 status\n").decode().splitlines()[2:]
    fields = [line.split("\t") for line in lines]
    assert [line[:2] for line in fields] == [[name, name] for name in ("failing", "idle", "locked", "ready")]
    assert "/nonexistent" in fields[0][3]
    assert fields[3][2]


def test_person_has_three_minutes() -> None:
    assert control.PERSON_LIMIT == 180
