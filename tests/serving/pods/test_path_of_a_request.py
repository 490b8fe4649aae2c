"""A Pod's request can be followed by reading a few files: those that docs/how-it-works/architecture.md names."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from functools import partial
from typing import NamedTuple

import pytest

from frames import Frames, Recorder, described
from hwsigner._cli import serve_pods
from hwsigner._monitoring.log import Log
from hwsigner._monitoring.metrics import PodMetrics
from hwsigner._refresh.monitor import Monitor
from hwsigner._serving.credentials import LOOK_SECONDS
from hwsigner._serving.pods.endpoint import PodEndpoint
from hwsigner._serving.pods.profiles import PodProfiles
from hwsigner._serving.pods.verification import Verification
from hwsigner._serving.pods.watch import Watch
from serving.pods.api_server import RSA_ISSUER, ApiServer, bound
from serving.pods.pod_stage import NODE, write_policy
from serving.pods.verifying import PEER
from serving.stage import Stage


class Followed(NamedTuple):
    """The frames of a request with a known token, and of one of another service account, all in hwsigner's threads."""

    known: Frames
    new: Frames


@pytest.fixture
def followed(pod_stage: Stage, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Followed:
    for name, value in {**pod_stage.environ(), **api.environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(serve_pods, "Verification", partial(Verification, folder=str(api.folder)))
    policy, log = pod_stage.folder / "pods.toml", Log()
    write_policy(policy, '[accounts]\n"team-a/*" = "web"\n')
    counts = PodMetrics()
    watch = Watch(counts.reviewed, log.note)
    rules = serve_pods._Rules(str(policy), NODE, PodProfiles(Monitor(log), log.note), log, counts, watch)
    db = {"kubernetes.io": bound(serviceaccount={"name": "db", "uid": "2"}), "sub": "system:serviceaccount:team-a:db"}

    async def ask(endpoint: PodEndpoint, token: str) -> Frames:
        recorder = Recorder()
        threading.setprofile(recorder._note)  # Of threads that begin now.
        recorder.start()
        try:
            found = endpoint.respond({b"authorization": token.encode()}, PEER)
            response = await found if isinstance(found, Awaitable) else found
        finally:
            recorder.stop()
            threading.setprofile(None)
        assert response.data.startswith(b"HTTP/1.1 200")
        return recorder.frames()

    async def run() -> Followed:
        endpoint, token = PodEndpoint(rules.now, file=str(policy)), RSA_ISSUER.token()
        await ask(endpoint, token)
        await asyncio.sleep(LOOK_SECONDS + 0.05)
        known = await ask(endpoint, token)
        return Followed(known, await ask(endpoint, RSA_ISSUER.token(**db)))

    return asyncio.run(run())


def test_pods_request_passes_few_files(followed: Followed) -> None:
    known, new = followed
    assert set(known.files) == described("Request with a known token")
    verified = new.between("_serving/pods/verification.py: check", "_serving/pods/sessions.py: profile")
    assert set(verified.files) - set(known.files) == described("New token") - set(known.files)
    opened = new.between("_serving/pods/sessions.py: _opened", "_aws/create_session.py: create_session")
    assert set(opened.files) - set(known.files) == described("New session with an open key") - set(known.files)
