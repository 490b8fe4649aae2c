"""The ASGI application: from a request to the answer, with a line in the log for each refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

from hwsigner.http.address import host_and_port
from hwsigner.serving import credentials as formats
from hwsigner.serving.admission import Admission, Scope
from hwsigner.serving.container import Container, container_path
from hwsigner.serving.credentials import Replies, Source
from hwsigner.serving.imds import FOLDER, IMDS, ROLES_PATH, TOKEN_PATH, SessionTokens
from hwsigner.serving.known import CONNECTION, Known
from hwsigner.serving.peer import Owners
from hwsigner.serving.responses import Admitted, Answer, Headers, Refusal

Admit = Callable[[Headers, Scope], Admitted]

_METHODS = ("GET", "PUT")
_SHOWN = 200


class Route(NamedTuple):
    """What a path answers to.

    Attributes:
        method: by which method.
        admit: looks a request over, and returns what answers it.
    """

    method: str
    admit: Admit


@dataclass(frozen=True)
class Served:
    """A profile that the container endpoint serves.

    Attributes:
        name: its name.
        token: what its clients send.
        source: its credentials.
    """

    name: str
    token: bytes
    source: Source


class Application:
    """Answers the requests of both endpoints.

    Args:
        profiles: what the container endpoint serves.
        names: what clients may call the server, besides its address.
        log: takes a line for each refusal; the line may hold what a client sent.
    """

    def __init__(self, profiles: Iterable[Served], *, names: Iterable[str], log: Callable[[str], None]) -> None:
        self._admission = Admission(names)
        self._log = log
        self._imds: IMDS | None = None
        self._routes: dict[str, Route] = {}
        for profile in profiles:
            container = Container(Replies(profile.source, formats.CONTAINER, profile.name), profile.token)
            self._routes[unquote(container_path(profile.name))] = Route("GET", container.admit)

    def add_imds(self, role: str, profile: Served, users: Iterable[int], owners: Owners | None = None) -> None:
        """Serve IMDSv2 as well.

        Args:
            role: the role's name.
            profile: gives its credentials, and the secret that IMDS tokens are made with.
            users: the uids whose processes may have tokens.
            owners: says whose a connection is; by default by the kernel's tables.
        """
        replies, tokens = Replies(profile.source, formats.IMDS, role), SessionTokens(profile.token)
        self._imds = imds = IMDS(role, replies, users=users, owners=owners or Owners(), tokens=tokens)
        roles = Route("GET", imds.admit_role)
        self._routes |= {
            TOKEN_PATH: Route("PUT", imds.admit_token),
            ROLES_PATH: roles,
            ROLES_PATH.rstrip("/"): roles,
            ROLES_PATH + role: Route("GET", imds.admit_credentials),
        }

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request: the ASGI application. A method, since a call of an instance costs more."""
        try:
            admitted = self._admit(scope)
            known: Known = scope["state"][CONNECTION]
            known.headers, known.now = scope["headers"], admitted.now
            start, body, _ = admitted.now() or await admitted.later()
        except Refusal as refusal:
            start, body, _ = self._refuse(scope, refusal)
        except Exception as error:
            # Not raised: the server would print a traceback, which may show a secret.
            reason = f"internal error: {type(error).__name__}"
            start, body, _ = self._refuse(scope, Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, reason))
        await send(start)
        await send(body)

    def _admit(self, scope: Scope) -> Admitted:
        headers = self._admission.headers(scope)
        route = self._routes.get(scope["path"])
        if route is None or scope["method"] != route.method:
            raise self._astray(headers, scope, route)
        return route.admit(headers, scope)

    def _astray(self, headers: Headers, scope: Scope, route: Route | None) -> Refusal:
        """Return the refusal of a request to a path that is none, or by a method that is not the path's."""
        allowed = [route.method] if route else _METHODS
        if scope["method"] not in allowed:
            return Refusal(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"the method is not {' or '.join(allowed)}",
                {b"allow": ", ".join(allowed).encode()},
            )
        if self._imds and scope["path"].startswith(FOLDER):
            self._imds.check(headers)
        return Refusal(HTTPStatus.NOT_FOUND, "there is nothing at this path")

    def _refuse(self, scope: Scope, refusal: Refusal) -> Answer:
        client = host_and_port(*scope["client"])
        asked = f"{scope['method']} {scope['path'][:_SHOWN]}"
        self._log(f"refused {client} {asked}: {int(refusal.status)}, {refusal.reason}")
        return refusal.answer()
