"""Clients of the control plane: boto3 against a running emulator."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.model import OperationModel

from certs import Authority
from hwsigner.emulator import Emulator

REGION = "us-east-1"
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/web"
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
    made = _session().client(
        service,
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(parameter_validation=check, retries={"total_max_attempts": 1}),
    )
    made.meta.events.register("after-call.rolesanywhere", _judge)
    return made


def _judge(http_response: Any, model: OperationModel, **_: object) -> None:
    """Judge each response by botocore's model. Its parser would ignore what the model does not have."""
    if http_response.status_code < 300:
        _check(json.loads(http_response.content), model.output_shape, model.name)


def _check(value: Any, shape: Any, where: str) -> None:
    kinds = {"string": str, "boolean": bool, "integer": int, "timestamp": str, "blob": str, "list": list}
    kind: type = type(value)
    assert kind is kinds.get(shape.type_name, dict), f"{where} is {value!r}"
    if shape.type_name == "structure":
        assert set(shape.required_members) <= set(value) <= set(shape.members), f"{where} has {sorted(value)}"
        for name, each in value.items():
            _check(each, shape.members[name], f"{where}.{name}")
    for number, each in enumerate(value if shape.type_name == "list" else ()):
        _check(each, shape.member, f"{where}[{number}]")
    if shape.type_name == "string":
        assert re.fullmatch(shape.metadata.get("pattern", "(?s:.*)"), value), f"{where} is {value!r}"
        assert shape.metadata.get("min", 0) <= len(value), f"{where} is {value!r}"
        assert not getattr(shape, "enum", None) or value in shape.enum, f"{where} is {value!r}"


def refused(call: Any, **members: Any) -> tuple[str, str]:
    """Make a call that must be refused, and return the error's code and message."""
    with pytest.raises(ClientError) as caught:
        call(**members)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def bundle(*certificates: bytes) -> dict[str, Any]:
    """Return the source of a trust anchor with certificates in PEM."""
    return {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": b"".join(certificates).decode()}}


def anchor_of(plane: Any, ca: Authority, **members: Any) -> dict[str, Any]:
    """Create a trust anchor."""
    made: dict[str, Any] = plane.create_trust_anchor(**{"name": "a", "source": bundle(ca.pem), **members})[
        "trustAnchor"
    ]
    return made


def profile_of(plane: Any, **members: Any) -> dict[str, Any]:
    """Create a profile."""
    made: dict[str, Any] = plane.create_profile(**{"name": "p", "roleArns": [ROLE], **members})["profile"]
    return made
