"""Each output of hwsigner, and how a client finds it. Its profile in config.toml and its role have its name."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from agent.processes import Manager
from hwsigner._config.profiles import add_profile
from hwsigner.emulator import Role
from serving.stage import PROGRAM, Stage

IMDS = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"


@dataclass(frozen=True)
class Way:
    """How a client reaches an output.

    Attributes:
        environ: the variables that lead there.
        wrapper: the words that come before its command.
        settle: returns once the output answers at once, with credentials that have not ended at a given time. Clients
            give HTTP a second or two, and a machine that is busy with other tests may take longer for a session.
    """

    environ: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()
    settle: Callable[[datetime], None] = lambda now: None


@dataclass(frozen=True)
class Output:
    """An output that is ready for use."""

    name: str
    stage: Stage
    way: Way

    @property
    def sessions(self) -> int:
        """How many sessions of its role were requested."""
        targets = [urlsplit(record.target) for record in self.stage.service.requests]
        roles = [parse_qs(target.query)["roleArn"][0] for target in targets if target.path == "/sessions"]
        return roles.count(role_arn(self.name))


def role_arn(name: str) -> str:
    """Return the ARN of an output's role."""
    return f"arn:aws:iam::123456789012:role/{name}"


def add_role(stage: Stage, name: str, values: dict[str, Any]) -> None:
    """Add a role to the service, and a profile that assumes it to config.toml."""
    arn, world = role_arn(name), stage.service.world
    world.roles[arn] = Role(arn)
    world.profiles[stage.service.profile_arn].roles.append(arn)
    add_profile(name, {**stage.values(), "role-arn": arn, **values}, stage.environ())


def _process(stage: Stage, name: str, program: str) -> Way:
    """Return the way through a profile in ~/.aws/config whose credential_process is a program of hwsigner."""
    path = stage.folder / f"{name}.config"
    path.write_text(f"[profile {name}]\ncredential_process = {PROGRAM.with_name(program)} --profile {name}\n")
    return Way({"AWS_CONFIG_FILE": str(path), "AWS_PROFILE": name})


@contextmanager
def _credential_process(stage: Stage, name: str) -> Iterator[Way]:
    yield _process(stage, name, "hwsigner credential-process")


@contextmanager
def _agent(stage: Stage, name: str) -> Iterator[Way]:
    with Manager(stage.folder / "notify") as manager, stage.start("agent", NOTIFY_SOCKET=str(manager.path)):
        assert manager.next()[0] == "READY=1"
        yield _process(stage, name, "hwsigner-credentials")


@contextmanager
def _update(stage: Stage, name: str) -> Iterator[Way]:
    path = str(stage.folder / "credentials")
    flags = ("--once", "--profile", name, "--config-profile", name)
    done = stage.run("update", *flags, environ=stage.environ(AWS_SHARED_CREDENTIALS_FILE=path))
    assert done.returncode == 0, done.stderr
    yield Way({"AWS_SHARED_CREDENTIALS_FILE": path, "AWS_PROFILE": name})


@contextmanager
def _serve(stage: Stage, name: str) -> Iterator[Way]:
    with stage.start("serve", "--port=0", name) as process:
        variables = process.variables()
        yield _http({each: variables[each] for each in (FULL_URI, TOKEN_FILE)}, _ask_container)


@contextmanager
def _serve_imds(stage: Stage, name: str) -> Iterator[Way]:
    with stage.start("serve", "--port=0", "--imds", name) as process:
        yield _http({IMDS: process.variables()[IMDS]}, _ask_imds)


def _http(variables: dict[str, str], ask: Callable[[dict[str, str]], bytes]) -> Way:
    def settle(now: datetime) -> None:
        while datetime.fromisoformat(json.loads(ask(variables))["Expiration"]) <= now:
            pass  # For a tenth of a second it may return its previous answer.

    settle(datetime.now(UTC))
    return Way(variables, settle=settle)


def _ask_container(variables: dict[str, str]) -> bytes:
    return _request("GET", variables[FULL_URI], Authorization=Path(variables[TOKEN_FILE]).read_text())


def _ask_imds(variables: dict[str, str]) -> bytes:
    base = f"{variables[IMDS]}latest"
    token = _request("PUT", f"{base}/api/token", **{"X-aws-ec2-metadata-token-ttl-seconds": "60"}).decode()
    roles = f"{base}/meta-data/iam/security-credentials/"
    headers = {"X-aws-ec2-metadata-token": token}
    return _request("GET", roles + _request("GET", roles, **headers).decode(), **headers)


def _request(method: str, url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=60) as answer:
        body: bytes = answer.read()
    return body


@contextmanager
def _exec(stage: Stage, name: str) -> Iterator[Way]:
    yield Way(wrapper=(str(PROGRAM), "exec", name, "--"))


OUTPUTS: dict[str, Callable[[Stage, str], AbstractContextManager[Way]]] = {
    "credential-process": _credential_process,
    "agent": _agent,
    "update": _update,
    "serve": _serve,
    "serve-imds": _serve_imds,
    "exec": _exec,
}
# Those with one session for all clients; the others create one for each.
RESIDENT = {"agent", "update", "serve", "serve-imds"}


@contextmanager
def open_output(stage: Stage, name: str, values: dict[str, Any] | None = None) -> Iterator[Output]:
    """Add an output's role and profile, with more values if given, and start the servers it needs."""
    add_role(stage, name, values or {})
    with OUTPUTS[name](stage, name) as way:
        yield Output(name, stage, way)
