"""What verifies tokens, as the endpoint uses it."""

from __future__ import annotations

import asyncio

from hwsigner._serving.peer import Peer
from hwsigner._serving.pods.token import PodIdentity
from hwsigner._serving.pods.verification import Verification, VerificationSettings
from hwsigner._serving.responses import HTTPRefusal
from serving.pods.api_server import ISSUER, ApiServer

REVIEW = VerificationSettings(("hwsigner",), "node1", issuer=ISSUER)
KEYS = REVIEW._replace(verify="keys")

# A client that is a Pod of this node.
PEER = Peer(asyncio.BaseTransport({"peername": ("10.0.0.1", 1), "sockname": ("169.254.170.23", 80)}))

Answer = PodIdentity | HTTPRefusal


class Ticking:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pods:
    """A Verification, as the endpoint uses it, and what it logged."""

    def __init__(self, api: ApiServer, settings: VerificationSettings = REVIEW) -> None:
        self.log: list[str] = []
        self.verification = Verification(settings, self.log.append, environ=api.environ, folder=str(api.folder))

    async def ask(self, token: str | bytes, address: str = "10.0.0.1") -> Answer:
        """Return the Pod of a token, or the refusal."""
        try:
            found = self.verification.check(token if isinstance(token, bytes) else token.encode(), address)
            return found if isinstance(found, PodIdentity) else await found
        except HTTPRefusal as refusal:
            return refusal

    def get(self, token: str | bytes, address: str = "10.0.0.1") -> Answer:
        return asyncio.run(self.ask(token, address))

    def status(self, token: str | bytes, address: str = "10.0.0.1") -> int:
        """Return the status that a client gets: 200 for a Pod."""
        answer = self.get(token, address)
        return 200 if isinstance(answer, PodIdentity) else int(answer.status)
