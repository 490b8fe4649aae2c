"""What trust anchors, profiles and CRLs have in common: most of their operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hwsigner.emulator.control.calls import Call
from hwsigner.emulator.resources import Crl, Profile, TrustAnchor
from hwsigner.emulator.world import World

_Resource = TypeVar("_Resource", TrustAnchor, Profile, Crl)


@dataclass(frozen=True)
class Kind(Generic[_Resource]):
    """A kind of resource that can be enabled."""

    name: str  # In ARNs, such as "trust-anchor".
    # The member of responses that has one resource, such as "trustAnchor". With "Id" it is the member of requests that
    # names one, and with "s" the member of responses that has a list.
    member: str
    resources: Callable[[World], dict[str, _Resource]]
    detail: Callable[[_Resource], dict[str, Any]]

    def add(self, call: Call, resource: _Resource) -> dict[str, Any]:
        """Add a new resource, and return the response about it."""
        self.resources(call.world)[resource.arn] = resource
        return self.document(resource)

    def find(self, call: Call) -> _Resource:
        """Return the resource that a request names."""
        return call.find(self.resources(call.world), self.name, call.members[f"{self.member}Id"])

    def document(self, resource: _Resource, more: dict[str, str] | None = None) -> dict[str, Any]:
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

    def enable(self, call: Call) -> dict[str, Any]:
        """EnableTrustAnchor, EnableProfile and EnableCrl."""
        return self._switch(call, enabled=True)

    def disable(self, call: Call) -> dict[str, Any]:
        """DisableTrustAnchor, DisableProfile and DisableCrl."""
        return self._switch(call, enabled=False)

    def _switch(self, call: Call, *, enabled: bool) -> dict[str, Any]:
        resource = self.find(call)
        resource.enabled, resource.updated_at = enabled, call.now
        return self.document(resource)
