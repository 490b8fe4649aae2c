"""AWS signatures for `requests`: `requests.get(url, auth=SigV4Auth(credentials, region, service))`.

`SigV4Auth` signs with credentials, `SigV4X509Auth` with an identity. Each is a `requests.auth.AuthBase`, for one
request or as the `auth` of a session, and safe to use from several threads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

try:
    from requests import PreparedRequest
except ImportError as error:
    raise ImportError("hwsigner.auth needs requests: pip install 'hwsigner[requests]' brings it") from error

from hwsigner.auth.base import RequestAuth
from hwsigner.auth.url import wire_url
from hwsigner.errors import UsageError
from hwsigner.sigv4 import SERVICE, Request, authorization_header, canonical, credential_scope, timestamp
from hwsigner.sigv4.access_key import (
    AccessKey,
    Signed,
    SigningContext,
    is_s3,
    presign_request,
    signing_context,
)

if TYPE_CHECKING:
    from hwsigner.identity import Identity

__all__ = ["SigV4Auth", "SigV4X509Auth"]

_Access = tuple[str, str, str]
_NOTHING = (None, 0, None)
# What separates the parts of a credential scope, and the parts of an Authorization header, is in no name.
_is_name = re.compile(r"[!-+.0-~-]+").fullmatch


class SigV4Auth(RequestAuth):
    """Signs with an access key (AWS4-HMAC-SHA256).

    For another region or service make another one.

    Attributes:
        credentials: what signs, or a callable that returns it.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes.
    """

    def __init__(
        self,
        credentials: AccessKey | Callable[[], AccessKey],
        region: str,
        service: str,
        *,
        also_sign: Iterable[str] = (),
        unsigned_payload: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sign for one service of one region.

        Args:
            credentials: `hwsigner.Credentials`, or a callable that returns them and is asked for every request.
            region: as in the name of the service's endpoint.
            service: the service's name in credential scopes, as `s3`, `dynamodb` or `execute-api`.
            also_sign: names of headers to sign beside Host, Content-Type, Content-MD5 and X-Amz-…; `*` stands for all
                but those that change on the way, as User-Agent and Connection.
            unsigned_payload: leave bodies out of the signature, as S3 allows over https.
            clock: seconds since 1970.

        Raises:
            UsageError: a header to sign that changes on the way; a region or service that is empty or no name.
        """
        _require_scope(region, service)
        super().__init__(also_sign, s3=is_s3(service), unsigned_payload=unsigned_payload)
        self.credentials = credentials
        self.region = region
        self.service = service
        self._clock = clock
        self._known: tuple[_Access | None, int, SigningContext | None] = _NOTHING

    def context(self) -> SigningContext:
        """Return what to sign with now.

        Raises:
            UsageError: credentials with characters that no header can hold.
            HwsignerError: as the credentials' callable raises it.
        """
        key = self.credentials() if callable(self.credentials) else self.credentials
        # Not by the object: credentials may be refreshed in place.
        access = key.access_key_id, key.secret_access_key, key.session_token
        second = int(self._clock())
        known_access, known_second, context = self._known
        if context is None or known_second != second or known_access != access:
            context = self._renewed(key, access, second)
            # One tuple that is replaced as a whole: threads need no lock.
            self._known = access, second, context
        return context

    def presign(self, method: str, url: str, *, expires: int = 3600, headers: Mapping[str, str] | None = None) -> str:
        """Return a URL that bears its signature, for somebody who has no credentials.

        It ends with the credentials that signed it, if that is earlier than `expires` says.

        Args:
            method: the one method that it is good for.
            url: the URL, as `requests` takes it.
            expires: seconds from now, from 1 to 604800, an `int`.
            headers: what the request must bear beside Host, each header with the same value.

        Raises:
            UsageError: `expires` is out of range, or a part of the request can't be signed.
            HwsignerError: as the credentials' callable raises it.
        """
        access_key = self.credentials() if callable(self.credentials) else self.credentials
        _, target, server = wire_url(_prepared(url), self._s3)
        path, _, query = target.partition("?")
        try:
            request = Request(
                method.upper(),
                path,
                tuple(parse_qsl(query, keep_blank_values=True, errors="strict")),
                (("Host", server.host), *(headers or {}).items()),
            )
            signed = presign_request(
                request,
                access_key,
                region=self.region,
                service=self.service,
                now=datetime.fromtimestamp(self._clock(), UTC),
                expires=expires,
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"a URL that can't be signed: {error}", "Look at its parts") from None
        return server.origin + signed.request.target

    def _renewed(self, access_key: AccessKey, access: _Access, second: int) -> SigningContext:
        """Return the context of another second or access key."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        known_access, _, context = self._known
        known = context if known_access and known_access[:2] == access[:2] else None
        try:
            return signing_context(access_key, stamp, region=self.region, service=self.service, known=known)
        except ValueError as error:
            raise UsageError(f"credentials that can't sign: {error}", "Look where they come from") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigV4Auth) and self._settings() == other._settings()

    def _settings(self) -> tuple[object, ...]:
        return self.credentials, self.region, self.service, self._signs.others, self._unsigned_payload

    def __repr__(self) -> str:
        return f"{type(self).__name__}(region={self.region!r}, service={self.service!r})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_known": _NOTHING}


def _require_scope(region: object, service: object) -> None:
    for what, name, example in (("region", region, "eu-west-1"), ("service", service, "s3")):
        if not (isinstance(name, str) and _is_name(name)):
            raise UsageError(f"{name!r} is no name of a {what}", f"Give it as in credential scopes, as {example}")


def _prepared(url: str) -> str:
    prepared = PreparedRequest()
    try:
        prepared.prepare_url(url, None)
    except ValueError:  # Those of `requests` quote the URL, which may hold a password.
        raise UsageError("a text that is no URL", "Give it as https://HOST/PATH") from None
    return prepared.url or ""


class SigV4X509Auth(RequestAuth):
    """Signs with a certificate's key (SigV4-X509), as IAM Roles Anywhere takes it.

    For another region or service make another one.

    Attributes:
        identity: what signs.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes.
    """

    def __init__(
        self,
        identity: Identity,
        region: str,
        *,
        service: str = SERVICE,
        also_sign: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sign for one region; the identity stays open as long as this is used.

        Args:
            identity: see `hwsigner.open_identity`.
            region: as in the name of the service's endpoint.
            service: the service's name in credential scopes.
            also_sign: as for `SigV4Auth`.
            clock: seconds since 1970.

        Raises:
            UsageError: a header to sign that changes on the way; a region or service that is empty or no name.
        """
        _require_scope(region, service)
        super().__init__(also_sign, s3=False, unsigned_payload=False)
        self.identity = identity
        self.region = region
        self.service = service
        self._clock = clock

    def context(self) -> _X509Context:
        """Return what to sign with now."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        chain = self.identity.chain
        scope = credential_scope(now, self.region, self.service)
        headers = [("X-Amz-Date", timestamp(now)), ("X-Amz-X509", chain.x509_header)]
        if chain.chain_header:
            headers.append(("X-Amz-X509-Chain", chain.chain_header))
        signed = tuple([(name.lower(), value) for name, value in headers])
        return _X509Context((chain.algorithm, timestamp(now), scope), tuple(headers), signed, self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigV4X509Auth) and self._settings() == other._settings()

    def _settings(self) -> tuple[object, ...]:
        return self.identity, self.region, self.service, self._signs.others

    def __repr__(self) -> str:
        return f"{type(self).__name__}(region={self.region!r}, service={self.service!r})"


class _X509Context(NamedTuple):
    context: tuple[str, str, str]
    headers: tuple[tuple[str, str], ...]
    signed: tuple[tuple[str, str], ...]
    identity: Identity

    def authorize(self, method: str, target: str, headers: Signed, payload: str) -> str:
        to_sign, names = canonical.request_to_sign(method, target, headers, payload, self.context)
        return authorization_header(
            self.identity.chain,
            self.context[2],
            signed_headers=names.decode("ascii"),
            signature=self.identity.sign(to_sign),
        )
