#!/usr/bin/env python3
"""Answer hwsigner-credentials as an agent does, and check what it prints: `ask.py COMMAND…`, which runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CREDENTIALS = b'{"Version": 1}\n'


def main(*command: str) -> None:
    """Run the program with a runtime folder in which this process listens."""
    with tempfile.TemporaryDirectory() as runtime, socket.socket(socket.AF_UNIX) as listener:
        folder = Path(runtime, "hwsigner")
        folder.mkdir(mode=0o700)
        listener.bind(str(folder / "agent.sock"))
        listener.listen()
        listener.settimeout(30)
        environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": runtime}
        with subprocess.Popen([*command, "--profile", "web"], env=environment, stdout=subprocess.PIPE) as program:
            with listener.accept()[0] as connection:
                request = connection.recv(100)
                connection.sendall(b"1 working\n1 ok %d\n%s" % (len(CREDENTIALS), CREDENTIALS))
            printed, _ = program.communicate(timeout=30)
    assert (request, printed, program.returncode) == (b"1 get web notes\n", CREDENTIALS, 0), printed
    print("The program prints what the agent sends.")


if __name__ == "__main__":
    main(*sys.argv[1:])
