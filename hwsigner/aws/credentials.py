"""The credentials of a session: read strictly from the service's answer, and written for `credential_process`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hwsigner.errors import AgentError, ServiceError


@dataclass(frozen=True)
class Credentials:
    """Temporary credentials. The secret ones are in no repr.

    Attributes:
        access_key_id: the access key's id.
        secret_access_key: the key to sign with.
        session_token: the token that belongs to them.
        expiration: when they end, in UTC.
        role_arn: the role that they are for.
        assumed_role_arn: who the caller is, `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
        subject_arn: the service's name for the certificate's subject; may be empty.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiration: datetime
    role_arn: str
    assumed_role_arn: str
    subject_arn: str = ""

    def process_json(self) -> str:
        """Return the JSON object that `credential_process` prints, on one line."""
        return json.dumps(
            {
                "Version": 1,
                "AccessKeyId": self.access_key_id,
                "SecretAccessKey": self.secret_access_key,
                "SessionToken": self.session_token,
                "Expiration": self.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )


def from_agent(body: bytes, *, role_arn: str) -> Credentials:
    """Read what an agent answers: what `process_json` wrote.

    Args:
        body: the JSON.
        role_arn: the role that they are for, which it does not hold.

    Raises:
        AgentError: it holds no credentials.
    """
    try:
        values = _json(body)
        return Credentials(
            access_key_id=_text(values, "AccessKeyId"),
            secret_access_key=_text(values, "SecretAccessKey"),
            session_token=_text(values, "SessionToken"),
            expiration=_time(_text(values, "Expiration")),
            role_arn=role_arn,
            assumed_role_arn="",
        )
    except ServiceError:
        raise AgentError("the agent's answer holds no credentials", "Look which program listens there") from None


def read_credentials(body: bytes, *, role_arn: str, now: datetime) -> Credentials:
    """Read the body of a CreateSession answer.

    Args:
        body: the JSON as it came.
        role_arn: the role that was asked for.
        now: the time, with its zone.

    Raises:
        ServiceError: it is not JSON, a field is missing, the credentials are for another role, or have expired.
    """
    answer = _json(body)
    entry = _field(answer, "credentialSet")
    if not isinstance(entry, list) or not entry:
        raise ServiceError("the service's answer holds no credentials", "Look at the role and the profile in AWS")
    found = _field(entry[0], "credentials")
    credentials = Credentials(
        access_key_id=_text(found, "accessKeyId"),
        secret_access_key=_text(found, "secretAccessKey"),
        session_token=_text(found, "sessionToken"),
        expiration=_time(_text(found, "expiration")),
        role_arn=_text(entry[0], "roleArn"),
        assumed_role_arn=_text(_field(entry[0], "assumedRoleUser"), "arn"),
        subject_arn=_text(answer, "subjectArn") if answer.get("subjectArn") else "",
    )
    if credentials.role_arn != role_arn:
        raise ServiceError(
            f"the service gave credentials for {credentials.role_arn[:200]}, not for {role_arn}",
            "Look for a proxy in the way, and at --endpoint",
        )
    if credentials.expiration <= now:
        raise ServiceError(
            f"the service gave credentials that expired at {credentials.expiration:%Y-%m-%dT%H:%M:%SZ}",
            "Look whether this machine's clock is right",
        )
    return credentials


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        # Not raised from here: the exception carries the body, which may hold credentials.
        answer = None
    if not isinstance(answer, dict):
        raise ServiceError("the service's answer is not JSON, or no object", "Look whether a proxy is in the way")
    return answer


def _field(parent: Any, name: str) -> Any:
    if not isinstance(parent, dict) or name not in parent:
        raise ServiceError(f"the service's answer has no {name}", "Look whether --endpoint names IAM Roles Anywhere")
    return parent[name]


def _text(parent: Any, name: str) -> str:
    value = _field(parent, name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ServiceError(
            f"{name} in the service's answer is no text", "Look for a proxy in the way, and at --endpoint"
        )
    return value


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ServiceError(
        f"the service's answer has the expiration {text[:40]!r}, which is no time with a zone",
        "Look for a proxy in the way, and at --endpoint",
    )
