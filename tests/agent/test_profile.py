"""The life of a profile in an agent: what clients are told if it is locked or changes while they wait."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agent.homes import PASSPHRASE, Home, Running, read_end, run_agent
from hwsigner._agent.control import serve_command
from hwsigner._agent.profile import AgentProfile
from hwsigner._agent.protocol import Verb, with_body
from hwsigner._pins import PinRequest

CHANGED = b"1 error 7 32\nprofile 'web' has changed. Retry"
LOCKED = b"it was locked with hwsigner agent lock. Run hwsigner agent unlock web"
REQUEST = PinRequest("passphrase", "web.key")
Patch = pytest.MonkeyPatch


def profile_of(running: Running, name: str = "web") -> AgentProfile:
    found: AgentProfile | None = running.server._profiles.find(name)
    assert found
    return found


def answer_of(done: Future[Any]) -> Any:
    result = done.result(20)
    return getattr(result, "answer", result)


def test_root_and_the_agent_s_own_user_are_allowed(running: Running, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 4711)
        assert [uid for uid in (0, 1, 4710, 4711) if profile_of(running).allows(uid)] == [0, 4711]


def test_session_that_a_client_got_is_refreshed_ahead_of_need(running: Running) -> None:
    running.get()
    running.get()
    background = profile_of(running)._provider
    assert background
    deadline = time.monotonic() + 20
    while background.status().until_refresh == math.inf:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("forgotten_pins")
class TestStoredPins:
    @pytest.fixture
    def folder(self, home: Home, monkeypatch: Patch) -> Path:
        folder = home.folder / "credentials"
        folder.mkdir()
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
        return folder

    def test_nameless_pin_is_used_by_no_profile_when_they_use_several_files(self, home: Home, folder: Path) -> None:
        keys = {name: str(home.encrypted_key(name)) for name in ("web", "db")}
        (folder / "hwsigner.pin").write_text(PASSPHRASE)
        home.write_profiles(**{name: {"private-key": key} for name, key in keys.items()})
        with run_agent(home) as running:
            for name in keys:
                answer = running.get(name)
                assert b"The systemd credential hwsigner.pin is not used" in answer
                assert b"hwsigner.profile-pin.%s or pin-source=credential:NAME" % name.encode() in answer
        home.write_profiles(web={"private-key": keys["web"]})
        with run_agent(home) as running:
            assert running.get().startswith(b"1 ok")

    def test_each_profile_has_the_credential_of_its_name(self, home: Home, folder: Path) -> None:
        keys = {name: str(home.encrypted_key(name)) for name in ("web", "db")}
        (folder / "hwsigner.pin").write_text("for another one")
        (folder / "hwsigner.profile-pin.web").write_text(PASSPHRASE)
        (folder / "db").write_text(PASSPHRASE)
        home.write_profiles(
            web={"private-key": keys["web"]}, db={"private-key": f"file:{keys['db']}?pin-source=credential:db"}
        )
        with run_agent(home) as running:
            assert [running.get(name)[:4] for name in keys] == [b"1 ok"] * 2


class TestClosed:
    ACTS: tuple[Callable[[AgentProfile], Future[Any]], ...] = (
        AgentProfile.answer,
        AgentProfile.renew,
        AgentProfile.unlock,
        lambda profile: profile.unlock_with(REQUEST, memoryview(b"1234")),
    )

    @pytest.mark.parametrize("act", ACTS)
    def test_closed_profile_tells_callers_to_retry(
        self, running: Running, act: Callable[[AgentProfile], Future[Any]]
    ) -> None:
        running.get()
        profile = profile_of(running)
        profile.close().result(20)
        assert answer_of(act(profile)) == CHANGED

    @pytest.mark.parametrize("act", [AgentProfile.lock, AgentProfile.close])
    def test_closed_profile_can_be_locked_and_closed_again(
        self, running: Running, act: Callable[[AgentProfile], Future[None]]
    ) -> None:
        running.get()
        profile = profile_of(running)
        profile.close().result(20)
        assert answer_of(act(profile)) is None
        assert profile.read() is None
        assert profile.status() == ("web", "closed", None, None)
        assert running.secrets() == 0

    def test_lock_after_a_close_does_not_reopen_the_profile(self, running: Running) -> None:
        profile = profile_of(running)
        profile.close()
        profile.lock().result(20)
        assert profile.unlock().result(20).answer == CHANGED

    def test_lock_of_all_profiles_includes_one_that_was_closed(self, home: Home) -> None:
        home.write_profiles(web={}, xyz={})
        with run_agent(home) as running:
            running.get("web")
            running.get("xyz")
            chosen = running.server._profiles.all()
            chosen[0].close()
            ours, theirs = socket.socketpair()
            with theirs:
                serve_command(ours, Verb.LOCK, chosen, running.memory)
                assert read_end(theirs) == with_body("ok", b"locked: web, xyz")
            assert running.get("xyz").startswith(b"1 error 3 ")


class TestChanged:
    def test_change_while_a_person_types_a_pin_tells_them_to_retry(self, home: Home) -> None:
        home.encrypted_key("web")
        with run_agent(home) as running, running.conversation(b"1 unlock web\n") as channel:
            assert channel.answer(20)[0].kind == "ask"
            home.write_profiles(web={"session-duration": 900})
            running.get()
            channel.send(with_body("pin", PASSPHRASE.encode()))
            head, body = channel.answer(20)
            assert (head.kind, body) == ("error", CHANGED.partition(b"\n")[2])
            assert running.secrets() == 0

    @pytest.mark.slow
    def test_client_that_asked_before_a_change_is_answered(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri}, other={})
        with (
            run_agent(home) as running,
            running.waiting(b"1 refresh web\n") as refresh,
            running.waiting(b"1 get web\n") as get,
        ):
            home.write_profiles(web={"private-key": uri, "session-duration": 900}, other={})
            running.get("other")
            gate.write_text(PASSPHRASE)
            assert [read_end(each)[:5] for each in (refresh, get)] == [b"1 ok ", b"1 ok "]

    def test_threads_of_a_removed_profile_end(self, running: Running) -> None:
        running.get()
        running.home.write_profiles(other={})
        assert running.get() == b"1 unknown\n"
        deadline = time.monotonic() + 20
        while [thread for thread in threading.enumerate() if thread.name.startswith("profile-web")]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class TestLocked:
    def test_lock_while_a_person_types_a_pin_drops_the_pin(self, home: Home) -> None:
        home.encrypted_key("web")
        with run_agent(home) as running, running.conversation(b"1 unlock web\n") as channel:
            assert channel.answer(20)[0].kind == "ask"
            assert running.ask(b"1 lock web\n").endswith(b"locked: web")
            channel.send(with_body("pin", PASSPHRASE.encode()))
            head, body = channel.answer(20)
            assert head.kind == "error"
            assert body.endswith(LOCKED)
            assert running.get().endswith(LOCKED)
            assert running.secrets() == 0
        assert home.emulator.requests == []

    @pytest.mark.slow
    def test_lock_while_the_key_is_working_gives_nothing_from_then_on(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running:
            with running.waiting(b"1 get web\n") as first:
                gate.write_text(PASSPHRASE)
                assert read_end(first).startswith(b"1 ok ")
            (home.folder / "web.key").touch()  # It must be reopened, which needs the gate.
            with running.waiting(b"1 refresh web\n") as refresh:
                assert running.get().startswith(b"1 ok ")
                with running.waiting(b"1 lock web\n") as lock, running.waiting(b"1 get web\n") as get:
                    gate.write_text(PASSPHRASE)
                    assert read_end(refresh).startswith(b"1 ok ")
                    assert read_end(lock).endswith(b"locked: web")
                    assert read_end(get).endswith(LOCKED)
            assert running.secrets() == 0

    def test_lock_is_reported_when_the_key_fails_to_close(self, running: Running, monkeypatch: Patch) -> None:
        running.get()
        background = profile_of(running)._provider
        assert background
        close = background.stop

        def fail() -> None:
            close()
            raise OSError("gone")

        monkeypatch.setattr(background, "stop", fail)
        assert running.ask(b"1 lock\n").endswith(b"locked: web")
        assert running.log[1:] == ["error: profile 'web': its key was not closed: OSError"]
        assert running.ask(b"1 unlock web\n").count(b"1 ok ") == 1
