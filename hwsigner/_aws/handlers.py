"""What hwsigner adds to botocore's clients: it waits when requests are throttled, and refuses odd answers.

By default, IAM Roles Anywhere takes one request a second for each kind of resource. botocore's own pauses are shorter
than that, and it says nothing of them. Its parsers let through answers that are not as their models say.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import repeat
from time import sleep
from typing import Any

THROTTLED = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
# Seconds before each further attempt. They grow for the case that other programs use the same quota.
PAUSES = (1.1, 1.3, 1.7, 2.5, 4.0, 6.0, 9.0)
_JITTER_SECONDS = 0.3
_TYPES: dict[str, type[Any]] = {"structure": dict, "list": list, "map": dict, "string": str, "blob": bytes}
_TYPES |= {"boolean": bool, "integer": int, "long": int, "timestamp": datetime}
# What every resource has, though the models do not always say so.
_USED_MEMBERS = {
    "TrustAnchorDetail": ("trustAnchorArn",),
    "ProfileDetail": ("profileArn",),
    "AttributeMapping": ("certificateField", "mappingRules"),
    "MappingRule": ("specifier",),
    "CrlDetail": ("crlId",),
    "SubjectSummary": ("subjectId",),
    "GetRoleResponse": ("Role",),
    "Role": ("Arn", "RoleName"),
    "AttachedPolicy": ("PolicyArn",),
}
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Patience:
    """Waits before a throttled request is sent again. For botocore's event needs-retry.

    Args:
        say: shows one line, before each pause.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(self, *, response: Any, operation: Any, attempts: int, **_: object) -> float | None:
        """Wait, and return 0 so that botocore sends the request again; None leaves the decision to botocore."""
        code = (response[1].get("Error") or {}).get("Code") if response else None
        if code not in THROTTLED or attempts > len(PAUSES):
            return None
        pause = PAUSES[attempts - 1] + random.uniform(0, _JITTER_SECONDS)  # noqa: S311 - no secret
        self._say(f"AWS takes no more {operation.name} requests for now: waiting {pause:.1f} s")
        sleep(pause)
        return 0


def fits_model(answer: Any, shape: Any) -> bool:
    """Return whether all values in an answer have the types of botocore's model, and those that are used are there."""
    pending: list[tuple[Any, Any]] = [(answer, shape)]
    while pending:
        value, shape = pending.pop()
        kind = shape.type_name
        if not isinstance(value, _TYPES.get(kind, object)):
            if shape.name != "policyDocumentType":  # botocore parses the documents of IAM.
                return False
        elif kind == "structure":
            for name in _USED_MEMBERS.get(shape.name, ()):
                if name not in value or (name.lower().endswith("arn") and str(value[name]).count(":") < 5):
                    return False
            for name in value.keys() & shape.members.keys():
                pending.append((value[name], shape.members[name]))
        elif kind == "list":
            pending += zip(value, repeat(shape.member))
        elif kind == "string" and _SURROGATE.search(value):
            return False
    return True


def check_json(response_dict: Mapping[str, Any] | None, **_: Any) -> None:
    """Check that a successful answer is a JSON object, as botocore takes anything else for an empty one.

    For botocore's event "response-received".

    Raises:
        ResponseParserError: it is not. `translated` names the call.
    """
    from botocore.parsers import ResponseParserError

    if response_dict and 200 <= response_dict["status_code"] < 300:  # None if there was no answer.
        try:
            is_object = isinstance(json.loads(response_dict["body"] or b"{}"), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise ResponseParserError("not a JSON object")
