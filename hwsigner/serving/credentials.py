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
from typing import Protocol

from hwsigner.aws.credentials import Credentials, Reply
from hwsigner.errors import AuditError, HwsignerError, HwsignerWarning
from hwsigner.serving.peer import Peer
from hwsigner.serving.responses import JSON, Refusal, Response, response

CONTAINER = "container"
IMDS = "imds"

# How long a request waits for its credentials: longer than SDKs do.
WAIT_SECONDS = 10.0
# How often the source is asked whether its credentials are still good.
LOOK_SECONDS = 0.1

_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Source(Protocol):
    """Where the credentials of a profile come from: a provider of this process, or an agent."""

    def read(self, name: str) -> Reply | None:
        """Return the credentials in a format at once, or None if `reply` must be called."""
        ...

    def reply(self, name: str) -> Reply:
        """Return the credentials in a format. May take long; raises a HwsignerError."""
        ...


# Takes an access key ID and the client that is about to get its credentials. Raises an AuditError if it must not.
Give = Callable[[str, Peer], None]


class CachedCredentials:
    """The responses with a source's credentials.

    Args:
        source: gives the credentials.
        format: the name of their format, for the source.
        profile: the profile's name, for refusals.
        give: called for each response.
    """

    def __init__(self, source: Source, format: str, profile: str, give: Give | None = None) -> None:
        self._source = source
        self._format = format
        self._profile = profile
        self._reply: Reply | None = None
        self._response = response(b"", JSON)
        self._give = give
        self._access_key_id = ""
        self._look_again = 0.0
        self._fetch: asyncio.Future[Reply | Refusal] | None = None

    def respond(self, peer: Peer) -> Response | Awaitable[Response]:
        """Return the response for a client, or what waits for it; all that wait cause one call of the source.

        Raises:
            Refusal: 503, perhaps later: the source failed or took too long, or an audit line can't be written.
        """
        now = time.monotonic()
        if now < self._look_again:
            return self._given(peer)
        reply = self._source.read(self._format)
        if reply is None:
            return self._wait(peer)
        self._look_again = now + LOOK_SECONDS
        self._render(reply)
        return self._given(peer)

    async def _wait(self, peer: Peer) -> Response:
        if self._fetch is None or self._fetch.done():
            self._fetch = _in_thread(self._ask)
        fetch = self._fetch  # When it is done, another request may already have begun the next.
        await asyncio.wait([fetch], timeout=WAIT_SECONDS)
        result = fetch.result() if fetch.done() else self._refusal(f"none came within {WAIT_SECONDS:g} s")
        if isinstance(result, Refusal):
            raise result
        self._render(result)
        return self._given(peer)

    def _render(self, reply: Reply) -> None:
        if reply is not self._reply:
            self._reply, self._response = reply, response(bytes(reply), JSON)
            self._access_key_id = json.loads(bytes(reply))["AccessKeyId"] if self._give else ""

    def _given(self, peer: Peer) -> Response:
        if self._give:
            try:
                self._give(self._access_key_id, peer)
            except AuditError as error:
                raise self._refusal(str(error)) from None
        return self._response

    def _refusal(self, reason: str) -> Refusal:
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"no credentials for {self._profile}: {reason}")

    def _ask(self) -> Reply | Refusal:
        """Return the credentials, or a refusal instead of an exception, whose frames may hold a PIN."""
        try:
            return self._source.reply(self._format)
        except (HwsignerError, HwsignerWarning) as error:
            return self._refusal(str(error))
        except Exception as error:
            return self._refusal(f"internal error: {type(error).__name__}")


def _in_thread(call: Callable[[], Reply | Refusal]) -> asyncio.Future[Reply | Refusal]:
    """Call a function in a thread for which the program does not wait at its end: a token or network may hang."""
    future: concurrent.futures.Future[Reply | Refusal] = concurrent.futures.Future()
    threading.Thread(target=lambda: future.set_result(call()), name="hwsigner-fetch", daemon=True).start()
    return asyncio.wrap_future(future)


def container_json(credentials: Credentials) -> bytes:
    """Return the JSON of the container endpoint (ECS and EKS)."""
    return json.dumps({**_keys(credentials), "RoleArn": credentials.role_arn}).encode()


def imds_json(credentials: Credentials) -> bytes:
    """Return the JSON of IMDS, `/latest/meta-data/iam/security-credentials/ROLE`."""
    head = {"Code": "Success", "LastUpdated": datetime.now(UTC).strftime(_TIME), "Type": "AWS-HMAC"}
    return json.dumps({**head, **_keys(credentials)}).encode()


FORMATS = {CONTAINER: container_json, IMDS: imds_json}


def _keys(credentials: Credentials) -> dict[str, str]:
    return {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "Expiration": credentials.expiration.strftime(_TIME),
    }
