"""Metrics in a file, for the textfile collector of node_exporter."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

WRITE_SECONDS = 15.0


class Textfile:
    """Writes a file every 15 seconds, whole: the time of its last change says that the program runs.

    It has mode 0644. `log` takes a line if it can't be written, once until it can be again.
    """

    def __init__(self, path: str, render: Callable[[], str], log: Callable[[str], None]) -> None:
        self._path = path
        self._render = render
        self._log = log
        self._is_failing = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hwsigner-textfile", daemon=True)

    def start(self) -> None:
        """Write the file, and from now on every 15 seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Stop writing, and remove the file, so that nobody takes its metrics for those of a running program."""
        self._ending.set()
        self._thread.join(1.0)
        with suppress(OSError):
            os.unlink(self._path)

    def _run(self) -> None:
        while True:
            self._write()
            if self._ending.wait(WRITE_SECONDS):
                return

    def _write(self) -> None:
        new = f"{self._path}.{os.getpid()}.new"  # The collector reads *.prom only.
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with open(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o644)  # Whatever the umask is.
                file.write(self._render())
            os.replace(new, self._path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(new)
            if not self._is_failing:
                self._log(f"warning: the metrics can't be written to {self._path}: {error.strerror or error}")
            self._is_failing = True
        else:
            self._is_failing = False
