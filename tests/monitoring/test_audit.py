"""The audit log: which lines are written, where, and what happens when they can't be."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hwsigner._config.monitoring import AUDIT_RATE
from hwsigner._monitoring import audit as module
from hwsigner._monitoring.audit import Audit
from hwsigner.errors import AuditError
from judges import needs_namespaces, needs_proc
from monitoring.credentials import AuditedSet
from monitoring.pipes import almost_full_pipe, ends

ARN = "arn:aws:sts::123456789012:assumed-role/web/00ff"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def give(audit: Audit, credentials: AuditedSet = AuditedSet(), user: int | str = 7) -> None:  # noqa: B008
    audit.give("web", credentials, user, {"uid": user})


class Opened:
    """An audit log in a file, and what it logs."""

    def __init__(self, path: Path | str, *, required: bool = False, rate: int = AUDIT_RATE) -> None:
        self.logged: list[str] = []
        self.now = 0.0
        self.audit = Audit(str(path), required=required, log=self.logged.append, rate=rate, clock=lambda: self.now)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_pod_has_a_line_for_each_set_of_credentials_which_counts_how_often_it_got_the_last_one(path: Path) -> None:
    audit = Opened(path, required=True, rate=4).audit
    for key_id, pod in [*(("one", "a"),) * 5, *(("one", "b"),) * 3, ("two", "a"), ("two", "a"), ("one", "a")]:
        audit.give("web", AuditedSet(key_id), "team/web", {"pod": pod}, pod=pod)
    lines = [(line["access_key_id"], line["pod"], line.get("again")) for line in read(path)]
    assert lines == [("one", "a", None), ("one", "b", None), ("two", "a", 4), ("one", "a", 1)]


def test_line_of_a_pod_that_could_not_be_written_is_written_when_it_can(path: Path, tmp_path: Path) -> None:
    audit = Opened(path, required=True).audit
    path.unlink()
    path.mkdir()
    with pytest.raises(AuditError):
        audit.give("web", AuditedSet("one"), "team/web", {}, pod="a")
    path.rmdir()
    audit.give("web", AuditedSet("one"), "team/web", {}, pod="a")
    assert len(read(path)) == 1


def test_pods_that_are_kept_in_mind_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PODS", 2)
    audit = Opened(path).audit
    for pod in ("a", "b", "c", "c", "b", "a"):
        audit.give("web", AuditedSet("one"), "team/web", {"pod": pod}, pod=pod)
    assert [line["pod"] for line in read(path)] == ["a", "b", "c", "a"]


def test_line_says_who_got_which_credentials(path: Path) -> None:
    give(Opened(path).audit, AuditedSet("ASIA1", 0xFF, ARN, "r-1"))
    [line] = read(path)
    assert line.pop("time").endswith("Z")
    assert line == {
        "message": "credentials given",
        "profile": "web",
        "access_key_id": "ASIA1",
        "certificate_serial": "ff",
        "session_arn": ARN,
        "request_id": "r-1",
        "uid": 7,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_set_that_is_given_has_its_line(path: Path) -> None:
    audit = Opened(path, required=True).audit
    for _ in range(5):
        give(audit)
    assert [line["access_key_id"] for line in read(path)] == ["ASIA1"] * 5


def test_user_above_the_rate_is_refused_until_the_next_minute_and_others_are_not(path: Path) -> None:
    opened = Opened(path, required=True, rate=3)
    for _ in range(3):
        give(opened.audit)
    for _ in range(2):
        with pytest.raises(
            AuditError, match=r"user 7 got credentials 3 times within a minute.*raise audit-rate"
        ) as caught:
            give(opened.audit)
    assert caught.value.exit_status == 7
    give(opened.audit, user=8)
    opened.now = 60.0
    for _ in range(2):
        give(opened.audit)
    assert [(line["uid"], line.get("left_out")) for line in read(path)] == [
        *[(7, None)] * 3,
        (8, None),
        (7, 2),
        (7, None),
    ]


def test_user_above_the_rate_is_given_credentials_and_counted_if_lines_are_not_required(path: Path) -> None:
    opened = Opened(path, rate=3)
    for minute in range(2):
        opened.now = minute * 60.0
        for _ in range(10):
            give(opened.audit, user="192.0.2.1")
    problem = "192.0.2.1 got credentials 3 times within a minute, which is the rate for audit lines"
    assert opened.logged == [f"warning: {problem}. Until the minute ends, they have no audit lines"] * 2
    assert [line.get("left_out") for line in read(path)] == [None, None, None, 7, None, None]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch(0o640)], ids=["gone", "made by logrotate"])
def test_lines_go_to_a_new_file_after_a_rotation(path: Path, make: Callable[[Path], None]) -> None:
    opened = Opened(path)
    give(opened.audit, user=1)
    path.rename(path.with_suffix(".1"))
    make(path)
    give(opened.audit, user=2)
    assert len(read(path)) == len(read(path.with_suffix(".1"))) == 1
    assert opened.logged == []


def test_lines_of_several_processes_do_not_mix(path: Path) -> None:
    program = (
        "import sys; from hwsigner._monitoring.audit import Audit\n"
        "a = Audit(sys.argv[1], required=True, log=print, rate=6000)\n"
        "from hwsigner import Credentials; c = Credentials('ASIA', '', '', None, '', '')\n"
        "for i in range(200): a.give('p' * 300, c, 1, {'uid': 1})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(read(path)) == 600


def test_threads_write_a_line_for_each_set(path: Path) -> None:
    audit = Opened(path).audit
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: give(audit), range(200)))
    assert len(read(path)) == 200


def test_failure_is_logged_once_and_the_line_is_written_when_there_is_room_again(path: Path) -> None:
    opened = Opened("/dev/full")
    for user in (1, 2, 1):
        give(opened.audit, user=user)
    hint = "Credentials are given without audit lines"
    assert opened.logged == [f"warning: the audit log /dev/full can't be written: No space left on device. {hint}"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("is_open", [True, False], ids=["held by both", "opened later"])
def test_line_begins_on_a_line_of_its_own_after_the_torn_one_of_another_program(path: Path, is_open: bool) -> None:
    audit = Opened(path, required=True).audit if is_open else None
    with path.open("a") as other:
        other.write('{"time": "2026')
    give(audit or Opened(path, required=True).audit)
    give(audit or Opened(path, required=True).audit)
    assert [json.loads(line)["uid"] for line in path.read_text().splitlines()[1:]] == [7, 7]


def test_line_that_another_program_is_writing_is_not_taken_for_a_torn_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Opened(path, required=True).audit
    with path.open("ab", buffering=0) as other:
        other.write(b'{"uid"')
        monkeypatch.setattr("time.sleep", lambda _: other.write(b": 8}\n"))
        give(audit)
    assert [line["uid"] for line in read(path)] == [8, 7]


@pytest.mark.root
@needs_namespaces
def test_full_disk_refuses_credentials_if_the_audit_log_is_required(full_disk: Path) -> None:
    path, ballast = full_disk / "audit.log", full_disk / "ballast"
    audit = Opened(path, required=True).audit
    give(audit)
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with suppress(AuditError):
        for _ in range(100):  # The page that is begun has room for some lines.
            give(audit)
    with pytest.raises(AuditError, match=r"No space left on device, and it is required\. Make room") as refused:
        give(audit)
    assert (refused.value.exit_status, refused.value.cause) == (7, "audit")
    ballast.unlink()
    give(audit)
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1])["access_key_id"] == "ASIA1"  # On a line of its own after the torn one.
    assert sum(line.endswith("}") for line in lines) >= len(lines) - 2


def test_hint_names_the_step_for_the_reason(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="Make the folder"):
        Opened(tmp_path / "missing" / "audit.log", required=True)
    with pytest.raises(AuditError, match="Name a file that this user can write"):
        Opened(tmp_path, required=True)


@pytest.mark.parametrize("place", ["/nonesuch/audit.log", "/", "/dev/null/x"])
def test_place_that_can_t_be_opened_is_an_error_if_it_is_required(place: str) -> None:
    with pytest.raises(AuditError, match=f"the audit log {place} can't be written"):
        Opened(place, required=True)
    assert len(Opened(place).logged) == 1


def test_link_in_place_of_the_file_is_not_followed(path: Path) -> None:
    """Whoever can write the folder could have any file of this user written: of root's commands, that of the agent."""
    audit = Opened(path, required=True).audit
    path.rename(path.with_name("target"))
    path.symlink_to("target")
    with pytest.raises(AuditError, match="can't be written: it is a symbolic link"):
        give(audit)
    assert path.read_bytes() == b""


