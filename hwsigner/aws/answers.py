"""What botocore's parsers let through: answers of the AWS APIs that are not as their models say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import repeat
from typing import Any

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
