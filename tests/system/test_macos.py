"""The bodies for macOS that Linux can run, with the answers of macOS's kernel where they are needed.

`sys.platform` is patched, and nothing else of Python: what must not be used is found by `tests/test_one_system_room.py`
and by mypy.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from hwsigner._cli.browser import open_in_browser
from hwsigner._cli.child import run_program
from hwsigner._config import profiles
from hwsigner._serving.admission import Users
from hwsigner._serving.responses import HTTPRefusal
from hwsigner._system import (
    descriptors,
    environment,
    files,
    loopback,
    memory,
    new_files,
    processes,
    signals,
    sockets,
    support,
    users,
)
from hwsigner.backends import BACKENDS, Backend
from hwsigner.errors import BackendUnavailableError, HwsignerError, NoProfileError, UsageError
from judges import needs_bare_start


@pytest.fixture(autouse=True)
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


class Answering(socket.socket):
    """A Unix socket whose kernel is macOS's: a client of user 501, in the groups 20 and 12."""

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes | int:  # type: ignore[override]
        assert (level, option, size) in ((0, 1, 76), (0, 2, 0))
        return struct.pack("=IIhxx16I", 0, 501, 2, 20, 12, *[0] * 14) if size else 4711


class TestPeer:
    def test_user_groups_and_number_are_those_of_local_peercred(self) -> None:
        with Answering(socket.AF_UNIX) as sock:
            assert (users.peer_uid(sock), users.peer_groups(sock), users.peer_pid(sock)) == (501, {20, 12}, 4711)
            assert users.peer_pidfd(sock) is None
            assert processes.describe_peer(sock) == {"pid": 4711}

    def test_every_uid_is_a_user_s(self) -> None:
        assert users.known_uid(65534) == 65534

    @needs_bare_start
    def test_kernel_that_can_t_tell_is_an_error(self) -> None:
        one, other = socket.socketpair()
        with one, other, pytest.raises(OSError):
            users.peer_uid(one)


class TestLoginFolder:
    def test_is_that_of_confstr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "confstr", {65536: "/var/folders/x/0/", 65537: "/var/folders/x/T/"}.get)
        assert users.login_folder() == "/var/folders/x/0"  # Not T, where macOS removes sockets.

    def test_is_one_that_is_not_there_if_confstr_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "confstr", lambda _: None)
        assert not os.path.exists(users.login_folder())
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert not list(environment.runtime_folders())


