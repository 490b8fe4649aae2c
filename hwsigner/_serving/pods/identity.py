"""Who a Pod is, by its service-account token."""

from __future__ import annotations

from typing import NamedTuple


class PodIdentity(NamedTuple):
    """What a valid token says: the names and the UID are the API server's.

    Another Pod may get the same name later, but not the UID. `expiration` is in seconds since 1970.
    """

    namespace: str
    service_account: str
    pod: str
    pod_uid: str
    node: str
    expiration: float

    @property
    def account(self) -> str:
        """The service account as in the policy: `namespace/serviceaccount`."""
        return f"{self.namespace}/{self.service_account}"
