"""A signed request that `requests` may redirect.

To follow a redirect `requests` copies the request, gives the copy its URL, method and body, then its cookies and, where
`~/.netrc` names the host, another Authorization. It does not ask for a signature again, so a signed request is of a
class that notices.
"""

from __future__ import annotations

from typing import Any, Protocol

from requests import PreparedRequest

from hwsigner.auth.url import wire_url
from hwsigner.sigv4_hmac import CONTENT_HASH


class Signs(Protocol):
    """What signs a request."""

    def sign(self, request: SignedPreparedRequest, payload: str | None = None) -> None:
        """Sign a request; `payload` stands for the hash of its body."""
        ...


Signature = tuple[Signs, str, str, bool]
"""How a request was signed: by whom; for which origin (see `hwsigner.auth.url.Server`); what stood for the hash of its
body; and whether X-Amz-Content-SHA256 is of the signature's making, if it is there. A plain tuple, as one is made for
each signature."""


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

    def prepare_cookies(self, cookies: Any) -> None:
        """Set the cookies of a redirected request and sign it, as all else that is signed is in its place then."""
        super().prepare_cookies(cookies)
        if self.signature is None:
            return
        auth, origin, payload, _ = self.signature
        self._redirected = True
        if wire_url(self.url or "", s3=False)[2].origin != origin:
            self._strip()
        elif self.body is None:
            self.headers.pop(CONTENT_HASH, None)
            auth.sign(self)
        else:
            auth.sign(self, payload)

    def prepare_auth(self, auth: Any, url: Any = "") -> None:
        """Set another authentication, but no entry of `~/.netrc` in the place of a signature."""
        if self.signature is None or not self._redirected or not isinstance(auth, tuple):
            super().prepare_auth(auth, url)

    def _strip(self) -> None:
        self.signature = None
        for name in [name for name in self.headers if name.lower().startswith("x-amz-")]:
            del self.headers[name]
        self.headers.pop("Authorization", None)

    def __getstate__(self) -> dict[str, Any]:
        # Whoever signed it may hold a secret, or a lock.
        return {name: value for name, value in self.__dict__.items() if name != "signature"}
