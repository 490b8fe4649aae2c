"""Files that are locked and replaced whole, while other processes read, write or are killed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwsigner._system import files, new_files
from hwsigner._system.files import edit_file, lock_within
from hwsigner._system.new_files import create_file
from hwsigner.errors import HwsignerError, LockError
from judges import needs_acls, needs_linux, needs_namespaces, needs_strace

ROOT = Path(__file__).parents[2]
LOCK, TEMPORARY = ".file.hwsigner-lock", ".file.hwsigner-new"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(b"old")
    return path


def put(path: Path, data: bytes) -> None:
    edit_file(str(path), lambda _: data)


def refused(path: Path, *parts: str) -> HwsignerError:
    """Check that a write fails with a message that has these parts, and leaves no temporary file."""
    with pytest.raises(HwsignerError) as caught:
        put(path, b"new")
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert not path.with_name(f".{path.name}.hwsigner-new").exists()
    return caught.value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_lock_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        assert lock_within(first.fileno(), 0)
        begin = time.monotonic()
        assert not lock_within(second.fileno(), 0.2)
        assert time.monotonic() - begin >= 0.2
        fcntl.flock(first, fcntl.LOCK_UN)
        assert lock_within(second.fileno(), 0)


def test_lock_is_taken_when_its_holder_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    assert lock_within(held, 0)
    timer = threading.Timer(0.1, os.close, [held])
    timer.start()
    with path.open("w") as waiting:
        assert lock_within(waiting.fileno(), 20)
    timer.join()


class Handover:
    """A clock for `lock_within`. During each pause, six seconds pass and another holder takes the lock.

    Args:
        path: the lock's file.
        holders: how many holders there are.
        is_kept: whether the last one keeps the lock, or releases it.
    """

    time_ns = staticmethod(time.time_ns)

    def __init__(self, path: Path, holders: int, *, is_kept: bool) -> None:
        self._path = path
        self._left = holders
        self._is_kept = is_kept
        self._now = 0.0
        self._holder = -1
        self._change()

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _: float) -> None:
        self._now += 6
        if self._left or not self._is_kept:
            self._change()

    def close(self) -> None:
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1

    def _change(self) -> None:
        self.close()
        if self._left:
            self._left -= 1
            self._holder = os.open(self._path, os.O_RDWR | os.O_CREAT)
            assert lock_within(self._holder, 0)


@pytest.mark.parametrize("is_kept", [False, True])
def test_lock_is_waited_for_as_long_as_no_process_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    holders = Handover(tmp_path / "lock", 20, is_kept=is_kept)
    monkeypatch.setattr(files, "time", holders)
    with (tmp_path / "lock").open("w") as waiting:
        assert lock_within(waiting.fileno(), 10) is not is_kept
    assert holders.monotonic() >= 120
    holders.close()


def test_wait_for_a_lock_ends_when_processes_take_it_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = Handover(tmp_path / "lock", 100, is_kept=False)
    monkeypatch.setattr(files, "time", holders)
    with (tmp_path / "lock").open("w") as waiting:
        assert not lock_within(waiting.fileno(), 10)
    assert 150 <= holders.monotonic() < 160
    holders.close()


class TestReplacing:
    def test_file_gets_the_edited_content(self, file: Path) -> None:
        edit_file(str(file), lambda data: data + b" and new")
        assert file.read_bytes() == b"old and new"
        assert sorted(os.listdir(file.parent)) == [LOCK, "file"]

    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_new_file_and_folder_are_private(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            edit_file(str(tmp_path / "a" / "file"), lambda data: b"new" if data == b"" else b"?")
        finally:
            os.umask(before)
        assert (tmp_path / "a" / "file").read_bytes() == b"new"
        assert [mode(tmp_path / name) for name in ("a", "a/file", f"a/{LOCK}")] == [0o700, 0o600, 0o600]

    @pytest.mark.parametrize("bits", [0o600, 0o400, 0o644, 0o660, 0o1640])
    def test_mode_is_kept(self, file: Path, bits: int) -> None:
        file.chmod(bits)
        put(file, b"new")
        assert (file.read_bytes(), mode(file)) == (b"new", bits)

    @needs_acls
    def test_access_control_list_is_kept(self, file: Path) -> None:
        # acl(5): the owner, user 65534, the group, the mask, others; as linux/posix_acl_xattr.h lays them out.
        entries = [(0x01, 6, -1), (0x02, 4, 65534), (0x04, 0, -1), (0x10, 4, -1), (0x20, 0, -1)]
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        os.setxattr(file, "system.posix_acl_access", acl)
        put(file, b"new")
        assert os.getxattr(file, "system.posix_acl_access") == acl

    def test_group_is_kept(self, file: Path, other_group: int) -> None:
        os.chown(file, -1, other_group)
        put(file, b"new")
        assert file.stat().st_gid == other_group

    @pytest.mark.parametrize("is_dangling", [False, True])
    def test_symbolic_link_stays_and_its_target_is_replaced(
        self, file: Path, tmp_path: Path, is_dangling: bool
    ) -> None:
        link = tmp_path / "link"
        link.symlink_to("folder/file")
        if is_dangling:
            file.unlink()
        put(link, b"new")
        assert os.readlink(link) == "folder/file"
        assert file.read_bytes() == b"new"
        assert sorted(os.listdir(tmp_path)) == ["folder", "link"]

    def test_file_is_not_changed_when_the_edit_fails(self, file: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            edit_file(str(file), lambda _: b"%d" % (1 // 0))
        assert file.read_bytes() == b"old"

    def test_temporary_file_of_a_killed_process_is_removed(self, file: Path) -> None:
        (file.parent / TEMPORARY).write_bytes(b"half")
        put(file, b"new")
        assert file.read_bytes() == b"new"
        assert sorted(os.listdir(file.parent)) == [LOCK, "file"]

    def test_links_with_the_names_of_helper_files_are_not_followed(self, file: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"other")
        (file.parent / TEMPORARY).symlink_to(other)
        put(file, b"new")
        assert not file.is_symlink()
        (file.parent / LOCK).unlink()
        (file.parent / LOCK).symlink_to(other)
        refused(file)
        assert other.read_bytes() == b"other"

    def test_temporary_file_that_comes_back_is_not_written(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"other")
        os.link(other, file.parent / TEMPORARY)
        monkeypatch.setattr(os, "unlink", lambda *_, **__: None)
        with pytest.raises(HwsignerError, match="File exists"):
            put(file, b"new")
        assert (file.read_bytes(), other.read_bytes()) == (b"old", b"other")


@pytest.fixture
def other_group() -> int:
    """A group that this process may give to its files, but that new files do not get."""
    return 12345 if os.geteuid() == 0 else next((g for g in os.getgroups() if g != os.getegid()), os.getegid())


def test_write_succeeds_when_the_folder_cannot_be_synced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems can't."""
    sync = os.fsync

    def sync_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", sync_files)
    put(file, b"new")
    assert file.read_bytes() == b"new"


