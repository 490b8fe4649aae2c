"""What callers may do: everything, except the actions that a test denies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from hwsigner.emulator.refusals import denied
from hwsigner.emulator.vault import Credentials
from hwsigner.errors import UsageError

_ACTION = re.compile(r"[a-z0-9-]+:[A-Za-z*?]+|\*", re.ASCII)


def check_action(pattern: str) -> str:
    """Return the name of an action, which may have wildcards, checked.

    Raises:
        UsageError: it is malformed.
    """
    if not _ACTION.fullmatch(pattern):
        raise UsageError(f"{pattern!r} is not an action", "Write SERVICE:ACTION, such as iam:PassRole or iam:*")
    return pattern


def matches(action: str, pattern: str) -> bool:
    """Return whether an action is one of those that a name with wildcards means, in upper or lower case."""
    return fnmatchcase(action.lower(), pattern.lower())


def require(denied_actions: Iterable[str], caller: Credentials, action: str, resource: str) -> None:
    """Check that a caller may do an action.

    Args:
        denied_actions: those that no caller may do, as in World.denied.
        caller: who asks.
        action: such as "iam:GetRole".
        resource: the ARN of what the action is about, or "*".

    Raises:
        RefusalError: it is denied, in the words of AWS.
    """
    if any(matches(action, pattern) for pattern in denied_actions):
        raise denied(
            f"User: {caller.arn} is not authorized to perform: {action} on resource: {resource} "
            f"because no identity-based policy allows the {action} action"
        )
