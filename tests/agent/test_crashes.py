"""A library that crashes in an agent: the next agent leaves that profile out for a while, and serves the others."""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from agent.conftest import Program
from agent.homes import Home, run_agent
from agent.processes import agent_process, ask
from agent.test_tokens import put_key
from hwsigner._agent import crashes
from hwsigner._agent.client import command
from hwsigner._agent.crashes import FIRST_PAUSE, LONGEST_PAUSE, UseMark
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner.errors import AgentError
from pkcs11_shim import Shim
from softhsm.token import PIN

CRASHING = "int C_GetFunctionList(void) { return *(volatile int *)0; }"
LEFT_OUT = "the agent ended while a library used the key of profile 'card', which is left out until "


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the marks, for agents in this process."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "hwsigner"


def left_behind(crashed: int = 1, profile: str = "card") -> UseMark:
    """Return the mark that an agent finds after one that was killed while it used the key."""
    mark = UseMark(profile)
    mark.crashes = crashed - 1
    using = mark.used()
    using.__enter__()
    found = UseMark(profile)
    using.__exit__(None, None, None)
    return found


def test_profile_whose_name_is_like_a_path_has_its_mark_in_the_folder(folder: Path) -> None:
    others = folder.parent / "other.used"
    others.write_text("another program's")
    for name in ("../other", "team/card"):
        assert left_behind(profile=name).left > 0
        UseMark(name).remove()
        assert UseMark(name).left <= 0
    assert others.read_text() == "another program's"
    assert not list(folder.iterdir())


def use_in_a_thread(mark: UseMark) -> threading.Event:
    """Use a key in a thread; return what is set once it is in use."""
    begun = threading.Event()

    def use() -> None:
        with mark.used():
            begun.set()

    threading.Thread(target=use).start()
    return begun


class TestUseMark:
    def test_mark_is_there_while_the_key_is_used(self, folder: Path) -> None:
        with UseMark("card").used():
            (file,) = folder.iterdir()
            assert file.stat().st_mode & 0o777 == 0o600
        assert list(folder.iterdir()) == []
        assert UseMark("card").left <= 0

    def test_mark_is_removed_when_the_use_fails(self, folder: Path) -> None:
        with pytest.raises(ZeroDivisionError), UseMark("card").used():
            _ = 1 / 0
        assert list(folder.iterdir()) == []

    def test_pause_grows_with_each_crash_up_to_a_limit(self) -> None:
        pauses = [left_behind(crashes).left for crashes in (1, 2, 3, 100)]
        assert pauses == [pytest.approx(seconds, abs=1) for seconds in (FIRST_PAUSE, 20, 80, LONGEST_PAUSE)]

    def test_mark_from_before_the_machine_s_start_means_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with UseMark("card").used():
            monkeypatch.setattr(crashes, "boot_time", lambda: 1.0)
            assert (UseMark("card").crashes, UseMark("card").left < 0) == (0, True)

    @pytest.mark.parametrize("text", ["", "1", "a b", "1 nan", "inf 1", "-1 1", "1 1 1"])
    def test_mark_that_can_t_be_read_means_nothing(self, folder: Path, text: str) -> None:
        with UseMark("card").used():
            (file,) = folder.iterdir()
            file.write_text(text)
            assert not UseMark("card").left > 0
        assert not math.isnan(UseMark("card").left)

    def test_keys_in_use_at_a_crash_are_used_one_at_a_time(self, folder: Path) -> None:
        card, web = left_behind(), left_behind(profile="web")
        with card.used():
            begun = use_in_a_thread(web)
            assert not begun.wait(0.2)
            assert [file.name for file in folder.iterdir()] == ["card.used"]
        assert begun.wait(20)

    def test_key_that_was_not_in_use_at_a_crash_waits_for_no_other(self) -> None:
        with left_behind().used():
            assert use_in_a_thread(UseMark("web")).wait(5)

    def test_key_that_hangs_is_not_waited_for_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crashes, "ALONE_LIMIT", 0.05)
        with left_behind().used():
            assert use_in_a_thread(left_behind(profile="web")).wait(5)

    @pytest.mark.parametrize("name", ["a\0b", "a/b", "..", "x" * 300])
    def test_profile_whose_name_no_file_can_have_is_used_without_a_mark(self, folder: Path, name: str) -> None:
        """TOML allows any name. The agent must not end for one."""
        mark = UseMark(name)
        with mark.used():
            pass
        mark.remove()

    def test_key_is_used_when_no_folder_can_have_the_mark(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crashes, "is_usable", lambda _: False)
        with UseMark("card").used():
            assert UseMark("card").left <= 0


