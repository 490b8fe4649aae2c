"""PIN files, and no cached PINs left for the next test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwsigner._pins import sources as pin_sources

# A function that writes a PIN file of mode 0600 and returns its pin-source.
WritePinFile = Callable[[bytes], str]


@pytest.fixture
def forgotten_pins() -> Iterator[None]:
    """Clear the cached PINs after the test."""
    yield
    pin_sources.forget()


@pytest.fixture
def write_pin_file(tmp_path: Path) -> WritePinFile:
    """A function that writes a PIN file."""

    def write(content: bytes) -> str:
        path = tmp_path / "pin"
        path.touch(0o600)
        path.write_bytes(content)
        return f"file:{path}"

    return write
