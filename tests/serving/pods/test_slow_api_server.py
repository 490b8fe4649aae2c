"""`serve --pods` as a process, with many Pods behind one address, while its API server is slow, hangs or is gone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from botocore.utils import ContainerMetadataFetcher

from serving.pods.api_server import RSA_ISSUER, ApiServer, Exchange, answer_well
from serving.pods.pod_stage import NODE, RUN, write_policy
from serving.raw import Client
from serving.stage import Stage

pytestmark = [pytest.mark.process, pytest.mark.slow]

WEB = '[accounts]\n"team-a/web" = "web"\n'
# boto3 waits 2 s for a response. A busy machine takes longer; without a bound, a response would take 5 s.
LONGEST_SECONDS = 4.0
# Goes before hwsigner: the API server's files are elsewhere, and a good answer is used for a second.
FILES = """if True:
    import sys
    from hwsigner._serving.pods import verification

    verification.Verification.__init__.__kwdefaults__["folder"] = {folder!r}
    verification.CACHE_SECONDS = 1.0
"""


@contextmanager
def serving(stage: Stage, api: ApiServer, policy: str = WEB) -> Iterator[int]:
    """Serve Pods on loopback, and yield the port."""
    path = stage.folder / "pods.toml"
    write_policy(path, policy)
    wrapper = (sys.executable, "-c", FILES.format(folder=str(api.folder)) + RUN)
    flags = ["--pods", str(path), "--address=127.0.0.1", "--port=0", "--node-name", NODE]
    with stage.start("serve", *flags, wrapper=wrapper, stdin=None, **api.environ) as process:
        line = process.read_until("serving the Pods of node1 on http://127.0.0.1:")
        yield int(line.rpartition(":")[2].partition("/")[0])


def ask(port: int, token: str) -> tuple[int, float]:
    """Return the status of a response, and how long it took."""
    begin = time.monotonic()
    with Client(port) as client:
        status = client.ask("GET", "/v1/credentials", {"Authorization": token}).status
    return status, time.monotonic() - begin


def fetch(port: int, token: str) -> bool:
    """Return whether boto3 gets credentials, with its own time limits and attempts."""
    url = urlsplit(f"http://127.0.0.1:{port}/v1/credentials").geturl()
    found = ContainerMetadataFetcher().retrieve_full_uri(url, headers={"Authorization": token})
    return "AccessKeyId" in found


@pytest.mark.parametrize("number", [110, 200])
def test_all_pods_behind_one_address_are_served_when_the_api_server_is_slow(
    pod_stage: Stage, api: ApiServer, number: int
) -> None:
    def answer_late(exchange: Exchange) -> None:
        time.sleep(0.4)
        answer_well(exchange)

    api.answer = answer_late
    tokens = [RSA_ISSUER.token(jti=f"{one}") for one in range(number)]
    with serving(pod_stage, api) as port, ThreadPoolExecutor(number) as pool:
        assert all(pool.map(lambda token: fetch(port, token), tokens))


def test_each_answer_comes_within_boto3_s_time_when_the_api_server_hangs_and_known_tokens_still_count(
    pod_stage: Stage, api: ApiServer
) -> None:
    def hang(exchange: Exchange) -> None:
        time.sleep(10)

    known = RSA_ISSUER.token()
    with serving(pod_stage, api) as port, ThreadPoolExecutor(40) as pool:
        assert ask(port, known)[0] == 200
        api.answer = hang
        time.sleep(1.1)
        others = pool.map(lambda one: ask(port, RSA_ISSUER.token(jti=f"{one}")), range(39))
        first, again = ask(port, known), ask(port, known)
        answers = [*others, first, again]
    assert [status for status, _ in answers] == [503] * 39 + [200] * 2
    assert max(seconds for _, seconds in answers) < LONGEST_SECONDS
    assert again[1] < first[1] < 1


def test_known_token_is_refused_when_the_api_server_is_gone_and_the_policy_says_so(
    pod_stage: Stage, api: ApiServer
) -> None:
    token = RSA_ISSUER.token()
    with serving(pod_stage, api, f"outage-seconds = 0\n{WEB}") as port:
        assert ask(port, token)[0] == 200
        api.answer = lambda exchange: exchange.drop()
        time.sleep(1.1)
        assert ask(port, token)[0] == 503