@pytest.mark.root
def test_file_of_a_third_user_is_refused(path: Path) -> None:
    path.parent.chmod(0o1777)
    path.touch()
    os.chown(path, 65534, -1)
    with pytest.raises(AuditError, match=r"can't be written: .*(it belongs to user 65534|Permission denied)"):
        Opened(path, required=True)
    os.chown(path.parent, 65534, -1)  # The owner of the folder can read and replace all files in it anyway.
    give(Opened(path, required=True).audit)
    assert len(read(path)) == 1


def test_fifo_without_a_reader_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(AuditError, match="can't be written"):
        Opened(tmp_path / "fifo", required=True)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[int]:
    """Make tmp_path/fifo, with a reader that doesn't wait."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


def test_line_in_a_fifo_begins_on_a_line_of_its_own_after_one_that_had_no_room(tmp_path: Path, fifo: int) -> None:
    """A client chooses its paths. A long line, cut short in a full FIFO, must not spoil the next user's."""
    audit = Opened(tmp_path / "fifo", required=True).audit
    with suppress(AuditError):
        while True:
            audit.give("web", AuditedSet(), 1, {"executable": "\U0001f600" * 500})
    read = os.read(fifo, 1 << 20)
    give(audit)
    lines = (read + os.read(fifo, 1 << 20)).splitlines()
    assert not lines[-2].endswith(b"}")
    assert json.loads(lines[-1])["uid"] == 7


