"""Where an agent listens: its folder and lock, sockets of dead and running agents, and those that systemd passes."""

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

from hwsigner._agent.client import Address, runtime_folder, system_address, user_address
from hwsigner._agent.listener import greet, open_listener
from hwsigner._system import systemd
from hwsigner._system.users import RUN, peer_uid
from hwsigner.errors import AgentError
from judges import needs_abstract_sockets, needs_systemd

OTHER = 65534  # Another user, nobody.


@pytest.fixture
def address(short_folder: Path) -> Address:
    short_folder.chmod(0o700)
    return Address(str(short_folder / "hwsigner"), is_system=False)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


class TestOwnSocket:
    def test_socket_can_be_reached_by_its_user_only(self, address: Address) -> None:
        before = os.umask(0)
        try:
            with open_listener(address, {}):
                assert (mode(address.folder), mode(address.socket)) == (0o700, 0o600)
        finally:
            os.umask(before)
        assert not os.path.exists(address.socket)

    def test_system_s_socket_can_be_reached_by_everyone(self, address: Address) -> None:
        with open_listener(Address(address.folder, is_system=True), {}):
            assert (mode(address.folder), mode(address.socket)) == (0o755, 0o666)

    def test_dead_agent_s_socket_is_replaced(self, address: Address) -> None:
        os.mkdir(address.folder, 0o700)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(address.socket)
        with open_listener(address, {}), socket.socket(socket.AF_UNIX) as client:
            client.connect(address.socket)

    def test_running_agent_s_socket_is_not_replaced(self, address: Address) -> None:
        with open_listener(address, {}):
            with pytest.raises(AgentError, match="running already"), open_listener(address, {}):
                pass
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address.socket)

    @pytest.mark.parametrize("is_full", [False, True])
    def test_socket_of_a_process_without_our_lock_is_not_replaced(self, address: Address, is_full: bool) -> None:
        os.mkdir(address.folder, 0o700)
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
            other.bind(address.socket)
            other.listen(0)
            if is_full:
                client.connect(address.socket)
            with pytest.raises(AgentError, match="running already"), open_listener(address, {}):
                pass
            assert os.path.exists(address.socket)

    def test_one_of_many_agents_started_at_once_stays(self, address: Address) -> None:
        code = (
            "import sys\n"
            "from hwsigner._agent.listener import open_listener\n"
            "from hwsigner._agent.client import Address\n"
            "from hwsigner.errors import AgentError\n"
            "try:\n"
            "    with open_listener(Address(sys.argv[1], False), {}): print('here', flush=True); sys.stdin.read()\n"
            "except AgentError: print('not', flush=True)"
        )
        pipe = subprocess.PIPE
        started = [
            subprocess.Popen([sys.executable, "-c", code, address.folder], stdin=pipe, stdout=pipe, text=True)
            for _ in range(5)
        ]
        said = [process.stdout.readline() for process in started if process.stdout]
        for process in started:
            process.communicate("")
        assert sorted(said) == ["here\n"] + ["not\n"] * 4

    def test_hint_about_the_system_s_folder_names_no_variable_that_is_not_read(self, tmp_path: Path) -> None:
        missing = str(tmp_path / "missing" / "hwsigner")
        for is_system, hint in ((True, "systemctl start hwsigner-agent"), (False, "Set XDG_RUNTIME_DIR")):
            with (
                pytest.raises(AgentError, match="can't listen in") as raised,
                open_listener(Address(missing, is_system), {}),
            ):
                pass
            assert (hint in raised.value.hint, "XDG" in raised.value.hint) == (True, not is_system)

    @pytest.mark.parametrize("folder_mode", [0o777, 0o1777, 0o770])
    def test_runtime_folder_that_others_can_write_is_refused(self, address: Address, folder_mode: int) -> None:
        os.chmod(os.path.dirname(address.folder), folder_mode)
        with pytest.raises(AgentError, match="must be a folder that you own"), open_listener(address, {}):
            pass
        assert not os.path.exists(address.folder)

    def test_agent_never_listens_in_tmp(self) -> None:
        with pytest.raises(AgentError), open_listener(user_address({"XDG_RUNTIME_DIR": "/tmp"}), {}):
            pass

    def test_missing_runtime_folder_is_an_error(self, address: Address) -> None:
        with (
            pytest.raises(AgentError, match="can't listen"),
            open_listener(user_address({"XDG_RUNTIME_DIR": "/none"}), {}),
        ):
            pass

    def test_path_that_is_too_long_is_an_error(self, short_folder: Path) -> None:
        long = Address(str(short_folder / ("x" * 100)), is_system=False)
        short_folder.chmod(0o700)
        with pytest.raises(AgentError, match="can't listen"), open_listener(long, {}):
            pass

    def test_folder_that_is_a_link_is_refused(self, address: Address, tmp_path: Path) -> None:
        os.symlink(tmp_path, address.folder)
        with pytest.raises(AgentError, match="must be a folder that you own"), open_listener(address, {}):
            pass

    @pytest.mark.root
    @pytest.mark.parametrize(("is_system", "hint"), [(False, "Remove it"), (True, "systemctl start hwsigner-agent")])
    def test_folder_of_another_user_is_refused(self, address: Address, is_system: bool, hint: str) -> None:
        os.mkdir(address.folder, 0o700)
        os.chown(address.folder, 65534, 65534)
        address = Address(address.folder, is_system=is_system)
        with pytest.raises(AgentError, match="must be a folder that you own") as caught, open_listener(address, {}):
            pass
        assert hint in caught.value.hint

    @pytest.mark.root
    def test_runtime_folder_of_another_user_is_refused(self, address: Address) -> None:
        os.chown(os.path.dirname(address.folder), OTHER, OTHER)
        with pytest.raises(AgentError, match="must be a folder that you own"), open_listener(address, {}):
            pass
        assert not os.path.exists(address.folder)

    @pytest.mark.root
    @pytest.mark.parametrize("depth", [1, 2])
    def test_files_survive_another_user_who_exchanges_the_folders(
        self, short_folder: Path, tmp_path: Path, depth: int
    ) -> None:
        """That user owns the folder above the agent's, or the one above that, and offers a link to a folder of ours."""
        tmp_path.chmod(0o755)
        theirs = short_folder / "theirs"
        runtime = theirs if depth == 1 else theirs / "run"
        address = Address(str(runtime / "hwsigner"), is_system=False)
        os.makedirs(address.folder, 0o700)
        for folder in (tmp_path, Path(address.folder)):
            (folder / "agent.sock").write_text("root's")
            (folder / "agent.lock").write_text("root's")
        os.chmod(runtime, 0o700)
        before = sorted((path.name, path.stat().st_ino) for path in tmp_path.iterdir())
        swapped = Path(address.folder) if depth == 1 else runtime
        target = tmp_path
        if depth == 2:
            target = short_folder / "target"
            target.mkdir(mode=0o700)
            (target / "hwsigner").symlink_to(tmp_path)
        code = (
            "import os, sys\n"
            "name, target = sys.argv[1:]\n"
            "print('on', flush=True)\n"
            "while True:\n"
            "    os.rename(name, name + '.real'); os.symlink(target, name)\n"
            "    os.unlink(name); os.rename(name + '.real', name)"
        )
        os.chown(theirs, OTHER, OTHER)
        short_folder.chmod(0o755)
        # Not sys.executable, which may be in a home folder.
        command = ["/usr/bin/python3", "-I", "-c", code, str(swapped), str(target)]
        other = subprocess.Popen(command, user=OTHER, group=OTHER, stdout=subprocess.PIPE)
        try:
            assert other.stdout
            assert other.stdout.readline()
            for _ in range(200):
                with suppress(AgentError), open_listener(address, {}):
                    pass
                assert sorted((path.name, path.stat().st_ino) for path in tmp_path.iterdir()) == before
        finally:
            other.kill()
            other.communicate()

    def test_mode_of_an_open_folder_is_corrected(self, address: Address) -> None:
        os.mkdir(address.folder, 0o755)
        with open_listener(address, {}):
            assert mode(address.folder) == 0o700


