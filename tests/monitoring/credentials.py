"""Credentials as the audit log reads them."""

from __future__ import annotations

from typing import NamedTuple


class AuditedSet(NamedTuple):
    """A set of credentials. Nothing but its ID is known by default."""

    access_key_id: str = "ASIA1"
    certificate_serial: int | None = None
    assumed_role_arn: str = ""
    request_id: str = ""
