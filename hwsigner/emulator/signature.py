"""The signed part of a request, rebuilt from the raw one: SigV4's canonical request and what belongs to it.

Both of the emulator's services use it: CreateSession with its asymmetric algorithms, STS with HMAC.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote_to_bytes

from hwsigner.emulator.wire import Request

MAX_SKEW = timedelta(minutes=5)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_FIELDS = ("Credential", "SignedHeaders", "Signature")


class SignatureError(Exception):
    """A request whose signature can't be checked, or is not what it must be; the text says why."""


@dataclass(frozen=True)
class Authorization:
    """The Authorization header's parts.

    Attributes:
        algorithm: such as "AWS4-X509-RSA-SHA256".
        key_name: the first part of Credential: a serial number or an access key id.
        date: the scope's date, YYYYMMDD.
        region: the scope's region.
        service: the scope's service.
        signed_headers: the names, in order.
        signature: the signature's bytes.
    """

    algorithm: str
    key_name: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: bytes

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def parse_authorization(request: Request) -> Authorization:
    """Parse `ALGORITHM Credential=…, SignedHeaders=…, Signature=…`.

    Raises:
        SignatureError: the header is missing, repeated or not of that form.
    """
    algorithm, _, rest = (request.value("authorization") or "").partition(" ")
    pairs = [part.strip(" ").partition("=") for part in rest.split(",")]
    fields = {name: value for name, _, value in pairs}
    if len(pairs) != len(_FIELDS) or set(fields) != set(_FIELDS):
        raise SignatureError("Authorization is not ALGORITHM Credential=…, SignedHeaders=…, Signature=…, given once")
    credential = fields["Credential"].split("/")
    if len(credential) != 5 or credential[4] != "aws4_request" or not all(credential):
        raise SignatureError("Credential is not NAME/YYYYMMDD/REGION/SERVICE/aws4_request")
    if not _HEX.fullmatch(fields["Signature"]):
        raise SignatureError("Signature is not lower-case hexadecimal")
    names = tuple(fields["SignedHeaders"].split(";"))
    key_name, date, region, service, _ = credential
    return Authorization(algorithm, key_name, date, region, service, names, bytes.fromhex(fields["Signature"]))


def check_signed_headers(request: Request, names: tuple[str, ...], required: set[str]) -> list[str]:
    """Check the form of SignedHeaders, and return the required and x-amz-* headers that it leaves out.

    Raises:
        SignatureError: a name is not lower-case, not in order, repeated, or of a header that was not sent.
    """
    if list(names) != sorted(set(names)):
        raise SignatureError("SignedHeaders is not sorted, or repeats a name")
    sent = {name.lower() for name, _ in request.headers}
    for name in names:
        if name != name.lower():
            raise SignatureError("SignedHeaders is not lower-case")
        if name not in sent:
            raise SignatureError(f"SignedHeaders names {name}, which was not sent")
    must = required | {name for name in sent if name.startswith("x-amz-")}
    return sorted(must - set(names))


def check_time(request: Request, scope_date: str, now: datetime) -> None:
    """Check X-Amz-Date: its form, the scope's date, and the clock within five minutes.

    Raises:
        SignatureError: any of them is wrong.
    """
    text = request.value("x-amz-date") or ""
    try:
        sent = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        sent = None
    if sent is None or not _DATE.fullmatch(text):
        raise SignatureError("X-Amz-Date is not one YYYYMMDDTHHMMSSZ")
    if text[:8] != scope_date:
        raise SignatureError(f"the scope's date {scope_date} is not that of X-Amz-Date {text}")
    if sent < now - MAX_SKEW:
        earliest = f"{now - MAX_SKEW:%Y%m%dT%H%M%SZ} ({now:%Y%m%dT%H%M%SZ} - 5 min.)"
        raise SignatureError(f"Signature expired: {text} is now earlier than {earliest}")
    if sent > now + MAX_SKEW:
        latest = f"{now + MAX_SKEW:%Y%m%dT%H%M%SZ} ({now:%Y%m%dT%H%M%SZ} + 5 min.)"
        raise SignatureError(f"Signature not yet current: {text} is still later than {latest}")


def string_to_sign(request: Request, authorization: Authorization) -> bytes:
    """Return the four lines that the signature must cover."""
    digest = hashlib.sha256(canonical_request(request, authorization.signed_headers)).hexdigest()
    date = request.value("x-amz-date") or ""
    return "\n".join((authorization.algorithm, date, authorization.scope, digest)).encode("latin-1")


def canonical_request(request: Request, signed_headers: tuple[str, ...]) -> bytes:
    """Return the canonical request of a raw request, with these headers signed."""
    lines = [request.method, canonical_path(request.path), canonical_query(request.query)]
    lines += [f"{name}:{_canonical_value(request.values(name))}" for name in signed_headers]
    lines += ["", ";".join(signed_headers), hashlib.sha256(request.body).hexdigest()]
    return "\n".join(lines).encode("latin-1")


def canonical_path(path: str) -> str:
    """Return a wire path without empty and dot segments, and with each segment encoded once more."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(_encode(segment.encode("latin-1")))
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def canonical_query(query: str) -> str:
    """Return a wire query decoded, encoded anew, and sorted by encoded name, then by encoded value."""
    pairs = sorted((_encode(name), _encode(value)) for name, value in query_pairs(query))
    return "&".join(f"{name}={value}" for name, value in pairs)


def query_pairs(query: str) -> list[tuple[bytes, bytes]]:
    """Return the decoded names and values of a wire query, in order; a plus sign stays one."""
    parts = (part.partition("=") for part in query.split("&") if part)
    return [(_decode(name), _decode(value)) for name, _, value in parts]


def _canonical_value(values: list[str]) -> str:
    return ",".join(re.sub("[ \t]+", " ", value).strip(" ") for value in values)


def _decode(text: str) -> bytes:
    return unquote_to_bytes(text.encode("latin-1"))


def _encode(raw: bytes) -> str:
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in raw)
