"""IMDS tokens: known again until they expire, forged by nobody, and kept nowhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwsigner.serving.session_tokens import SessionTokens


@given(now=st.floats(0, 1e9), seconds=st.integers(1, 21600))
def test_a_token_tells_its_expiry(now: float, seconds: int) -> None:
    tokens = SessionTokens(lambda: now)
    expiry = tokens.expiry(tokens.issue(seconds))
    assert expiry is not None
    assert now + seconds - 1 < expiry <= now + seconds


@given(text=st.binary(max_size=100))
def test_nothing_else_is_a_token(text: bytes) -> None:
    assert SessionTokens().expiry(text) is None


@given(index=st.integers(0, 79), bit=st.integers(0, 7))
def test_no_bit_of_a_token_can_be_changed(index: int, bit: int) -> None:
    tokens = SessionTokens()
    token = bytearray(tokens.issue(60))
    token[index] ^= 1 << bit
    assert tokens.expiry(bytes(token)) is None


def test_a_token_is_of_one_run_alone() -> None:
    assert SessionTokens().expiry(SessionTokens().issue(60)) is None


def test_no_token_can_be_cut_or_lengthened() -> None:
    tokens = SessionTokens()
    token = tokens.issue(60)
    assert len(token) == 80
    assert not [cut for cut in range(80) if tokens.expiry(token[:cut]) is not None]
    assert tokens.expiry(token + b"0") is None


def test_nothing_is_kept_of_tokens() -> None:
    tokens = SessionTokens()
    before = dict(vars(tokens))
    for _ in range(1000):
        tokens.issue(60)
    assert vars(tokens) == before
