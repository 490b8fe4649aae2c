"""Signs prepared requests of `requests`, with either kind of key."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

from requests import PreparedRequest
from requests.auth import AuthBase

from hwsigner.auth.payload import hash_body
from hwsigner.auth.redirect import SignedPreparedRequest
from hwsigner.auth.url import Server, wire_url
from hwsigner.errors import UsageError
from hwsigner.sigv4 import access_key, authorization_header, canonical

if TYPE_CHECKING:
    from hwsigner._identity import Identity

_HASH = access_key.CONTENT_HASH.lower()
_NO_URL = "", "", Server("", "")
_WHITE_SPACE = " \t\v\f"
# Without the characters that separate the parts of a credential scope or of an Authorization header.
_is_name = re.compile(r"[!-+.0-~-]+").fullmatch


class X509Context(NamedTuple):
    """What the signatures of one identity share within one second, for one region and service."""

    context: tuple[str, str, str]
    headers: tuple[tuple[str, str], ...]
    signed: tuple[tuple[str, str], ...]
    identity: Identity

    def authorize(self, method: str, target: str, headers: access_key.Signed, payload: str) -> str:
        """Return the value of the Authorization header; see `SigningContext.authorize`."""
        to_sign, names = canonical.request_to_sign(method, target, headers, payload, self.context)
        chain, signature = self.identity.chain, self.identity.sign(to_sign)
        return authorization_header(chain, self.context[2], signed_headers=names.decode("ascii"), signature=signature)


class RequestAuth(AuthBase):
    """Signs prepared requests, each as it goes on the wire."""

    def __init__(
        self, region: str, service: str, also_sign: Iterable[str], *, s3: bool, unsigned_payload: bool
    ) -> None:
        names: tuple[tuple[str, object, str], ...] = (("region", region, "eu-west-1"), ("service", service, "s3"))
        for what, name, example in names:
            if not (isinstance(name, str) and _is_name(name)):
                raise UsageError(f"{name!r} is not a {what}", f"Give a name as in credential scopes, such as {example}")
        self.region = region
        self.service = service
        self._signs = access_key.SignedNames(also_sign)
        self._s3 = s3
        self._unsigned_payload = unsigned_payload
        self._last_url: tuple[str | None, tuple[str, str, Server]] = None, _NO_URL
        self._no_body = access_key.UNSIGNED_PAYLOAD if unsigned_payload else access_key.EMPTY_PAYLOAD_HASH

    def _context(self) -> access_key.SigningContext | X509Context:
        """Return what to sign with now."""
        raise NotImplementedError

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Sign a prepared request. The signature replaces an earlier one.

        The URL may change to an equivalent one, the one that is signed. A body of text becomes bytes. The request's
        class becomes one that handles redirects.

        Raises:
            UsageError: a part of the request can't be signed; or its class is not that of `requests`, so that redirects
                could send X-Amz-Security-Token elsewhere.
            HwsignerError: raised by the credentials' callable or by the identity.
            OSError: raised by the body while it is read.
        """
        if type(r) is PreparedRequest:
            r.__class__ = SignedPreparedRequest
        elif not isinstance(r, SignedPreparedRequest):
            problem = f"hwsigner can't control the redirects of a request of the class {type(r).__name__}"
            raise UsageError(problem, "Sign a requests.PreparedRequest")
        self.sign(r)  # type: ignore[arg-type]  # Its class was changed above.
        return r

    def sign(self, request: SignedPreparedRequest, payload: str | None = None) -> None:
        """Sign a prepared request. `payload` is the hash of its body or the keyword that replaces it, if known.

        Raises:
            UsageError: a part of the request can't be signed.
            HwsignerError, OSError: as `__call__`.
        """
        context = self._context()
        url = request.url or ""
        last, wire = self._last_url
        if url != last:
            wire = wire_url(url, self._s3)
            # Many services use one URL for everything. The tuple is replaced as a whole, so threads need no lock.
            self._last_url = wire[0], wire
        request.url, target, server = wire
        headers, signs = request.headers, self._signs
        own: dict[str, str | bytes] = {name: value for name, value in headers.lower_items() if signs[name]}
        own_hash = True
        if own:
            _remove_earlier(own, headers)
            own_hash, payload = _given_hash(own, request, payload)
        for name, value in context.headers:
            headers[name] = value
        own.setdefault("host", server.host)
        if request.body is not None:
            payload = self._payload(request, server, payload)
        elif payload is None:
            payload = self._no_body
        if own_hash and (self._s3 or payload == access_key.UNSIGNED_PAYLOAD):
            headers[access_key.CONTENT_HASH] = own[_HASH] = payload
        signed = (*own.items(), *context.signed)
        try:
            headers["Authorization"] = context.authorize(request.method or "", target, signed, payload)
        except (TypeError, ValueError) as error:
            raise _refusal(signed, error) from None
        request.signature = (self, server.origin, payload, own_hash)

    def _payload(self, request: PreparedRequest, server: Server, known: str | None) -> str:
        if isinstance(request.body, str):
            try:
                request.body = request.body.encode()
            except UnicodeEncodeError:
                raise UsageError("the body has surrogates, which can't be encoded in UTF-8", "Give bytes") from None
            request.prepare_content_length(request.body)
        if known is not None:
            return known
        hashed = None if self._unsigned_payload else hash_body(request.body)
        if hashed is not None:
            return hashed
        if not self._unsigned_payload and not self._s3:
            hint = f"Give bytes or a seekable file, or the body's SHA-256 in the header {access_key.CONTENT_HASH}"
            raise UsageError("the body can be read only once, so it can't be hashed before it is sent", hint)
        if not server.secure:
            hint = (
                f"Use https, give a body that can be read twice, or set the header {access_key.CONTENT_HASH} yourself"
            )
            raise UsageError("over plain http an attacker could change a body that is not signed", hint)
        return access_key.UNSIGNED_PAYLOAD

    def _settings(self) -> tuple[object, ...]:
        """Return what makes this object equal to another."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestAuth) and self._settings() == other._settings()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(region={self.region!r}, service={self.service!r})"


def _remove_earlier(own: dict[str, str | bytes], headers: MutableMapping[str, Any]) -> None:
    """Remove the headers that an earlier signature set."""
    for name in access_key.SET_BY_SIGNING & own.keys():
        del headers[name], own[name]


def _given_hash(
    own: dict[str, str | bytes], request: SignedPreparedRequest, payload: str | None
) -> tuple[bool, str | None]:
    """Return whether X-Amz-Content-SHA256 is ours to set, and the payload hash or keyword, if known."""
    given = own.get(_HASH)
    if given is None:
        return True, payload
    if isinstance(given, bytes):
        given = given.decode("latin-1")
    if isinstance(given, str):  # Anything else is refused later, with the other headers.
        given = given.strip(_WHITE_SPACE)
    # It comes from an earlier signature of ours, unless the caller has changed it since.
    is_ours = request.signature is not None and request.signature[2:] == (given, True)
    if given and not is_ours:
        return False, given
    del request.headers[access_key.CONTENT_HASH], own[_HASH]
    return True, payload


def _refusal(signed: access_key.Signed, error: Exception) -> UsageError:
    for name, value in signed:
        if isinstance(value, str) and not value.isascii():
            problem = f"the header {name} has characters outside ASCII"
            return UsageError(problem, "Give its value as bytes, encoded as the service expects")
    return UsageError(f"the request can't be signed: {error}", "Check its method, URL and headers")