@pytest.fixture
def crashing(home: Home, tmp_path: Path) -> Home:
    """A home with the profile `web`, and the profile `card`, whose module crashes when it is loaded."""
    module = tmp_path / "crashing.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", module, "-"], input=CRASHING, text=True, check=True)
    home.write_profiles(web={}, card={"private-key": f"pkcs11:object=a?module-path={module}"})
    return home


def crash(home: Home, program: Program) -> None:
    """Have an agent use the profile `card`, and see it end."""
    with agent_process(home) as agent:
        ask(program.path, home, "--profile", "card")
        assert agent.process.wait(20) in (-signal.SIGSEGV, -signal.SIGABRT)


class TestAgent:
    @pytest.mark.slow
    def test_agent_after_a_crash_leaves_the_profile_out_and_serves_the_others(
        self, crashing: Home, program: Program
    ) -> None:
        crash(crashing, program)
        with agent_process(crashing) as agent:
            done = ask(program.path, crashing, "--profile", "card")
            assert (done.returncode, done.stdout) == (7, "")
            assert LEFT_OUT in done.stderr
            assert "hwsigner agent refresh card" in done.stderr
            assert ask(program.path, crashing, "--profile", "web").returncode == 0
            _, card, web = command(crashing.address, AgentRequest(Verb.STATUS)).splitlines()
            assert card.startswith(f"card\tfailing\t\t{LEFT_OUT}")
            assert web.startswith("web\tready\t")
            status, err = agent.stop()
        assert status == 0
        assert f"hwsigner: warning: {LEFT_OUT}" in err

    @pytest.mark.slow
    def test_profile_is_tried_at_once_by_hand(self, crashing: Home, program: Program) -> None:
        crash(crashing, program)
        with agent_process(crashing) as agent:
            with pytest.raises(AgentError, match=r"closed the agent's socket|failed"):
                command(crashing.address, AgentRequest(Verb.REFRESH, "card"))
            assert agent.process.wait(20) == -signal.SIGSEGV
        with agent_process(crashing):
            done = ask(program.path, crashing, "--profile", "card")
        assert "the agent ended 2 times while a library used the key" in done.stderr

    @pytest.mark.slow
    def test_profile_is_served_again_after_its_pause(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crashes, "FIRST_PAUSE", 0.3)
        using = UseMark("web").used()
        using.__enter__()
        with run_agent(home) as running:
            assert running.get().startswith(b"1 error 7 ")
            while not running.get().startswith(b"1 ok "):
                pass

    @pytest.mark.slow
    def test_profile_is_not_said_to_be_left_out_after_its_pause(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(crashes, "FIRST_PAUSE", 0.3)
        using = UseMark("web").used()
        using.__enter__()
        with run_agent(home):
            time.sleep(0.4)
            assert "web\tidle\t" in command(home.address, AgentRequest(Verb.STATUS))

    def test_agent_that_ends_while_a_key_hangs_leaves_no_mark(self, home: Home) -> None:
        using = UseMark("web").used()
        using.__enter__()
        with run_agent(home):
            pass
        assert UseMark("web").left <= 0

    def test_profile_whose_key_is_in_a_file_gets_no_mark(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: UseMark) -> None:
            raise AssertionError("a file's key needs no mark")

        monkeypatch.setattr(UseMark, "used", refuse)
        with run_agent(home) as running:
            assert running.get().startswith(b"1 ok ")


def test_crash_in_a_signature_leaves_the_mark(home: Home, shim: Shim, program: Program) -> None:
    put_key(home, f"{shim.uri()}&pin-value={PIN}", shim.hsm.public_key(b"\x01", "one"))
    profile = (home.folder / "config/hwsigner/config.toml").read_text()
    (home.folder / "config/hwsigner/config.toml").write_text(profile.replace("[profile.web]", "[profile.card]"))
    with agent_process(home, **shim.env, SHIM_CRASHES="yes") as agent:
        ask(program.path, home, "--profile", "card")
        assert agent.process.wait(20) == -signal.SIGABRT
    with agent_process(home, **shim.env):
        assert LEFT_OUT in ask(program.path, home, "--profile", "card").stderr
        assert command(home.address, AgentRequest(Verb.REFRESH, "card")).startswith("profile 'card' has credentials")
        assert ask(program.path, home, "--profile", "card").returncode == 0