class TestDescriptors:
    def test_anonymous_file_is_written_and_read_by_a_child(self) -> None:
        with new_files.anonymous_file("request") as file:
            file.write(b"text")
            file.seek(0)
            assert os.fstat(file.fileno()).st_nlink == 0
            assert subprocess.run(["cat"], stdin=file, capture_output=True).stdout == b"text"

    def test_file_is_opened_again_for_reading(self, tmp_path: Path) -> None:
        path = str(tmp_path / "log")
        with open(path, "w") as file:
            again = descriptors.reopen(file.fileno(), path, os.O_RDONLY)
            file.write("line\n")
            file.flush()
            assert os.read(again, 9) == b"line\n"
            os.close(again)

    def test_file_that_was_replaced_is_not_opened_again(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        with open(path, "w") as file:
            path.unlink()
            for replace in (lambda: path.symlink_to("/etc/passwd"), lambda: path.write_text("another's")):
                path.unlink(missing_ok=True)
                replace()
                with pytest.raises(OSError):
                    descriptors.reopen(file.fileno(), str(path), os.O_RDONLY)

    @pytest.mark.parametrize(("error", "is_nameless"), [(errno.EBADF, True), (errno.ENOENT, False), (None, False)])
    def test_pipe_without_a_path_is_nameless(
        self, monkeypatch: pytest.MonkeyPatch, error: int | None, is_nameless: bool
    ) -> None:
        def answer(*_: object) -> bytes:
            if error:
                raise OSError(error, "")
            return b"/tmp/fifo"

        monkeypatch.setattr(fcntl, "F_GETPATH", 50, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", answer)
        assert descriptors.is_nameless(0) is is_nameless

    def test_new_file_is_written_whole(self, tmp_path: Path) -> None:
        new_files.create_file(str(tmp_path / "key"), b"key")
        assert [path.name for path in tmp_path.iterdir()] == ["key"]
        with pytest.raises(FileExistsError):
            new_files.create_file(str(tmp_path / "key"), b"another")
        assert (tmp_path / "key").read_bytes() == b"key"

    @needs_bare_start
    def test_access_control_list_is_kept(self, tmp_path: Path) -> None:
        """Linux's libacl has the functions that are in macOS's C library."""
        ctypes.CDLL("libacl.so.1", ctypes.RTLD_GLOBAL)
        path = tmp_path / "file"
        path.write_text("old")
        path.chmod(0o640)
        with open(path) as file:
            assert b"4711" not in (descriptors.read_macos_acl(file.fileno()) or b"")
            descriptors.write_macos_acl(file.fileno(), b"u::rw,u:4711:r,g::-,m::r,o::-")
        files.edit_file(str(path), lambda old: old + b" and new")
        assert path.read_text() == "old and new"
        with open(path) as file:
            assert b"user:4711:r--" in (descriptors.read_macos_acl(file.fileno()) or b"")


class TestChildren:
    def test_child_gets_no_other_descriptor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "_DESCRIPTORS", 4096)  # Other tests may have opened hundreds.
        before = processes.inheritable_descriptors()
        left = os.dup(1)
        os.set_inheritable(left, True)
        try:
            assert processes.withhold(before) == []
            assert not os.get_inheritable(left)
            assert processes.inheritable_descriptors() == before
        finally:
            os.close(left)


class TestSignals:
    def run(self, code: str, prepare: Callable[[], None] = lambda: None) -> int:
        inherited = processes.inheritable_descriptors()
        return run_program([sys.executable, "-c", code], os.environ, prepare, inherited=inherited)

    @pytest.mark.parametrize(("code", "status"), [("exit(7)", 7), ("import os; os.kill(os.getpid(), 15)", 143)])
    def test_status_of_a_program_is_returned_at_once(self, code: str, status: int) -> None:
        since = time.monotonic()
        assert self.run(code) == status
        assert time.monotonic() - since < 0.9  # Else it was noticed by the poll.

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
    def test_signal_is_passed_on_once(self, number: signal.Signals, tmp_path: Path) -> None:
        code = f"""
import os, signal, sys
got = []
signal.signal({int(number)}, lambda number, _: got.append(number))
open({str(tmp_path / "ready")!r}, "w").close()
while not got: signal.pause()
signal.setitimer(signal.ITIMER_REAL, 0.2)
signal.signal(signal.SIGALRM, lambda *_: os._exit(len(got)))
while True: signal.pause()
"""

        def send() -> None:
            while not (tmp_path / "ready").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

        assert self.run(code, threading.Thread(target=send, daemon=True).start) == 1

    @pytest.fixture
    def foreground(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signals, "_TERMINAL", os.devnull)
        monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())

    @pytest.mark.usefixtures("foreground")
    def test_signal_of_a_terminal_has_reached_the_program_already(self) -> None:
        typed = {number for number in signal.Signals if signals.is_typed(number)}
        assert typed == {signal.SIGINT, signal.SIGQUIT}

    @pytest.mark.usefixtures("foreground")
    def test_linux_passes_on_each_signal_that_a_handler_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        assert not [number for number in signal.Signals if signals.is_typed(number)]

    def test_no_signal_is_typed_without_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signals, "_TERMINAL", os.devnull)
        assert not signals.is_typed(signal.SIGINT)


class TestEndOfAChild:
    def test_it_can_be_read_then(self) -> None:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child, new_files.open_end(child) as end:
            os.set_blocking(end.fileno(), False)
            assert end.read() is None
            assert child.stdin
            child.stdin.close()
            os.set_blocking(end.fileno(), True)
            assert end.read() == b""
            assert child.returncode == 0

    def test_no_descriptor_is_left_if_no_thread_can_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", fail)
        with subprocess.Popen(["true"]) as child:
            before = os.dup(0)
            os.close(before)
            with pytest.raises(RuntimeError):
                new_files.open_end(child)
            after = os.dup(0)
            os.close(after)
            assert before == after


class TestMemory:
    @pytest.fixture
    def called(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[object, ...]]]:
        """The functions of the C library that are called, with their arguments. It has each name."""
        calls: list[tuple[str, tuple[object, ...]]] = []

        class Libc:
            def __getattr__(self, name: str) -> Callable[..., int]:
                def function(*arguments: object) -> int:
                    calls.append((name, arguments))
                    return 0

                return function

        monkeypatch.setattr(memory, "_libc", Libc)
        return calls

    def test_secret_is_locked(self) -> None:
        assert memory.lock(mmap.mmap(-1, mmap.PAGESIZE)) == ""

    def test_secret_is_locked_whole_and_by_what_macos_has(self, called: list[tuple[str, tuple[object, ...]]]) -> None:
        assert memory.lock(mmap.mmap(-1, 2 * mmap.PAGESIZE), 1) == ""
        ((name, (_, size)),) = called
        assert (name, cast(ctypes.c_size_t, size).value) == ("mlock", 2 * mmap.PAGESIZE)

    def test_free_memory_of_all_zones_is_returned(self, called: list[tuple[str, tuple[object, ...]]]) -> None:
        memory.return_free()
        assert called == [("malloc_zone_pressure_relief", (None, 0))]

    def test_nothing_is_returned_where_the_library_can_t(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "_libc", object)
        memory.return_free()

    def test_all_memory_is_not_locked(self, called: list[tuple[str, tuple[object, ...]]]) -> None:
        memory.lock_all(resource.RLIM_INFINITY)
        assert not called

    def test_mapping_gets_no_advice_that_macos_lacks(self) -> None:
        class Mapping(mmap.mmap):
            def madvise(self, *_: object) -> None:
                pytest.fail("madvise was called")

        memory.hide(Mapping(-1, mmap.PAGESIZE))

    def test_limit_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Libc:
            def mlock(self, *_: object) -> int:
                ctypes.set_errno(errno.EAGAIN)
                return -1

        monkeypatch.setattr(memory, "_libc", Libc)
        assert memory.lock(mmap.mmap(-1, mmap.PAGESIZE)) == os.strerror(errno.EAGAIN)


