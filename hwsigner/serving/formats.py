"""Credentials as the endpoints' clients read them: finished bytes, made once for each session."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hwsigner.credentials import Credentials

CONTAINER = "container"
IMDS = "imds"

_TIME = "%Y-%m-%dT%H:%M:%SZ"


def container_json(credentials: Credentials) -> bytes:
    """Return the JSON of the container endpoint (ECS and EKS)."""
    return json.dumps({**_keys(credentials), "RoleArn": credentials.role_arn}).encode()


def imds_json(credentials: Credentials) -> bytes:
    """Return the JSON of IMDS, `/latest/meta-data/iam/security-credentials/ROLE`."""
    head = {"Code": "Success", "LastUpdated": datetime.now(UTC).strftime(_TIME), "Type": "AWS-HMAC"}
    return json.dumps({**head, **_keys(credentials)}).encode()


FORMATS = {CONTAINER: container_json, IMDS: imds_json}


def _keys(credentials: Credentials) -> dict[str, str]:
    return {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "Expiration": credentials.expiration.strftime(_TIME),
    }