class TestCreating:
    def test_new_file_has_mode_0600_whatever_the_umask(self, tmp_path: Path) -> None:
        old = os.umask(0)
        try:
            create_file(str(tmp_path / "file"), b"new")
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
        assert (os.listdir(tmp_path), (tmp_path / "file").read_bytes()) == (["file"], b"new")

    def test_path_may_be_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        create_file("file", b"new")
        assert (tmp_path / "file").read_bytes() == b"new"

    @pytest.mark.parametrize("can_be_nameless", [True, False])
    @needs_linux
    def test_existing_file_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_be_nameless: bool
    ) -> None:
        if not can_be_nameless:
            refuse_nameless_files(monkeypatch)
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(FileExistsError):
            create_file(str(tmp_path / "file"), b"new")
        assert (os.listdir(tmp_path), (tmp_path / "file").read_bytes()) == (["file"], b"old")

    @needs_linux
    def test_file_is_created_on_a_file_system_without_nameless_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse_nameless_files(monkeypatch)
        (tmp_path / ".file.0123abcd.hwsigner-new").write_bytes(b"ha")  # Of a killed process.
        create_file(str(tmp_path / "file"), b"new")
        assert (os.listdir(tmp_path), (tmp_path / "file").read_bytes()) == (["file"], b"new")


def refuse_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)


