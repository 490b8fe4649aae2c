"""Signing a prepared request of `requests`, whatever the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from requests import PreparedRequest
from requests.auth import AuthBase

from hwsigner import canonical
from hwsigner.auth.payload import hash_body
from hwsigner.auth.redirect import SignedPreparedRequest
from hwsigner.auth.url import Server, wire_url
from hwsigner.errors import UsageError
from hwsigner.sigv4_hmac import CONTENT_HASH, EMPTY_PAYLOAD_HASH, UNSIGNED_PAYLOAD, SignedNames

_HASH = CONTENT_HASH.lower()


class Context(Protocol):
    """What a signature says beside the request."""

    @property
    def context(self) -> tuple[str, str, str]:
        """Algorithm, timestamp and credential scope."""
        ...

    @property
    def headers(self) -> Iterable[tuple[str, str]]:
        """The X-Amz-… headers to set."""
        ...

    @property
    def stale(self) -> frozenset[str]:
        """Headers, in lower case, that an earlier signature may have set and this one does not."""
        ...

    def authorization(self, signed_headers: bytes, string_to_sign: bytes) -> str:
        """Return the value of the Authorization header."""
        ...


class RequestAuth(AuthBase):
    """Signs prepared requests, each as it goes on the wire."""

    def __init__(self, also_sign: Iterable[str], *, s3: bool, unsigned_payload: bool) -> None:
        self._signs = SignedNames(also_sign)
        self._s3 = s3
        self._unsigned_payload = unsigned_payload
        self._no_body = UNSIGNED_PAYLOAD if unsigned_payload else EMPTY_PAYLOAD_HASH

    def context(self) -> Context:
        """Return what to sign with now."""
        raise NotImplementedError

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Sign a prepared request; one that is signed already is signed anew.

        Its URL becomes the one that is signed, of the same meaning, and a body that is text becomes bytes. A request of
        a class that is not `requests`' own keeps it, and its redirects are not looked after.

        Raises:
            UsageError: a part of the request can't be signed.
            HwsignerError: as the credentials' callable, or the identity, raises it.
        """
        if type(r) is PreparedRequest:
            r.__class__ = SignedPreparedRequest
        self.sign(r)  # type: ignore[arg-type]  # Or it is of a class of the caller's: without a signature at first.
        return r

    def sign(self, request: SignedPreparedRequest, payload: str | None = None) -> None:
        """Sign a prepared request; `payload` is what stands for its body's hash, where that is known."""
        context = self.context()
        request.url, target, server = wire_url(request.url or "", self._s3)
        headers, signs = request.headers, self._signs
        signed: dict[str, str | bytes] = {k: v for k, v in headers.lower_items() if signs[k]}
        if not context.stale.isdisjoint(signed):
            for name in context.stale & signed.keys():
                del headers[name], signed[name]
        for name, value in context.headers:
            headers[name] = signed[name.lower()] = value
        signed.setdefault("host", server.host)
        given = signed.get(_HASH)
        earlier = getattr(request, "signature", None)
        if own_hash := given is None or bool(earlier and earlier[3]):
            if payload is None:
                payload = self._payload(request, server) if request.body is not None else self._no_body
            if self._s3 or payload == UNSIGNED_PAYLOAD:
                headers[CONTENT_HASH] = signed[_HASH] = payload
            elif given is not None:
                del headers[CONTENT_HASH], signed[_HASH]
        else:
            payload = given if isinstance(given, str) else given.decode("latin-1")
        try:
            to_sign, signed_headers = canonical.request_to_sign(
                request.method or "", target, signed.items(), payload, context.context, self._s3
            )
        except ValueError as error:
            raise _refusal(signed, error) from None
        headers["Authorization"] = context.authorization(signed_headers, to_sign)
        request.signature = (self.sign, server.origin, payload, own_hash)

    def _payload(self, request: PreparedRequest, server: Server) -> str:
        if isinstance(request.body, str):
            request.body = request.body.encode()
            request.prepare_content_length(request.body)
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


def _refusal(signed: Mapping[str, str | bytes], error: ValueError) -> UsageError:
    for name, value in signed.items():
        if isinstance(value, str) and not value.isascii():
            return UsageError(
                f"the header {name} has characters outside ASCII",
                "Give its value as bytes, encoded as the service expects",
            )
    return UsageError(f"a request that can't be signed: {error}", "Look at its method, URL and headers")
