"""Who a Pod is, by its service-account token."""

from __future__ import annotations

from typing import NamedTuple, Protocol


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


class TokenVerifier(Protocol):
    """Tells whose a token is: by TokenReview, or by the cluster's keys. May be called from several threads."""

    def __call__(self, token: str) -> PodIdentity:
        """Return the Pod of a token, which is of a token's form. May take seconds.

        Raises:
            HTTPRefusal: 401 if the token is not valid here; 503 if that can't be found out.
        """
