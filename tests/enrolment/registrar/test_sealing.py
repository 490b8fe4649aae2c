"""Sealed states: opened by the keys that sealed them, in time and unchanged, and by nothing else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.enrolment.registrar.sealing import (
    LIFE_SECONDS,
    MOST_SECONDS,
    SealError,
    SealingKeys,
    read_keys,
    rotate_keys,
)
from hwsigner.errors import ConfigError

NOW = 1_800_000_000.5
KEYS = SealingKeys(((b"newest-1", bytes(range(32))), (b"last-one", bytes(range(1, 33)))))


@given(st.binary(max_size=3000))
def test_state_is_opened_as_it_was_sealed(state: bytes) -> None:
    assert KEYS.open(KEYS.seal(state, NOW), NOW) == state


@given(st.binary(max_size=300), st.data())
def test_any_changed_byte_is_refused(state: bytes, data: st.DataObject) -> None:
    sealed = bytearray(KEYS.seal(state, NOW))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError):
        KEYS.open(bytes(sealed), NOW)


@given(st.binary(max_size=300), st.data())
def test_any_other_length_is_refused(state: bytes, data: st.DataObject) -> None:
    sealed = KEYS.seal(state, NOW)
    length = data.draw(st.integers(0, len(sealed) + 40).filter(lambda length: length != len(sealed)))
    with pytest.raises(SealError):
        KEYS.open((sealed + bytes(40))[:length], NOW)


@given(st.binary(max_size=200))
def test_bytes_that_were_not_sealed_are_refused(data: bytes) -> None:
    with pytest.raises(SealError):
        KEYS.open(data, NOW)


@given(st.binary(min_size=1, max_size=50))
def test_sealed_state_does_not_show_what_is_in_it_and_differs_each_time(state: bytes) -> None:
    one, other = KEYS.seal(state * 8, NOW), KEYS.seal(state * 8, NOW)
    assert one != other
    assert state * 8 not in one


@given(st.floats(-1000, 1000))
def test_state_is_valid_for_minutes_only_and_not_before_it_was_made(seconds: float) -> None:
    sealed = KEYS.seal(b"state", NOW)
    left = int(NOW) + LIFE_SECONDS - (NOW + seconds)
    if 0 <= left <= MOST_SECONDS:
        assert KEYS.open(sealed, NOW + seconds) == b"state"
    else:
        with pytest.raises(SealError, match="too old"):
            KEYS.open(sealed, NOW + seconds)


def test_challenge_lasts_at_most_five_minutes_whatever_the_clocks_say() -> None:
    assert LIFE_SECONDS < MOST_SECONDS == 300


def test_the_last_key_opens_and_does_not_seal() -> None:
    last = SealingKeys(KEYS.keys[1:])
    assert KEYS.open(last.seal(b"state", NOW), NOW) == b"state"
    with pytest.raises(SealError, match="not valid here"):
        last.open(KEYS.seal(b"state", NOW), NOW)


def test_same_key_under_another_id_is_refused() -> None:
    other = SealingKeys(((b"newest-2", KEYS.keys[0][1]),))
    with pytest.raises(SealError):
        other.open(KEYS.seal(b"state", NOW), NOW)


def test_key_id_is_authenticated() -> None:
    key = KEYS.keys[0][1]
    same = SealingKeys(((b"newest-1", key), (b"newest-2", key)))
    sealed = same.seal(b"state", NOW)
    with pytest.raises(SealError, match="was changed"):
        same.open(sealed.replace(b"newest-1", b"newest-2"), NOW)


def test_keys_do_not_show_in_their_repr() -> None:
    assert "newest" not in repr(KEYS)


def test_rotation_makes_a_private_file_and_keeps_the_last_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, second, third = (rotate_keys(str(path)) for _ in range(3))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [len(one.keys) for one in (first, second, third)] == [1, 2, 2]
    assert second.keys[1] == first.keys[0]
    assert third.keys[1] == second.keys[0]
    assert read_keys(str(path)) == third


@pytest.mark.root
def test_keys_may_be_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    rotate_keys(str(path))
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_keys(str(path)).keys


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660])
def test_keys_that_other_users_can_read_or_write_are_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    rotate_keys(str(path))
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:04o}: other users can"):
        read_keys(str(path))
    with pytest.raises(ConfigError):
        rotate_keys(str(path))


LINE = f"{'0' * 16} {'1' * 64}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# a comment\n",
        LINE * 2,
        LINE + LINE.replace("0", "2") + LINE.replace("0", "3"),
        LINE.upper().replace("0", "A"),
        LINE[:-2],
        f"x{LINE}",
        f"{LINE}more\n",
        "\xff",
    ],
)
def test_file_without_one_or_two_keys_is_refused_and_not_quoted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="one or two lines of key ID and key") as caught:
        read_keys(str(path))
    assert "1" * 8 not in str(caught.value)


def test_rotation_leaves_a_file_that_is_not_one_of_keys_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text("precious")
    with pytest.raises(ConfigError):
        rotate_keys(str(path))
    assert path.read_text() == "precious"
