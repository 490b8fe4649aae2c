"""Log lines: whole, printable and limited in number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.cli import log as log_module
from hwsigner.cli.log import MAX_REFUSALS_PER_SECOND, Log


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


def test_long_line_is_cut(written: Path) -> None:
    Log().note("é" * 5000)
    assert written.read_text() == f"hwsigner: {'é' * 990}\n"


def test_lines_for_the_journal_begin_with_their_priority(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = written.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log = Log()
    for line in ("error: no session", "warning: swapped", "a session"):
        log.note(line)
    log.refused("user 7")
    priorities = [line.partition("hwsigner: ")[0] for line in written.read_text().splitlines()]
    assert priorities == ["<3>", "<4>", "<6>", "<4>"]


def test_error_that_ends_a_command_has_its_priority_in_the_journal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwsigner", "nonesuch"]
    with (tmp_path / "journal").open("wb") as file:
        status = os.fstat(file.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run(command, env=environ, stderr=file)
    assert (tmp_path / "journal").read_text().startswith("<3>hwsigner: unknown command 'nonesuch'")
