"""The API server's signing key is replaced by another, of another kind, while `serve --pods` runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.kube import ISSUER, Cluster
from cluster.node import POLICY, Node
from cluster.test_outages import OFFLINE
from cluster.tokens import AUDIENCE, REVIEWER, parts


@pytest.fixture
def signing(cluster: Cluster, node: Node) -> Iterator[Cluster]:
    """The cluster, which has its former key again afterwards."""
    yield cluster
    cluster.sign_with("sa")
    node.source.use("reviewer")


@pytest.mark.parametrize("verify", ["", OFFLINE], ids=["review", "keys"])
def test_token_of_a_new_signing_key_is_good_and_one_of_the_former_until_that_is_gone(
    signing: Cluster, node: Node, verify: str
) -> None:
    with node.serving(verify + POLICY, cache_seconds=1):
        assert node.ask(node.source.tokens["good"])[0] == 200
        signing.sign_with("new", "sa")
        new = signing.api.token("team-a/web", AUDIENCE, bound_to="web-1")
        assert parts(new)[0]["alg"] == "ES256"
        node.source.tokens["of a new key"] = new
        node.until(200, "of a new key")  # The keys are asked for every ten seconds at most.
        assert node.ask(node.source.tokens["two audiences"])[0] == 200
    signing.sign_with("new")
    own = signing.api.token(REVIEWER, ISSUER)
    node.source.account.update({"token": own.encode()})
    with node.serving(verify + POLICY):
        assert node.ask(node.source.tokens["good"])[0] == 401
        assert node.ask(new)[0] == 200