def test_torn_line_is_waited_for_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not keep the agent's other clients waiting."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    audit = Opened(path, required=True).audit
    path.write_text('{"time"')
    monkeypatch.setattr(os, "write", lambda *_: 0)
    for _ in range(3):
        with pytest.raises(AuditError, match="No space left"):
            give(audit)
    assert len(slept) == 1


def test_control_characters_are_escaped(path: Path) -> None:
    audit = Opened(path).audit
    audit.give("web", AuditedSet(), 1, {"executable": "/tmp/\x1b[31m\n{}\udcff"})
    [line] = read(path)
    assert line["executable"] == "/tmp/\\x1b[31m\\n{}\\udcff"


@needs_proc
def test_line_of_a_command_names_its_process_and_what_ran_it(path: Path) -> None:
    Opened(path).audit.give_self("web", AuditedSet())
    [line] = read(path)
    assert (line["uid"], line["pid"], line["parent_pid"]) == (os.geteuid(), os.getpid(), os.getppid())
    assert line["executable"] == os.path.realpath("/proc/self/exe")


def test_closed_stderr_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STDERR", -1)
    with pytest.raises(AuditError, match="the audit log stderr can't be written: Bad file descriptor"):
        Opened("stderr", required=True)


def test_stderr_without_a_reader_is_an_error_and_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(module, "_STDERR", writer)
    audit = Opened("stderr", required=True).audit
    with suppress(AuditError):
        for _ in range(5_000):
            give(audit)
    with pytest.raises(AuditError, match="nothing reads it"):
        give(audit)
    os.close(reader)
    os.close(writer)


def test_asker_with_a_long_path_does_not_block_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    with almost_full_pipe() as (reader, writer):
        monkeypatch.setattr(module, "_STDERR", writer)
        audit = Opened("stderr", required=True).audit
        path = "/" + "\U0001f511" * 1000 + "/program"
        assert ends(
            lambda: audit.give(
                "web", AuditedSet(), 1, dict.fromkeys(("executable", "parent_executable", "cgroup"), path)
            )
        )
        line = json.loads(os.read(reader, 1 << 20).lstrip(b"\0"))
    assert line["access_key_id"] == "ASIA1"
    assert line["executable"].endswith("/program")
