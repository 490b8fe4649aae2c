"""The audit log: which lines are written, where, and what happens when they can't be."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.errors import AuditError
from hwsigner.monitoring import audit as module
from hwsigner.monitoring.audit import MAX_ASKERS, Audit
from monitoring.credentials import AuditedSet
from monitoring.pipes import almost_full_pipe, ends

ARN = "arn:aws:sts::123456789012:assumed-role/web/00ff"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def give(audit: Audit, credentials: AuditedSet = AuditedSet(), who: object = 7) -> None:  # noqa: B008
    audit.give("web", credentials, who, lambda: {"uid": 7})


class Opened:
    """An audit log in a file, and what it logs."""

    def __init__(self, path: Path | str, *, required: bool = False) -> None:
        self.logged: list[str] = []
        self.audit = Audit(str(path), required=required, log=self.logged.append)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


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


ASKS = st.tuples(st.sampled_from(["web", "db"]), st.sampled_from([1, 2, 3]))


@given(st.lists(st.one_of(ASKS, st.sampled_from(["web", "db"]))))
def test_each_set_and_each_asker_have_one_line(events: list[Any]) -> None:
    """An event is a new set of a profile's credentials, or an asker that gets the current one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.log"
        opened, current, wanted = Opened(path), {"web": 0, "db": 0}, list[tuple[str, str, int]]()
        for event in events:
            if isinstance(event, str):
                current[event] += 1
                continue
            profile, who = event
            key_id = f"ASIA{current[profile]}"
            opened.audit.give(profile, AuditedSet(key_id), who, lambda who=who: {"uid": who})  # type: ignore[misc]
            if (profile, key_id, who) not in wanted:
                wanted.append((profile, key_id, who))
        assert [(line["profile"], line["access_key_id"], line["uid"]) for line in read(path)] == wanted


def test_many_askers_take_no_more_memory(path: Path) -> None:
    audit = Opened(path).audit
    for who in range(MAX_ASKERS + 10):
        give(audit, who=who)
    assert len(audit._given["web"][1]) <= MAX_ASKERS
    assert len(read(path)) == MAX_ASKERS + 10


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch(0o640)], ids=["gone", "made by logrotate"])
def test_lines_go_to_a_new_file_after_a_rotation(path: Path, make: Callable[[Path], None]) -> None:
    opened = Opened(path)
    give(opened.audit, who=1)
    path.rename(path.with_suffix(".1"))
    make(path)
    give(opened.audit, who=2)
    assert len(read(path)) == len(read(path.with_suffix(".1"))) == 1
    assert opened.logged == []


def test_lines_of_several_processes_do_not_mix(path: Path) -> None:
    program = (
        "import sys; from hwsigner.monitoring.audit import Audit; a = Audit(sys.argv[1], required=True, log=print)\n"
        "from hwsigner import Credentials; c = Credentials('ASIA', '', '', None, '', '')\n"
        "for i in range(200): a.give('p' * 300, c, i, lambda: {'uid': 1})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(read(path)) == 600


def test_threads_write_one_line_for_one_asker_once(path: Path) -> None:
    audit = Opened(path).audit
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: give(audit), range(200)))
    assert len(read(path)) == 1


def test_failure_is_logged_once_and_the_line_is_written_when_there_is_room_again(path: Path) -> None:
    opened = Opened("/dev/full")
    for who in (1, 2, 1):
        give(opened.audit, who=who)
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


def test_line_of_another_program_begins_on_a_line_of_its_own_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text('{"time": "2026')
    audit = Audit(str(path), required=True, log=print)
    audit.give_process("web", AuditedSet("ASIA1"), os.geteuid(), os.getpid())
    assert json.loads(path.read_text().splitlines()[-1])["access_key_id"] == "ASIA1"


@pytest.mark.root
def test_full_disk_refuses_credentials_if_the_audit_log_is_required(full_disk: Path) -> None:
    path, ballast = full_disk / "audit.log", full_disk / "ballast"
    audit = Opened(path, required=True).audit
    give(audit, who=1)
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with suppress(AuditError):
        for who in range(2, 100):  # The page that is begun has room for some lines.
            give(audit, who=who)
    with pytest.raises(AuditError, match=r"No space left on device, and it is required\. Make room") as refused:
        give(audit, who="other")
    assert (refused.value.exit_status, refused.value.cause) == (7, "audit")
    ballast.unlink()
    give(audit, who="late")
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


def test_control_characters_are_escaped(path: Path) -> None:
    audit = Opened(path).audit
    audit.give("web", AuditedSet(), 1, lambda: {"executable": "/tmp/\x1b[31m\n{}\udcff"})
    [line] = read(path)
    assert line["executable"] == "/tmp/\\x1b[31m\\n{}\\udcff"


def test_process_is_told_apart_by_pid_and_start_and_has_its_executable_as_a_hint(path: Path) -> None:
    audit = Opened(path).audit
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            for _ in range(2):
                audit.give_process("web", AuditedSet(), os.geteuid(), process.pid)
        finally:
            process.kill()
    audit.give_process("web", AuditedSet(), os.geteuid(), process.pid)  # It has ended: another one may have its pid.
    first, second = read(path)
    assert (first["uid"], first["pid"]) == (os.geteuid(), process.pid)
    assert first["executable"] == os.path.realpath("/usr/bin/sleep")
    assert "executable" not in second


def test_helper_asks_for_the_process_that_ran_it(path: Path) -> None:
    audit = Opened(path).audit
    for _ in range(2):
        audit.give_process("web", AuditedSet(), 0, os.getpid(), for_parent=True)
    [line] = read(path)
    assert (line["pid"], line["parent_pid"]) == (os.getpid(), os.getppid())


def test_each_process_of_a_program_that_stays_has_its_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers that ask the agent have the same parent."""
    audit = Opened(path).audit
    script = "import sys; open('/proc/self/comm', 'w').write('hwsigner'); print(flush=True); sys.stdin.read()"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
        audit.give_process("web", AuditedSet(), 0, process.pid)
        process.communicate()
    lines = read(path)
    assert [line["pid"] for line in lines] == [process.pid for process in processes]
    assert {line["parent_pid"] for line in lines} == {os.getpid()}


def test_closed_stderr_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STDERR", -1)
    with pytest.raises(AuditError, match="the audit log stderr can't be written: Bad file descriptor"):
        Opened("stderr", required=True)


def test_stderr_without_a_reader_is_an_error_and_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(module, "_STDERR", writer)
    audit = Opened("stderr", required=True).audit
    with suppress(AuditError):
        for who in range(10_000):
            give(audit, who=who)
    with pytest.raises(AuditError, match="nothing reads it"):
        give(audit, who="last")
    os.close(reader)
    os.close(writer)


def test_asker_with_a_long_path_does_not_block_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    with almost_full_pipe() as (reader, writer):
        monkeypatch.setattr(module, "_STDERR", writer)
        audit = Opened("stderr", required=True).audit
        path = "/" + "\U0001f511" * 1000 + "/program"
        assert ends(lambda: audit.give("web", AuditedSet(), 1, lambda: {"executable": path, "parent_executable": path}))
        line = json.loads(os.read(reader, 1 << 20).lstrip(b"\0"))
    assert line["access_key_id"] == "ASIA1"
    assert line["executable"].endswith("/program")


def test_arguments_of_a_process_are_never_written(path: Path) -> None:
    audit = Opened(path).audit
    with subprocess.Popen(["sleep", "61.5"]) as process:
        audit.give_process("web", AuditedSet(), 0, process.pid)
        process.kill()
    assert "61.5" not in path.read_text()
