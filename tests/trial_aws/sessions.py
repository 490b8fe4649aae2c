"""CreateSession with any part of the request as a question wants it, and what came back."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner._http.address import Endpoint
from hwsigner._http.transport import Response, parse_date
from hwsigner.sigv4 import Request, SignedRequest, sign_request
from trial_aws.authority import Issued, algorithm_of, sign_with

Change = Callable[[Request], Request]


@dataclass(frozen=True)
class AskedSession:
    """A CreateSession request. The defaults make one that succeeds.

    Attributes:
        role: the name of the role in the trial.
        profile: the name of the Roles Anywhere profile; empty for the one that lists the role.
        anchor: the name of the trust anchor.
        duration: `durationSeconds`; None to leave it out.
        session_name: `roleSessionName`; None to leave it out.
        chain: what X-Amz-X509-Chain has, in order; None for the leaf's intermediates. Empty for no header.
        clock: how far the request's date is ahead.
        serial: the serial number that the request names; empty for the leaf's in decimal.
        signing_key: another key to sign with; None for the leaf's.
        change: changes the request before it is signed.
        spoil: changes the request after it was signed.
    """

    role: str = "open"
    profile: str = ""
    anchor: str = "main"
    duration: int | None = 3600
    session_name: str | None = None
    chain: Sequence[x509.Certificate] | None = None
    clock: timedelta = timedelta(0)
    serial: str = ""
    signing_key: Any = field(default=None, repr=False)
    change: Change | None = None
    spoil: Change | None = None


@dataclass(frozen=True)
class SessionAnswer:
    """What came back. Its repr has no secrets.

    Attributes:
        status: the HTTP status.
        kind: the type of the error, such as "AccessDeniedException"; empty if there was none.
        message: the error's message, without ARNs and account.
        header: where the type was: "x-amzn-ErrorType" or the member of the body; empty for a success.
        members: the members of the response's body, sorted.
        expiration: the form of the time at which it expires, with 0 for each digit.
        lifetime: the session's lifetime in seconds, rounded to ten; 0 if there is none.
        session_name: the session's name.
        source_identity: the source identity.
        subject_arn: the ARN of the certificate's subject.
        credentials: access key ID, secret access key and session token.
    """

    status: int
    kind: str = ""
    message: str = ""
    header: str = ""
    members: tuple[str, ...] = ()
    expiration: str = ""
    lifetime: int = 0
    session_name: str = field(default="", repr=False)
    source_identity: str = field(default="", repr=False)
    subject_arn: str = field(default="", repr=False)
    credentials: tuple[str, ...] = field(default=("", "", ""), repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is a session."""
        return self.status in (200, 201)

    def __str__(self) -> str:
        """Return "session", or the refusal as "403 AccessDeniedException: Untrusted certificate"."""
        return "session" if self.ok else f"{self.status} {self.kind}: {self.message}".rstrip(": ")


@dataclass(frozen=True)
class _Shown:
    """What the request says about the leaf and its chain."""

    algorithm: str
    serial: str
    x509_header: str
    chain_header: str


def signed_session(
    leaf: Issued, asked: AskedSession, arns: tuple[str, str, str], *, endpoint: Endpoint, region: str
) -> SignedRequest:
    """Return the signed request, with the ARNs of profile, role and trust anchor."""
    members: dict[str, object] = {}
    if asked.duration is not None:
        members["durationSeconds"] = asked.duration
    if asked.session_name is not None:
        members["roleSessionName"] = asked.session_name
    body = json.dumps(members).encode()
    query = tuple(zip(("profileArn", "roleArn", "trustAnchorArn"), arns, strict=True))
    headers = (("Host", endpoint.host_header), ("Content-Type", "application/json"))
    request = Request("POST", endpoint.path, query, headers, body)
    chain = leaf.chain if asked.chain is None else asked.chain
    shown = _Shown(
        algorithm_of(leaf.key),
        asked.serial or str(leaf.certificate.serial_number),
        header_of(leaf.certificate),
        ",".join(map(header_of, chain)),
    )
    key, now = asked.signing_key or leaf.key, datetime.now(UTC) + asked.clock
    if asked.change:
        request = asked.change(request)
    signed = sign_request(request, lambda message: sign_with(key, message), certificate=shown, region=region, now=now)
    if not asked.spoil:
        return signed
    spoilt = asked.spoil(signed.request)
    return SignedRequest(spoilt, spoilt.target, signed.string_to_sign)


def header_of(certificate: x509.Certificate) -> str:
    """Return a certificate as the headers have it: its DER in base64."""
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def read_answer(response: Response, scrub: Callable[[str], str]) -> SessionAnswer:
    """Read the response to CreateSession."""
    body = response.json_object()
    members = tuple(sorted(body))
    if response.status not in (200, 201):
        where = {name: str(body.get(name) or "") for name in ("__type", "code")}
        where = {"x-amzn-ErrorType": response.headers.get("x-amzn-ErrorType", ""), **where}
        header = next((name for name, value in where.items() if value), "")
        kind = where.get(header, "").partition(":")[0].rpartition("#")[2]
        message = str(body.get("message") or body.get("Message") or "")
        return SessionAnswer(response.status, scrub(kind), scrub(message), header, members)
    found = _first(body.get("credentialSet"))
    keys, user = (_first([found.get(name)]) for name in ("credentials", "assumedRoleUser"))
    now = parse_date(response.headers.get("Date", "")) or datetime.now(UTC)
    names = ("accessKeyId", "secretAccessKey", "sessionToken")
    return SessionAnswer(
        response.status,
        members=members,
        expiration=re.sub(r"\d", "0", str(keys.get("expiration") or "")),
        lifetime=_lifetime(keys.get("expiration"), now),
        session_name=str(user.get("arn", "")).rpartition("/")[2],
        source_identity=str(found.get("sourceIdentity") or ""),
        subject_arn=str(body.get("subjectArn") or ""),
        credentials=tuple(str(keys.get(name) or "") for name in names),
    )


def _first(found: object) -> dict[str, Any]:
    """Return the first object of a list, or an empty one."""
    first = found[0] if isinstance(found, list) and found else None
    return first if isinstance(first, dict) else {}


def _lifetime(expiration: object, now: datetime) -> int:
    try:
        return round((datetime.fromisoformat(str(expiration)) - now).total_seconds() / 10) * 10
    except (ValueError, TypeError):
        return 0
