"""A signed request that `requests` may redirect.

To follow a redirect, `requests` copies the request and sets the copy's URL, method and body, then its cookies and, if
`~/.netrc` names the host, another Authorization. It does not ask for a new signature, so signed requests have a class
of their own that signs the copy.
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
    """An object that signs requests."""

    def sign(self, request: SignedPreparedRequest, payload: str | None = None) -> None:
        """Sign a request. `payload` is the hash of its body or the keyword that replaces it."""


Signature = tuple[Signs | None, str, str, bool]
"""How a request was signed: by which object (None after `copy` or `pickle`), for which origin (see
`hwsigner.auth.url.Server`), with which payload hash or keyword, and whether signing set X-Amz-Content-SHA256. A plain
tuple, because every signature creates one."""


class SignedPreparedRequest(PreparedRequest):
    """A request that is signed again if redirected within its origin, and otherwise loses its AWS headers."""

    signature: Signature | None = None
    _redirected = False

    def copy(self) -> SignedPreparedRequest:
        """Return a copy with the same signature."""
        copied = SignedPreparedRequest()
        copied.__dict__.update(super().copy().__dict__)
        copied.signature = self.signature
        return copied

    def prepare_headers(self, headers: Any) -> None:
        """Replace all headers and drop the signature."""
        self.signature = None
        self._redirected = False
        super().prepare_headers(headers)

    def prepare_cookies(self, cookies: Any) -> None:
        """Set the cookies of a redirected request and sign it. By then, `requests` has set all that is signed.

        A body that was sent already and can't be read again is an UnrewindableBodyError.
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
        """Set another authentication, but never replace a signature with an entry of `~/.netrc`."""
        if self.signature is None or not self._redirected or not isinstance(auth, tuple):
            super().prepare_auth(auth, url)

    def _require_body(self) -> None:
        """Refuse to sign if the body is gone: an empty or partial body would be sent under a valid signature."""
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
        # The object that signed it may contain a secret or a lock.
        _, origin, payload, own_hash = self.signature
        return {**self.__dict__, "signature": (None, origin, payload, own_hash)}


def _origin(url: str | None) -> str:
    try:
        return wire_url(url or "", s3=False)[2].origin
    except UsageError:
        return ""  # No request can be sent there; `requests` reports it.
