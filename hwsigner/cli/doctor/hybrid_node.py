"""Whether an EKS hybrid node still runs hwsigner: nodeadm puts AWS's program back when it upgrades the node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hwsigner.cli.doctor.subject import Subject
from hwsigner.findings import Finding, local

CONFIG, PROGRAM = "/etc/aws/hybrid/config", "/usr/local/bin/aws_signing_helper"


def check(subject: Subject) -> Iterator[Finding]:
    """Yield whether the node uses this profile's key by another program than hwsigner."""
    path = subject.key.path.get("path") if subject.key else None
    try:
        words = Path(CONFIG).read_bytes().split()
        is_hwsigner = b"hwsigner" in Path(PROGRAM).read_bytes()
    except OSError:
        return  # No hybrid node, or one that this user can't look at.
    if path in words and PROGRAM.encode() in words and not is_hwsigner:
        yield local.NODE_PROGRAM.found(f"{PROGRAM}, which {CONFIG} runs with this key, is not hwsigner")
