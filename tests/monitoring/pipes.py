"""A pipe that is almost full, as that of a reader who has stopped."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PAGE = 4096


@contextmanager
def almost_full_pipe() -> Iterator[tuple[int, int]]:
    """Give the ends of a pipe that has room for one page, which is the least that makes it ready."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(PAGE))
        os.set_blocking(writer, True)
        os.read(reader, PAGE)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def ends(act: Callable[[], object]) -> bool:
    """Call something in a thread, and return whether it ends although nothing reads."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()
