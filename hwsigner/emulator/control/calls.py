"""A call of the control plane, and the operations that trust anchors, profiles and CRLs have in common."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from hwsigner.emulator.arns import partition_of
from hwsigner.emulator.refusals import RefusalError, invalid
from hwsigner.emulator.resources import Crl, Profile, Resource, TrustAnchor, by_arn
from hwsigner.emulator.vault import CallerCredentials
from hwsigner.emulator.world import World

PAGE_SIZE = 50
_IDENTIFIERS = {
    "trustAnchorId": "trust-anchor",
    "profileId": "profile",
    "crlId": "crl",
    "subjectId": "subject",
    "resourceArn": "",
}
_Kind = TypeVar("_Kind", bound=Resource)


@dataclass(frozen=True)
class Call:
    """A call whose signature and members are checked. The caller reaches the resources of its account."""

    world: World
    caller: CallerCredentials
    region: str
    members: Mapping[str, Any]  # Those of the request, decoded.
    now: datetime

    @property
    def prefix(self) -> str:
        """What the ARNs of all resources in the caller's account and region begin with."""
        return f"arn:{partition_of(self.region)}:rolesanywhere:{self.region}:{self.caller.account}:"

    @property
    def resource(self) -> str:
        """The ARN of the resource that the request names, or "*" if it names none."""
        for member, kind in _IDENTIFIERS.items():
            if member in self.members:
                identifier: str = self.members[member]
                return identifier if ":" in identifier else f"{self.prefix}{kind}/{identifier}"
        return "*"

    def new_arn(self, kind: str) -> str:
        """Return the ARN of a new resource of a kind, such as "trust-anchor"."""
        return f"{self.prefix}{kind}/{uuid.uuid4()}"

    def base_fields(self) -> dict[str, Any]:
        """Return the name, alias, tags and times of a resource that the request creates."""
        return {
            "name": self.members["name"],
            "alias": self.members.get("aliasName", ""),
            "tags": merged_tags({}, self.members.get("tags", [])),
            "created_at": self.now,
            "updated_at": self.now,
        }

    def own(self, resources: Mapping[str, _Kind]) -> list[_Kind]:
        """Return the resources in the caller's account and region, in the order of their ARNs."""
        return [resources[arn] for arn in sorted(resources) if arn.startswith(self.prefix)]

    def find(self, resources: Mapping[str, _Kind], kind: str, identifier: str) -> _Kind:
        """Return a resource of the caller's account and region by its ID, ARN or alias ARN."""
        arn = identifier if ":" in identifier else f"{self.prefix}{kind}/{identifier}"
        found = by_arn(resources, arn) if arn.startswith(self.prefix) else None
        if found is None:
            raise not_found(kind, identifier)
        return found

    def check_alias(self, resources: Mapping[str, Resource], holder: Resource | None = None) -> None:
        """Check the request's alias, before anything is changed. `holder` is the resource that gets it, if any."""
        alias = self.members.get("aliasName", "")
        if alias.lower().startswith("aws/"):
            raise invalid(f"The alias {alias} is reserved")
        if alias and any(each.alias == alias and each is not holder for each in self.own(resources)):
            raise invalid(f"The alias {alias} is already in use")

    def rename(self, resource: Resource) -> dict[str, str]:
        """Set a resource's name and alias if the request has them. Return previousAliasName, if that changed."""
        previous = resource.alias
        resource.name = self.members.get("name", resource.name)
        resource.alias = self.members.get("aliasName", resource.alias)
        resource.updated_at = self.now
        return {"previousAliasName": previous} if previous not in ("", resource.alias) else {}

    def page(self, resources: Mapping[str, _Kind], kind: str) -> tuple[list[_Kind], dict[str, str]]:
        """Return a page of the caller's resources, and nextToken if there are more.

        The token names the last resource, so that resources which come and go shift no others.
        """
        size = self.members.get("pageSize", PAGE_SIZE)
        if size < 1:
            raise invalid("pageSize is less than 1")
        last = _read_token(self.members["nextToken"], kind) if "nextToken" in self.members else ""
        rest = [each for each in self.own(resources) if each.arn > last]
        return rest[:size], {"nextToken": _make_token(rest[size - 1].arn, kind)} if len(rest) > size else {}


