"""The parameters of CreateSession, from the query and the body of a request."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from hwsigner.emulator.arns import Arn, parse_alias_arn, parse_arn
from hwsigner.emulator.canonical import query_pairs
from hwsigner.emulator.refusals import invalid
from hwsigner.emulator.wire import Request

_ARNS = {"trustAnchorArn": "trust-anchor", "profileArn": "profile", "roleArn": "role"}
_ENCODED = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*")
_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_CONTENT_TYPE = re.compile(r"application/(?:json|x-amz-json-1\.[01])(?:\s*;.*)?", re.IGNORECASE)
MIN_DURATION = 900
MAX_DURATION = 43200
MAX_PROPERTIES = 50
MAX_PROPERTY_LENGTH = 200


@dataclass(frozen=True)
class Parameters:
    """What a CreateSession request asks for."""

    trust_anchor: str  # An ARN or alias ARN, as the profile's.
    profile: str
    role: str
    role_parts: Arn
    region: str  # Of both trust anchor and profile.
    duration: int | None
    session_name: str | None
    instance_properties: dict[str, str]


def read_parameters(request: Request) -> Parameters:
    """Read and check the parameters."""
    body = _read_body(request)
    query = _read_query(request.query)
    texts = {name: _only_text(name, query, body) for name in _ARNS}
    anchor, profile, role = (_read_arn(name, text) for name, text in texts.items())
    if anchor.region != profile.region:
        raise invalid(f"trustAnchorArn is of region {anchor.region}, profileArn of {profile.region}")
    if len({arn.partition for arn in (anchor, profile, role)}) > 1:
        raise invalid("trustAnchorArn, profileArn and roleArn are not of one partition")
    if len({arn.account for arn in (anchor, profile, role)}) > 1:
        raise invalid("trustAnchorArn, profileArn or roleArn has a different account ID")
    duration = body.get("durationSeconds")
    if "durationSeconds" in body and (type(duration) is not int or not MIN_DURATION <= duration <= MAX_DURATION):
        raise invalid(f"durationSeconds is not a whole number from {MIN_DURATION} to {MAX_DURATION}")
    name = body.get("roleSessionName")
    if "roleSessionName" in body and not (isinstance(name, str) and _SESSION_NAME.fullmatch(name)):
        raise invalid(f"roleSessionName does not match {_SESSION_NAME.pattern}")
    return Parameters(
        trust_anchor=texts["trustAnchorArn"],
        profile=texts["profileArn"],
        role=texts["roleArn"],
        role_parts=role,
        region=anchor.region,
        duration=duration,
        session_name=name,
        instance_properties=_read_properties(body.get("instanceProperties", {})),
    )


def _read_body(request: Request) -> dict[str, Any]:
    if not _CONTENT_TYPE.fullmatch(request.value("content-type") or ""):
        raise invalid("Content-Type is not application/json")
    if not request.body:
        raise invalid("the body is empty")
    try:
        body = json.loads(request.body, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise invalid("the body is not JSON, or names a member twice") from error
    if not isinstance(body, dict):
        raise invalid("the body is not a JSON object")
    return body


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members


def _read_query(query: str) -> dict[str, str]:
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if not _ENCODED.fullmatch(name) or not _ENCODED.fullmatch(value):
            raise invalid(f"the query parameter {name} is not percent-encoded")
    found: dict[str, str] = {}
    for raw_name, raw_value in query_pairs(query):
        text = raw_name.decode("utf-8", "replace")
        if text in found:
            raise invalid(f"the query parameter {text} is given twice")
        found[text] = raw_value.decode("utf-8", "replace")
    return found


def _only_text(name: str, query: dict[str, str], body: dict[str, Any]) -> str:
    given = [source[name] for source in (query, body) if name in source]
    if not given:
        raise invalid(f"{name} is missing")
    if any(each != given[0] for each in given):
        raise invalid(f"{name} differs between query and body")
    if not isinstance(given[0], str):
        raise invalid(f"{name} is not a string")
    return given[0]


def _read_arn(name: str, text: str) -> Arn:
    arn = parse_arn(text, _ARNS[name]) or parse_alias_arn(text, _ARNS[name])
    if arn is None:
        raise invalid(f"{name} is not the ARN of a {_ARNS[name]}")
    return arn


def _read_properties(properties: object) -> dict[str, str]:
    if not isinstance(properties, dict):
        raise invalid("instanceProperties is not a map")
    if len(properties) > MAX_PROPERTIES:
        raise invalid(f"instanceProperties has more than {MAX_PROPERTIES} entries")
    for text in (*properties, *properties.values()):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_PROPERTY_LENGTH:
            raise invalid(f"instanceProperties has a name or value that is not 1 to {MAX_PROPERTY_LENGTH} characters")
    return properties
