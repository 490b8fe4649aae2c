"""Who a Pod is, by its service-account token."""

from __future__ import annotations

from typing import NamedTuple


class PodIdentity(NamedTuple):
    """What a valid token says: the names and the UID are the API server's.

    Attributes:
        namespace: the namespace of Pod and service account.
        service_account: the service account's name.
        pod: the Pod's name.
        pod_uid: the Pod's UID: another Pod may get the same name later.
        node: the name of the Pod's node.
        expiration: when the token expires, in seconds since 1970.
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