_Switched = TypeVar("_Switched", TrustAnchor, Profile, Crl)


@dataclass(frozen=True)
class ResourceKind(Generic[_Switched]):
    """A kind of resource that can be enabled."""

    name: str  # In ARNs, such as "trust-anchor".
    # The member of responses that has one resource, such as "trustAnchor". With "Id" it is the member of requests that
    # names one, and with "s" the member of responses that has a list.
    member: str
    resources: Callable[[World], dict[str, _Switched]]
    detail: Callable[[_Switched], dict[str, Any]]

    def add(self, call: Call, resource: _Switched) -> dict[str, Any]:
        """Add a new resource, and return the response about it."""
        self.resources(call.world)[resource.arn] = resource
        return self.document(resource)

    def find(self, call: Call) -> _Switched:
        """Return the resource that a request names."""
        return call.find(self.resources(call.world), self.name, call.members[f"{self.member}Id"])

    def document(self, resource: _Switched, more: dict[str, str] | None = None) -> dict[str, Any]:
        """Return the response about one resource."""
        return {self.member: {**self.detail(resource), **(more or {})}}

    def get(self, call: Call) -> dict[str, Any]:
        """GetTrustAnchor, GetProfile and GetCrl."""
        return self.document(self.find(call))

    def list_all(self, call: Call) -> dict[str, Any]:
        """ListTrustAnchors, ListProfiles and ListCrls."""
        found, more = call.page(self.resources(call.world), self.name)
        return {f"{self.member}s": [self.detail(each) for each in found], **more}

    def delete(self, call: Call) -> dict[str, Any]:
        """DeleteTrustAnchor, DeleteProfile and DeleteCrl."""
        resource = self.find(call)
        del self.resources(call.world)[resource.arn]
        return self.document(resource)

    def switch(self, call: Call, *, enabled: bool) -> dict[str, Any]:
        """EnableTrustAnchor, DisableTrustAnchor and the like."""
        resource = self.find(call)
        resource.enabled, resource.updated_at = enabled, call.now
        return self.document(resource)


def not_found(kind: str, identifier: str) -> RefusalError:
    """Return the refusal of an ID or ARN that names no resource."""
    name = {"trust-anchor": "Trust anchor", "crl": "CRL"}.get(kind, kind.capitalize())
    return RefusalError("ResourceNotFoundException", 404, f"{name} {identifier} not found")


def base_detail(resource: Resource) -> dict[str, Any]:
    """Return the members that the documents of all resources with aliases have."""
    alias = {"aliasName": resource.alias, "aliasArn": resource.alias_arn} if resource.alias else {}
    return {
        "name": resource.name,
        "createdAt": timestamp(resource.created_at),
        "updatedAt": timestamp(resource.updated_at),
        **alias,
    }


def timestamp(moment: datetime) -> str:
    """Return a time as the service writes it, with microseconds."""
    return moment.isoformat(timespec="microseconds")


def merged_tags(tags: Mapping[str, str], more: list[dict[str, str]]) -> dict[str, str]:
    """Return tags with more of them."""
    added = {tag["key"]: tag["value"] for tag in more}
    if len(added) < len(more):
        raise invalid("A tag key is given twice")
    if any(key.lower().startswith("aws:") for key in added):
        raise invalid("Tag keys that begin with aws: are reserved")
    merged = {**tags, **added}
    if len(merged) > 50:
        raise RefusalError("TooManyTagsException", 400, "A resource may have at most 50 tags")
    return merged


def _make_token(arn: str, kind: str) -> str:
    return base64.urlsafe_b64encode(f"{kind} {arn}".encode()).decode()


def _read_token(token: str, kind: str) -> str:
    try:
        found, _, arn = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii").partition(" ")
    except (binascii.Error, ValueError):
        found, arn = "", ""
    if found != kind or not arn:
        raise invalid("nextToken is not one that this operation returned")
    return arn
