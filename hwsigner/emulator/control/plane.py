"""The control plane: finds the operation of a verified request, reads its members, and runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from hwsigner.emulator.access_key import Signed
from hwsigner.emulator.canonical import query_pairs
from hwsigner.emulator.control import anchors, crls, profiles, subjects_and_tags
from hwsigner.emulator.control.calls import Call
from hwsigner.emulator.control.operations import OPERATIONS, Operation
from hwsigner.emulator.control.shapes import Items, Whole
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import RefusalError, invalid, json_response
from hwsigner.emulator.vault import require
from hwsigner.emulator.wire import Request, Response
from hwsigner.emulator.world import World

HANDLERS: Mapping[str, Callable[[Call], dict[str, Any]]] = {
    "CreateTrustAnchor": anchors.create,
    "UpdateTrustAnchor": anchors.update,
    "ListTrustAnchors": anchors.KIND.list_all,
    "GetTrustAnchor": anchors.KIND.get,
    "DeleteTrustAnchor": anchors.KIND.delete,
    "EnableTrustAnchor": anchors.KIND.enable,
    "DisableTrustAnchor": anchors.KIND.disable,
    "PutNotificationSettings": anchors.put_notifications,
    "ResetNotificationSettings": anchors.reset_notifications,
    "CreateProfile": profiles.create,
    "UpdateProfile": profiles.update,
    "ListProfiles": profiles.KIND.list_all,
    "GetProfile": profiles.KIND.get,
    "DeleteProfile": profiles.KIND.delete,
    "EnableProfile": profiles.KIND.enable,
    "DisableProfile": profiles.KIND.disable,
    "PutAttributeMapping": profiles.put_mapping,
    "DeleteAttributeMapping": profiles.delete_mapping,
    "ImportCrl": crls.import_crl,
    "UpdateCrl": crls.update,
    "ListCrls": crls.KIND.list_all,
    "GetCrl": crls.KIND.get,
    "DeleteCrl": crls.KIND.delete,
    "EnableCrl": crls.KIND.enable,
    "DisableCrl": crls.KIND.disable,
    "ListSubjects": subjects_and_tags.list_subjects,
    "GetSubject": subjects_and_tags.get_subject,
    "ListTagsForResource": subjects_and_tags.list_tags,
    "TagResource": subjects_and_tags.tag,
    "UntagResource": subjects_and_tags.untag,
}


def find_operation(request: Request) -> tuple[Operation, dict[str, Any]]:
    """Return the operation that a request is for, and the members in its path."""
    segments = request.path.split("/")
    for operation in OPERATIONS.values():
        names = operation.path.split("/")
        matches = len(names) == len(segments) and all(
            segment if name.startswith("{") else name == segment
            for name, segment in zip(names[1:], segments[1:], strict=True)
        )
        if matches and operation.method == request.method:
            found = zip(names, segments, strict=True)
            return operation, {name[1:-1]: unquote(each) for name, each in found if name.startswith("{")}
    message = f"IAM Roles Anywhere has no operation {request.method} {request.path}"
    raise RefusalError("UnknownOperationException", 404, message)


def read_members(operation: Operation, request: Request, in_path: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a request, decoded and checked against the operation's shapes."""
    given = {**_read_query(operation, request), **_read_body(request), **in_path}
    return operation.input.read(given, "")


def _read_query(operation: Operation, request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for raw_name, raw_value in query_pairs(request.query):
        name, value = raw_name.decode("utf-8", "replace"), raw_value.decode("utf-8", "replace")
        if name.startswith("X-Amz-"):
            continue  # Part of the signature of a presigned URL.
        if name not in operation.query:
            raise invalid(f"The emulator does not know the query parameter {name}")
        shape = operation.input.members[name]
        if isinstance(shape, Items):
            found.setdefault(name, []).append(value)
        elif name in found:
            raise invalid(f"The query parameter {name} is given twice")
        else:
            found[name] = int(value) if isinstance(shape, Whole) and re.fullmatch("-?[0-9]{1,9}", value) else value
    return found


def _read_body(request: Request) -> dict[str, Any]:
    if not request.body:
        return {}
    if (request.value("content-type") or "").partition(";")[0].strip().lower() != "application/json":
        raise RefusalError("UnsupportedMediaTypeException", 415, "Content-Type is not application/json")
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise RefusalError("SerializationException", 400, "the body is not JSON") from error
    if not isinstance(body, dict):
        raise RefusalError("SerializationException", 400, "the body is not a JSON object")
    return body


class ControlPlane:
    """The control plane of IAM Roles Anywhere for the resources of a world."""

    def __init__(self, world: World, clock: Callable[[], datetime]) -> None:
        self._world = world
        self._clock = clock

    def action(self, request: Request) -> str:
        """Return the name of a request's operation, or an empty string if there is no such operation."""
        try:
            return f"rolesanywhere:{find_operation(request)[0].name}"
        except RefusalError:
            return ""

    def respond(self, record: Record, signed: Signed) -> Response:
        """Run the operation of a verified request."""
        operation, in_path = find_operation(record.request)
        members = read_members(operation, record.request, in_path)
        call = Call(self._world, signed.caller, signed.authorization.region, members, self._clock())
        require(self._world.denied, signed.caller, f"rolesanywhere:{operation.name}", call.resource)
        return json_response(operation.status, HANDLERS[operation.name](call))