# An agent that systemd starts, and that does not get past the first module it needs for keys and sessions.
LOADING = """
import os, sys
class Loading:
    def find_spec(self, name, *_):
        if name == "hwsigner._refresh":
            sys.stdin.read()
            os._exit(0)
sys.meta_path.insert(0, Loading())
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
from hwsigner._cli import main
sys.exit(main(["agent"]))
"""


def test_clients_that_wait_hear_that_the_agent_is_working_before_it_has_loaded(address: Address) -> None:
    with open_listener(address, {}) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(address.socket)
        client.sendall(b"1 get web\n")
        command = [sys.executable, "-c", LOADING, str(listener.fileno())]
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()]) as process:
            assert client.recv(100) == b"1 working\n"
            assert process.poll() is None
            process.stdin.close()  # type: ignore[union-attr]
        assert process.returncode == 0


@needs_systemd
class TestPassedSocket:
    @pytest.fixture(autouse=True)
    def descriptor(self, monkeypatch: pytest.MonkeyPatch, address: Address) -> Iterator[socket.socket]:
        """A socket that systemd passes, under a free number."""
        os.mkdir(address.folder, 0o700)
        with socket.socket(socket.AF_UNIX) as given:
            given.bind(address.socket)
            given.listen()
            duplicate = os.dup(given.fileno())
            os.set_inheritable(duplicate, True)
            monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", duplicate)
            yield given
            with suppress(OSError):
                os.close(duplicate)

    def environ(self, **more: str) -> dict[str, str]:
        return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "PATH": "/bin", **more}

    def test_passed_socket_is_used_and_left(self, address: Address) -> None:
        environ = self.environ()
        with open_listener(address, environ) as given:
            assert given.getsockname() == address.socket
            assert not given.get_inheritable()
        assert environ == {"PATH": "/bin"}
        assert os.path.exists(address.socket)

    def test_second_passed_socket_is_an_error(self, address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            free = max(map(int, os.listdir("/dev/fd"))) + 64
            numbers = [fcntl.fcntl(one, fcntl.F_DUPFD, free), fcntl.fcntl(other, fcntl.F_DUPFD, free)]
        monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", numbers[0])
        environ = self.environ(LISTEN_FDS="2")
        with pytest.raises(AgentError, match="systemd passes 2 sockets"), open_listener(address, environ):
            pass
        for number in numbers:
            with pytest.raises(OSError, match="Bad file"):
                os.close(number)

    def test_passed_socket_that_does_not_listen_is_an_error(
        self, address: Address, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket(socket.AF_UNIX) as idle:
            monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", os.dup(idle.fileno()))
            with pytest.raises(AgentError, match="not a Unix stream"), open_listener(address, self.environ()):
                pass

    @needs_abstract_sockets
    def test_passed_socket_without_a_path_is_an_error(self, address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(f"\0{address.socket}")
            abstract.listen()
            monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", os.dup(abstract.fileno()))
            with pytest.raises(AgentError, match="not a Unix stream"), open_listener(address, self.environ()):
                pass

    @pytest.mark.parametrize("more", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": ""}])
    def test_socket_passed_to_another_process_is_ignored(
        self, address: Address, more: dict[str, str], descriptor: socket.socket
    ) -> None:
        with pytest.raises(AgentError, match="running already"), open_listener(address, self.environ(**more)):
            pass


class TestAddress:
    @needs_systemd
    def test_runtime_folder_is_that_of_the_variable_or_systemd_s(self) -> None:
        assert runtime_folder({"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7"
        for environ in ({}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "run"}):
            assert runtime_folder(environ) == f"/run/user/{os.geteuid()}"

    def test_socket_lies_in_the_folder_of_user_or_system(self) -> None:
        assert user_address({"XDG_RUNTIME_DIR": "/r"}).socket == "/r/hwsigner/agent.sock"
        assert system_address().socket == f"{RUN}/hwsigner/agent.sock"
        assert system_address().is_system

    def test_peer_uid_is_the_user_at_the_other_end(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            assert peer_uid(one) == os.geteuid()

    def test_owner_is_none_when_the_folder_is_missing_or_others_can_write_it(self, short_folder: Path) -> None:
        folder = short_folder / "f"
        for is_system in (False, True):
            assert Address(str(folder), is_system).owner() is None
        folder.mkdir(mode=0o755)
        for is_system in (False, True):
            assert Address(str(folder), is_system).owner() == os.geteuid()
        folder.chmod(0o775)
        for is_system in (False, True):
            assert Address(str(folder), is_system).owner() is None

    def test_folder_of_another_user_can_be_the_system_s_only(
        self, short_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = os.geteuid()
        short_folder.chmod(0o755)
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
        assert Address(str(short_folder), is_system=False).owner() is None
        assert Address(str(short_folder), is_system=True).owner() == mine


def test_client_behind_one_that_hung_up_hears_that_the_agent_is_working(address: Address) -> None:
    with open_listener(address, {}) as listener, socket.socket(socket.AF_UNIX) as client:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(address.socket)
        client.connect(address.socket)
        ((sock, _),) = greet(listener)
        with sock:
            assert client.recv(100) == b"1 working\n"
