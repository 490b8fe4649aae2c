"""Locked memory: what the kernel says of it, what is wiped, and what happens when there is none."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.agent import memory
from hwsigner.agent.memory import LockedMemory
from hwsigner.errors import AgentError

PAGE = mmap.PAGESIZE


def locked_bytes() -> int:
    """Return how much of this process is locked."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmLck:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


def flags_of(secrets: LockedMemory) -> set[str]:
    """Return the kernel's flags of the memory that the secrets lie in."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(secrets.take(1)))
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]:
        begin, end = (int(text, 16) for text in block.split(" ")[0].split("-"))
        flags = re.search(r"VmFlags: (.*)", block)
        if begin <= address < end and flags:
            return set(flags[1].split())
    raise AssertionError(f"{address:#x} is in no mapping")


class TestMapping:
    def test_is_locked_and_in_no_dump_and_no_child(self) -> None:
        before = locked_bytes()
        secrets = LockedMemory()
        assert locked_bytes() == before + memory.SIZE
        assert {"lo", "dd", "wf"} <= flags_of(secrets)

    def test_is_as_large_as_the_user_may_lock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (PAGE * 20 + 5, PAGE * 20 + 5))
        secrets = LockedMemory()
        assert len(secrets.take(PAGE * 20)) == PAGE * 20
        with pytest.raises(AgentError):
            secrets.take(PAGE * 21)

    def test_a_soft_limit_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = []
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (0, memory.SIZE))
        monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
        LockedMemory()
        assert limits == [(memory.SIZE, memory.SIZE)]

    def test_a_user_who_may_lock_hardly_any(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (PAGE * 15, PAGE * 15))
        with pytest.raises(AgentError, match="only 61440 bytes of memory can be locked"):
            LockedMemory()

    def test_the_kernel_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Libc:
            def mlock(self, *_: object) -> int:
                return -1

        monkeypatch.setattr(memory, "_libc", Libc())
        with pytest.raises(AgentError, match="can't be locked"):
            LockedMemory()


class TestPages:
    @given(st.lists(st.binary(min_size=1, max_size=3 * PAGE), max_size=20))
    def test_what_is_put_stays_until_it_is_dropped(self, items: list[bytes]) -> None:
        secrets = LockedMemory()
        kept = [secrets.put(item) for item in items]
        del kept[::2]
        gc.collect(0)
        assert [bytes(view) for view in kept] == items[1::2]
        assert secrets.used_pages == sum(-(-len(item) // PAGE) for item in items[1::2])

    def test_what_is_dropped_is_wiped(self) -> None:
        secrets = LockedMemory()
        taken = secrets.put(b"x" * (PAGE + 5))
        assert bytes(secrets._view).count(b"x") == PAGE + 5
        del taken
        assert bytes(secrets._view) == bytes(memory.SIZE)
        assert bytes(secrets.take(2 * PAGE)) == bytes(2 * PAGE)

    def test_it_is_full(self) -> None:
        secrets = LockedMemory()
        kept = [secrets.take(1) for _ in range(memory.SIZE // PAGE)]
        with pytest.raises(AgentError, match="full"):
            secrets.take(1)
        del kept[5:7]
        with pytest.raises(AgentError, match="full"):
            secrets.take(2 * PAGE + 1)
        assert len(secrets.take(2 * PAGE)) == 2 * PAGE


def test_a_process_that_is_not_dumped() -> None:
    # The change of user would do it by itself: it is undone (PR_SET_DUMPABLE is 4).
    other_user = "os.setgroups([]); os.setgid(65534); os.setuid(65534); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); "
    code = (
        "import ctypes, os, resource; from hwsigner.cli.process import forbid_dumps; "
        f"{other_user if os.geteuid() == 0 else ''}print(os.stat('/proc/self/mem').st_uid != 0); forbid_dumps(); "
        "print(resource.getrlimit(resource.RLIMIT_CORE), os.stat('/proc/self/mem').st_uid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # What is not dumpable belongs to root in /proc, and its user reads none of it.
    assert (done.stdout, done.stderr) == ("True\n(0, 0) 0\n", "")
