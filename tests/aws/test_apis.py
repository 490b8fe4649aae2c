"""Errors of botocore's own clients, in the words of hwsigner. botocore's Stubber checks requests against its models."""

from __future__ import annotations

import itertools
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from certs import Authority
from hwsigner._aws.apis import ServiceClient, ServiceClients
from hwsigner.emulator import Emulator, World
from hwsigner.errors import ConfigError, HwsignerError, ServiceError, ServiceUnreachableError, UsageError
from loopback import Connection, Server
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
    arns = [f"arn:aws:rolesanywhere:{REGION}:123456789012:profile/{each}" for each in "ab"]
    pages: list[dict[str, Any]] = [{"profiles": [{"profileArn": each}]} for each in arns]
    pages[0]["nextToken"] = "more"
    with Stubber(client._client) as stub:
        stub.add_response("list_profiles", pages[0], {})
        stub.add_response("list_profiles", pages[1], {"nextToken": "more"})
        assert [item["profileArn"] for item in client.items("list_profiles", "profiles")] == arns


@pytest.mark.parametrize(
    ("service", "operation", "member", "more"),
    [
        ("rolesanywhere", "list_trust_anchors", "trustAnchors", {}),
        ("rolesanywhere", "list_profiles", "profiles", {}),
        ("rolesanywhere", "list_crls", "crls", {}),
        ("rolesanywhere", "list_subjects", "subjects", {}),
        ("iam", "list_attached_role_policies", "AttachedPolicies", {"RoleName": "web"}),
    ],
)
def test_every_list_ends_though_each_page_names_another(
    service: str, operation: str, member: str, more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsigner._aws.apis._MOST_PAGES", 10)
    numbers = itertools.count()

    def page(connection: Connection) -> None:
        token = f"page-{next(numbers)}"
        if service == "rolesanywhere":
            _answer(connection, 200, json.dumps({member: [], "nextToken": token}).encode())
            return
        result = f"<{member}/><IsTruncated>true</IsTruncated><Marker>{token}</Marker>"
        name = "ListAttachedRolePolicies"
        _answer(connection, 200, f"<{name}Response><{name}Result>{result}</{name}Result></{name}Response>".encode())

    with Server(page) as server:
        client = getattr(ServiceClients(REGION, endpoint=server.endpoint().url), service)
        with pytest.raises(ServiceError, match="has more than 10 pages"):
            client.items(operation, member, **more)
    assert server.accepted <= 11


@pytest.mark.parametrize("tokens", [["again"], ["one", "other"]])
def test_pages_without_an_end_are_an_error(tokens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsigner._aws.apis._MOST_PAGES", 10)
    answers = itertools.cycle(json.dumps({"profiles": [], "nextToken": token}).encode() for token in tokens)
    with Server(lambda connection: _answer(connection, 200, next(answers))) as server:
        with pytest.raises(ServiceError, match=r"rolesanywhere:ListProfiles (is not from AWS|has more than 10 pages)"):
            ServiceClients(REGION, endpoint=server.endpoint().url).rolesanywhere.items("list_profiles", "profiles")
        assert server.accepted <= 11


def test_last_page_that_is_read_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsigner._aws.apis._MOST_PAGES", 2)
    test_items_are_those_of_all_pages()


def _answer(connection: Connection, status: int, body: bytes) -> None:
    connection.read_request()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.sock.sendall(head.encode() + body)


_XML = b"<GetRoleResponse><GetRoleResult><Role>%s</Role></GetRoleResult></GetRoleResponse>"
_ODD = [
    *(b"\xff\xfe", b"\x00", b"null", b"[1]", b'"x"', b"1e999", b"9" * 5000, b'{"message":"\xff"}', b'{"message":[]}'),
    *(b'{"profiles":1}', b'{"profiles":[1]}', b'{"profiles":["\\ud800"]}', b'{"profiles":[{"roleArns":1}]}'),
    *(b'{"profiles":[{"createdAt":1e999}]}', b'{"profiles":[{"createdAt":[]}]}', b'{"profiles":{}}', b'{"__type":1}'),
    *(b'{"profiles":[{"createdAt":"9999999-01-01"}]}', b'{"nextToken":1}', b'{"Error":[1]}'),
    b'{"profiles":' + b"[" * 100_000,
    *(b"<a/>", b"<a>\xff</a>", b"<a>" * 9999, _XML % b"<CreateDate>x</CreateDate>", _XML % b"<Path/><Path/>"),
    *(_XML % b"<MaxSessionDuration>x</MaxSessionDuration>", _XML % b"<Tags><member>1</member></Tags>"),
    _XML % (b"<AssumeRolePolicyDocument>" + b"[" * 100_000 + b"</AssumeRolePolicyDocument>"),
]


@pytest.mark.parametrize("odd", [1, "x", {}, [None], ["x"], [{}], [{"profileArn": "x"}], [{"profileArn": 1}]])
def test_answer_that_is_not_as_the_model_says_is_an_error_of_the_service(odd: Any) -> None:
    client = ServiceClients(REGION).rolesanywhere
    client._check("list_profiles", {"profiles": [{"profileArn": ROLE_ARN, "roleArns": [ROLE_ARN]}]})
    with pytest.raises(ServiceError, match="rolesanywhere:ListProfiles is not from AWS"):
        client._check("list_profiles", {"profiles": odd})


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 307, 400, 403])
def test_odd_answer_is_no_internal_error(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    answers: list[bytes] = []
    with Server(lambda connection: _answer(connection, status, answers[-1])) as server:
        clients = ServiceClients(REGION, endpoint=server.endpoint()._replace(path="").url)
        for answer in _ODD:
            answers.append(answer)
            with suppress(HwsignerError):
                clients.iam.call("get_role", RoleName="web")
            with suppress(HwsignerError):
                clients.rolesanywhere.items("list_profiles", "profiles")


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


@pytest.mark.parametrize(
    ("variable", "setting", "region"),
    [
        ("", "region = eu-west-1", "eu-west-1"),
        ("eu-west-1", "region =", "eu-west-1"),
        ("", "region =", ""),
        ("", "", ""),
    ],
)
def test_empty_region_counts_as_none(
    variable: str, setting: str, region: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{setting}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", variable)
    if region:
        assert ServiceClients().rolesanywhere.region == region
    else:
        with pytest.raises(UsageError, match="no region was given"):
            ServiceClients(endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("setting", ["max_attempts = x", "region =\n  a = b", "metadata_service_timeout = x"])
def test_invalid_setting_is_a_config_error(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(f"[default]\n{setting}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=r"boto3 failed: .* Check the settings of the AWS SDKs"):
        _ = ServiceClients(None if "region" in setting else REGION).rolesanywhere


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
