"""A signed request that `requests` may redirect.

To follow a redirect `requests` copies the request, gives the copy its URL, method and body, then its cookies and, where
`~/.netrc` names the host, another Authorization. It does not ask for a signature again, so a signed request is of a
class that notices.
"""

from __future__ import annotations

from typing import Any, Protocol

from requests import PreparedRequest
from requests.exceptions import UnrewindableBodyError

from hwsigner.auth.payload import is_buffer
from hwsigner.auth.url import wire_url
from hwsigner.errors import UsageError
from hwsigner.sigv4.access_key import CONTENT_HASH


class Signs(Protocol):
    """What signs a request."""

    def sign(self, request: SignedPreparedRequest, payload: str | None = None) -> None:
        """Sign a request; `payload` stands for the hash of its body."""
        ...


Signature = tuple[Signs | None, str, str, bool]
"""How a request was signed: by whom, which None in a copy of `copy` or `pickle` has forgotten; for which origin (see
`hwsigner.auth.url.Server`); what stood for the hash of its body; and whether X-Amz-Content-SHA256 is of the signature's
making, if it is there. A plain tuple, as one is made for each signature."""


class SignedPreparedRequest(PreparedRequest):
    """A request that is signed anew when it is redirected within its origin, and loses what AWS needs elsewhere."""

    signature: Signature | None = None
    _redirected = False

    def copy(self) -> SignedPreparedRequest:
        """Return a copy, signed as this is."""
        copied = SignedPreparedRequest()
        copied.__dict__.update(super().copy().__dict__)
        copied.signature = self.signature
        return copied

    def prepare_headers(self, headers: Any) -> None:
        """Set all headers anew; with them goes the signature."""
        self.signature = None
        self._redirected = False
        super().prepare_headers(headers)

    def prepare_cookies(self, cookies: Any) -> None:
        """Set the cookies of a redirected request and sign it, as all else that is signed is in its place then.

        Raises:
            UnrewindableBodyError: the redirected request has a body that was sent already and can't be read again.
            HwsignerError: as signing raises it.
        """
        super().prepare_cookies(cookies)
        if self.signature is None:
            return
        auth, origin, payload, _ = self.signature
        self._redirected = True
        if auth is None or _origin(self.url) != origin:
            self._strip()
        elif self.body is None:
            self.headers.pop(CONTENT_HASH, None)
            auth.sign(self)
        else:
            self._require_body()
            auth.sign(self, payload)

    def prepare_auth(self, auth: Any, url: Any = "") -> None:
        """Set another authentication, but no entry of `~/.netrc` in the place of a signature."""
        if self.signature is None or not self._redirected or not isinstance(auth, tuple):
            super().prepare_auth(auth, url)

    def _require_body(self) -> None:
        """Refuse to sign for a body that is gone: nothing, or half of it, would be sent under a good signature."""
        position = getattr(self, "_body_position", None)  # Where `requests` sets a stream back to.
        if not (is_buffer(self.body) or isinstance(position, int)):
            raise UnrewindableBodyError("The body was sent already and can't be read again for the redirect.")

    def _strip(self) -> None:
        self.signature = None
        for name in [name for name in self.headers if name.lower().startswith("x-amz-")]:
            del self.headers[name]
        self.headers.pop("Authorization", None)

    def __getstate__(self) -> dict[str, Any]:
        if self.signature is None:
            return self.__dict__
        # Whoever signed it may hold a secret, or a lock.
        _, origin, payload, own_hash = self.signature
        return {**self.__dict__, "signature": (None, origin, payload, own_hash)}


def _origin(url: str | None) -> str:
    try:
        return wire_url(url or "", s3=False)[2].origin
    except UsageError:
        return ""  # Where no request can go; `requests` says so.
