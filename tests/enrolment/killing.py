"""Programs that are killed and started again at random, and a load balancer in front of them."""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from loopback import Connection, Serve, pump

_START_SECONDS = 60.0


@dataclass
class Program:
    """A server that listens on a port of 127.0.0.1.

    Attributes:
        command: the program and its arguments.
        port: the port that it is to listen on.
        log: the file that gets what it writes to stderr, also after it was started again.
        environment: its environment.
        kills: how often it was killed.
    """

    command: Sequence[str]
    port: int
    log: Path
    environment: Mapping[str, str]
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        with open(self.log, "ab") as log:
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(self.command, stdin=null, stdout=null, stderr=log, env=self.environment)

    def wait_until_ready(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
                return
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"{self.command} does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it as a crash does."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def strike(self, chance: random.Random) -> None:
        """Kill it, and start it again after a time without it."""
        self.stop()
        self.kills += 1
        time.sleep(chance.uniform(0.0, 1.0))
        self.start()


class Killer:
    """Kills one victim again and again, in a thread, while the `with` block lasts.

    Args:
        strike: kills the victim, and brings it back.
        chance: decides when.
        pause: the longest time between two kills, in seconds.
        most: the number of kills after which it stops.
    """

    def __init__(
        self, strike: Callable[[random.Random], None], chance: random.Random, *, pause: float, most: int
    ) -> None:
        self._strike = strike
        self._chance = chance
        self._pause = pause
        self._most = most
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            for _ in range(self._most):
                if self._stopping.wait(self._chance.uniform(0.0, self._pause)):
                    return
                self._strike(self._chance)
        except BaseException as error:
            self._error = error


def balancer(ports: Sequence[int], chance: random.Random) -> Serve:
    """Return a function that passes a connection on to one of some ports, also to one where nothing listens."""

    def serve(connection: Connection) -> None:
        with socket.create_connection(("127.0.0.1", chance.choice(ports)), 5) as server:
            back = threading.Thread(target=pump, args=(server, connection.sock))
            back.start()
            pump(connection.sock, server)
            back.join()

    return serve
