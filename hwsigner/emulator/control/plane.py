"""The control plane: finds the operation of a verified request, and runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from hwsigner.emulator.access_key import Signed
from hwsigner.emulator.control import anchors, crls, profiles, subjects, tagging
from hwsigner.emulator.control.calls import Call
from hwsigner.emulator.control.requests import find_operation, read_members
from hwsigner.emulator.permissions import require
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import RefusalError, json_response
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
    "ListSubjects": subjects.list_all,
    "GetSubject": subjects.get,
    "ListTagsForResource": tagging.list_tags,
    "TagResource": tagging.tag,
    "UntagResource": tagging.untag,
}


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
        """Run the operation of a verified request.

        Raises:
            RefusalError: the request is refused.
        """
        operation, in_path = find_operation(record.request)
        members = read_members(operation, record.request, in_path)
        call = Call(self._world, signed.caller, signed.authorization.region, members, self._clock())
        require(self._world.denied, signed.caller, f"rolesanywhere:{operation.name}", call.resource)
        return json_response(operation.status, HANDLERS[operation.name](call))
