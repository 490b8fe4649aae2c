"""The control plane: finds the operation of a verified request, reads its members, and runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from hwsigner.emulator.access_key import Signed
from hwsigner.emulator.canonical import query_pairs
from hwsigner.emulator.control.calls import Call
from hwsigner.emulator.control.operations import OPERATIONS, Operation
from hwsigner.emulator.control.shapes import Items, Whole
from hwsigner.emulator.permissions import require
from hwsigner.emulator.rates import Rates
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import RefusalError, invalid, json_response
from hwsigner.emulator.wire import Request, Response
from hwsigner.emulator.world import World


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
        self._rates = Rates(world, clock)

    def action(self, request: Request) -> str:
        """Return the name of a request's operation, or an empty string if there is no such operation."""
        try:
            return f"rolesanywhere:{find_operation(request)[0].name}"
        except RefusalError:
            return ""

    def respond(self, record: Record, signed: Signed) -> Response:
        """Run the operation of a verified request."""
        operation, in_path = find_operation(record.request)
        self._rates.take(signed.caller.account, signed.authorization.region, operation.name)
        given = {**_read_query(operation, record.request), **_read_body(record.request), **in_path}
        members = operation.input.read(given, "")
        call = Call(self._world, signed.caller, signed.authorization.region, members, self._clock())
        require(self._world, signed.caller, f"rolesanywhere:{operation.name}", call.resource)
        return json_response(operation.status, operation.run(call))
