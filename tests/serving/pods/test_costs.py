"""What answers cost: TokenReviews and sessions are shared by the requests that need the same one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from hwsigner._aws.credentials import Credentials
from hwsigner._config.profiles import user_file
from hwsigner._serving.pods.endpoint import PodEndpoint
from hwsigner._serving.pods.limits import BURST, MAX_REVIEWS, REFUSED_COST
from hwsigner._serving.pods.pod_policy import PodPolicy
from hwsigner._serving.pods.sessions import MOST_AT_ONCE, PodRules
from hwsigner._serving.pods.token import PodIdentity
from hwsigner._serving.pods.verification import CACHE_SECONDS, VerificationSettings
from hwsigner._serving.responses import HTTPRefusal
from hwsigner.emulator import Fault
from serving.pods.api_server import RSA_ISSUER, ApiServer, Exchange, answer_well, claims
from serving.pods.pod_stage import serve_pods
from serving.pods.verifying import PEER, Pods
from serving.raw import Client
from serving.stage import Stage

pytestmark = pytest.mark.process

_CONCURRENT = 200
# As many as a kubelet runs if it is not told otherwise.
_PODS = 110


class _Session:
    has_expired = False

    def __init__(self) -> None:
        end = datetime.now(UTC) + timedelta(hours=1)
        self._credentials = Credentials("AKIA", "secret", "token", end, "arn:aws:iam::123456789012:role/web", "")

    def at_once(self) -> Credentials:
        return self._credentials

    __call__ = at_once

    def close(self) -> None:
        pass


class _Profile:
    """A profile whose sessions have their credentials already."""

    identity = "key"

    def open(self, name: str, account: str) -> _Session:
        return _Session()


class _Node:
    """An endpoint with one account and the tokens of its Pods, which counts looks at tokens."""

    def __init__(self) -> None:
        self.accounts = {"team-a/web": "web"}
        self.checks = 0
        self._profiles = {"web": _Profile()}
        self.endpoint = PodEndpoint(self._rules, file="pods.toml")

    async def ask(self, token: bytes = b"good") -> int:
        """Return the status of an answer."""
        try:
            found = self.endpoint.respond({b"authorization": token}, PEER)
            response = await found if isinstance(found, Awaitable) else found
        except HTTPRefusal as refusal:
            return refusal.status
        return int(response.data.split()[1])

    def _rules(self) -> PodRules:
        policy = PodPolicy(VerificationSettings(("hwsigner",), "node1"), self.accounts)
        return PodRules(policy, self._profiles, self._check)

    def _check(self, token: bytes, address: str) -> PodIdentity | Awaitable[PodIdentity]:
        self.checks += 1
        if token == b"bad":
            raise HTTPRefusal(HTTPStatus.UNAUTHORIZED, "bad")
        return PodIdentity("team-a", "web", "web-1", "1", "node1", time.time() + 60)


def test_endpoint_looks_at_policy_and_token_for_each_request() -> None:
    async def run() -> None:
        node = _Node()
        assert [await node.ask() for _ in range(100)] == [200] * 100
        assert node.checks == 100
        node.accounts.clear()
        assert await node.ask() == 403

    asyncio.run(run())


def test_endpoint_looks_at_each_bad_token() -> None:
    async def run() -> None:
        node = _Node()
        assert await node.ask() == 200
        assert [await node.ask(b"bad") for _ in range(3)] == [401] * 3
        assert node.checks == 4

    asyncio.run(run())


def test_requests_of_one_token_at_once_cost_one_review(pods: Pods, api: ApiServer) -> None:
    def answer_late(exchange: Exchange) -> None:
        time.sleep(0.2)
        answer_well(exchange)

    async def run(token: str) -> list[Any]:
        return await asyncio.gather(*(pods.ask(token) for _ in range(_CONCURRENT)))

    api.answer = answer_late
    answers = asyncio.run(run(RSA_ISSUER.token()))
    assert {type(one) for one in answers} == {PodIdentity}
    assert len(api.reviews) == 1


@pytest.mark.slow
def test_pods_that_share_an_address_are_all_reviewed_at_once(pods: Pods, api: ApiServer) -> None:
    async def run() -> list[Any]:
        return await asyncio.gather(*(pods.ask(RSA_ISSUER.token()) for _ in range(_PODS)))

    assert {type(one) for one in asyncio.run(run())} == {PodIdentity}
    assert len(api.reviews) == _PODS


def _threads(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


@pytest.mark.slow
def test_few_first_sessions_are_asked_for_at_once_by_all_profiles_of_a_key(pod_stage: Stage) -> None:
    config = Path(user_file(pod_stage.environ()))
    text = config.read_text()
    config.write_text(text + text.replace("[profile.web]", "[profile.batch]"))
    pod_stage.service.misbehave(Fault("stall", None))
    accounts = [f"team-{name}/account-{number}" for name in "ab" for number in range(20)]
    policy = '[accounts]\n"team-a/*" = "web"\n"team-b/*" = "batch"\n'
    with serve_pods(pod_stage, policy) as pods, ExitStack() as stack:
        for account in accounts:
            client = stack.enter_context(Client(pods.port))
            client.send("GET", "/v1/credentials", {"Authorization": f"{account}/pod-1/1"})
        while _threads(pods.process.pid) <= MOST_AT_ONCE:
            time.sleep(0.05)
        time.sleep(1)  # Long enough for more.
        threads = _threads(pods.process.pid)
    assert MOST_AT_ONCE < threads < MOST_AT_ONCE + 6


def test_token_that_is_always_asked_for_costs_a_review_in_30_s(
    pods: Pods, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(pods.verification._answers, "_clock", lambda: now)

    async def run(token: str) -> None:
        nonlocal now
        for _ in range(1200):  # Two minutes, ten times a second, by four processes.
            assert {type(one) for one in await asyncio.gather(*(pods.ask(token) for _ in range(4)))} == {PodIdentity}
            now += 0.1

    begin = now
    asyncio.run(run(RSA_ISSUER.token()))
    assert len(api.reviews) == round((now - begin) / CACHE_SECONDS)


def test_bad_tokens_of_an_address_cost_few_reviews(pods: Pods, api: ApiServer) -> None:
    async def run() -> list[Any]:
        forged = [RSA_ISSUER.sign(claims())[:-4] + "AAAA" for _ in range(300)]
        return await asyncio.gather(*(pods.ask(token) for token in forged))

    answers = asyncio.run(run())
    assert {one.status for one in answers} <= {401, 429}
    assert len(api.reviews) <= BURST // REFUSED_COST + MAX_REVIEWS
