"""The parameters of IAM's and STS's actions: forms, as in AWS's query protocol, and the limits of each value."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hwsigner.emulator.canonical import query_pairs
from hwsigner.emulator.control.shapes import Items, Text, Whole, unsatisfied
from hwsigner.emulator.refusals import RefusalError, invalid
from hwsigner.emulator.wire import Request

VERSION = "2010-05-08"
MAX_TAGS = 50
_PAGE = 100
_MEMBER = re.compile(r"(Tags)\.member\.(\d{1,3})\.(Key|Value)|(TagKeys)\.member\.(\d{1,3})", re.ASCII)
_TAG_CHARACTER = r"(?:(?![\x00-\x1f\x7f-\x9f])[\w\s.:/=+@-])"
_TAG_KEY = re.compile(_TAG_CHARACTER + "{1,128}")
_TAG_VALUE = re.compile(_TAG_CHARACTER + "{0,256}")
_KEYS = Items(Text(), most=MAX_TAGS)


_DOCUMENT = Text(1, 131072, r"[\t\n\r\x20-\xff]+", "It must contain only printable ASCII characters.")
_TEXTS = {
    "RoleName": Text(
        1, 64, r"[\w+=,.@-]+", "It must contain only alphanumeric characters and/or the following: +=,.@_-"
    ),
    "Path": Text(
        1,
        512,
        r"/|/[\x21-\x7e]+/",
        "It must begin and end with / and contain only alphanumeric characters and/or / characters.",
    ),
    "PathPrefix": Text(1, 512, r"/[\x21-\x7f]*", "It must begin with /"),
    "Description": Text(0, 1000, r"[\t\n\r\x20-\x7e\xa1-\xff]*", "It has a character that is not allowed."),
    "AssumeRolePolicyDocument": _DOCUMENT,
    "PolicyDocument": _DOCUMENT,
    "PolicyArn": Text(20, 2048, r"[\x21-\x7e]+", "It must be an ARN."),
    "PermissionsBoundary": Text(20, 2048, r"[\x21-\x7e]+", "It must be an ARN."),
    "RoleArn": Text(20, 2048, r"[\x21-\x7e]+", "It must be an ARN."),
    "RoleSessionName": Text(2, 64, r"[\w+=,.@-]*", "It has a character that is not allowed."),
    "ExternalId": Text(2, 1224, r"[\w+=,.@:/-]*", "It has a character that is not allowed."),
    "Marker": Text(1, 320, r"[\x20-\xff]+", "It must be a marker of an earlier response."),
}
_NUMBERS = {"MaxSessionDuration": (3600, 43200), "MaxItems": (1, 1000), "DurationSeconds": (900, 43200)}


class Form:
    """The parameters of a request, which must be a POST with a form."""

    def __init__(self, request: Request) -> None:
        content_type = (request.value("content-type") or "").partition(";")[0].strip().lower()
        if (request.method, request.target) != ("POST", "/") or content_type != "application/x-www-form-urlencoded":
            raise RefusalError("InvalidAction", 400, "Not a POST of application/x-www-form-urlencoded to /")
        pairs = query_pairs(request.body.decode("latin-1"), plus_is_space=True)
        self._values = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in pairs}
        if len(self._values) < len(pairs):
            raise RefusalError("MalformedInput", 400, "A parameter is given twice")
        self.action = self._values.pop("Action", "")
        self.version = self._values.pop("Version", "")

    def check(self, required: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Check that required parameters are given, and that all values are within their limits."""
        lists = {(match[1] or match[4]) if (match := _MEMBER.fullmatch(name)) else name for name in self._values}
        for name in required:
            if name not in lists:
                raise unsatisfied(_member(name), "not be null", None)
        for name in sorted(lists):
            if name not in (*required, *optional):
                raise invalid(f"The parameter {name} is unknown or not implemented here")
            if name in _TEXTS:
                _TEXTS[name].read(self._values[name], _member(name))
            if name in _NUMBERS:
                _check_number(name, self._values[name], *_NUMBERS[name])

    def text(self, name: str, default: str = "") -> str:
        """Return a value, or the default if it is not given."""
        return self._values.get(name, default)

    def number(self, name: str, default: int) -> int:
        """Return a value as a number, or the default if it is not given."""
        return int(self._values.get(name, default))

    def tags(self) -> dict[str, str]:
        """Return the tags."""
        found: dict[str, dict[str, str]] = {}
        for name, value in self._values.items():
            match = _MEMBER.fullmatch(name)
            if match and match[1]:
                found.setdefault(match[2], {})[match[3]] = value
        for number, tag in found.items():
            if set(tag) != {"Key", "Value"}:
                raise unsatisfied(f"tags.{number}.member", "have a key and a value", None)
            _check_tag(tag["Key"], tag["Value"])
        keys = [tag["Key"].lower() for tag in found.values()]
        if len(set(keys)) < len(keys):
            message = "Duplicate tag keys found. Please note that Tag keys are case insensitive."
            raise RefusalError("InvalidInput", 400, message)
        _KEYS.read(keys, "tags")
        return {tag["Key"]: tag["Value"] for tag in found.values()}

    def tag_keys(self) -> list[str]:
        """Return the keys of tags to remove."""
        keys = [value for name, value in self._values.items() if name.startswith("TagKeys.")]
        for key in keys:
            if not _TAG_KEY.fullmatch(key):
                raise unsatisfied("tagKeys", "be a tag key", key)
        _KEYS.read(keys, "tagKeys")
        return keys

    def page(self, items: Iterable[tuple[str, Any]], name: str) -> dict[str, Any]:
        """Return one page of a list, with its marker if there are more. The items come with what they are sorted by."""
        first = _decoded(self.text("Marker"))
        waiting = sorted((each for each in items if each[0] >= first), key=lambda each: each[0])
        count = self.number("MaxItems", _PAGE)
        page: dict[str, Any] = {name: [item for _, item in waiting[:count]], "IsTruncated": len(waiting) > count}
        if len(waiting) > count:
            page["Marker"] = base64.b64encode(waiting[count][0].encode()).decode()
        return page


def _check_number(name: str, value: str, least: int, most: int) -> None:
    if not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
        raise RefusalError("MalformedInput", 400, f"{name} is not a whole number")
    Whole(least, most).read(int(value), _member(name))


def _check_tag(key: str, value: str) -> None:
    if key.lower().startswith("aws:"):
        raise RefusalError("InvalidInput", 400, f"The tag key {key} begins with aws:, which is reserved")
    for text, pattern, name in ((key, _TAG_KEY, "tags.1.member.key"), (value, _TAG_VALUE, "tags.1.member.value")):
        if not pattern.fullmatch(text):
            raise unsatisfied(name, f"satisfy regular expression pattern: {pattern.pattern}", text)


def _decoded(marker: str) -> str:
    try:
        return base64.b64decode(marker, validate=True).decode()
    except ValueError as error:
        raise invalid("Invalid Marker.") from error


def _member(name: str) -> str:
    return name[0].lower() + name[1:]
