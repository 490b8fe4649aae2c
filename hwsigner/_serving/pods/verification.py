"""Whose a Pod's token is: the checks of a request's token, from its form to what the cluster says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Literal, NamedTuple

from hwsigner._serving.pods.identity import PodIdentity
from hwsigner._serving.responses import HTTPRefusal


class VerificationSettings(NamedTuple):
    """Which tokens are valid here.

    Attributes:
        audiences: the audiences, one of which a token must have.
        node: the name of this node, which must be the one of a token's Pod.
        verify: `review` to ask the API server, `keys` to use the cluster's keys.
        issuer: the issuer that a token must have; None for any, which `keys` does not allow.
        keys_file: the path of the cluster's keys (JWKS), for `keys`; None to get them from the API server.
        allow_incomplete_ca: whether the cluster's CA may lack key usage and key identifiers.
    """

    audiences: tuple[str, ...]
    node: str
    verify: Literal["review", "keys"] = "review"
    issuer: str | None = None
    keys_file: str | None = None
    allow_incomplete_ca: bool = False


class Verification:
    """Tells whose a request's token is. For one thread: that of the event loop.

    Args:
        settings: which tokens are valid.
        log: takes a line with what the API server said, which clients don't see.
        environ: the environment, which has the API server's address in a Pod.

    Raises:
        HwsignerError: the API server or the cluster's keys are not to be found, or a library is missing.
    """

    def __init__(
        self, settings: VerificationSettings, log: Callable[[str], None], *, environ: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._log = log
        self._environ = environ

    def configure(self, settings: VerificationSettings) -> None:
        """Use other settings from now on. What was found out by the former ones is forgotten.

        Raises:
            HwsignerError: as for the class; the former settings stay.
        """
        self._settings = settings

    def check(self, token: bytes, address: str) -> PodIdentity | Awaitable[PodIdentity]:
        """Return the Pod of a token, or what finds it out.

        Args:
            token: the whole value of `Authorization`.
            address: the client's IP address.

        Raises:
            HTTPRefusal: perhaps later. 401 if the token is not valid here; 403 if it is of no Pod of this node; 429
                if the client asks too much; 503 if it can't be found out.
        """
        raise HTTPRefusal(HTTPStatus.SERVICE_UNAVAILABLE, "tokens can't be verified")
