"""Notification settings of a trust anchor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwsigner.emulator.refusals import invalid

# The setting that AWS gives to every trust anchor, for each of its events.
_DEFAULT = {"enabled": True, "threshold": 45, "channel": "ALL", "configuredBy": "rolesanywhere.amazonaws.com"}
_EVENTS = ("CA_CERTIFICATE_EXPIRY", "END_ENTITY_CERTIFICATE_EXPIRY")
Settings = dict[str, Mapping[str, object]]


def merged_settings(settings: Settings, more: list[dict[str, Any]]) -> Settings:
    """Return settings, by event, with those of a request. ALL is the only channel.

    Raises:
        RefusalError: ValidationException: the request has an event twice.
    """
    added = {each["event"]: {"channel": "ALL", "threshold": _DEFAULT["threshold"], **each} for each in more}
    if len(added) < len(more):
        raise invalid("notificationSettings has an event twice")
    return {**settings, **added}


def setting_details(settings: Settings) -> list[dict[str, object]]:
    """Return the settings of all events, with AWS's defaults for those that are not set."""
    return [{"event": event, **settings.get(event, _DEFAULT)} for event in _EVENTS]
