"""The credentials of a session: read strictly from a response, and written for `credential_process`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from hwsigner.errors import AgentError, ServiceError

Reply = bytes | memoryview
"""Credentials as the finished bytes of a format."""

_HINT = "Check --endpoint and look for a proxy"


class Credentials:
    """Temporary credentials. The secrets are not in the repr.

    Attributes:
        access_key_id: the access key ID.
        secret_access_key: the secret access key.
        session_token: the session token.
        expiration: when they expire, in UTC.
        role_arn: the role.
        assumed_role_arn: the caller's ARN, `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
        subject_arn: the ARN of the certificate's subject in the service, or an empty string.
        request_id: the service's number of the request that created the session, or an empty string.
        certificate_serial: the serial number of the certificate that signed the request, or None if it is not known.
    """

    def __init__(
        self,
        access_key_id: str,
        secret_access_key: str,
        session_token: str,
        expiration: datetime,
        role_arn: str,
        assumed_role_arn: str,
        subject_arn: str = "",
        request_id: str = "",
        certificate_serial: int | None = None,
    ) -> None:
        self.access_key_id: Final = access_key_id
        self.secret_access_key: Final = secret_access_key
        self.session_token: Final = session_token
        self.expiration: Final = expiration
        self.role_arn: Final = role_arn
        self.assumed_role_arn: Final = assumed_role_arn
        self.subject_arn: Final = subject_arn
        self.request_id: Final = request_id
        self.certificate_serial: Final = certificate_serial

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, Credentials) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.access_key_id)

    def __repr__(self) -> str:
        return f"Credentials({self.access_key_id!r}, role_arn={self.role_arn!r}, expiration={self.expiration!r})"

    def process_json(self) -> str:
        """Return the one line of JSON that a `credential_process` prints."""
        return json.dumps(
            {
                "Version": 1,
                "AccessKeyId": self.access_key_id,
                "SecretAccessKey": self.secret_access_key,
                "SessionToken": self.session_token,
                "Expiration": self.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    def handover_json(self) -> str:
        """Return what `process_json` does, with what an agent's audit lines say of the session."""
        serial = self.certificate_serial
        return json.dumps(
            {
                **json.loads(self.process_json()),
                "AssumedRoleArn": self.assumed_role_arn,
                "RequestId": self.request_id,
                "CertificateSerial": "" if serial is None else f"{serial:x}",
            }
        )


def read_agent_credentials(body: bytes, *, role_arn: str) -> Credentials:
    """Read credentials from an agent's reply, or handed over to an agent: what `process_json` or `handover_json` wrote.

    The role is not in the reply.
    """
    try:
        values = _json(body)
        return Credentials(
            access_key_id=_text(values, "AccessKeyId"),
            secret_access_key=_text(values, "SecretAccessKey"),
            session_token=_text(values, "SessionToken"),
            expiration=_time(_text(values, "Expiration")),
            role_arn=role_arn,
            assumed_role_arn=_text(values, "AssumedRoleArn") if values.get("AssumedRoleArn") else "",
            request_id=_text(values, "RequestId") if values.get("RequestId") else "",
            certificate_serial=int(_text(values, "CertificateSerial"), 16) if values.get("CertificateSerial") else None,
        )
    except (ServiceError, ValueError):
        raise AgentError("the agent's reply has no credentials", "Check which program uses its socket") from None


def read_credentials(
    body: bytes, *, role_arn: str, now: datetime, request_id: str = "", certificate_serial: int | None = None
) -> Credentials:
    """Read credentials from the body of a CreateSession response.

    Credentials that have expired, or are for another role, are a ServiceError.
    """
    answer = _json(body)
    entry = _field(answer, "credentialSet")
    if not isinstance(entry, list) or not entry:
        problem = "the service's response has no credentials"
        raise ServiceError(problem, "Check the role and the Roles Anywhere profile in AWS")
    found = _field(entry[0], "credentials")
    credentials = Credentials(
        access_key_id=_text(found, "accessKeyId"),
        secret_access_key=_text(found, "secretAccessKey"),
        session_token=_text(found, "sessionToken"),
        expiration=_time(_text(found, "expiration")),
        role_arn=_text(entry[0], "roleArn"),
        assumed_role_arn=_text(_field(entry[0], "assumedRoleUser"), "arn"),
        subject_arn=_text(answer, "subjectArn") if answer.get("subjectArn") else "",
        request_id=request_id,
        certificate_serial=certificate_serial,
    )
    if credentials.role_arn != role_arn:
        problem = f"the service gave credentials for {credentials.role_arn[:200]}, not for {role_arn}"
        raise ServiceError(problem, _HINT)
    if credentials.expiration <= now:
        problem = f"the service gave credentials that expired at {credentials.expiration:%Y-%m-%dT%H:%M:%SZ}"
        raise ServiceError(problem, "Check this machine's clock")
    return credentials


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        # Not raised here: the exception contains the body, and so perhaps credentials.
        answer = None
    if not isinstance(answer, dict):
        raise ServiceError("the service's response is not a JSON object", _HINT)
    return answer


def _field(parent: Any, name: str) -> Any:
    if not isinstance(parent, dict) or name not in parent:
        raise ServiceError(f"the service's response has no {name}", _HINT)
    return parent[name]


def _text(parent: Any, name: str) -> str:
    value = _field(parent, name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ServiceError(f"{name} in the service's response is not text", _HINT)
    return value


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    problem = f"the service's response has the expiration {text[:40]!r}, which is not a time with a time zone"
    raise ServiceError(problem, _HINT)
