"""Role session names: such as AWS takes, and different for different accounts, nodes and Pods."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from hwsigner._serving.pods.naming import session_name

# As AWS documents it for AssumeRole and CreateSession.
_VALID = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)

_LABEL = st.text("ab-", max_size=61).map(lambda text: f"a{text}b")
_NAME = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)
_NAMES = st.tuples(_LABEL, _NAME, _NAME)


def test_short_names_are_joined_as_they_are() -> None:
    assert session_name("team-a", "web", "node1") == "team-a.web.node1"
    assert session_name("a" * 20, "b" * 20, "c" * 22) == f"{'a' * 20}.{'b' * 20}.{'c' * 22}"


def test_long_name_keeps_its_beginning_and_ends_in_a_hash() -> None:
    name = session_name("team-a", "web", f"ip-10-0-0-1.{'x' * 60}")
    assert len(name) == 64
    assert re.fullmatch(r"team-a\.web\.ip-10-0-0-1\.x+_[0-9a-f]{20}", name)


@settings(max_examples=scaled(100))
@given(_LABEL, _LABEL, _NAME, _NAME)
def test_condition_on_an_account_lets_no_account_in_whose_name_goes_on(
    namespace: str, account: str, ending: str, node: str
) -> None:
    condition = f"{namespace}.{account}."  # With a * behind it, in a role's trust policy.
    assert not session_name(namespace, f"{account}.{ending}", node).startswith(condition)


@settings(max_examples=scaled(100))
@given(_NAMES)
def test_aws_takes_every_name(names: tuple[str, str, str]) -> None:
    assert _VALID.fullmatch(session_name(*names))


@settings(max_examples=scaled(100))
@given(st.lists(_LABEL, min_size=3, max_size=6), st.data())
def test_names_that_are_split_in_another_place_differ(labels: list[str], data: st.DataObject) -> None:
    def draw() -> tuple[str, str, str]:
        cut = data.draw(st.integers(2, len(labels) - 1))
        return labels[0], ".".join(labels[1:cut]), ".".join(labels[cut:])

    one, other = draw(), draw()
    assert (session_name(*one) == session_name(*other)) == (one == other)


@settings(max_examples=scaled(50))
@given(_LABEL, _LABEL, st.text("abc", min_size=64, max_size=100), st.text("abc", min_size=1, max_size=3))
def test_long_names_that_differ_at_the_end_differ(namespace: str, account: str, pod: str, end: str) -> None:
    assert session_name(namespace, account, pod) != session_name(namespace, account, pod + end)
