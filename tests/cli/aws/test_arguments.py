"""Which endpoint, region and credentials the commands for the AWS side use."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsigner._cli.aws.arguments import AWS, service_clients
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import PROFILE

REGION = "eu-central-1"


@pytest.fixture(autouse=True)
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of config.toml with an endpoint for CreateSession."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "hwsigner" / "config.toml"
    file.parent.mkdir()
    file.write_text('[profile.web]\nendpoint = "http://127.0.0.1:1"\nregion = "us-west-2"\n')
    file.chmod(0o600)


def completed(*flags: str) -> Arguments:
    parser = Parser("aws test", "")
    parser.add_flags(PROFILE, AWS)
    return parser.complete(parser.parse(flags))


def url(*flags: str) -> str:
    found: str = service_clients(completed(*flags), region=REGION).rolesanywhere._client.meta.endpoint_url
    return found


def test_endpoint_of_create_session_is_not_one_of_the_apis() -> None:
    assert url("--profile=web") == f"https://rolesanywhere.{REGION}.amazonaws.com"


def test_flags_choose_endpoint_and_region() -> None:
    assert url("--profile=web", "--endpoint=https://example.com") == "https://example.com"
    assert url("--region=us-east-2") == "https://rolesanywhere.us-east-2.amazonaws.com"


def test_region_is_the_one_of_aws_region_when_nothing_else_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert service_clients(completed()).rolesanywhere.region == "eu-west-3"
    assert url() == f"https://rolesanywhere.{REGION}.amazonaws.com"


def test_endpoints_are_those_of_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    assert url() == "http://127.0.0.1:4566"
    monkeypatch.setenv("AWS_ENDPOINT_URL_ROLESANYWHERE", "http://127.0.0.1:4567")
    assert url() == "http://127.0.0.1:4567"


def test_profile_of_the_sdks_is_the_one_of_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aws").write_text("[profile admin]\nregion = ap-south-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    assert service_clients(completed("--aws-profile=admin")).rolesanywhere.region == "ap-south-1"
