"""boto3 and botocore get the credentials of a profile in this process, however they look for credentials."""

from __future__ import annotations

import ast
import asyncio
import json
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import botocore.session
import pytest

import certs
import hwsigner
import hwsigner.boto3
import hwsigner.botocore
from agent.homes import Home, run_agent
from hwsigner._refresh.attempts import Attempts
from hwsigner._system.clocks import Clocks
from hwsigner.emulator import Emulator, Fault
from hwsigner.errors import ServiceError

PROCESS = """#!/bin/sh
echo ran >> "$0.ran"
echo '{"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "secret"}'
"""


@pytest.fixture
def home(
    ca: certs.Authority, shared_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    """A home folder with the profile `web`, which this process uses, and a region for the SDKs."""
    shared_emulator.clear_faults()
    shared_emulator.requests.clear()
    made = Home(tmp_path, ca, shared_emulator)
    made.write_profiles(web={})
    for name, value in {**made.environ, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hwsigner.botocore, "_sources", {})
    yield made
    for provider in providers():
        provider.close()
    shared_emulator.clear_faults()


def providers() -> list[Attempts]:
    """Return the providers of this process."""
    made = [source.own_if_made() for source in hwsigner.botocore._sources.values()]
    return [provider for own in made if own for provider in own._providers.values()]


def sessions(home: Home) -> int:
    """Return how many sessions were created."""
    return sum(request.target.startswith("/sessions") for request in home.emulator.requests)


def caller(session: Any, home: Home) -> str:
    """Return the ARN that STS sees."""
    arn: str = session.client("sts", endpoint_url=home.emulator.url).get_caller_identity()["Arn"]
    return arn


def registered(**variables: str) -> boto3.Session:
    session = botocore.session.Session()
    for name, value in variables.items():
        session.set_config_variable(name, value)
    hwsigner.botocore.register(session, "web")
    return boto3.Session(botocore_session=session)


def process(home: Home, config: str) -> Path:
    """Write a program that prints credentials, and a config file of the SDKs with its path in it."""
    program = home.folder / "process"
    program.write_text(PROCESS)
    program.chmod(0o700)
    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "config").write_text(config.format(program=program))
    return home.folder / "process.ran"


def test_session_of_boto3_has_the_credentials_of_the_profile(home: Home) -> None:
    assert ":assumed-role/hwsigner-demo/" in caller(hwsigner.boto3.session("web"), home)
    assert hwsigner.boto3.session("web", region_name="eu-west-1").region_name == "eu-west-1"


def test_nothing_is_opened_before_a_client_is_made(home: Home) -> None:
    hwsigner.boto3.session("absent")
    hwsigner.boto3.session("web")
    registered()
    assert sessions(home) == 0


