"""boto3's clients of an emulator, as programs use them, and the errors that they raise."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from hwsigner.emulator import Emulator

KEY, SECRET = "AKIAADMIN", "an-admin's-secret-key"
ACCOUNT = "123456789012"
ADMIN = f"arn:aws:iam::{ACCOUNT}:user/{KEY}"


def client(emulator: Emulator, service: str, *, region: str = "us-east-1", attempts: int = 1) -> Any:
    """Return a client whose credentials the emulator knows."""
    emulator.add_credentials(KEY, SECRET)
    return made(service, region=region, attempts=attempts, endpoint_url=emulator.url)


def made(service: str, *, region: str = "us-east-1", attempts: int = 1, **options: Any) -> Any:
    """Return a client that leaves the checks of parameters to the service."""
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        parameter_validation=False,
    )
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
    return _session().client(service, region_name=region, config=config, **keys, **options)


@functools.cache
def _session() -> Any:
    """Return a session that all tests share: it has read the services' models."""
    return boto3.Session()


def refused(call: Callable[[], object]) -> tuple[int, str, str]:
    """Return the status, code and message of the error that a call must raise."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"], response["Error"]["Message"]


def shape(value: object) -> object:
    """Return a response with types instead of values, without what is different in each one."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items() if key != "ResponseMetadata"}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return re.sub(r"tz.*", "tz", type(value).__name__)
