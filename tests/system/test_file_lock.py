"""Taking turns by a lock on a file."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from hwsigner.system.files import lock_within


def test_one_at_a_time_and_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        assert lock_within(first.fileno(), 0)
        begin = time.monotonic()
        assert not lock_within(second.fileno(), 0.2)
        assert time.monotonic() - begin >= 0.2
        fcntl.flock(first, fcntl.LOCK_UN)
        assert lock_within(second.fileno(), 0)


def test_who_waits_has_it_when_the_other_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    assert lock_within(held, 0)
    timer = threading.Timer(0.1, os.close, [held])
    timer.start()
    with path.open("w") as waiting:
        assert lock_within(waiting.fileno(), 20)
    timer.join()
