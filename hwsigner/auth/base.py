"""Signing a prepared request of `requests`, whatever the key."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any, Protocol

from requests import PreparedRequest
from requests.auth import AuthBase

from hwsigner.auth.payload import hash_body
from hwsigner.auth.redirect import SignedPreparedRequest
from hwsigner.auth.url import Server, wire_url
from hwsigner.errors import UsageError
from hwsigner.sigv4.access_key import (
    CONTENT_HASH,
    EMPTY_PAYLOAD_HASH,
    SET_BY_SIGNING,
    UNSIGNED_PAYLOAD,
    Signed,
    SignedNames,
)

_HASH = CONTENT_HASH.lower()
_NO_URL = "", "", Server("", "")
_WHITE_SPACE = " \t\v\f"


class Context(Protocol):
    """What a signature says beside the request."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The X-Amz-… headers to set."""
        ...

    @property
    def signed(self) -> tuple[tuple[str, str], ...]:
        """The same with their names in lower case."""
        ...

    def authorize(self, method: str, target: str, headers: Signed, payload: str) -> str:
        """Return the value of the Authorization header, by the rules of the service.

        Args:
            method: as on the wire.
            target: the path and query, as on the request line.
            headers: those to sign, their names in lower case.
            payload: the body's SHA-256 in hex, or the word in its place.

        Raises:
            ValueError: a part of the request can't go on the wire.
        """
        ...


class RequestAuth(AuthBase):
    """Signs prepared requests, each as it goes on the wire."""

    def __init__(self, also_sign: Iterable[str], *, s3: bool, unsigned_payload: bool) -> None:
        self._signs = SignedNames(also_sign)
        self._s3 = s3
        self._unsigned_payload = unsigned_payload
        self._last_url: tuple[str | None, tuple[str, str, Server]] = None, _NO_URL
        self._no_body = UNSIGNED_PAYLOAD if unsigned_payload else EMPTY_PAYLOAD_HASH

    def context(self) -> Context:
        """Return what to sign with now."""
        raise NotImplementedError

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Sign a prepared request; one that is signed already is signed anew.

        Its URL becomes the one that is signed, of the same meaning, and a body that is text becomes bytes. Its class
        becomes one that looks after redirects.

        Raises:
            UsageError: a part of the request can't be signed; or it is of a class that is not `requests`' own, whose
                redirects would carry X-Amz-Security-Token elsewhere.
            HwsignerError: as the credentials' callable, or the identity, raises it.
            OSError: as the body raises it while it is read.
        """
        if type(r) is PreparedRequest:
            r.__class__ = SignedPreparedRequest
        elif not isinstance(r, SignedPreparedRequest):
            raise UsageError(
                f"a request of the class {type(r).__name__}, whose redirects can't be looked after",
                "Sign a requests.PreparedRequest",
            )
        self.sign(r)  # type: ignore[arg-type]  # It is of that class now.
        return r

    def sign(self, request: SignedPreparedRequest, payload: str | None = None) -> None:
        """Sign a prepared request; `payload` is what stands for its body's hash, where that is known.

        Raises:
            UsageError: a part of the request can't be signed.
            HwsignerError, OSError: as `__call__`.
        """
        context = self.context()
        url = request.url or ""
        known, wire = self._last_url
        if url != known:
            wire = wire_url(url, self._s3)
            # One tuple that is replaced as a whole: threads need no lock. Many services have one URL for everything.
            self._last_url = wire[0], wire
        request.url, target, server = wire
        headers, signs = request.headers, self._signs
        own: dict[str, str | bytes] = {name: value for name, value in headers.lower_items() if signs[name]}
        own_hash = True
        if own:
            _forget_earlier(own, headers)
            own_hash, payload = _given_hash(own, request, payload)
        for name, value in context.headers:
            headers[name] = value
        own.setdefault("host", server.host)
        if request.body is not None:
            payload = self._payload(request, server, payload)
        elif payload is None:
            payload = self._no_body
        if own_hash and (self._s3 or payload == UNSIGNED_PAYLOAD):
            headers[CONTENT_HASH] = own[_HASH] = payload
        signed = (*own.items(), *context.signed)
        try:
            headers["Authorization"] = context.authorize(request.method or "", target, signed, payload)
        except (TypeError, ValueError) as error:
            raise _refusal(signed, error) from None
        request.signature = (self, server.origin, payload, own_hash)

    def _payload(self, request: PreparedRequest, server: Server, known: str | None) -> str:
        if isinstance(request.body, str):
            request.body = _encoded(request.body)
            request.prepare_content_length(request.body)
        if known is not None:
            return known
        if self._unsigned_payload:
            return _unsigned(server)
        hashed = hash_body(request.body)
        if hashed is None and self._s3:
            return _unsigned(server)
        if hashed is None:
            raise UsageError(
                "the body can be read only once, so it can't be hashed before it is sent",
                f"Give bytes or a file that can be rewound, or the body's SHA-256 in the header {CONTENT_HASH}",
            )
        return hashed


def _unsigned(server: Server) -> str:
    if not server.secure:
        raise UsageError(
            "over plain http anybody on the way can change a body that is not signed",
            f"Use https, give a body that can be read twice, or set the header {CONTENT_HASH} yourself",
        )
    return UNSIGNED_PAYLOAD


def _encoded(body: str) -> bytes:
    try:
        return body.encode()
    except UnicodeEncodeError:
        raise UsageError("the body's text has surrogates, for which UTF-8 has no bytes", "Give bytes") from None


def _forget_earlier(own: dict[str, str | bytes], headers: MutableMapping[str, Any]) -> None:
    """Take away what an earlier signature has set."""
    for name in SET_BY_SIGNING & own.keys():
        del headers[name], own[name]


def _given_hash(
    own: dict[str, str | bytes], request: SignedPreparedRequest, payload: str | None
) -> tuple[bool, str | None]:
    """Tell whether the hash in the headers is ours to set, and return what stands for the payload's, if it is known."""
    given = own.get(_HASH)
    if given is None:
        return True, payload
    if isinstance(given, bytes):
        given = given.decode("latin-1")
    if isinstance(given, str):  # What is no text is refused with the rest.
        given = given.strip(_WHITE_SPACE)
    # An earlier signature's, until somebody puts another in its place.
    is_ours = request.signature is not None and request.signature[2:] == (given, True)
    if given and not is_ours:
        return False, given
    del request.headers[CONTENT_HASH], own[_HASH]
    return True, payload


def _refusal(signed: Signed, error: Exception) -> UsageError:
    for name, value in signed:
        if isinstance(value, str) and not value.isascii():
            return UsageError(
                f"the header {name} has characters outside ASCII",
                "Give its value as bytes, encoded as the service expects",
            )
    return UsageError(f"a request that can't be signed: {error}", "Look at its method, URL and headers")
