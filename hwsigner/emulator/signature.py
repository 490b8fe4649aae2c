"""What a request says about its signature, in the Authorization header or in the query of a presigned URL.

Every service of the emulator uses this: CreateSession with its asymmetric algorithms, the others with HMAC.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from hwsigner.emulator.canonical import S3_SERVICES, query_pairs
from hwsigner.emulator.wire import Request

MAX_SKEW = timedelta(minutes=5)
MAX_EXPIRES = 604800
_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_EXPIRES = re.compile(r"[1-9][0-9]{0,5}")
_SERVICE = re.compile(r"/([^/,\s]+)/aws4_request", re.ASCII)
_FIELDS = ("Credential", "SignedHeaders", "Signature")
_PARAMETERS = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
_TOKEN = "Security-Token"  # noqa: S105 - the parameter's name
_NAMES = {f"X-Amz-{name}".encode(): name for name in (*_PARAMETERS, _TOKEN)}


class SignatureFlaw(Enum):
    """What is wrong with a signed request. Each family of services has its own error code for each flaw."""

    UNSIGNED = auto()
    FORM = auto()
    TWO_FORMS = auto()
    ALGORITHM = auto()
    KEY_ID = auto()
    NO_TOKEN = auto()
    TOKEN = auto()
    EXPIRED_TOKEN = auto()
    SCOPE = auto()
    DATE = auto()
    CLOCK = auto()
    URL_EXPIRED = auto()
    URL_TOO_EARLY = auto()
    HEADERS = auto()
    SIGNATURE = auto()
    NO_PAYLOAD_HASH = auto()
    PAYLOAD_WORD = auto()
    PAYLOAD = auto()
    NOT_IMPLEMENTED = auto()


class SignatureError(Exception):
    """A signature that is wrong or can't be checked, and why. Whatever reads or checks one may raise it."""

    def __init__(self, reason: str, flaw: SignatureFlaw = SignatureFlaw.FORM) -> None:
        self.flaw = flaw
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Authorization:
    """The parts of a signature, from the header or from the query."""

    algorithm: str
    key_name: str  # The first part of Credential: a serial number or an access key ID.
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: bytes
    time: str  # The text of X-Amz-Date, and the session token: empty unless given exactly once.
    session_token: str = field(repr=False)
    expires: int | None = None  # The lifetime of a presigned URL in seconds; None if the signature is in the header.

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"

    @property
    def presigned(self) -> bool:
        """Whether the signature is in the query."""
        return self.expires is not None

    @property
    def s3(self) -> bool:
        """Whether S3's rules of canonicalisation apply."""
        return self.service in S3_SERVICES


def is_presigned(request: Request) -> bool:
    """Return whether the query has a parameter of a presigned URL."""
    return any(name in _NAMES for name, _ in query_pairs(request.query))


def claimed_service(request: Request) -> str:
    """Return the service that the credential scope names, even if the rest is wrong, or an empty string."""
    credentials = [value for name, value in query_pairs(request.query) if name == b"X-Amz-Credential"]
    texts = [*request.values("authorization"), *(value.decode("latin-1") for value in credentials)]
    return next((found[1] for found in map(_SERVICE.search, texts) if found), "")


def read_authorization(request: Request) -> Authorization:
    """Parse the signature in the header or in the query."""
    if not is_presigned(request):
        if not request.values("authorization"):
            raise SignatureError("the request is not signed", SignatureFlaw.UNSIGNED)
        return parse_authorization(request)
    if request.values("authorization"):
        raise SignatureError("signed both in the Authorization header and in the query", SignatureFlaw.TWO_FORMS)
    if request.values("x-amz-security-token"):
        raise SignatureError(
            "a presigned URL has its session token in the query, not in a header", SignatureFlaw.TWO_FORMS
        )
    return _parse_query(request)


def parse_authorization(request: Request) -> Authorization:
    """Parse `ALGORITHM Credential=…, SignedHeaders=…, Signature=…`."""
    algorithm, _, rest = (request.value("authorization") or "").partition(" ")
    pairs = [part.strip(" ").partition("=") for part in rest.split(",")]
    fields = {name: value for name, _, value in pairs}
    if len(pairs) != len(_FIELDS) or set(fields) != set(_FIELDS):
        raise SignatureError("Authorization is not ALGORITHM Credential=…, SignedHeaders=…, Signature=…, given once")
    time, token = request.value("x-amz-date") or "", request.value("x-amz-security-token") or ""
    return _authorization({**fields, "Algorithm": algorithm, "Date": time, _TOKEN: token})


