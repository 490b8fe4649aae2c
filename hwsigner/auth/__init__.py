"""AWS signatures for `requests`: `requests.get(url, auth=SigV4Auth(credentials, region, service))`.

`SigV4Auth` signs with credentials, `SigV4X509Auth` with an identity. Each is a `requests.auth.AuthBase`, for one
request or as the `auth` of a session, and is thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

try:
    from requests import PreparedRequest
except ImportError as error:
    raise ImportError("hwsigner.auth needs requests; install hwsigner with its extra requests") from error

from hwsigner.auth.base import RequestAuth, X509Context
from hwsigner.auth.url import INVALID_URL, wire_url
from hwsigner.errors import UsageError
from hwsigner.sigv4 import SERVICE, Request, credential_scope, timestamp
from hwsigner.sigv4.access_key import AccessKey, SigningContext, is_s3, presign_request, signing_context

if TYPE_CHECKING:
    from hwsigner._identity import Identity

__all__ = ["SigV4Auth", "SigV4X509Auth"]

_Access = tuple[str, str, str]
_NO_CONTEXT = (None, 0, None)


class SigV4Auth(RequestAuth):
    """Signs requests with an access key (AWS4-HMAC-SHA256).

    Each region and service needs its own object.

    Attributes:
        credentials: the credentials to sign with, or a callable that returns them.
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
        """Sign for one service in one region.

        Args:
            credentials: `hwsigner.Credentials`, or a callable that returns them and is called for every request.
            region: as in the name of the service's endpoint.
            service: the service's name in credential scopes, such as `s3`, `dynamodb` or `execute-api`.
            also_sign: names of headers to sign besides Host, Content-Type, Content-MD5 and X-Amz-…; `*` stands for all
                except those that change on the way, such as User-Agent and Connection.
            unsigned_payload: do not sign bodies, as S3 allows over https.
            clock: returns the seconds since 1970.

        Raises:
            UsageError: a header to sign changes on the way; the region or service is empty or invalid; the credentials
                are something else.
        """
        if not callable(credentials) and not hasattr(credentials, "access_key_id"):
            problem = f"the credentials are of type {type(credentials).__name__}"
            raise UsageError(problem, "Pass Credentials, or a provider such as hwsigner.Provider.from_profile(NAME)")
        super().__init__(region, service, also_sign, s3=is_s3(service), unsigned_payload=unsigned_payload)
        self.credentials = credentials
        self._clock = clock
        self._last_context: tuple[_Access | None, int, SigningContext | None] = _NO_CONTEXT

    def _context(self) -> SigningContext:
        """Return what to sign with now."""
        key = self.credentials() if callable(self.credentials) else self.credentials
        # Compare the values, not the objects: credentials may be refreshed in place.
        access = key.access_key_id, key.secret_access_key, key.session_token
        second = int(self._clock())
        last_access, last_second, context = self._last_context
        if context is None or last_second != second or last_access != access:
            context = self._new_context(key, access, second)
            # The tuple is replaced as a whole, so threads need no lock.
            self._last_context = access, second, context
        return context

    def _new_context(self, access_key: AccessKey, access: _Access, second: int) -> SigningContext:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        last_access, _, context = self._last_context
        known = context if last_access and last_access[:2] == access[:2] else None
        try:
            return signing_context(access_key, stamp, region=self.region, service=self.service, known=known)
        except ValueError as error:
            raise UsageError(f"the credentials can't sign: {error}", "Check where the credentials come from") from None

    def presign(self, method: str, url: str, *, expires: int = 3600, headers: Mapping[str, str] | None = None) -> str:
        """Return a presigned URL, for clients without credentials.

        If the credentials that signed it expire earlier than `expires`, so does the URL.

        Args:
            method: the method that the client must use.
            url: the URL, as `requests` takes it.
            expires: the lifetime in seconds, an `int` from 1 to 604800.
            headers: headers that the client must send besides Host, with the same values.

        Raises:
            UsageError: `expires` is out of range, or a part of the request can't be signed.
            HwsignerError: raised by the credentials' callable.
        """
        access_key = self.credentials() if callable(self.credentials) else self.credentials
        _, target, server = wire_url(_prepared(url), self._s3)
        path, _, query = target.partition("?")
        try:
            parameters = tuple(parse_qsl(query, keep_blank_values=True, errors="strict"))
            request = Request(method.upper(), path, parameters, (("Host", server.host), *(headers or {}).items()))
            now = datetime.fromtimestamp(self._clock(), UTC)
            signed = presign_request(
                request, access_key, region=self.region, service=self.service, now=now, expires=expires
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"the URL can't be signed: {error}", "Check its path, query and headers") from None
        return server.origin + signed.target

    def _settings(self) -> tuple[object, ...]:
        return self.credentials, self.region, self.service, self._signs.also_sign, self._unsigned_payload

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last_context": _NO_CONTEXT}


def _prepared(url: str) -> str:
    prepared = PreparedRequest()
    try:
        prepared.prepare_url(url, None)
    except ValueError:  # The message would quote the URL, which may contain a password.
        raise UsageError(*INVALID_URL) from None
    return prepared.url or ""


class SigV4X509Auth(RequestAuth):
    """Signs requests with a certificate's key (SigV4-X509), for IAM Roles Anywhere.

    Each region and service needs its own object.

    Attributes:
        identity: the identity to sign with.
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
        """Sign for one region. The identity must stay open while this object is used.

        Args:
            identity: see `hwsigner.open_identity`.
            region: as in the name of the service's endpoint.
            service: the service's name in credential scopes.
            also_sign: as for `SigV4Auth`.
            clock: returns the seconds since 1970.

        Raises:
            UsageError: a header to sign changes on the way; the region or service is empty or invalid.
        """
        super().__init__(region, service, also_sign, s3=False, unsigned_payload=False)
        self.identity = identity
        self._clock = clock

    def _context(self) -> X509Context:
        """Return what to sign with now."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        chain = self.identity.chain
        scope = credential_scope(now, self.region, self.service)
        headers = [("X-Amz-Date", timestamp(now)), ("X-Amz-X509", chain.x509_header)]
        if chain.chain_header:
            headers.append(("X-Amz-X509-Chain", chain.chain_header))
        signed = tuple([(name.lower(), value) for name, value in headers])
        return X509Context((chain.algorithm, timestamp(now), scope), tuple(headers), signed, self.identity)

    def _settings(self) -> tuple[object, ...]:
        return self.identity, self.region, self.service, self._signs.also_sign
