"""The sessions of a user's processes, in a lock file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hwsigner.backends.tpm2.journal import Entry, Journal

HANDLES = st.integers(0x02000000, 0x0200003F)


def journal(folder: Path, content: bytes = b"") -> Journal:
    """Return the journal of a file with some content."""
    path = folder / "lock"
    path.write_bytes(content)
    file = os.open(path, os.O_RDWR)
    return Journal(lambda: file)


@given(entries=st.lists(st.builds(Entry, HANDLES, st.integers(1, 2**22), st.integers(0, 2**32 - 1)), max_size=64))
def test_what_is_kept_is_read(entries: list[Entry]) -> None:
    file = os.memfd_create("journal")
    try:
        kept = Journal(lambda: file)
        kept.replace([Entry(0x02000000, 1, 1)] * 100)
        kept.replace(entries)
        assert kept.read() == entries
    finally:
        os.close(file)


def test_sessions_come_and_go(tmp_path: Path) -> None:
    other = Entry(0x02000002, 1, 5)
    kept = journal(tmp_path, b"%d 1 5\n" % other.handle)
    kept.add(0x02000001, 6)
    kept.add(0x02000001, 7)
    own = Entry(0x02000001, os.getpid(), 7)
    assert kept.read() == [other, own]
    kept.remove(other.handle)  # It is another process's.
    assert kept.read() == [other, own]
    kept.remove(own.handle)
    assert kept.read() == [other]


@given(content=st.binary(max_size=200))
def test_garbage_is_passed_over(content: bytes) -> None:
    file = os.memfd_create("journal")
    try:
        os.write(file, content + b"\n33554433 1 1\n1 1 1\n33554434 1\n")
        entries = Journal(lambda: file).read()
        assert Entry(0x02000001, 1, 1) in entries
        assert all(entry.handle >> 24 == 2 for entry in entries)
    finally:
        os.close(file)


def test_without_a_file_nothing_is_kept() -> None:
    nowhere = Journal(lambda: None)
    nowhere.add(0x02000000, 1)
    assert nowhere.read() == []


def test_orphans() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not Entry(0x02000000, process.pid, 1).is_orphan
    process.communicate(b"\n")
    assert Entry(0x02000000, process.pid, 1).is_orphan
    assert not Entry(0x02000000, os.getpid(), 1).is_orphan
    assert Entry(0x02000000, 2**70, 1).is_orphan
