"""Locked memory: what the kernel says of it, what is overwritten, and what happens at the limit."""

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

from hwsigner._agent import memory
from hwsigner._agent.memory import LockedMemory
from hwsigner._system import memory as own_memory
from judges import needs_proc

PAGE = mmap.PAGESIZE


def locked_bytes() -> int:
    """Return how much of this process is locked."""
    match = re.search(r"VmLck:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024


def flags_of(secret: memoryview) -> set[str]:
    """Return the kernel's flags of the memory that a secret lies in."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(secret))
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]:
        begin, end = (int(text, 16) for text in block.split(" ")[0].split("-"))
        flags = re.search(r"VmFlags: (.*)", block)
        if begin <= address < end and flags:
            return set(flags[1].split())
    raise AssertionError(f"{address:#x} is in no mapping")


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel lock no more memory."""

    class Libc:
        def mlock2(self, *_: object) -> int:
            return -1

    monkeypatch.setattr(own_memory, "_libc", Libc)


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def secrets(log: list[str]) -> LockedMemory:
    return LockedMemory(log.append)


class TestLockedMemory:
    @needs_proc
    def test_secret_is_locked_and_in_no_dump_and_no_child(self, secrets: LockedMemory) -> None:
        before = locked_bytes()
        secret = secrets.put(b"x" * (PAGE + 5))
        assert locked_bytes() == before + 2 * PAGE
        assert {"lo", "dd", "wf"} <= flags_of(secret)
        del secret
        assert locked_bytes() == before

    def test_memory_grows_with_the_secrets(self, secrets: LockedMemory, log: list[str]) -> None:
        kept = [secrets.put(b"%d" % number) for number in range(1000)]
        assert [bytes(secret) for secret in kept] == [b"%d" % number for number in range(1000)]
        assert len(secrets) == 1000
        assert log == []

    @needs_proc
    def test_secret_beyond_the_limit_is_kept_unlocked_and_logged_once(
        self, secrets: LockedMemory, log: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = secrets.put(b"first")
        refuse(monkeypatch)
        kept = [secrets.put(b"more") for _ in range(3)]
        assert bytes(first) == b"first"
        assert {bytes(secret) for secret in kept} == {b"more"}
        for secret in kept:
            assert {"dd", "wf"} <= flags_of(secret)
        assert log == [
            "warning: some credentials and PINs may be swapped: 1 lie in locked memory. "
            "Raise the limit: LimitMEMLOCK=, or ulimit -l; in a container, allow CAP_IPC_LOCK too"
        ]

    @given(st.lists(st.binary(min_size=1, max_size=3 * PAGE), max_size=20))
    def test_secret_stays_until_it_is_dropped(self, items: list[bytes]) -> None:
        secrets = LockedMemory(print)
        kept = [secrets.put(item) for item in items]
        del kept[::2]
        gc.collect(0)
        assert [bytes(view) for view in kept] == items[1::2]
        assert len(secrets) == len(kept)

    def test_dropped_secret_is_overwritten(self, secrets: LockedMemory) -> None:
        secret = secrets.put(b"x" * (PAGE + 5))
        [made] = secrets._maps
        assert bytes(made) == b"x" * (PAGE + 5)
        del secret
        assert bytes(made) == bytes(PAGE + 5)
        assert len(secrets) == 0

    def test_memory_is_zero_at_first(self, secrets: LockedMemory) -> None:
        assert bytes(secrets.take(2 * PAGE)) == bytes(2 * PAGE)


# In a process of its own, as it can't be undone. What is mapped later is locked too.
LOCK = """
import mmap, re, resource, sys
from hwsigner._agent.memory import lock_process
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_MEMLOCK, (min(limit, 65536), limit))
lock_process()
later = mmap.mmap(-1, 1 << 20)
print(*re.findall(r"VmLck:\\s+(\\d+)", open("/proc/self/status").read()), resource.getrlimit(resource.RLIMIT_MEMLOCK))
"""
# Without the right to lock more than the limit.
LIMITED = ["setpriv", "--bounding-set=-ipc_lock"] if os.geteuid() == 0 else []


@needs_proc
class TestLockProcess:
    def lock(self, limit: int, prefix: list[str]) -> tuple[int, str]:
        command = [*prefix, sys.executable, "-c", LOCK, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        locked, limits = done.stdout.strip().split(" ", 1)
        return int(locked), limits

    @pytest.mark.root
    def test_root_locks_all_of_the_process(self) -> None:
        assert self.lock(1 << 20, [])[0] > 8192

    def test_process_is_not_locked_under_a_limit(self) -> None:
        limit = 1 << 20
        assert self.lock(limit, LIMITED) == (0, f"({limit}, {limit})")

    @pytest.mark.parametrize(
        ("limit", "can_exceed", "is_locked"),
        [(resource.RLIM_INFINITY, False, True), (1 << 20, True, True), (1 << 20, False, False), (1 << 62, True, False)],
    )
    def test_process_is_locked_only_without_a_limit(
        self, monkeypatch: pytest.MonkeyPatch, limit: int, can_exceed: bool, is_locked: bool
    ) -> None:
        calls: list[int] = []

        class Libc:
            def mlock2(self, address: object, size: ctypes.c_size_t, flags: int) -> int:
                return 0 if can_exceed or size.value == mmap.PAGESIZE else -1

            def mlockall(self, flags: int) -> int:
                calls.append(flags)
                return 0

        monkeypatch.setattr(own_memory, "_libc", Libc)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (0, limit))
        monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
        memory.lock_process()
        assert calls == ([7] if is_locked else [])  # MCL_CURRENT, MCL_FUTURE and MCL_ONFAULT.
