"""Errors of botocore's own clients, in the words of hwsigner. botocore's Stubber checks requests against its models."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from botocore.stub import Stubber

from certs import Authority
from hwsigner.aws.apis import ServiceClient, ServiceClients
from hwsigner.emulator import Emulator, World
from hwsigner.errors import ConfigError, HwsignerError, ServiceError, ServiceUnreachableError, UsageError
from ports import reserve_port

REGION = "eu-central-1"
ROLE_ARN = "arn:aws:iam::123456789012:role/web"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def refused(client: ServiceClient, operation: str, code: str, *, message: str = "no", **more: Any) -> ServiceError:
    """Call an operation that answers with an error, and return what hwsigner makes of it."""
    parameters = more.pop("parameters", {"RoleName": "web"})
    with Stubber(client._client) as stub:
        stub.add_client_error(operation, code, message, more.pop("status", 400), response_meta=more)
        with pytest.raises(ServiceError) as caught:
            client.call(operation, **parameters)
    return caught.value


def test_denied_call_names_call_resource_and_permission() -> None:
    message = (
        "User: arn:aws:iam::123456789012:user/ann is not authorized to perform: iam:GetRole on resource: role web"
        " because no identity-based policy allows the iam:GetRole action"
    )
    error = refused(ServiceClients(REGION).iam, "get_role", "AccessDenied", message=message, status=403)
    assert str(error) == (
        "iam:GetRole of 'web' was refused: arn:aws:iam::123456789012:user/ann lacks iam:GetRole on role web."
        " Ask for a policy that allows iam:GetRole"
    )
    assert (error.exit_status, error.retryable) == (5, False)


@pytest.mark.parametrize(
    "message", ["", f"User: x is not authorized to perform: iam:PassRole on resource: {ROLE_ARN}", "Access denied"]
)
def test_create_profile_names_pass_role_when_it_is_denied(message: str) -> None:
    error = refused(
        ServiceClients(REGION).rolesanywhere,
        "create_profile",
        "AccessDeniedException",
        message=message,
        parameters={"name": "web", "roleArns": [ROLE_ARN]},
    )
    assert "rolesanywhere:CreateProfile of 'web'" in error.message
    assert "iam:PassRole" in error.hint


def test_explicit_deny_is_told_apart() -> None:
    message = (
        f"User: x is not authorized to perform: iam:CreateRole on resource: {ROLE_ARN}"
        " with an explicit deny in a service control policy"
    )
    error = refused(ServiceClients(REGION).iam, "get_role", "AccessDenied", message=message)
    assert error.message.endswith(
        "lacks iam:CreateRole on " + ROLE_ARN + " with an explicit deny in a service control policy"
    )
    assert error.hint == "Ask for an exception to the policy that denies iam:CreateRole"


def test_wrong_clock_is_named_when_signature_is_refused() -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(minutes=20))
    error = refused(ServiceClients(REGION).iam, "get_role", "SignatureDoesNotMatch", HTTPHeaders={"date": date})
    assert "20 minutes ahead of AWS's: fix the clock" in error.hint


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("ExpiredToken", "aws sso login"),
        ("Throttling", "Retry later"),
        ("NoSuchEntity", "the account and the region"),
        ("LimitExceeded", "quota"),
        ("SignatureDoesNotMatch", "Check the clock"),
        ("MalformedPolicyDocument", "Correct what the message names"),
    ],
)
def test_refusal_says_what_to_do(code: str, hint: str) -> None:
    error = refused(ServiceClients(REGION).iam, "get_role", code, message="some\nreason.")
    assert error.message == f"iam:GetRole of 'web' was refused: {code}: some reason"
    assert hint in error.hint


def test_find_returns_none_when_there_is_no_such_resource() -> None:
    client = ServiceClients(REGION).iam
    with Stubber(client._client) as stub:
        stub.add_client_error("get_role", "NoSuchEntity", "no", 404)
        assert client.find("get_role", RoleName="web") is None


def test_items_are_those_of_all_pages() -> None:
    client = ServiceClients(REGION).rolesanywhere
    pages: list[dict[str, Any]] = [{"profiles": [{"name": "a"}], "nextToken": "more"}, {"profiles": [{"name": "b"}]}]
    with Stubber(client._client) as stub:
        stub.add_response("list_profiles", pages[0], {})
        stub.add_response("list_profiles", pages[1], {"nextToken": "more"})
        assert [item["name"] for item in client.items("list_profiles", "profiles")] == ["a", "b"]


def test_unreachable_service_has_status_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ServiceUnreachableError, match=r"iam:GetRole of 'web' got no answer") as caught:
        ServiceClients(REGION, endpoint=f"http://127.0.0.1:{reserve_port()}").iam.call("get_role", RoleName="web")
    assert caught.value.exit_status == 6
    assert "--endpoint" not in caught.value.hint  # Not every command that calls AWS has this flag.


def test_missing_credentials_are_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match=r"no credentials for the AWS APIs.*--aws-profile"):
        ServiceClients(REGION).iam.call("get_role", RoleName="web")


def test_invalid_settings_are_usage_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no region was given"):
        _ = ServiceClients().rolesanywhere
    with pytest.raises(UsageError, match="not a URL"):
        _ = ServiceClients(REGION, endpoint="nonsense").iam
    with pytest.raises(ConfigError, match=r"profile \(nobody\) could not be found"):
        ServiceClients(REGION, profile="nobody")
    with pytest.raises(UsageError, match="was not sent"):
        ServiceClients(REGION).iam.call("get_role", RoleName="")


def test_missing_boto3_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(HwsignerError, match=r"needs boto3\. Run \S+ -m pip install 'hwsigner\[aws\]=="):
        ServiceClients(REGION)


def test_clients_retry_in_standard_mode() -> None:
    assert ServiceClients(REGION).iam._client.meta.config.retries["mode"] == "standard"


@pytest.mark.parametrize(
    ("region", "signed_for"),
    [("eu-central-1", "us-east-1"), ("cn-northwest-1", "cn-north-1"), ("us-gov-east-1", "us-gov-west-1")],
)
def test_iam_is_called_in_its_own_region_when_there_is_an_endpoint(ca: Authority, region: str, signed_for: str) -> None:
    with Emulator(World.simple(ca.pem, region=region)) as emulator:
        emulator.add_credentials("AKIDEXAMPLE", "example-secret")
        clients = ServiceClients(region, endpoint=emulator.url)
        (role,) = clients.iam.items("list_roles", "Roles")
        assert role["Arn"] == emulator.role_arn
        assert f"/{signed_for}/iam/" in dict(emulator.requests[-1].headers)["Authorization"]
