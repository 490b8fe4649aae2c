"""A stage whose Roles Anywhere profile lets sessions have names; an API server, and what verifies tokens with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hwsigner._serving.pods import cluster, verification
from hwsigner._serving.pods.verification import VerificationSettings
from serving.pods.api_server import ApiServer, api_server
from serving.pods.verifying import REVIEW, Pods
from serving.stage import Stage


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes too long, however busy the machine is."""
    monkeypatch.setattr(verification, "QUEUE_SECONDS", 60.0)
    monkeypatch.setattr(cluster, "SECONDS", 60.0)


@pytest.fixture
def pod_stage(stage: Stage) -> Iterator[Stage]:
    """A stage whose Roles Anywhere profile lets sessions have names, as `serve --pods` needs."""
    profile = stage.service.world.profiles[stage.service.profile_arn]
    profile.accept_role_session_name = True
    yield stage
    profile.accept_role_session_name = False


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with api_server(tmp_path / "serviceaccount") as server:
        yield server


@pytest.fixture
def make_pods(api: ApiServer) -> Iterator[Callable[..., Pods]]:
    with ExitStack() as stack:

        def make(settings: VerificationSettings = REVIEW, **changes: Any) -> Pods:
            pods = Pods(api, settings._replace(**changes))
            stack.callback(pods.verification.close)
            return pods

        yield make


@pytest.fixture
def pods(make_pods: Callable[..., Pods]) -> Pods:
    return make_pods()