class TestErrors:
    def test_folder_is_not_a_regular_file(self, tmp_path: Path) -> None:
        refused(tmp_path, "not a regular file")

    def test_pipe_is_not_a_regular_file(self, file: Path) -> None:
        file.unlink()
        os.mkfifo(file)
        refused(file, "not a regular file")

    def test_link_to_itself_is_an_error(self, file: Path) -> None:
        file.unlink()
        file.symlink_to(file)
        refused(file, "symbolic links")

    @pytest.mark.parametrize("is_chain", [False, True])
    @pytest.mark.parametrize("part", ["file", "folder"])
    def test_link_of_another_user_is_an_error_in_a_sticky_folder_and_for_root(
        self, file: Path, tmp_path: Path, part: str, is_chain: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        link = shared / "link"
        link.symlink_to(file if part == "file" else file.parent)
        given = link if part == "file" else link / "file"
        if is_chain:
            (tmp_path / "mine").symlink_to(link)
            given = tmp_path / "mine" if part == "file" else tmp_path / "mine" / "file"
        put(given, b"mine")
        owners = {link: 12345}
        real = Path.lstat

        def lstat(path: Path) -> os.stat_result:
            status = real(path)
            return os.stat_result((*status[:4], owners.get(path, status.st_uid), *status[5:10]))

        monkeypatch.setattr(Path, "lstat", lstat)
        with pytest.raises(HwsignerError, match=rf"{link} is a link of user 12345.*Remove it"):
            put(given, b"new")
        assert file.read_bytes() == b"mine"
        shared.chmod(0o755)
        if os.geteuid():
            put(given, b"new")
            assert file.read_bytes() == b"new"
        else:
            with pytest.raises(HwsignerError, match=rf"{link} is a link of user 12345. Give the path"):
                put(given, b"new")

    def test_file_in_place_of_the_folder_is_an_error(self, file: Path) -> None:
        refused(file / "file", "Not a directory")

    def test_file_of_another_user_is_an_error(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        owner = file.stat().st_uid
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        refused(file, f"user {owner}")
        assert file.read_bytes() == b"old"
        assert os.listdir(file.parent) == [file.name]  # No lock: the file's owner could not open it.

    def test_lock_of_another_user_is_named(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.open

        def deny(path: str, *arguments: Any, **options: Any) -> int:
            if path == LOCK:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", deny)
        refused(file, f"can't lock {file} with {file.parent / LOCK}: Permission denied. Remove that file")

    def test_lock_that_another_process_keeps_is_an_error_of_status_7(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.0)
        with (file.parent / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            error = refused(file, "another process")
        assert (type(error), error.exit_status) == (LockError, 7)
        assert file.read_bytes() == b"old"
        put(file, b"new")

    def test_second_writer_waits_for_the_first(self, file: Path) -> None:
        begun, done = threading.Event(), threading.Event()

        def edit(_: bytes) -> bytes:
            begun.set()
            return b"1" if done.wait(60) else b"?"

        thread = threading.Thread(target=edit_file, args=(str(file), edit))
        thread.start()
        assert begun.wait(60)
        second = threading.Thread(target=edit_file, args=(str(file), lambda data: data + b"2"))
        second.start()
        done.set()
        thread.join()
        second.join()
        assert file.read_bytes() == b"12"


EDIT = "from hwsigner._system.files import edit_file; edit_file({path!r}, lambda data: data + b'x' * 100_000)"


def in_mount_namespace(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that mounts something, then edit a file, in a namespace where this user may mount."""
    # -B: the disk may be full, so write no bytecode.
    python = f'exec {sys.executable} -B -c "$EDIT"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", f"{script}\n{python}"],
        cwd=ROOT,
        env={**os.environ, "EDIT": EDIT.format(path=str(path))},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_namespaces
class TestMounts:
    def test_mounted_file_cannot_be_replaced(self, file: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"other")
        done = in_mount_namespace(f"mount --bind {other} {file}", file)
        last = done.stderr.splitlines()[-1]
        assert f"{file} is a mount point (a file mounted by itself), so it can't be replaced. Mount its folder" in last
        assert (file.read_bytes(), other.read_bytes()) == (b"old", b"other")
        assert sorted(os.listdir(file.parent)) == [LOCK, "file"]

    def test_file_in_a_mounted_folder_is_replaced(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "mount").mkdir()
        done = in_mount_namespace(f"mount --bind {file.parent} {tmp_path}/mount", tmp_path / "mount" / "file")
        assert done.stderr == ""
        assert file.stat().st_size == 100_003

    def test_file_is_not_changed_when_the_disk_is_full(self, file: Path) -> None:
        script = f"""
            mount -t tmpfs -o size=64k tmpfs {file.parent}
            echo old >{file}
            {sys.executable} -B -c "$EDIT" || :
            ls -A {file.parent}
            cat {file}
            exit"""
        done = in_mount_namespace(script, file)
        assert f"can't write {file}: No space left on device. The file was not changed" in done.stderr
        assert done.stdout == f"{LOCK}\nfile\nold\n"

    def test_read_only_file_system_is_an_error(self, file: Path) -> None:
        done = in_mount_namespace(
            f"mount --bind {file.parent} {file.parent}; mount -o remount,ro,bind {file.parent}", file
        )
        assert f"can't write {file}: Read-only file system" in done.stderr
        assert file.read_bytes() == b"old"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is one: syncing to a disk is slow."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.path.isdir(shared) else tmp_path) as folder:
        yield Path(folder)


class TestConcurrency:
    def test_reader_sees_the_old_or_the_new_bytes(self, file: Path) -> None:
        versions = [bytes([48 + n]) * 200_000 for n in range(4)]
        put(file, versions[0])
        seen: set[bytes] = set()
        ended = threading.Event()

        def read() -> None:
            while not ended.is_set():
                seen.add(file.read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(25):
            for version in versions:
                put(file, version)
        ended.set()
        reader.join()
        assert seen
        assert seen <= set(versions)

    @pytest.mark.slow
    def test_four_writers_lose_nothing_in_a_thousand_writes(self, memory: Path) -> None:
        file = memory / "file"
        script = """
            import sys
            from datetime import UTC, datetime
            from hwsigner._system.files import edit_file
            from hwsigner._aws.credentials import Credentials
            from hwsigner._aws.credentials_file import with_credentials

            path, section = sys.argv[1:]
            for number in range(250):
                text = f"{section}-{number}"
                new = Credentials(text, text, text, datetime.now(UTC), "", "")
                edit_file(path, lambda data: with_credentials(data, section, new) + f"# {text}\\n".encode())
        """
        file.write_bytes(b"")
        command = [sys.executable, "-c", textwrap.dedent(script), str(file)]
        writers = [subprocess.Popen([*command, f"w{n}"], cwd=ROOT) for n in range(4)]
        assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
        text = file.read_text()
        marks = re.findall(r"^# (w\d)-(\d+)$", text, re.MULTILINE)
        for section in ("w0", "w1", "w2", "w3"):
            assert [int(number) for name, number in marks if name == section] == list(range(250))
            assert text.count(f"[{section}]\n") == 1
            assert text.count(f" = {section}-249\n") == 3


# Every two lines on stdin fork a child and make it edit the file. The child waits in a system call that no edit makes,
# so that the tracer, which interrupts it there, counts only the calls of the edit.
SERVER = """
import ctypes, os, signal, sys
from hwsigner._system.files import edit_file

edit_file(sys.argv[2], lambda data: data)  # Load what is imported late.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: strace is not its parent.
        print(os.getpid(), flush=True)
        signal.sigwait({signal.SIGUSR1})
        edit_file(sys.argv[1], lambda data: b"new" * 1000)
        os._exit(0)
    sys.stdin.readline()
    os.kill(child, signal.SIGUSR1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Victims:
    """Processes that edit a file under strace, which can kill them at any system call."""

    def __init__(self, file: Path, folder: Path) -> None:
        self._log = folder / "log"
        command = [sys.executable, "-c", SERVER, str(file), str(folder / "warm-up")]
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        self._server.communicate()

    def edit(self, *flags: str) -> tuple[int, list[str]]:
        """Let a process edit the file. Return its exit status and the names of its system calls."""
        child = self._ask()
        command = ["strace", "-f", *flags, "-o", str(self._log), "-p", child]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr
            assert "attached" in tracer.stderr.readline()
            status = int(self._ask())
        # strace shows bytes of the waiting call's arguments that may not be text.
        names = re.findall(r"^\d+ +(\w+)\(", self._log.read_text(errors="replace"), re.MULTILINE)
        return status, [name for name in names if name not in ("rt_sigtimedwait", "restart_syscall", "exit_group")]

    def _ask(self) -> str:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip()


@pytest.fixture
def victims(file: Path, tmp_path: Path) -> Iterator[Victims]:
    found = Victims(file, tmp_path)
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.parametrize("old", [b"old", None])
@needs_strace
def test_process_killed_at_any_system_call_leaves_the_old_or_the_new_file(
    file: Path, victims: Victims, old: bytes | None
) -> None:
    def start_again() -> None:
        file.unlink(missing_ok=True)
        if old:
            file.write_bytes(old)

    start_again()
    status, calls = victims.edit()
    assert status == 0
    # The C library chooses among variants of a call, such as rename and renameat2.
    names = [re.sub("at2?$", "", call) for call in calls]
    assert [name for name in names if name in ("flock", "write", "fsync", "rename")] == [
        *("flock", "write", "fsync", "rename", "fsync")
    ]
    contents = []
    for index, call in enumerate(calls):
        start_again()
        number = calls[: index + 1].count(call)
        status, reached = victims.edit("-e", f"inject={call}:signal=SIGKILL:when={number}")
        assert (status, reached) == (-9, calls[: index + 1])
        contents.append(file.read_bytes() if file.exists() else None)
        put(file, b"next")
        assert file.read_bytes() == b"next"
        assert sorted(os.listdir(file.parent)) == [LOCK, "file"]
    renamed = next(index for index, call in enumerate(calls) if call.startswith("rename"))
    assert contents[:renamed] == [old] * renamed
    assert contents[renamed] in (old, b"new" * 1000)
    assert contents[renamed + 1 :] == [b"new" * 1000] * (len(calls) - renamed - 1)


@needs_linux
def test_end_of_a_child_is_told_without_a_thread() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        before = threading.active_count()
        with new_files.open_end(child) as end:
            assert not select.select([end], [], [], 0)[0]
            assert child.stdin
            child.stdin.close()
            assert select.select([end], [], [], 60)[0]
            assert threading.active_count() == before
            assert child.poll() == 0
