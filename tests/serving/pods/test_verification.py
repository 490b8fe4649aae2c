"""Whose a token is, through all checks, with an API server that answers as a real one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwsigner._serving.pods.identity import PodIdentity
from hwsigner._serving.responses import HTTPRefusal
from serving.pods.api_server import RSA_ISSUER, ApiServer, claims
from serving.pods.verifying import KEYS, REVIEW, Pods


@pytest.mark.parametrize("settings", [REVIEW, KEYS], ids=["review", "keys"])
def test_token_of_a_pod_on_this_node_is_accepted(make_pods: Callable[..., Pods], settings: object) -> None:
    said = claims()
    answer = make_pods(settings).get(RSA_ISSUER.sign(said))
    assert answer == PodIdentity("team-a", "web", "web-1", "8f020469-114a-4cac-acf7-3503ccc632b6", "node1", said["exp"])


def test_review_is_asked_for_once_in_30_s(pods: Pods, api: ApiServer) -> None:
    token = RSA_ISSUER.token()
    assert [pods.status(token) for _ in range(5)] == [200] * 5
    [review] = api.reviews
    assert review["spec"] == {"token": token, "audiences": ["hwsigner"]}


def test_reason_for_the_client_has_no_words_of_the_api_server(pods: Pods) -> None:
    answer = pods.get(RSA_ISSUER.token()[:-8] + "AAAAAAAA")
    assert isinstance(answer, HTTPRefusal)
    assert answer.reason == "the token is not valid in this cluster"
    assert "error in cryptographic primitive" in "".join(pods.log)
