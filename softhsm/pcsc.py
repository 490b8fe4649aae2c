"""pcscd with two virtual card readers, in its own namespaces."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from softhsm import pcsc_namespace
from softhsm.command import ToolError

READERS = 2

_NAME = "Yubico YubiKey OTP+FIDO+CCID 00 {:02X}"
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_EVENT_SECONDS = 30.0
_POLL_SECONDS = 0.005
_MAX_SOCKET_PATH = 107


class SoftPcsc:
    """A pcscd with virtual readers, provided by vsmartcard's vpcd.

    vpcd listens for cards on all addresses and pcscd's socket has a fixed path, so both run in their own network and
    mount namespaces. Clients run outside: their libpcsclite finds the socket through `env`. It reads that only once,
    so a process can use only one SoftPcsc.

    Attributes:
        folder: the folder with pcscd's socket and log. Its path must be short enough for a Unix socket.
        env: the environment variables that clients need.
        ejections: for each reader with a card, the function that removes the card.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = folder / "pcscd.comm"
        self._log = folder / "pcscd.log"
        self.env = {"PCSCLITE_CSOCK_NAME": str(self._socket)}
        self.ejections: dict[int, Callable[[], None]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(self) -> None:
        """Start pcscd with empty readers.

        Raises:
            ToolError: a program is missing, namespaces can't be created, or pcscd does not start.
        """
        if len(str(self._socket)) > _MAX_SOCKET_PATH:
            hint = "choose a folder with a shorter path"
            raise ToolError(f"{self._socket} is too long for the path of a Unix socket; {hint}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._requests, theirs = socket.socketpair()
        inside = [sys.executable, "-I", pcsc_namespace.__file__, str(theirs.fileno()), str(self.folder)]
        # An ordinary user becomes root in a user namespace, if the system allows it.
        outside = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        with theirs, self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [*outside, *inside], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            except FileNotFoundError:
                raise ToolError("unshare is not installed; `make setup` installs what is needed") from None
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop pcscd."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def insert(self, reader: int) -> socket.socket:
        """Connect a card to an empty reader and return the connection. pcscd notices within half a second."""
        if self._requests is None:
            raise ToolError("pcscd was not started")
        self._requests.send(bytes([reader]))
        answer, descriptors, _, _ = socket.recv_fds(self._requests, 1, 1)
        if not descriptors:
            what = f"vpcd accepts no card in reader {reader}" if answer else "pcscd has exited"
            raise ToolError(f"{what}; see {self._log}")
        return socket.socket(fileno=descriptors[0])

    def insertions(self) -> int:
        """Return how often pcscd has seen a card inserted."""
        # It does not log "inserted into" for a card that is there when its thread starts, but always logs the ATR.
        return self._log.read_text(errors="replace").count("Card ATR: ")

    def removals(self, reader: int) -> int:
        """Return how often pcscd has seen a card removed from a reader."""
        return self._log.read_text(errors="replace").count(f"Card Removed From {_NAME.format(reader)}\n")

    def wait(self, count: Callable[[], int], least: int) -> None:
        """Wait until pcscd has seen a number of events.

        Args:
            count: returns the number so far.
            least: the number to wait for.

        Raises:
            ToolError: the number is not reached within half a minute.
        """
        deadline = time.monotonic() + _EVENT_SECONDS
        while count() < least:
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                raise ToolError(f"pcscd did not notice that a card was inserted or removed; see {self._log}")
            time.sleep(_POLL_SECONDS)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while " daemon ready.\n" not in self._log.read_text(errors="replace"):
            if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                self.stop()
                output = self._log.read_text(errors="replace").strip()
                hint = "it needs root, or user namespaces for ordinary users"
                raise ToolError(f"pcscd does not start in its own namespaces ({hint}): {output}")
            time.sleep(_POLL_SECONDS)