def _parse_query(request: Request) -> Authorization:
    pairs = query_pairs(request.query, plus_is_space=claimed_service(request) in S3_SERVICES)
    found = [(_NAMES[name], value.decode("latin-1")) for name, value in pairs if name in _NAMES]
    fields = dict(found)
    missing = [f"X-Amz-{name}" for name in _PARAMETERS if name not in fields]
    if missing:
        raise SignatureError(f"the query lacks {', '.join(missing)}")
    if len(found) > len(fields):
        raise SignatureError("the query has a parameter of the signature twice")
    if not _EXPIRES.fullmatch(fields["Expires"]) or int(fields["Expires"]) > MAX_EXPIRES:
        raise SignatureError(f"X-Amz-Expires is not a number of seconds from 1 to {MAX_EXPIRES}")
    return _authorization({_TOKEN: "", **fields}, int(fields["Expires"]))


def _authorization(fields: dict[str, str], expires: int | None = None) -> Authorization:
    credential = fields["Credential"].split("/")
    if len(credential) != 5 or credential[4] != "aws4_request" or not all(credential):
        raise SignatureError("Credential is not NAME/YYYYMMDD/REGION/SERVICE/aws4_request")
    if not _HEX.fullmatch(fields["Signature"]):
        raise SignatureError("Signature is not lower-case hexadecimal")
    key_name, date, region, service, _ = credential
    return Authorization(
        algorithm=fields["Algorithm"],
        key_name=key_name,
        date=date,
        region=region,
        service=service,
        signed_headers=tuple(fields["SignedHeaders"].split(";")),
        signature=bytes.fromhex(fields["Signature"]),
        time=fields["Date"],
        session_token=fields[_TOKEN],
        expires=expires,
    )


def check_signed_headers(request: Request, names: tuple[str, ...], required: set[str]) -> list[str]:
    """Check the form of SignedHeaders, and return the required and X-Amz-* headers that it omits."""
    if list(names) != sorted(set(names)):
        raise SignatureError("SignedHeaders is not sorted, or repeats a name", SignatureFlaw.SCOPE)
    sent = {name.lower() for name, _ in request.headers}
    for name in names:
        if name != name.lower():
            raise SignatureError("SignedHeaders is not lower-case", SignatureFlaw.SCOPE)
        if name not in sent:
            raise SignatureError(f"SignedHeaders names {name}, which was not sent", SignatureFlaw.SCOPE)
    required = required | {name for name in sent if name.startswith("x-amz-")}
    return sorted(required - set(names))


def check_time(authorization: Authorization, now: datetime, skew: timedelta = MAX_SKEW) -> None:
    """Check X-Amz-Date: its form, its match with the scope's date, and its age.

    It may be off by the skew at most. That of a presigned URL may be older, until the URL expires.
    """
    text = authorization.time
    try:
        sent = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        sent = None
    if sent is None or not _DATE.fullmatch(text):
        raise SignatureError("X-Amz-Date is not one YYYYMMDDTHHMMSSZ", SignatureFlaw.DATE)
    if text[:8] != authorization.date:
        raise SignatureError(
            f"the scope's date {authorization.date} is not that of X-Amz-Date {text}", SignatureFlaw.SCOPE
        )
    if sent > now + skew:
        latest = f"{now + skew:%Y%m%dT%H%M%SZ} ({now:%Y%m%dT%H%M%SZ} + {skew.seconds // 60} min.)"
        flaw = SignatureFlaw.URL_TOO_EARLY if authorization.presigned else SignatureFlaw.CLOCK
        raise SignatureError(f"Signature not yet current: {text} is still later than {latest}", flaw)
    if authorization.expires is not None:
        end = sent + timedelta(seconds=authorization.expires)
        if end < now:
            raise SignatureError(
                f"Signature expired: the URL expired at {end:%Y%m%dT%H%M%SZ}", SignatureFlaw.URL_EXPIRED
            )
    elif sent < now - skew:
        earliest = f"{now - skew:%Y%m%dT%H%M%SZ} ({now:%Y%m%dT%H%M%SZ} - {skew.seconds // 60} min.)"
        raise SignatureError(f"Signature expired: {text} is now earlier than {earliest}", SignatureFlaw.CLOCK)


def string_to_sign(canonical: bytes, authorization: Authorization) -> bytes:
    """Return the string to sign: four lines, the last of which is the hash of the canonical request."""
    digest = hashlib.sha256(canonical).hexdigest()
    lines = (authorization.algorithm, authorization.time, authorization.scope, digest)
    return "\n".join(lines).encode("latin-1")
