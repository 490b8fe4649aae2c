"""IMDS tokens: recognised until they expire, impossible to forge, and stored nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._serving.imds import SessionTokens
from hwsigner._system import clocks
from judges import needs_proc

SECRET = b"s" * 32


@given(now=st.floats(0, 1e9), seconds=st.integers(1, 21600))
def test_token_contains_its_expiry(now: float, seconds: int) -> None:
    tokens = SessionTokens(SECRET, lambda: now)
    expiry = tokens.expiry(tokens.issue(seconds))
    assert expiry is not None
    assert now + seconds - 1 < expiry <= now + seconds


@given(text=st.binary(max_size=100))
def test_other_text_is_not_a_token(text: bytes) -> None:
    assert SessionTokens(SECRET).expiry(text) is None


@given(index=st.integers(0, 79), bit=st.integers(0, 7))
def test_changed_token_is_not_recognised(index: int, bit: int) -> None:
    tokens = SessionTokens(SECRET)
    token = bytearray(tokens.issue(60))
    token[index] ^= 1 << bit
    assert tokens.expiry(bytes(token)) is None


def test_token_is_recognised_in_the_next_run() -> None:
    assert SessionTokens(SECRET).expiry(SessionTokens(SECRET).issue(60)) is not None


def test_token_of_another_secret_is_not_recognised() -> None:
    assert SessionTokens(SECRET).expiry(SessionTokens(b"t" * 32).issue(60)) is None


@needs_proc
def test_token_is_not_recognised_after_the_machine_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = SessionTokens(SECRET).issue(60)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(clocks, "_BOOT_ID", tmp_path / "boot_id")
    assert SessionTokens(SECRET).expiry(token) is None


@needs_proc
def test_token_is_recognised_in_this_run_only_when_the_boot_can_t_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "_BOOT_ID", tmp_path / "missing")
    tokens = SessionTokens(SECRET)
    assert tokens.expiry(tokens.issue(60)) is not None
    assert SessionTokens(SECRET).expiry(tokens.issue(60)) is None


def test_cut_or_lengthened_token_is_not_recognised() -> None:
    tokens = SessionTokens(SECRET)
    token = tokens.issue(60)
    assert len(token) == 80
    assert not [cut for cut in range(80) if tokens.expiry(token[:cut]) is not None]
    assert tokens.expiry(token + b"0") is None


def test_tokens_are_not_stored() -> None:
    tokens = SessionTokens(SECRET)
    before = dict(vars(tokens))
    for _ in range(1000):
        tokens.issue(60)
    assert vars(tokens) == before
