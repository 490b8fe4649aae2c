"""What a command writes, and what to do where that is closed or full: stderr is for people, stdout for programs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from hwsigner.errors import printable


def tell(text: str) -> None:
    """Write lines to stderr. Where it is closed or full there is nobody to tell, and nothing else changes."""
    if sys.stderr is None:
        return  # print() would take stdout then.
    lines = "".join(f"hwsigner: {printable(line)}\n" for line in text.splitlines())
    # Past the buffer: what it could not write, the interpreter would try again at exit, and end with status 120.
    with suppress(OSError):
        sys.stderr.flush()
        os.write(sys.stderr.fileno(), lines.encode(sys.stderr.encoding, "backslashreplace"))


def abandon_stdout() -> None:
    """Let nothing more be written to stdout: the interpreter would try at exit, and complain in its own way."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
