"""`GET /v1/credentials`, the one path of the EKS Pod Identity Agent: from a Pod's token to its credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from hwsigner._aws.credentials import Credentials
from hwsigner._serving.admission import AUTHORIZATION
from hwsigner._serving.peer import Peer
from hwsigner._serving.pods.sessions import PodRules, Sessions
from hwsigner._serving.pods.token import PodIdentity
from hwsigner._serving.responses import Headers, HTTPRefusal, HTTPResponse

PATH = "/v1/credentials"
# Those of EKS, which its SDKs accept without TLS: they lead to the node itself.
ADDRESSES = ("169.254.170.23", "fd00:ec2::23")
# The longest time to a response: boto3 waits 2 s, and asks 3 times. The work goes on, so the next request may find it.
ANSWER_SECONDS = 1.7

# Takes the Pod that is about to get credentials, its profile's name, and its address and port. Raises an AuditError if
# it must not get them.
GiveToPod = Callable[[PodIdentity, str, Credentials, tuple[str, int]], None]


class PodEndpoint:
    """The endpoint. For one thread: that of the event loop.

    `rules` returns the rules as they are now. `file` is the policy's path, for the refusal of an account that it does
    not name. `give` is called for each response with credentials.
    """

    def __init__(self, rules: Callable[[], PodRules], *, file: str, give: GiveToPod | None = None) -> None:
        self._rules = rules
        self._file = file
        self._give = give
        self._sessions = Sessions(rules)

    def respond(self, headers: Headers, peer: Peer) -> HTTPResponse | Awaitable[HTTPResponse]:
        """Return the response for a request, or what waits for it.

        A refusal comes now or when awaited: as `Verification.check`, 403 for an account that the policy does not name,
        503 without credentials, also if there are none in time.
        """
        found = self._rules().check(headers.get(AUTHORIZATION, b""), peer.client[0])
        if isinstance(found, PodIdentity):
            response = self._response(found, peer)
            return response if isinstance(response, HTTPResponse) else _in_time(response)
        return _in_time(self._wait(found, peer))

    async def _wait(self, found: Awaitable[PodIdentity], peer: Peer) -> HTTPResponse:
        response = self._response(await found, peer)
        return response if isinstance(response, HTTPResponse) else await response

    def _response(self, pod: PodIdentity, peer: Peer) -> HTTPResponse | Awaitable[HTTPResponse]:
        """Return the response for a Pod by the rules as they are now, or what waits for it."""
        rules = self._rules()
        found = rules.profile(pod.namespace, pod.service_account)
        if found is None:
            problem = f"the service account {pod.account} has no profile"
            fix = f'add "{pod.account}" = "PROFILE" below [accounts] in {self._file}'
            raise HTTPRefusal(HTTPStatus.FORBIDDEN, f"{problem}: {fix}")
        name, profile = found
        responses = self._sessions.responses(pod, profile, is_per_pod=rules.policy.session_per_pod)
        give = self._give
        if give is None:
            return responses.respond(peer)
        return responses.respond(peer, lambda credentials, _, address: give(pod, name, credentials, address))


async def _in_time(response: Awaitable[HTTPResponse]) -> HTTPResponse:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await response
    except TimeoutError:
        reason = "the credentials are not there yet, as the API server, the key or AWS is slow: ask again"
        raise HTTPRefusal(HTTPStatus.SERVICE_UNAVAILABLE, reason, {b"retry-after": b"1"}) from None