@pytest.mark.slow
def test_twenty_sessions_in_as_many_threads_create_one(home: Home) -> None:
    made = [hwsigner.boto3.session("web") for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        keys = set(pool.map(lambda one: one.get_credentials().get_frozen_credentials().access_key, made))
    assert len(keys) == sessions(home) == 1


def test_running_agent_gives_the_credentials(home: Home) -> None:
    with run_agent(home) as running:
        expected = json.loads(running.get().partition(b"\n")[2])["AccessKeyId"]
        assert hwsigner.boto3.session("web").get_credentials().access_key == expected
    assert sessions(home) == 1


def test_environment_does_not_change_a_session_of_hwsigner(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert hwsigner.boto3.session("web").get_credentials().method == "hwsigner"
    assert registered().get_credentials().access_key == "AKIAENVIRONMENT"


@pytest.mark.parametrize("variables", [{}, {"profile": "default"}])
def test_registered_session_does_not_run_a_credential_process(home: Home, variables: dict[str, str]) -> None:
    ran = process(home, "[default]\ncredential_process = {program}\n")
    assert registered(**variables).get_credentials().method == "hwsigner"
    assert not ran.exists()


def test_default_session_of_boto3_can_be_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    session = botocore.session.get_session()
    hwsigner.botocore.register(session, "web")
    boto3.setup_default_session(botocore_session=session)
    assert ":assumed-role/hwsigner-demo/" in caller(boto3, home)


@pytest.mark.parametrize("profile", ["web", "chained"])
def test_other_sessions_and_chains_of_profiles_run_their_process(
    home: Home, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = "[profile chained]\nrole_arn = arn:aws:iam::123456789012:role/next\nsource_profile = web\n"
    ran = process(home, f"[profile web]\ncredential_process = {{program}}\n{chain}")
    registered()
    session = botocore.session.Session(profile=profile)
    if profile == "chained":
        hwsigner.botocore.register(session, "web")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", home.emulator.url)
    with suppress(botocore.exceptions.ClientError):  # The emulator has no AssumeRole.
        session.get_credentials().get_frozen_credentials()
    assert ran.exists()
    assert sessions(home) == 0


def test_error_is_botocore_s_with_the_hint(home: Home) -> None:
    home.emulator.misbehave(Fault.parse("deny*9"))
    with pytest.raises(botocore.exceptions.CredentialRetrievalError, match=r"Access denied.*trust policy") as caught:
        hwsigner.boto3.session("web").get_credentials()
    assert isinstance(caught.value, hwsigner.botocore.CredentialsError)
    assert isinstance(caught.value.__cause__, ServiceError)


def test_missing_profile_is_an_error_when_a_client_is_made(home: Home) -> None:
    with pytest.raises(hwsigner.botocore.CredentialsError, match="no profile 'absent'"):
        caller(hwsigner.boto3.session("absent"), home)


def test_live_credentials_are_used_until_they_expire_when_no_others_can_be_had(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.emulator.misbehave(Fault.parse("past-expiration:seconds=-300"))  # botocore must refresh with 10 minutes left.
    with run_agent(home):
        session = hwsigner.boto3.session("web")
        before = session.get_credentials().get_frozen_credentials()
    Path(home.environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml").unlink()
    assert session.get_credentials().get_frozen_credentials() == before

    source = hwsigner.botocore._sources["web"]
    source._clocks = Clocks(lambda: datetime.now(UTC) + timedelta(seconds=301))
    with pytest.raises(hwsigner.botocore.CredentialsError, match="no profile 'web'"):
        session.get_credentials().get_frozen_credentials()


def test_failing_refresh_is_not_a_request_at_each_use(home: Home) -> None:
    home.write_profiles(web={"session-duration": 900})  # botocore wants others from the beginning.
    credentials = hwsigner.boto3.session("web").get_credentials()
    home.emulator.misbehave(Fault.parse("deny*99"))
    for _ in range(50):
        credentials.get_frozen_credentials()
    assert sessions(home) <= 2


def test_profile_that_changes_in_config_toml_is_used_without_a_restart(home: Home) -> None:
    short = {"session-duration": 900}  # botocore asks at each use.
    home.write_profiles(web=short, other={})
    credentials = hwsigner.boto3.session("web").get_credentials()
    before = credentials.get_frozen_credentials()
    home.write_profiles(
        web={**short, "certificate": home.folder / "other.pem", "private-key": home.folder / "other.key"}
    )
    assert credentials.get_frozen_credentials() != before
    assert hwsigner.boto3.session("web").get_credentials().access_key == credentials.access_key
    assert (sessions(home), len(providers())) == (2, 1)


def test_config_toml_that_cannot_be_read_changes_nothing_in_a_running_program(home: Home) -> None:
    home.write_profiles(web={"session-duration": 900})
    credentials = hwsigner.boto3.session("web").get_credentials()
    before = credentials.get_frozen_credentials()
    Path(home.environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml").write_text("[profile.web")
    assert credentials.get_frozen_credentials() == before
    assert hwsigner.boto3.session("web").get_credentials().access_key == before.access_key


def _in_child(results: Any, session: Any, home: Home) -> None:
    results.put(caller(session, home))


def test_child_process_uses_the_session_of_its_parent(home: Home) -> None:
    session = hwsigner.boto3.session("web")
    arn, before = caller(session, home), sessions(home)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(results, session, home))
    child.start()
    assert results.get(timeout=60) == arn
    child.join(60)
    assert child.exitcode == 0
    assert caller(session, home) == arn
    assert sessions(home) == before


def test_credentials_cannot_be_pickled(home: Home) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(hwsigner.boto3.session("web").get_credentials())


@pytest.mark.slow
def test_event_loop_runs_while_a_provider_creates_a_session(home: Home) -> None:
    home.emulator.misbehave(Fault.parse("throttle:retry-after=1"))

    async def both() -> tuple[hwsigner.Credentials, int]:
        with hwsigner.Provider.from_profile("web") as provider:
            getting, turns = asyncio.create_task(provider.get()), 0
            while not getting.done():
                await asyncio.sleep(0.01)
                turns += 1
            return await getting, turns

    found, turns = asyncio.run(both())
    assert found.expiration > datetime.now(UTC)
    assert turns > 1


@pytest.mark.parametrize("module", [hwsigner.boto3, hwsigner.botocore])
def test_no_private_name_of_botocore_is_used(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    private = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr)]
    assert all(isinstance(node.value, ast.Name) and node.value.id == "self" for node in private)
    found = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    others = [node for node in found if node.module != "hwsigner.botocore"]
    imports = [name.name for node in others for name in node.names]
    assert not [name for name in imports if name.startswith("_")]
