"""Whether calls leave memory behind, Python's or malloc's."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable


class Mallinfo(ctypes.Structure):
    """The result of mallinfo2(3)."""

    _fields_ = (
        *((f"before{i}", ctypes.c_size_t) for i in range(7)),
        ("uordblks", ctypes.c_size_t),
        *((f"after{i}", ctypes.c_size_t) for i in range(2)),
    )


def in_use() -> tuple[int, int]:
    """Return how many blocks of Python's and bytes of malloc's are in use."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    gc.collect()
    return sys.getallocatedblocks(), mallinfo().uordblks


def check_growth(what: str, times: int, work: Callable[[], object], *, blocks_each: float = 0.5) -> None:
    """Assert that a call repeated many times leaves no memory behind, Python's or malloc's."""
    for _ in range(3):
        work()
    blocks, size = in_use()
    for _ in range(times):
        work()
    blocks_then, size_then = in_use()
    assert blocks_then - blocks < times * blocks_each, f"{what}: {blocks_then - blocks} blocks in {times} calls"
    assert size_then - size < times * 32, f"{what}: {size_then - size} bytes in {times} calls"
