"""The life of a profile in an agent: what is told to those whose profile is locked or changes while they wait."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from agent.homes import PASSPHRASE, Home, Running, read_end, run_agent
from hwsigner.agent.control import Control
from hwsigner.agent.profile import HeldProfile, _State
from hwsigner.agent.protocol import Verb, with_body
from hwsigner.errors import AgentError
from hwsigner.pins import PinRequest

CHANGED = b"1 error 7 46\nprofile 'web' has changed meanwhile. Ask again"
BY_HAND = b"it was locked by hand. Run hwsigner agent unlock web"
REQUEST = PinRequest("passphrase", "web.key")
Patch = pytest.MonkeyPatch


def held(running: Running, name: str = "web") -> HeldProfile:
    found = running.server._roster.find(name)
    assert found
    return found


def answer_of(done: Future[Any]) -> Any:
    assert done.done()
    result = done.result()
    return getattr(result, "answer", result)


def test_root_and_the_agent_s_own_user_are_allowed(running: Running, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 4711)
        assert [uid for uid in (0, 1, 4710, 4711) if held(running).allows(uid)] == [0, 4711]


def test_a_session_that_was_given_is_renewed_ahead_of_need(running: Running) -> None:
    running.get()
    running.get()
    resident = held(running)._resident
    assert resident
    deadline = time.monotonic() + 20
    while resident.status().until_refresh == math.inf:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestClosed:
    ACTS: tuple[Callable[[HeldProfile], Future[Any]], ...] = (
        HeldProfile.answer,
        HeldProfile.renew,
        HeldProfile.unlock,
        lambda profile: profile.bring(REQUEST, memoryview(b"1234")),
    )

    @pytest.mark.parametrize("act", ACTS)
    def test_who_asks_is_told_at_once_to_ask_again(
        self, running: Running, act: Callable[[HeldProfile], Future[Any]]
    ) -> None:
        running.get()
        profile = held(running)
        profile.close().result(20)
        assert answer_of(act(profile)) == CHANGED

    @pytest.mark.parametrize("act", [HeldProfile.lock, HeldProfile.close])
    def test_it_is_locked_as_it_should_be(self, running: Running, act: Callable[[HeldProfile], Future[None]]) -> None:
        running.get()
        profile = held(running)
        profile.close().result(20)
        assert answer_of(act(profile)) is None
        assert profile.read() is None
        assert profile.status() == "web\tclosed\t\t"
        assert running.memory.used_pages == 0

    def test_a_lock_on_its_heels_does_not_bring_it_back(self, running: Running) -> None:
        profile = held(running)
        profile._end(_State.CLOSED)  # As `close` does, before there is no worker any more.
        profile.lock().result(20)
        assert profile.unlock().result(20).answer == CHANGED

    def test_all_are_locked_though_one_is_there_no_more(self, home: Home) -> None:
        home.write_profiles(web={}, xyz={})
        with run_agent(home) as running:
            running.get("web")
            running.get("xyz")
            chosen = running.server._roster.all()
            chosen[0].close()
            ours, theirs = socket.socketpair()
            with theirs:
                Control(ours, chosen, memory=running.memory, stop=lambda: None).serve(Verb.LOCK)
                assert read_end(theirs) == with_body("ok", b"locked: web, xyz")
            assert running.get("xyz").startswith(b"1 error 3 ")


class TestChanged:
    def test_while_a_person_types_a_pin(self, home: Home) -> None:
        home.encrypted_key("web")
        with run_agent(home) as running, running.conversation(b"1 unlock web\n") as wire:
            assert wire.answer(20)[0].kind == "ask"
            home.write_profiles(web={"session-duration": 900})
            running.get()
            wire.send(with_body("pin", PASSPHRASE.encode()))
            head, body = wire.answer(20)
            assert (head.kind, body) == ("error", CHANGED.partition(b"\n")[2])
            assert running.memory.used_pages == 0

    def test_who_asked_before_is_answered(self, home: Home) -> None:
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

    def test_the_thread_ends(self, running: Running) -> None:
        running.get()
        running.home.write_profiles(other={})
        assert running.get() == b"1 unknown\n"
        deadline = time.monotonic() + 20
        while [thread for thread in threading.enumerate() if thread.name.startswith("profile-web")]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class TestLocked:
    def test_while_a_person_types_a_pin(self, home: Home) -> None:
        home.encrypted_key("web")
        with run_agent(home) as running, running.conversation(b"1 unlock web\n") as wire:
            assert wire.answer(20)[0].kind == "ask"
            assert running.ask(b"1 lock web\n").endswith(b"locked: web")
            wire.send(with_body("pin", PASSPHRASE.encode()))
            head, body = wire.answer(20)
            assert head.kind == "error"
            assert body.endswith(BY_HAND)
            assert running.get().endswith(BY_HAND)
            assert running.memory.used_pages == 0
        assert home.emulator.requests == []

    def test_while_the_key_is_at_work_nothing_is_given_any_more(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with run_agent(home) as running:
            with running.waiting(b"1 get web\n") as first:
                gate.write_text(PASSPHRASE)
                assert read_end(first).startswith(b"1 ok ")
            (home.folder / "web.key").touch()  # It is opened anew, which wants the gate.
            with running.waiting(b"1 refresh web\n") as refresh:
                assert running.get().startswith(b"1 ok ")
                with running.waiting(b"1 lock web\n") as lock, running.waiting(b"1 get web\n") as get:
                    gate.write_text(PASSPHRASE)
                    assert read_end(refresh).startswith(b"1 ok ")
                    assert read_end(lock).endswith(b"locked: web")
                    assert read_end(get).endswith(BY_HAND)
            assert running.memory.used_pages == 0

    def test_what_it_met_before_is_told_no_more(self, running: Running, monkeypatch: Patch) -> None:
        def full(size: int) -> memoryview:
            raise AgentError("the agent's locked memory is full")

        monkeypatch.setattr(running.memory, "take", full)
        assert running.get().startswith(b"1 error 7 ")
        held(running).lock().result(20)
        assert held(running).status() == "web\tlocked\t\t"

    def test_a_key_that_fails_to_close(self, running: Running, monkeypatch: Patch) -> None:
        running.get()
        resident = held(running)._resident
        assert resident
        close = resident.close

        def fail() -> None:
            close()
            raise OSError("gone")

        monkeypatch.setattr(resident, "close", fail)
        assert running.ask(b"1 lock\n").endswith(b"locked: web")
        assert running.log[1:] == ["profile 'web': its key was not closed: OSError"]
        assert running.ask(b"1 unlock web\n").count(b"1 ok ") == 1
