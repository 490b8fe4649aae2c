"""A client of the API server, without any of hwsigner's code: it makes what the tests need, and records."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HEADERS = ("Content-Type", "Cache-Control", "Retry-After")


class Answer(NamedTuple):
    """An answer of the API server: its status, those of its headers that matter to clients, and its body."""

    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class API:
    """The API server as its administrator and others see it.

    Attributes:
        port: its port on 127.0.0.1.
        folder: has `ca.crt`, and `admin.crt` and `admin.key` or those of other users.
    """

    port: int
    folder: Path

    def ask(
        self, method: str, path: str, body: Any = None, *, user: str = "admin", token: str | None = None, **headers: str
    ) -> Answer:
        """Return the answer to a request with a user's certificate, or instead with a token; "": with neither."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        if token is None:
            context.load_cert_chain(self.folder / f"{user}.crt", self.folder / f"{user}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        sent = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            found = {name: value for name in HEADERS if (value := response.getheader(name)) is not None}
            return Answer(response.status, found, response.read().decode())
        finally:
            connection.close()

    def make(self, document: dict[str, Any]) -> dict[str, Any]:
        """Make an object, and return it as the server has it."""
        answer = self.ask("POST", _collection(document), document)
        assert answer.status == 201, answer.body
        return dict(answer.json())

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object at once."""
        path = f"/api/v1/namespaces/{namespace}/{kind}/{name}"
        answer = self.ask("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
        assert answer.status == 200, answer.body

    def make_account(self, account: str) -> None:
        """Make a service account, `namespace/name`."""
        namespace, name = account.split("/")
        metadata = {"name": name, "namespace": namespace}
        self.make({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})

    def make_pod(self, pod: str, account: str, *, node: str | None = "node1", **metadata: Any) -> dict[str, Any]:
        """Make a Pod, `namespace/name`, whose volume has a token for hwsigner."""
        namespace, name = pod.split("/")
        source = {"serviceAccountToken": {"audience": "hwsigner", "expirationSeconds": 600, "path": "token"}}
        spec: dict[str, Any] = {
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "app", "image": "app", "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
            "volumes": [{"name": "t", "projected": {"sources": [source]}}],
        }
        if node:
            spec["nodeName"] = node
        metadata = {"name": name, "namespace": namespace, **metadata}
        return self.make({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def token(
        self, account: str, *audiences: str, seconds: int = 3600, kind: str = "Pod", bound_to: str | None = None
    ) -> str:
        """Return a token of a service account, bound to a Pod or another object if one is named."""
        namespace, name = account.split("/")
        spec: dict[str, Any] = {"audiences": list(audiences), "expirationSeconds": seconds}
        if bound_to:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": kind, "name": bound_to}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = self.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)
        assert answer.status == 201, answer.body
        return str(answer.json()["status"]["token"])

    def review(self, token: str, audiences: list[str], *, by: str | None) -> Answer:
        """Return the answer to a TokenReview by the owner of a token."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        }
        return self.ask("POST", REVIEWS, body, token=by)


REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_PLURALS = {"NetworkPolicy": "networkpolicies", "MutatingAdmissionPolicy": "mutatingadmissionpolicies"}


def _collection(document: dict[str, Any]) -> str:
    """Return the path at which an object like this is made."""
    version, kind = document["apiVersion"], document["kind"]
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    namespace = document["metadata"].get("namespace")
    inside = f"namespaces/{namespace}/" if namespace else ""
    return f"/{'apis' if '/' in version else 'api'}/{version}/{inside}{plural}"
