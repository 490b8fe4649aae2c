"""From a request to its response, for both endpoints, with a line in the log for each refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from urllib.parse import quote, unquote

from hwsigner._http.address import host_and_port
from hwsigner._serving.admission import AUTHORIZATION, HTTPRequest, Users, read_headers
from hwsigner._serving.credentials import CredentialResponses, CredentialSource, Give, container_json, imds_json
from hwsigner._serving.imds import FOLDER, IMDS, ROLES_PATH, TOKEN_PATH, SessionTokens
from hwsigner._serving.peer import Peer
from hwsigner._serving.responses import Headers, HTTPRefusal, HTTPResponse

# Gives the response to a request, at once or later; may raise an HTTPRefusal.
Handler = Callable[[Headers, Peer], HTTPResponse | Awaitable[HTTPResponse]]

_METHODS = ("GET", "PUT")
_SHOWN = 200


def container_path(profile: str) -> str:
    """Return the path of a profile's credentials at the container endpoint, percent-encoded."""
    return f"/credentials/{quote(profile, safe='')}"


class Application:
    """The endpoints.

    `names` are what clients may call the server, besides its address; None for anything. A line of `log` may contain
    what a client sent.
    """

    def __init__(self, names: Iterable[str] | None, log: Callable[[str], None]) -> None:
        self._hosts = None if names is None else {name.lower().encode() for name in names}
        self._log = log
        self._imds: IMDS | None = None
        self.sent: Counter[bytes] = Counter()  # How many responses were sent, by status.
        # By path: its one method, and what answers it.
        self._routes: dict[str, tuple[str, Handler]] = {}

    def add_container(
        self,
        name: str,
        source: CredentialSource,
        is_token: Callable[[bytes], bool],
        users: Users | None = None,
        give: Give | None = None,
    ) -> None:
        """Serve a profile's credentials at the container endpoint of ECS and EKS.

        `is_token` judges the whole value of `Authorization`. `users` may have them over loopback; None for any that
        have the token. `give` is called for each response with credentials.
        """
        credentials = CredentialResponses(source, container_json, name)

        def respond(headers: Headers, peer: Peer) -> HTTPResponse | Awaitable[HTTPResponse]:
            if not is_token(headers.get(AUTHORIZATION, b"")):
                raise HTTPRefusal(HTTPStatus.UNAUTHORIZED, "the Authorization header is not the token of this profile")
            if users and peer.is_local:
                users.check(peer, has_secret=True)
            return credentials.respond(peer, give)

        self._routes[unquote(container_path(name))] = "GET", respond

    def add_imds(
        self, role: str, source: CredentialSource, secret: bytes, users: Users, give: Give | None = None
    ) -> None:
        """Serve a role's credentials by IMDSv2.

        Tokens are made from `secret`; see `SessionTokens`. Only `users` may have tokens, and credentials with them.
        `give` is called for each response with credentials.
        """
        credentials = CredentialResponses(source, imds_json, role)
        self._imds = imds = IMDS(role, credentials, users=users, tokens=SessionTokens(secret), give=give)
        for end in ("", "/"):
            self._routes |= {
                TOKEN_PATH + end: ("PUT", imds.respond_token),
                ROLES_PATH + end: ("GET", imds.respond_role),
                f"{ROLES_PATH}/{role}{end}": ("GET", imds.respond_credentials),
            }

    def add(self, path: str, respond: Callable[[], HTTPResponse]) -> None:
        """Answer any client that gets a path."""
        self.add_handler(path, lambda headers, peer: respond())

    def add_handler(self, path: str, handler: Handler) -> None:
        """Answer clients that get a path."""
        self._routes[path] = "GET", handler

    def respond(self, request: HTTPRequest) -> HTTPResponse | Awaitable[HTTPResponse]:
        """Return the response, or what gives it later. Neither raises an exception."""
        try:
            headers = read_headers(request, self._hosts)
            method, handler = self._routes.get(request.path, ("", None))
            if handler is None or request.method != method:
                raise self._astray(headers, request, method)
            response = handler(headers, request.peer)
        except Exception as error:
            return self.refuse(error, request.peer, request)
        return response if isinstance(response, HTTPResponse) else self._wait(request, response)

    async def _wait(self, request: HTTPRequest, response: Awaitable[HTTPResponse]) -> HTTPResponse:
        try:
            return await response
        except Exception as error:
            return self.refuse(error, request.peer, request)

    def _astray(self, headers: Headers, request: HTTPRequest, method: str) -> HTTPRefusal:
        """Return the refusal of an unknown path, or of a method that the path does not have."""
        allowed = [method] if method else _METHODS
        if request.method not in allowed:
            reason = f"the method is not {' or '.join(allowed)}"
            return HTTPRefusal(HTTPStatus.METHOD_NOT_ALLOWED, reason, {b"allow": ", ".join(allowed).encode()})
        if self._imds and request.path.startswith(FOLDER):
            self._imds.check(headers, request.peer)
        return HTTPRefusal(HTTPStatus.NOT_FOUND, "there is nothing at this path")

    def refuse(self, error: Exception, peer: Peer, request: HTTPRequest | None = None) -> HTTPResponse:
        """Log a refusal and return its response. `request` is None if the client sent no valid request.

        Of an error that is not an HTTPRefusal only the class is shown, since its text may hold a secret.
        """
        if not isinstance(error, HTTPRefusal):
            error = HTTPRefusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"internal error: {type(error).__name__}")
        what = f" {request.method} {request.path[:_SHOWN]}" if request else ""
        self._log(f"refused {host_and_port(*peer.client)}{what}: {int(error.status)}, {error.reason}")
        return error.response()
