"""The API server of the cluster, as a Pod reaches it: by its own service account.

As in client-go, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT name the server. Unlike client-go, hwsigner uses no
proxy from the environment: proxies are there to reach AWS, and the API server has an address of the cluster.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus

from hwsigner._http.address import Endpoint, parse_host
from hwsigner._http.connection import Deadline
from hwsigner._http.kept import KeptConnections
from hwsigner._http.tls import TrustedCAs, make_settings
from hwsigner._http.transport import Response
from hwsigner._serving.pods.refusals import unverifiable
from hwsigner._serving.pods.token import shown
from hwsigner._system.reloading import ReloadedFile, read_file
from hwsigner.errors import ConfigError, HwsignerError, ServiceUnreachableError

FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
# For connection, request and response together.
SECONDS = 5.0
# The longest time without requests if the API server asks for a pause.
_MAX_PAUSE_SECONDS = 30.0
# X509_V_ERR_… of OpenSSL's strict checks, from PATHLEN_INVALID_FOR_NON_CA to EXTENSIONS_REQUIRE_VERSION_3.
_STRICT_ERRORS = range(80, 95)
# What the Pod's service account needs for each kind of request.
_ROLES = {"POST": "system:auth-delegator", "GET": "system:service-account-issuer-discovery"}


class Cluster:
    """The API server. Thread-safe.

    `report` takes an error if the Pod's own token is replaced by a bad one, in any thread. `allow_incomplete_ca` says
    whether the CA may lack key usage and key identifiers. `folder` has the cluster's CA and the Pod's token.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        report: Callable[[HwsignerError], None],
        *,
        allow_incomplete_ca: bool = False,
        folder: str = FOLDER,
    ) -> None:
        self._connections = KeptConnections(_endpoint(environ))
        self._cas = TrustedCAs(f"{folder}/ca.crt", file=f"{folder}/ca.crt")
        self._is_strict = not allow_incomplete_ca
        self._token = ReloadedFile(f"{folder}/token", _read_own_token, report)
        self._pause_end = 0.0
        make_settings(self._cas, strict=self._is_strict)  # Reports a missing file.

    def request(self, method: str, path: str, accept: str, body: bytes = b"") -> Response:
        """Send a request and return its response, whatever its status but those below. It may be sent twice.

        If there is no response, or the API server refuses this Pod's own token (401), denies it the request (403) or
        has too many (429), this is a VerifierRefusal of status 503.
        """
        pause = self._pause_end - time.monotonic()
        if pause > 0:
            raise unverifiable("the API server asked to wait", pause, cause="busy")
        headers = [("Authorization", f"Bearer {self._token.content()}"), ("Accept", accept)]
        if body:
            headers.append(("Content-Type", "application/json"))
        deadline = Deadline(SECONDS, "the time for the API server")
        try:
            tls = make_settings(self._cas, strict=self._is_strict)
            response = self._connections.request(method, path, headers, body, tls=tls, deadline=deadline)
        except (ConfigError, ServiceUnreachableError) as error:
            raise unverifiable(self._failure(error), cause="unreachable") from None
        self._check(response, _ROLES[method])
        return response

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def _failure(self, error: HwsignerError) -> str:
        """Return the line for the log if there is no response."""
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            if self._is_strict and cause.verify_code in _STRICT_ERRORS:
                return f"{error.message}. Set allow-incomplete-ca = true to accept such a CA, as kubectl does"
            return f"{error.message}. Check {self._cas.name}, and KUBERNETES_SERVICE_HOST"
        return error.message

    def _check(self, response: Response, role: str) -> None:
        """Raise the refusal for a response that is about hwsigner's own token or rate, not about a Pod's token."""
        if response.status == HTTPStatus.UNAUTHORIZED:
            problem = f"the API server refuses the token of hwsigner serve itself ({described(response)})"
            raise unverifiable(problem, cause="own-token")
        if response.status == HTTPStatus.FORBIDDEN:
            hint = f"bind the service account of hwsigner serve to the ClusterRole {role}"
            raise unverifiable(f"the API server denies the request: {hint} ({described(response)})", cause="forbidden")
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            pause = min(max(response.retry_after(datetime.now(UTC)), 1.0), _MAX_PAUSE_SECONDS)
            self._pause_end = time.monotonic() + pause
            raise unverifiable(f"the API server has too many requests ({described(response)})", pause, cause="busy")


def described(response: Response) -> str:
    """Return the status and the message of an error response, for the log."""
    message = response.json_object().get("message")
    return f"{response.status}: {shown(message)}" if isinstance(message, str) else f"{response.status}"


def _endpoint(environ: Mapping[str, str]) -> Endpoint:
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise HwsignerError(
            "KUBERNETES_SERVICE_HOST is not set, so this is not a Pod", "Run it in a Pod of the cluster"
        )
    try:
        name, number = parse_host(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ValueError:
        problem = f"KUBERNETES_SERVICE_HOST {host!r} and KUBERNETES_SERVICE_PORT {port!r} are not a host and a port"
        raise HwsignerError(problem, "Leave them as Kubernetes sets them") from None
    return Endpoint("https", name, number or 443, "")


def _read_own_token(path: str) -> str:
    hint = "Mount a token for the API server there, as the volume api of pods.yaml does, and run as root"
    token = read_file(path, hint=hint).strip()
    if not token or not token.isascii() or not token.decode().isprintable() or b" " in token:
        raise ConfigError(f"{path} does not contain a token", hint)
    return token.decode()
