"""Credentials as the endpoints' clients read them: finished bytes, made once for each session."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from hwsigner.aws.credentials import Credentials
from hwsigner.errors import HwsignerError, HwsignerWarning
from hwsigner.serving.responses import JSON, Answer, Refusal, answer

if TYPE_CHECKING:
    from hwsigner.refresh.background import Reply

# What a request waits for its credentials: longer than SDKs do.
WAIT_SECONDS = 10.0
# Within it the source is asked once, however many requests come.
LOOK_SECONDS = 0.1


class Source(Protocol):
    """Where the credentials of a profile come from: a BackgroundProvider, or an agent that has one."""

    def read(self, name: str) -> Reply | None:
        """Return the finished reply of a format at once, or None where `reply` is to be called."""
        ...

    def reply(self, name: str) -> Reply:
        """Return the finished reply of a format; may take long, and raises a HwsignerError."""
        ...


class Replies:
    """The answers with a source's credentials.

    Args:
        source: gives the credentials.
        format: the name of the format, for the source.
        profile: the profile's name, for refusals.
        clock: tells seconds.
    """

    def __init__(
        self, source: Source, format: str, profile: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._format = format
        self._profile = profile
        self._clock = clock
        self._reply: Reply | None = None
        self._last = answer(b"", JSON)
        self._read_again = 0.0
        self._fetch: asyncio.Future[Reply | _Failure] | None = None

    def now(self) -> Answer | None:
        """Return the answer if there is one without a wait."""
        now = self._clock()
        if now < self._read_again:
            return self._last
        reply = self._source.read(self._format)
        if reply is None:
            return None
        self._read_again = now + LOOK_SECONDS
        return self._answer(reply)

    async def wait(self) -> Answer:
        """Return the answer once there is one; all who wait cause one call of the source.

        Raises:
            Refusal: 503; the source failed or took too long, or the server ends.
        """
        if self._fetch is None or self._fetch.done():
            self._fetch = _in_thread(self._ask)
        fetch = self._fetch  # By the time that it is done, another request may have begun the next.
        try:
            await asyncio.wait([fetch], timeout=WAIT_SECONDS)
        except asyncio.CancelledError:
            raise self._refusal("the server is being stopped") from None
        result = fetch.result() if fetch.done() else _Failure(f"none came within {WAIT_SECONDS:g} s")
        if isinstance(result, _Failure):
            raise self._refusal(result.reason)
        return self._answer(result)

    def _answer(self, reply: Reply) -> Answer:
        if reply is not self._reply:
            self._reply, self._last = reply, answer(bytes(reply), JSON)
        return self._last

    def _refusal(self, reason: str) -> Refusal:
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"no credentials for {self._profile}: {reason}")

    def _ask(self) -> Reply | _Failure:
        """Return the reply or why there is none: an exception would keep frames, which may hold a PIN."""
        try:
            return self._source.reply(self._format)
        except (HwsignerError, HwsignerWarning) as error:
            return _Failure(str(error))
        except Exception as error:
            return _Failure(f"internal error: {type(error).__name__}")


@dataclass(frozen=True)
class _Failure:
    """Why there is no reply."""

    reason: str


def _in_thread(call: Callable[[], Reply | _Failure]) -> asyncio.Future[Reply | _Failure]:
    """Call something in a thread that nobody waits for when the program ends: it may hang in a token or a network."""
    future: concurrent.futures.Future[Reply | _Failure] = concurrent.futures.Future()
    threading.Thread(target=lambda: future.set_result(call()), name="hwsigner-fetch", daemon=True).start()
    return asyncio.wrap_future(future)


CONTAINER = "container"
IMDS = "imds"

_TIME = "%Y-%m-%dT%H:%M:%SZ"


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
