"""Clients of the control plane: boto3 against a running emulator."""

from __future__ import annotations

import functools
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from hwsigner.emulator import Emulator

REGION = "us-east-1"
ACCOUNT = "123456789012"
KEY = ("AKIDPLANE", "a-secret-of-the-plane")


@functools.cache
def _session() -> boto3.Session:
    return boto3.Session()


def client(
    emulator: Emulator,
    region: str = REGION,
    *,
    service: str = "rolesanywhere",
    check: bool = True,
    credentials: tuple[str, str, str | None] = (*KEY, None),
) -> Any:
    """Return a boto3 client. Without checks, it sends what botocore would refuse to send."""
    emulator.add_credentials(*KEY)
    return client_of(emulator.url, region, service=service, check=check, credentials=credentials)


def client_of(
    url: str,
    region: str = REGION,
    *,
    service: str = "rolesanywhere",
    check: bool = True,
    credentials: tuple[str, str, str | None],
) -> Any:
    """Return a boto3 client of an endpoint."""
    key_id, secret, token = credentials
    return _session().client(
        service,
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(parameter_validation=check, retries={"total_max_attempts": 1}),
    )


def refused(call: Any, **members: Any) -> tuple[str, str]:
    """Make a call that must be refused, and return the error's code and message."""
    with pytest.raises(ClientError) as caught:
        call(**members)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def bundle(*certificates: bytes) -> dict[str, Any]:
    """Return the source of a trust anchor with certificates in PEM."""
    return {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": b"".join(certificates).decode()}}
