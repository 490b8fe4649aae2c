"""What Ctrl-C leaves: objects that it met half made, whose finalizers may fail."""

from __future__ import annotations

import sys
from contextlib import suppress


def clear_up(interruption: KeyboardInterrupt) -> None:
    """Give up what is in the frames of an interruption, and let nothing be printed of what fails by that."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        trace = interruption.__traceback__
        while trace:
            with suppress(RuntimeError):  # It runs yet.
                trace.tb_frame.clear()
            trace = trace.tb_next
        interruption.__traceback__ = None
    finally:
        sys.unraisablehook = before
