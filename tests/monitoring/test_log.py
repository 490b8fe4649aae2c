"""Log lines: whole, printable and limited in number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._monitoring import log as log_module
from hwsigner._monitoring.log import LEVELS, MAX_REFUSALS_PER_SECOND, Log
from hwsigner._system import systemd
from hwsigner.errors import UsageError, printable
from monitoring.pipes import almost_full_pipe, ends


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The file used as stderr."""
    path = tmp_path / "stderr"
    with path.open("wb") as file:
        monkeypatch.setattr(log_module, "_STDERR", file.fileno())
        yield path


def test_control_characters_are_escaped(written: Path) -> None:
    Log().note("a\x1b[31m\nforged\r\x00\x9b\u202e b")
    line = written.read_text()
    assert line == "hwsigner: a\\x1b[31m\\nforged\\r\\x00\\x9b\\u202e b\n"


@given(text=st.text())
def test_line_is_one_line(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[bytes] = []
        patch.setattr(os, "write", lambda descriptor, data: lines.append(data))
        Log().note(text)
        assert len(lines) == 1
        assert lines[0].decode().removesuffix("\n").isprintable()


def test_first_refusals_of_a_second_are_written_and_the_rest_counted(written: Path) -> None:
    now = [5.0]
    log = Log(lambda: now[0])
    for _ in range(1000):
        log.refused("no")
    assert written.read_text() == "hwsigner: no\n" * MAX_REFUSALS_PER_SECOND
    log.note("a session")
    now[0] = 6.0
    log.refused("again")
    more = 1000 - MAX_REFUSALS_PER_SECOND
    assert written.read_text().splitlines()[MAX_REFUSALS_PER_SECOND:] == [
        "hwsigner: a session",
        f"hwsigner: refused {more} more requests",
        "hwsigner: again",
    ]


def test_closed_stderr_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_STDERR", -1)
    Log().note("nobody reads")


def test_log_does_not_wait_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    try:
        monkeypatch.setattr(log_module, "_STDERR", writer)
        log = Log()
        for number in range(1000):
            log.note(f"line {number} {'x' * 500}")
        first = os.read(reader, 1 << 20)
        log.note("again")
        lines = os.read(reader, 1 << 20).decode().splitlines()
    finally:
        os.close(reader)
        os.close(writer)
    written = first.count(b"\n")
    assert 0 < written < 1000
    assert lines == [f"hwsigner: {1000 - written} lines were lost", "hwsigner: again"]


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("request_id", ["", "\U0001f511" * 1000])
def test_long_line_is_written_to_a_pipe_without_waiting(
    monkeypatch: pytest.MonkeyPatch, format: str, request_id: str
) -> None:
    with almost_full_pipe() as (reader, writer):
        monkeypatch.setattr(log_module, "_STDERR", writer)
        log = Log(format=format)
        assert ends(lambda: log.note("\U0001f511" * 1000, request_id=request_id))
        line = os.read(reader, 1 << 20).lstrip(b"\0")
    assert line.endswith(b"\n")
    if format == "json":
        assert json.loads(line)["message"].startswith("\U0001f511" * 250)


def test_long_line_is_cut(written: Path) -> None:
    Log().note("é" * 5000)
    assert written.read_text() == f"hwsigner: {'é' * 990}\n"


def test_lines_for_the_journal_begin_with_their_priority(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = written.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    monkeypatch.setattr(systemd, "_JOURNAL", "/nonesuch")
    log = Log()
    for line in ("error: no session", "warning: swapped", "a session"):
        log.note(line)
    log.refused("user 7")
    priorities = [line.partition("hwsigner: ")[0] for line in written.read_text().splitlines()]
    assert priorities == ["<3>", "<4>", "<6>", "<4>"]


def test_json_line_has_time_level_message_and_fields(written: Path) -> None:
    log = Log(format="json")
    log.note("error: no session: \x1b[31m", profile="web", cause="service", request_id="", uid=None)
    log.refused("user 7 was refused", uid=7)
    first, second = map(json.loads, written.read_text().splitlines())
    times = [datetime.fromisoformat(line.pop("time")) for line in (first, second)]
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert first == {"level": "error", "message": "no session: \\x1b[31m", "profile": "web", "cause": "service"}
    assert second == {"level": "warning", "message": "user 7 was refused", "uid": 7}


@given(text=st.text(), value=st.text(min_size=1))
def test_json_line_is_one_line_of_ascii(text: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[bytes] = []
        patch.setattr(os, "write", lambda descriptor, data: lines.append(data))
        Log(format="json").note(text, profile=value)
    [line] = lines
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert json.loads(line)["profile"] == printable(value)


@pytest.mark.parametrize("level", LEVELS)
def test_less_important_lines_are_not_written(written: Path, level: str) -> None:
    log = Log(level=level)
    log.debug("debug")
    for line in ("info", "warning: w", "error: e"):
        log.note(line)
    assert len(written.read_text().splitlines()) == LEVELS.index(level) + 1


class Receiver:
    """Stands for systemd's journal: a datagram socket. This machine may have no journal."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "journal"))
        self.socket.settimeout(20)
        monkeypatch.setattr(systemd, "_JOURNAL", str(folder / "journal"))

    def entry(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(65536).decode().splitlines())


@pytest.fixture
def journal(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver(short_folder, monkeypatch)
    with receiver.socket:
        yield receiver


def test_lines_have_their_fields_in_the_journal_that_reads_stderr(
    written: Path, journal: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = written.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    Log().note("error: no session\nMESSAGE=forged", profile="web", cause="pin")
    assert journal.entry() == {
        "MESSAGE": "no session\\nMESSAGE=forged",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "hwsigner",
        "HWSIGNER_PROFILE": "web",
        "HWSIGNER_CAUSE": "pin",
    }
    assert written.read_text() == ""


def test_log_does_not_wait_for_the_journal(journal: Receiver) -> None:
    log = Log(format="journald")
    for number in range(2000):
        log.note(f"line {number}")
    received = 0
    journal.socket.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            journal.entry()
            received += 1
    log.note("again")
    assert 0 < received < 2000
    assert [journal.entry()["MESSAGE"] for _ in range(2)] == [f"{2000 - received} lines were lost", "again"]


def test_journal_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "_JOURNAL", str(tmp_path / "nonesuch"))
    with pytest.raises(UsageError, match="this system has no journal"):
        Log(format="journald")


def test_error_that_ends_a_command_has_its_priority_in_the_journal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwsigner", "nonesuch"]
    with (tmp_path / "journal").open("wb") as file:
        status = os.fstat(file.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run(command, env=environ, stderr=file)
    assert (tmp_path / "journal").read_text().startswith("<3>hwsigner: unknown command 'nonesuch'")
