"""TokenReview: what an API server answers, and what it must not be taken for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hwsigner._serving.responses import HTTPRefusal
from serving.pods.api_server import RSA_ISSUER, ApiServer, Exchange, bound, claims, failure, no, yes
from serving.pods.verifying import Pods

OTHER_AUDIENCES: list[Any] = [[], ["other"], None, "hwsigner", [["hwsigner"]], {}]
ANONYMOUS = {"username": "system:anonymous", "groups": ["system:unauthenticated"]}


def altered(extra: dict[str, Any] | None = None, **changes: Any) -> Callable[[Exchange], None]:
    """Return an answer that is a "yes" but for some changes of its status, and of the user's attributes."""

    def answer(exchange: Exchange) -> None:
        review = json.loads(exchange.body)
        status = yes(claims(), review["spec"]["audiences"])
        for name, value in (extra or {}).items():
            status["user"]["extra"][f"authentication.kubernetes.io/{name}"] = value
        exchange.give_status({**status, **changes})

    return answer


@pytest.mark.parametrize(
    "status",
    [
        *(no("invalid bearer token"), no(None), {}, {"authenticated": False}, {"user": yes(claims(), [])["user"]}),
        *({"authenticated": "true", "user": {"username": "system:serviceaccount:team-a:web"}}, {"authenticated": 1}),
        {"authenticated": True, "user": ANONYMOUS, "audiences": ["hwsigner"]},
        {"authenticated": True, "user": {"username": "admin", "groups": ["system:masters"]}, "audiences": ["hwsigner"]},
        {"authenticated": True, "audiences": ["hwsigner"]},
        {"authenticated": True, "user": [], "audiences": ["hwsigner"]},
        *({**yes(claims(), []), "audiences": value} for value in OTHER_AUDIENCES),
    ],
)
def test_answer_that_is_no_yes_about_a_service_account_is_401(pods: Pods, api: ApiServer, status: Any) -> None:
    api.answer = lambda exchange: exchange.give_status(status)
    assert pods.status(RSA_ISSUER.token()) == 401
    assert len(pods.log) == 1


@pytest.mark.parametrize("value", [False, None, 1, "true", [True], {}])
def test_only_true_is_a_yes(pods: Pods, api: ApiServer, value: object) -> None:
    api.answer = altered(authenticated=value)
    assert pods.status(RSA_ISSUER.token()) == 401
    api.answer = altered(authenticated=True)
    assert pods.status(RSA_ISSUER.token()) == 200


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"pod-name": []}, "not bound to a Pod"),
        ({"pod-name": ["web-1", "web-2"]}, "not bound to a Pod"),
        ({"pod-uid": None}, "not bound to a Pod"),
        ({"pod-uid": "8f020469"}, "not bound to a Pod"),
        ({"node-name": []}, "does not name the Pod's node"),
        ({"node-name": ["node2"]}, "on node node2"),
        ({"node-name": [7]}, "does not name the Pod's node"),
    ],
)
def test_answer_without_a_pod_on_this_node_is_403(pods: Pods, api: ApiServer, extra: dict[str, Any], text: str) -> None:
    api.answer = altered(extra=extra)
    answer = pods.get(RSA_ISSUER.token())
    assert isinstance(answer, HTTPRefusal)
    assert answer.status == 403
    assert text in answer.reason


@pytest.mark.parametrize(
    "said",
    [
        claims(**{"kubernetes.io": bound(namespace="team-b")}),
        claims(**{"kubernetes.io": bound(serviceaccount={"name": "other", "uid": "u"})}),
        claims(**{"kubernetes.io": bound(pod={"name": "web-2", "uid": "8f020469-114a-4cac-acf7-3503ccc632b6"})}),
        claims(**{"kubernetes.io": bound(pod={"name": "web-1", "uid": "another"})}),
    ],
)
def test_yes_about_another_pod_is_no_answer(pods: Pods, api: ApiServer, said: dict[str, Any]) -> None:
    api.answer = lambda exchange: exchange.give_status(yes(said, ["hwsigner"]))
    assert pods.status(RSA_ISSUER.token()) == 503
    assert "not about the token that was sent" in pods.log[0]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((201, b""), (201, b"null"), (201, b"[]"), (201, b"{"), (201, b"[" * 100_000), (204, b"")),
        (201, json.dumps({"kind": "Status", "status": "Failure"}).encode()),
        (201, json.dumps({"kind": "Status", "status": {"authenticated": True}}).encode()),
        (201, json.dumps({"kind": "TokenReview"}).encode()),
        (200, b"<html>a proxy</html>"),
        (400, failure(400, "BadRequest", "token is required for TokenReview in authentication")),
        (404, failure(404, "NotFound", "the server could not find the requested resource")),
        (500, failure(500, "InternalError", "etcd is gone")),
        (503, b"no endpoints"),
    ],
)
def test_response_without_an_answer_is_503(pods: Pods, api: ApiServer, status: int, body: bytes) -> None:
    api.answer = lambda exchange: exchange.give(status, body)
    answer = pods.get(RSA_ISSUER.token())
    assert isinstance(answer, HTTPRefusal)
    assert (answer.status, answer.headers) == (503, {b"retry-after": b"1"})
    assert f"did not answer the TokenReview ({status}" in pods.log[0]


def test_words_of_the_api_server_are_in_the_log_alone(pods: Pods, api: ApiServer) -> None:
    api.answer = lambda exchange: exchange.give(500, failure(500, "InternalError", "secret-uid\nforged line"))
    answer = pods.get(RSA_ISSUER.token())
    assert isinstance(answer, HTTPRefusal)
    assert b"secret-uid" not in answer.response().data
    assert "secret-uid" in pods.log[0]


def test_audiences_are_never_left_out(make_pods: Callable[..., Pods], api: ApiServer) -> None:
    pods = make_pods(audiences=("hwsigner", "pods.eks.amazonaws.com"))
    assert pods.status(RSA_ISSUER.token(aud=["pods.eks.amazonaws.com"])) == 200
    [review] = api.reviews
    assert review["spec"]["audiences"] == ["hwsigner", "pods.eks.amazonaws.com"]


def test_what_is_not_of_a_token_s_form_never_reaches_the_api_server(pods: Pods, api: ApiServer) -> None:
    good = RSA_ISSUER.token()
    for token in (f" {good}", f"{good} ", f"{good} more", " ", "\t", "", f"{good}\n", "garbage", "a.b.c"):
        assert pods.status(token) == 401
    assert api.requests == []


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"aud": ["other"]}, 401),
        ({"exp": 1_700_000_000}, 401),
        ({"iss": "https://other.example"}, 401),
        ({"kubernetes.io": bound(node={"name": "node2"})}, 403),
        ({"kubernetes.io": bound(pod=None)}, 403),
    ],
)
def test_claims_that_refuse_a_token_spare_the_review(
    pods: Pods, api: ApiServer, changes: dict[str, Any], status: int
) -> None:
    assert pods.status(RSA_ISSUER.token(**changes)) == status
    assert api.requests == []


def test_issuer_is_not_checked_when_none_is_given(make_pods: Callable[..., Pods]) -> None:
    assert make_pods(issuer=None).status(RSA_ISSUER.token(iss="https://other.example")) == 200
