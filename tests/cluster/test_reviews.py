"""What an API server says of tokens. The names and errors are its own: hwsigner's code has no part in this."""

from __future__ import annotations

import pytest

from cluster.answers import KEYS
from cluster.sources import Source
from cluster.tokens import AUDIENCE, CASES


@pytest.mark.parametrize("case", CASES)
def test_review_says_of_a_token(source: Source, case: str) -> None:
    answer = source.api.review(source.tokens[case], [AUDIENCE], by=source.tokens["reviewer"])
    assert answer.status == 201
    status = answer.json()["status"]
    assert CASES[case].says in (status["user"]["username"] if status.get("authenticated") else status["error"])
    assert ("audiences" in status) == status.get("authenticated", False)


@pytest.mark.parametrize(
    ("by", "status"), [("stale reviewer", 401), ("powerless reviewer", 403), ("next reviewer", 201)]
)
def test_review_needs_a_reviewer_with_the_right(source: Source, by: str, status: int) -> None:
    assert source.api.review(source.tokens["good"], [AUDIENCE], by=source.tokens[by]).status == status


def test_keys_are_for_accounts_and_in_one_form(source: Source) -> None:
    for by, accept, status in (
        ("reviewer", "*/*", 200),
        ("reviewer", "application/jwk-set+json", 200),
        ("reviewer", "application/json", 406),
        ("powerless reviewer", "*/*", 200),
        ("", "*/*", 403),
    ):
        assert source.api.ask("GET", KEYS, token=source.tokens.get(by, ""), Accept=accept).status == status
