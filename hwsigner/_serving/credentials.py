"""The credentials of a profile as responses: in each endpoint's format, made once for each session."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple, Protocol, TypeVar

from hwsigner._aws.credentials import Credentials
from hwsigner._serving.peer import Peer
from hwsigner._serving.responses import JSON, HTTPRefusal, HTTPResponse, response
from hwsigner.errors import AuditError, HwsignerError, HwsignerWarning

# How long a request waits for its credentials: longer than SDKs do.
WAIT_SECONDS = 10.0
# How often the source is asked whether its credentials are still good.
LOOK_SECONDS = 0.1

_T = TypeVar("_T")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class CredentialSource(Protocol):
    """Where the credentials of a profile come from."""

    def at_once(self) -> Credentials | None:
        """Return live credentials, or None if a call may take long."""

    def __call__(self) -> Credentials:
        """Return live credentials. May take long; raises a HwsignerError."""


# What comes of asking a source.
Outcome = Credentials | HTTPRefusal
# Calls a function that may take long, in another thread.
Fetch = Callable[[Callable[[], Outcome]], Awaitable[Outcome]]
# Takes the credentials, and of the client that is about to get them the user, if it is known, and the address. Raises
# an AuditError if they must not be given.
Give = Callable[[Credentials, int | None, tuple[str, int]], None]


class _RenderedResponse(NamedTuple):
    """The response with a set of credentials. Made where they are rendered, so that both are of one session."""

    credentials: Credentials
    response: HTTPResponse


class CredentialResponses:
    """The responses with a source's credentials: rendered once for each set of them.

    `name` is whose the credentials are, for refusals. `fetch` calls the source, which may take long.
    """

    def __init__(
        self,
        source: CredentialSource,
        render: Callable[[Credentials], bytes],
        name: str,
        *,
        fetch: Fetch | None = None,
    ) -> None:
        self._source = source
        self._render = render
        self._name = name
        self._call = fetch or in_thread
        self._last: _RenderedResponse | None = None
        self._next_look = 0.0
        self._fetch: asyncio.Future[Outcome] | None = None

    def respond(self, peer: Peer, give: Give | None = None) -> HTTPResponse | Awaitable[HTTPResponse]:
        """Return the response for a client, or what waits for it; all that wait cause one call of the source.

        `give` is called before the client gets credentials. A refusal comes now or when awaited.
        """
        now = time.monotonic()
        if self._last and now < self._next_look:
            return self._given(self._last, peer, give)
        credentials = self._source.at_once()
        if credentials is None:
            return self._wait(peer, give)
        self._next_look = now + LOOK_SECONDS
        return self._given(self._rendered(credentials), peer, give)

    @property
    def is_fetching(self) -> bool:
        """Whether the source is being called."""
        return self._fetch is not None and not self._fetch.done()

    async def _wait(self, peer: Peer, give: Give | None) -> HTTPResponse:
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.ensure_future(self._call(self._ask))
        fetch = self._fetch  # When it is done, another request may already have begun the next.
        await asyncio.wait([fetch], timeout=WAIT_SECONDS)
        result = fetch.result() if fetch.done() else self._refusal(f"none came within {WAIT_SECONDS:g} s")
        if isinstance(result, HTTPRefusal):
            raise result
        return self._given(self._rendered(result), peer, give)

    def _rendered(self, credentials: Credentials) -> _RenderedResponse:
        if self._last is None or self._last.credentials is not credentials:
            self._last = _RenderedResponse(credentials, response(self._render(credentials), JSON))
        return self._last

    def _given(self, rendered: _RenderedResponse, peer: Peer, give: Give | None) -> HTTPResponse:
        if give:
            try:
                give(rendered.credentials, _uid(peer), peer.client)
            except AuditError as error:
                raise self._refusal(str(error)) from None
        return rendered.response

    def _refusal(self, reason: str) -> HTTPRefusal:
        return HTTPRefusal(HTTPStatus.SERVICE_UNAVAILABLE, f"no credentials for {self._name}: {reason}")

    def _ask(self) -> Outcome:
        """Return the credentials, or a refusal instead of an exception, whose frames may hold a PIN."""
        try:
            return self._source()
        except (HwsignerError, HwsignerWarning) as error:
            return self._refusal(str(error))
        except Exception as error:
            return self._refusal(f"internal error: {type(error).__name__}")


def _uid(peer: Peer) -> int | None:
    try:
        return peer.uid if peer.is_local else None
    except OSError:
        return None


def in_thread(call: Callable[[], _T]) -> asyncio.Future[_T]:
    """Call a function in a thread for which the program does not wait at its end: a token or network may hang.

    It must not raise an exception.
    """
    future: concurrent.futures.Future[_T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()  # At the server's end it must not be cancelled: the thread will set a result.
    try:
        threading.Thread(target=lambda: future.set_result(call()), name="hwsigner-fetch", daemon=True).start()
    except RuntimeError:
        raise HTTPRefusal(HTTPStatus.SERVICE_UNAVAILABLE, "the system allows no more threads now") from None
    return asyncio.wrap_future(future)


def container_json(credentials: Credentials) -> bytes:
    """Return the JSON of the container endpoint (ECS and EKS)."""
    return json.dumps({**_keys(credentials), "RoleArn": credentials.role_arn}).encode()


def pod_json(credentials: Credentials) -> bytes:
    """Return the JSON of the EKS Pod Identity Agent."""
    return json.dumps({**_keys(credentials), "AccountId": credentials.role_arn.split(":")[4]}).encode()


def imds_json(credentials: Credentials) -> bytes:
    """Return the JSON of IMDS, `/latest/meta-data/iam/security-credentials/ROLE`."""
    head = {"Code": "Success", "LastUpdated": datetime.now(UTC).strftime(_TIME), "Type": "AWS-HMAC"}
    return json.dumps({**head, **_keys(credentials)}).encode()


def _keys(credentials: Credentials) -> dict[str, str]:
    return {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "Expiration": credentials.expiration.strftime(_TIME),
    }
