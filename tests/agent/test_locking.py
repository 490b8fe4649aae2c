"""Profiles that want a PIN: locked, unlocked, locked again; a wrong PIN is sent once, and none is left lying about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.homes import PASSPHRASE, Home, Running, run_agent
from hwsigner.agent import control
from hwsigner.agent.client import command, find_credentials
from hwsigner.agent.protocol import Request, Verb, with_body
from hwsigner.agent.unlocked_pins import Pins
from hwsigner.errors import AgentError, PinRequiredError
from hwsigner.pins import PinRequest

UNLOCK = Request(Verb.UNLOCK, "web")


def locked_home(home: Home) -> Path:
    """Give the profile `web` a key with a passphrase that no place has, and return its path."""
    path = home.encrypted_key("web")
    home.write_profiles(web={"private-key": str(path)})
    return path


def unlock(home: Home, *pins: str) -> str:
    """Unlock the profile `web`, answering each question with the next PIN."""
    answers = iter(pins)
    said = command(home.place, UNLOCK, lambda _: next(answers))
    assert list(answers) == []
    return said


def state(running: Running) -> list[str]:
    """Return the fields of the status of the only profile."""
    head, _, body = running.ask(b"1 status\n").decode().partition("\n")
    assert head.startswith("1 ok ")
    return body.splitlines()[1].split("\t")


class TestLocked:
    def test_says_what_unlocks(self, home: Home) -> None:
        path = locked_home(home)
        with run_agent(home) as running:
            text = f"profile 'web' is locked: {path} wants its passphrase. Run hwsigner agent unlock web"
            for _ in range(2):
                assert running.get() == b"1 error 3 %d\n%s" % (len(text), text.encode())
            with pytest.raises(AgentError, match="is locked") as caught:
                find_credentials("web", home.environ)
            assert caught.value.exit_status == 3
            assert state(running)[:2] == ["web", "locked"]
        assert home.emulator.requests == []

    def test_a_stored_pin_that_is_wrong_is_sent_once(self, home: Home, tmp_path: Path) -> None:
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
    def test_the_right_pin(self, home: Home) -> None:
        path = locked_home(home)
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return PASSPHRASE

        with run_agent(home) as running:
            said = command(home.place, UNLOCK, ask)
            assert asked == [PinRequest("passphrase", str(path))]
            assert said.startswith("profile 'web' has credentials until ")
            assert running.get().startswith(b"1 ok ")
            assert state(running)[1] == "ready"
            assert command(home.place, UNLOCK) == said  # Nothing is asked any more.

    def test_a_wrong_one_is_sent_once_and_another_may_follow(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            for _ in range(2):
                with pytest.raises(AgentError, match="wrong") as caught:
                    unlock(home, "wrong-wrong")
                assert caught.value.exit_status == 3
                assert running.get().startswith(b"1 error 3 ")
            assert running.memory.used_pages == 0
            unlock(home, PASSPHRASE)
            assert running.get().startswith(b"1 ok ")

    def test_the_pin_serves_when_the_key_is_opened_again(self, home: Home) -> None:
        path = locked_home(home)
        with run_agent(home) as running:
            unlock(home, PASSPHRASE)
            path.touch()
            assert running.ask(b"1 refresh web\n").count(b"1 ok ") == 1
            assert len(home.emulator.requests) == 2

    def test_a_pin_is_in_no_log_and_no_status(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            with pytest.raises(AgentError):
                unlock(home, "wrong-wrong")
            unlock(home, PASSPHRASE)
            told = " ".join([*running.log, *state(running), repr(vars(running.server)), repr(running.memory)])
        assert PASSPHRASE not in told
        assert "wrong-wrong" not in told

    def test_nobody_answers(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            with pytest.raises(PinRequiredError):
                command(home.place, UNLOCK, lambda _: None)
            assert running.get().startswith(b"1 error 3 ")

    @pytest.mark.parametrize(
        "answer",
        [b"", b"garbage\n", b"1 ok 1\nx", with_body("pin", b"\xff\xfe"), b"1 pin 5000\n", b"1 pin 5\nab", b"1 pin 0\n"],
    )
    def test_what_is_no_pin_changes_nothing(self, home: Home, answer: bytes) -> None:
        locked_home(home)
        with run_agent(home) as running:
            with running.conversation(UNLOCK.line()) as wire:
                assert wire.answer()[0].kind == "ask"
                wire.send(answer)
            assert running.get().startswith(b"1 error 3 ")
            assert not [line for line in running.log if "wrong" in line]
            unlock(home, PASSPHRASE)
            assert running.get().startswith(b"1 ok ")

    def test_a_key_without_a_pin_asks_for_none(self, running: Running) -> None:
        assert command(running.home.place, UNLOCK).startswith("profile 'web' has credentials until ")

    def test_a_fault_that_no_pin_mends(self, home: Home) -> None:
        home.write_profiles(web={"private-key": "/nonexistent"})
        with run_agent(home), pytest.raises(AgentError, match="/nonexistent"):
            command(home.place, UNLOCK)

    def test_a_crowd_of_them_is_bounded(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
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
    def test_gives_nothing_and_forgets_all(self, running: Running, line: bytes) -> None:
        running.get()
        assert running.memory.used_pages == 1
        assert running.ask(line).endswith(b"locked: web")
        answer = running.get()
        assert answer.startswith(b"1 error 3 ")
        assert answer.endswith(b"Run hwsigner agent unlock web")
        assert running.ask(b"1 refresh web\n").startswith(b"1 error 3 ")
        assert running.memory.used_pages == 0
        assert state(running) == ["web", "locked", "", ""]

    def test_the_pin_is_asked_for_again(self, home: Home) -> None:
        locked_home(home)
        with run_agent(home) as running:
            unlock(home, PASSPHRASE)
            running.ask(b"1 lock\n")
            assert running.memory.used_pages == 0
            unlock(home, PASSPHRASE)
            assert running.get().startswith(b"1 ok ")

    def test_before_anybody_asked(self, running: Running) -> None:
        running.ask(b"1 lock\n")
        assert running.get().startswith(b"1 error 3 ")
        command(running.home.place, UNLOCK)
        assert running.get().startswith(b"1 ok ")

    def test_of_an_unknown_profile(self, running: Running) -> None:
        with pytest.raises(AgentError, match="no profile 'other'"):
            command(running.home.place, Request(Verb.LOCK, "other"))


class TestPins:
    REQUEST = PinRequest("user PIN", "token 'alpha'", serial="1")

    @pytest.fixture
    def bring(self) -> Callable[[Pins, PinRequest, str], None]:
        return lambda pins, request, pin: pins.bring(request, memoryview(pin.encode()))

    def test_are_for_what_was_asked_alone(self, bring: Callable[[Pins, PinRequest, str], None]) -> None:
        pins = Pins()
        bring(pins, self.REQUEST, "1234")
        others = [
            PinRequest("passphrase", "token 'alpha'", serial="1"),
            PinRequest("user PIN", "token 'beta'", serial="1"),
            PinRequest("user PIN", "token 'alpha'", serial="2"),
        ]
        assert [pins(request) for request in others] == [None, None, None]
        assert pins(PinRequest("user PIN", "token 'alpha'", "an earlier try failed", "1")) == "1234"
        assert pins.wanted is not None
        assert pins.wanted.state == "an earlier try failed"

    def test_are_given_again_but_one_for_a_signature(self, bring: Callable[[Pins, PinRequest, str], None]) -> None:
        pins = Pins()
        once = PinRequest("PIN for this signature", "token 'alpha'", serial="1", for_one_signature=True)
        bring(pins, self.REQUEST, "1234")
        bring(pins, once, "1234")
        assert [pins(request) for request in (self.REQUEST, once) * 2] == ["1234", "1234", "1234", None]

    def test_are_forgotten(self, bring: Callable[[Pins, PinRequest, str], None]) -> None:
        pins = Pins()
        bring(pins, self.REQUEST, "1234")
        pins.forget()
        assert pins(self.REQUEST) is None


def test_status_of_every_kind(home: Home) -> None:
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


def test_a_person_has_three_minutes() -> None:
    assert control.PERSON_LIMIT == 180
