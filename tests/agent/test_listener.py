"""Where an agent listens: its folder, its lock, sockets of the dead and of the living, and those that systemd gives."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.conftest import is_root
from hwsigner.agent.address import Place, peer_uid, runtime_folder, system_place, user_place
from hwsigner.agent.listener import open_listener
from hwsigner.errors import AgentError
from hwsigner.system import systemd


@pytest.fixture
def place(short_folder: Path) -> Place:
    short_folder.chmod(0o700)
    return Place(str(short_folder / "hwsigner"), is_systems=False)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


class TestMade:
    def test_nobody_else_can_reach_it(self, place: Place) -> None:
        before = os.umask(0)
        try:
            with open_listener(place, {}):
                assert (mode(place.folder), mode(place.socket)) == (0o700, 0o600)
        finally:
            os.umask(before)
        assert not os.path.exists(place.socket)

    def test_everybody_can_reach_the_system_s(self, place: Place) -> None:
        with open_listener(Place(place.folder, is_systems=True), {}):
            assert (mode(place.folder), mode(place.socket)) == (0o755, 0o666)

    def test_a_dead_agent_s_socket_is_replaced(self, place: Place) -> None:
        os.mkdir(place.folder, 0o700)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(place.socket)
        with open_listener(place, {}), socket.socket(socket.AF_UNIX) as client:
            client.connect(place.socket)

    def test_a_living_one_s_is_not(self, place: Place) -> None:
        with open_listener(place, {}):
            with pytest.raises(AgentError, match="running already"), open_listener(place, {}):
                pass
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(place.socket)

    @pytest.mark.parametrize("is_full", [False, True])
    def test_nor_one_without_our_lock(self, place: Place, is_full: bool) -> None:
        os.mkdir(place.folder, 0o700)
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
            other.bind(place.socket)
            other.listen(0)
            if is_full:
                client.connect(place.socket)
            with pytest.raises(AgentError, match="running already"), open_listener(place, {}):
                pass
            assert os.path.exists(place.socket)

    def test_of_many_that_start_one_stays(self, place: Place) -> None:
        code = (
            "import sys; from hwsigner.agent.listener import open_listener; from hwsigner.agent.address import Place\n"
            "from hwsigner.errors import AgentError\n"
            "try:\n"
            "    with open_listener(Place(sys.argv[1], False), {}): print('here', flush=True); sys.stdin.read()\n"
            "except AgentError: print('not', flush=True)"
        )
        pipe = subprocess.PIPE
        started = [
            subprocess.Popen([sys.executable, "-c", code, place.folder], stdin=pipe, stdout=pipe, text=True)
            for _ in range(5)
        ]
        said = [process.stdout.readline() for process in started if process.stdout]
        for process in started:
            process.communicate("")
        assert sorted(said) == ["here\n"] + ["not\n"] * 4

    @pytest.mark.parametrize("folder_mode", [0o777, 0o1777, 0o770])
    def test_a_runtime_folder_that_others_can_write(self, place: Place, folder_mode: int) -> None:
        os.chmod(os.path.dirname(place.folder), folder_mode)
        with pytest.raises(AgentError, match="others can write"), open_listener(place, {}):
            pass
        assert not os.path.exists(place.folder)

    def test_never_in_tmp(self) -> None:
        with pytest.raises(AgentError), open_listener(user_place({"XDG_RUNTIME_DIR": "/tmp"}), {}):
            pass

    def test_no_runtime_folder(self, place: Place) -> None:
        with (
            pytest.raises(AgentError, match="can't listen"),
            open_listener(user_place({"XDG_RUNTIME_DIR": "/none"}), {}),
        ):
            pass

    def test_a_path_that_is_too_long(self, short_folder: Path) -> None:
        long = Place(str(short_folder / ("x" * 100)), is_systems=False)
        short_folder.chmod(0o700)
        with pytest.raises(AgentError, match="can't listen"), open_listener(long, {}):
            pass

    def test_a_folder_that_is_a_link(self, place: Place, tmp_path: Path) -> None:
        os.symlink(tmp_path, place.folder)
        with pytest.raises(AgentError, match="not this user's alone"), open_listener(place, {}):
            pass

    @pytest.mark.skipif(not is_root(), reason="only root can be another user")
    def test_a_folder_of_another_user(self, place: Place) -> None:
        os.mkdir(place.folder, 0o700)
        os.chown(place.folder, 65534, 65534)
        with pytest.raises(AgentError, match="not this user's alone"), open_listener(place, {}):
            pass

    def test_a_folder_that_was_open_is_closed(self, place: Place) -> None:
        os.mkdir(place.folder, 0o755)
        with open_listener(place, {}):
            assert mode(place.folder) == 0o700


class TestGiven:
    @pytest.fixture(autouse=True)
    def descriptor(self, monkeypatch: pytest.MonkeyPatch, place: Place) -> Iterator[socket.socket]:
        """What systemd gives, under a number that is free."""
        os.mkdir(place.folder, 0o700)
        with socket.socket(socket.AF_UNIX) as given:
            given.bind(place.socket)
            given.listen()
            duplicate = os.dup(given.fileno())
            os.set_inheritable(duplicate, True)
            monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", duplicate)
            yield given
            with suppress(OSError):
                os.close(duplicate)

    def environ(self, **more: str) -> dict[str, str]:
        return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "PATH": "/bin", **more}

    def test_is_used_and_left_where_it_is(self, place: Place) -> None:
        environ = self.environ()
        with open_listener(place, environ) as given:
            assert given.getsockname() == place.socket
            assert not given.get_inheritable()
        assert environ == {"PATH": "/bin"}
        assert os.path.exists(place.socket)

    def test_more_than_one(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            free = max(map(int, os.listdir("/proc/self/fd"))) + 1
            numbers = [fcntl.fcntl(one, fcntl.F_DUPFD, free), fcntl.fcntl(other, fcntl.F_DUPFD, free)]
        monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", numbers[0])
        environ = self.environ(LISTEN_FDS="2")
        with pytest.raises(AgentError, match="systemd gives 2 sockets"), open_listener(place, environ):
            pass
        for number in numbers:
            with pytest.raises(OSError, match="Bad file"):
                os.close(number)

    def test_one_that_does_not_listen(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_UNIX) as idle:
            monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", os.dup(idle.fileno()))
            with pytest.raises(AgentError, match="no Unix stream"), open_listener(place, self.environ()):
                pass

    def test_one_without_a_path(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(f"\0{place.socket}")
            abstract.listen()
            monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", os.dup(abstract.fileno()))
            with pytest.raises(AgentError, match="no Unix stream"), open_listener(place, self.environ()):
                pass

    @pytest.mark.parametrize("more", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": ""}])
    def test_for_another_process(self, place: Place, more: dict[str, str], descriptor: socket.socket) -> None:
        with pytest.raises(AgentError, match="running already"), open_listener(place, self.environ(**more)):
            pass


class TestPlaces:
    def test_the_runtime_folder(self) -> None:
        assert runtime_folder({"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7"
        for environ in ({}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "run"}):
            assert runtime_folder(environ) == f"/run/user/{os.geteuid()}"

    def test_sockets(self) -> None:
        assert user_place({"XDG_RUNTIME_DIR": "/r"}).socket == "/r/hwsigner/agent.sock"
        assert system_place().socket == "/run/hwsigner/agent.sock"
        assert system_place().is_systems

    def test_the_peer(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            assert peer_uid(one) == os.geteuid()

    def test_owners(self, short_folder: Path) -> None:
        folder = short_folder / "f"
        for is_systems in (False, True):
            assert Place(str(folder), is_systems).owner() is None
        folder.mkdir(mode=0o755)
        for is_systems in (False, True):
            assert Place(str(folder), is_systems).owner() == os.geteuid()
        folder.chmod(0o775)
        for is_systems in (False, True):
            assert Place(str(folder), is_systems).owner() is None

    def test_another_s_folder_is_the_system_s_alone(self, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mine = os.geteuid()
        short_folder.chmod(0o755)
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
        assert Place(str(short_folder), is_systems=False).owner() is None
        assert Place(str(short_folder), is_systems=True).owner() == mine
