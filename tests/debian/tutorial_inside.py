"""Follow the tutorial of a TPM server, as root: `debian.tutorial` runs this in a container."""

from __future__ import annotations

from pathlib import Path

from transcripts import follow

if __name__ == "__main__":
    follow("docs/start/tpm-server.md", Path("/root"), {}, {r"Type yes to [a-z ]+: ": "yes"})