class TestSockets:
    def test_socket_is_bound_in_its_folder(self, short_folder: Path) -> None:
        folder = os.open(short_folder, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as sock:
            sockets.bind_in(sock, folder, str(short_folder / "agent.sock"))
            assert (short_folder / "agent.sock").is_socket()
        os.close(folder)

    def test_socket_in_a_folder_that_was_replaced_is_refused(self, short_folder: Path) -> None:
        place = short_folder / "place"
        place.mkdir()
        folder = os.open(place, os.O_RDONLY)
        place.rename(short_folder / "moved")
        place.mkdir()
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="the folder was replaced"):
            sockets.bind_in(sock, folder, str(place / "agent.sock"))
        os.close(folder)
        assert not list(place.iterdir())


class TestRefusals:
    def test_client_without_a_token_is_refused_as_its_user_is_unknown(self) -> None:
        class Client:
            @property
            def uid(self) -> int | None:
                return loopback.find_owner(("127.0.0.1", 1), ("127.0.0.1", 2))

        log: list[str] = []
        allowed = Users({os.geteuid()}, log.append)
        with pytest.raises(HTTPRefusal) as caught:
            allowed.check(Client())  # type: ignore[arg-type]
        assert caught.value.status == 503
        allowed.check(Client(), has_secret=True)  # type: ignore[arg-type]
        assert len(log) == 1
        assert "container requests need only their token" in log[0]

    def test_plugin_without_its_library_is_not_told_of_tpms(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "keys_in_a_cupboard.py").write_text("import absent_library")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(BackendUnavailableError, match="keys_in_a_cupboard needs the Python library absent_library"):
            Backend("keys_in_a_cupboard").load("keys_in_a_cupboard")

    def test_backend_for_tpms_says_that_it_needs_linux(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
        for name in [name for name in sys.modules if name.startswith("hwsigner.backends.tpm2")]:
            monkeypatch.delitem(sys.modules, name)
        backend = BACKENDS["tpm2"]
        with pytest.raises(BackendUnavailableError, match="a key in a TPM needs Linux"):
            backend.load(backend.module)

    @pytest.mark.parametrize(
        "words",
        [
            ["systemd", "install", "--user"],
            ["serve", "--imds"],
            ["console", "--open"],
            ["agent", "--system"],
            ["enroll", "web", "--system"],
            ["profile", "add", "web", "--system"],
            ["csr", "web.pem", "--subject", "CN=web", "--system"],
            ["install-certificate", "web.crt", "web.pem", "--system"],
            ["aws", "setup", "--role", "web", "--system"],
        ],
    )
    def test_command_of_linux_is_a_usage_error(self, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
        from hwsigner._cli import main

        assert main(words) == UsageError.exit_status
        assert "needs Linux" in capfd.readouterr().err

    @pytest.mark.parametrize("user", [0, 1000])
    def test_hint_names_no_profile_of_the_system(
        self, user: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: user)
        monkeypatch.setattr(profiles, "_file_of_sudo_user", lambda *_: "/Users/ada/config.toml")
        with pytest.raises(NoProfileError) as caught:
            profiles.profile("web", {"XDG_CONFIG_HOME": str(tmp_path)})
        assert "--system" not in caught.value.hint

    def test_secret_url_is_opened_in_no_browser_that_other_users_could_ask_for_it(self) -> None:
        with pytest.raises(UsageError, match="--open needs Linux"):
            open_in_browser("https://signin.example/secret")

    def test_what_is_lacking_is_a_line_for_each(self) -> None:
        assert support.lacks() == support.LACKS_OF_MACOS
        assert all(line.strip(". ") == line and "\n" not in line for line in support.lacks())
        with pytest.raises(HwsignerError, match="x needs Linux"):
            support.require_linux("x")
