"""`serve --pods` while its API server hangs, is gone, or changes its certificate, and with other tokens of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from cluster.node import POLICY, Node
from cluster.pki import make_cluster_ca
from cluster.test_pods import STRIPPED
from cluster.tokens import CASES
from judges import needs_namespaces

pytestmark = [pytest.mark.root, pytest.mark.slow, needs_namespaces]

OFFLINE = 'verify = "keys"\nissuer = "https://kubernetes.default.svc.cluster.local"\n'


@pytest.mark.parametrize("way", ["hangs", "is gone"])
def test_answers_are_used_to_their_end_while_the_api_server(node: Node, way: str) -> None:
    source = node.source
    with node.serving(cache_seconds=30) as process:
        assert node.ask(source.tokens["good"])[0] == 200
        source.hang() if way == "hangs" else source.kill()
        try:
            assert node.ask(source.tokens["good"])[0] == 200
            assert node.ask(source.tokens["another account"])[0] == 503
            node.advance(31)
            assert node.ask(source.tokens["good"])[0] == 200
            node.advance(331)
            status, body = node.ask(source.tokens["good"])
            assert status == 503
            assert "the credentials are not there yet" in body or "the token can't be verified now" in body
        finally:
            source.go_on() if way == "hangs" else source.start_again()
        node.until(200)
        assert node.until(200, "another account") != node.until(200)
        assert process.end(signal.SIGTERM) == 0


def test_certificate_of_another_ca_is_refused_until_the_account_has_that_ca(node: Node) -> None:
    source, ca = node.source, make_cluster_ca()
    with node.serving(cache_seconds=0), source.other_ca(ca):
        source.kill()  # A connection that is open stays good.
        source.start_again()
        node.until(503)
        source.account.update({"ca.crt": ca.pem})
        node.until(200)


def test_new_certificate_of_the_same_ca_is_accepted(node: Node) -> None:
    with node.serving(cache_seconds=0):
        assert node.ask(node.source.tokens["good"])[0] == 200
        node.source.renew_certificate()
        assert node.ask(node.source.tokens["good"])[0] == 200
        node.source.kill()
        node.source.start_again()
        node.until(200)


def test_ca_without_key_usage_is_accepted_only_if_the_policy_says_so(node: Node) -> None:
    source, ca = node.source, make_cluster_ca(has_key_usage=False)
    with source.other_ca(ca):
        source.account.update({"ca.crt": ca.pem})
        with node.serving(cache_seconds=0) as process:
            assert node.ask(source.tokens["good"])[0] == 503
            process.read_until("allow-incomplete-ca = true")
        with node.serving(f"allow-incomplete-ca = true\n{POLICY}", cache_seconds=0):
            assert node.ask(source.tokens["good"])[0] == 200


@pytest.fixture
def own_token(node: Node) -> Iterator[None]:
    """Give hwsigner's account its first token again after the test."""
    yield
    node.source.use("reviewer")


def test_own_token_is_read_again(node: Node, own_token: None) -> None:
    source = node.source
    with node.serving(f"outage-seconds = 0\n{POLICY}", cache_seconds=0) as process:
        assert node.ask(source.tokens["good"])[0] == 200
        for reviewer, said in (("stale reviewer", "401"), ("powerless reviewer", "system:auth-delegator")):
            source.use(reviewer)
            status, body = node.ask(source.tokens["good"])
            assert (status, "reviewer" in body) == (503, False)
            process.read_until(said)
            source.use("next reviewer")
            assert node.ask(source.tokens["good"])[0] == 200


def test_log_has_the_api_server_s_words_and_the_client_does_not(node: Node) -> None:
    with node.serving() as process:
        status, body = node.ask(node.source.tokens["deleted account"])
        assert (status, "gone" in body) == (401, False)
        process.read_until('serviceaccounts "gone" not found')


def test_one_review_does_for_a_token(node: Node) -> None:
    with node.serving():
        before = node.source.reviews()
        assert {node.ask(node.source.tokens["good"])[0] for _ in range(20)} == {200}
        # The server's own look at the API server may be another one.
        assert node.source.reviews() - before in (1, 2)


def test_keys_alone_show_all_but_the_end_of_pods_and_accounts(node: Node) -> None:
    accounts = '"team-a/gone" = "web"\n"team-b/web" = "web"\n'
    with node.serving(OFFLINE + POLICY + accounts):
        before = node.source.reviews()
        found = {name: node.ask(node.source.tokens[name])[0] for name in CASES if "line feed" not in name}
        assert node.source.reviews() == before
    good = {name for name, status in found.items() if status == 200}
    expected = {name for name, case in CASES.items() if case.is_valid or not case.is_seen_offline}
    assert good == expected | {STRIPPED}
