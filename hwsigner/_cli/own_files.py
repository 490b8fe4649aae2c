"""Files that hwsigner writes so that another program runs it, such as units of systemd: written, known, removed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from hwsigner._cli.process import print_outcome
from hwsigner.errors import HwsignerError, UsageError


def mark_of(writer: str) -> str:
    """Return what one of the first two lines of a file says that a command wrote."""
    return f"Written by `{writer}`."


def write_file(path: Path, text: str, writer: str) -> None:
    """Write a file with mode 0644, and print that; nothing is written if it is there already.

    The text has the mark. A file of another program is a UsageError.
    """
    if text_of_ours(path, writer) == text:
        print_step(f"unchanged {path}")
        return
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, "utf-8")
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise HwsignerError(f"can't write {path}: {error.strerror}", "Check who may write its folder") from error
    print_step(f"wrote {path}")


def remove_file(path: Path) -> None:
    """Remove a file, and print that. Raises a HwsignerError if it can't be removed."""
    try:
        path.unlink()
    except OSError as error:
        raise HwsignerError(f"can't remove {path}: {error.strerror}", "Check who may write its folder") from error
    print_step(f"removed {path}")


def text_of_ours(path: Path, writer: str) -> str | None:
    """Return the text of a file that a command wrote, or None if there is none.

    A file that it did not write is a UsageError.
    """
    try:
        text = path.read_text("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HwsignerError(f"can't read {path}: {error.strerror}", "Check who may read it") from error
    if mark_of(writer) not in "".join(text.splitlines()[:2]):
        raise UsageError(f"{path} was not written by {writer}", "Move it away, then retry")
    return text


def own_program() -> Path:
    """Return the path of this program, for a file that runs it.

    With `python -m hwsigner` it is not known, which is a UsageError.
    """
    program = Path(os.path.abspath(sys.argv[0]))
    if program.name != "hwsigner" or not os.access(program, os.X_OK):
        raise UsageError("the path of this program is not known", "Run it by its path: /opt/hwsigner/bin/hwsigner")
    return program


def print_step(done: str) -> None:
    """Print a step that was done. If that fails, the error names the step, after which nothing more is done."""
    print_outcome(done, done)
