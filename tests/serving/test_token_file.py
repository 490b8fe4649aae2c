"""Token files: private, permanent and whole."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._serving.token_file import TokenFile, keep_imds_key, new_token, token_folder
from hwsigner.errors import HwsignerError


def keep_token(folder: Path, name: str, *, is_new: bool = False) -> tuple[Path, bytes]:
    found = TokenFile(folder, name, is_new=is_new)
    token = found.path.read_bytes()
    assert found.matches(token)
    return found.path, token


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_file_contains_the_token_without_newline_for_its_owner_only(tmp_path: Path) -> None:
    path, token = keep_token(tmp_path / "hwsigner" / "serve", "web")
    assert path.read_bytes() == token
    assert re.fullmatch(rb"hwsigner_[A-Za-z0-9_-]{43}", token)
    assert (_mode(path), _mode(path.parent), _mode(path.parent.parent)) == (0o600, 0o700, 0o700)
    assert os.listdir(path.parent) == [path.name]


def test_each_profile_keeps_a_token_of_its_own(tmp_path: Path) -> None:
    found = [keep_token(tmp_path, name) for name in ("web", "db", "web")]
    assert found[0] == found[2]
    assert found[0][1] != found[1][1]


def test_servers_that_start_at_once_share_one_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: keep_token(tmp_path, "web"), range(32)))
    assert len(set(found)) == 1
    assert os.listdir(tmp_path) == ["web.token"]


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_file_of_any_name_is_in_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    path, _ = keep_token(folder, name)
    assert path.parent == folder
    assert os.listdir(folder) == [path.name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path, _ = keep_token(tmp_path, "web")
    path.chmod(mode)
    with pytest.raises(HwsignerError, match=rf"web\.token with mode {mode:04o} is not a file that only you can read"):
        keep_token(tmp_path, "web")


@pytest.mark.parametrize(
    "content", [b"", b"short", b"x" * 40 + b"\n", b"x" * 40 + b"\r\n", b"two words" * 9, b"\xff" * 40]
)
def test_file_without_a_token_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path, _ = keep_token(tmp_path, "web")
    path.write_bytes(content)
    with pytest.raises(HwsignerError, match=r"web\.token does not contain a token") as caught:
        keep_token(tmp_path, "web")
    assert "xxx" not in str(caught.value)


def test_token_that_the_user_wrote_is_used(tmp_path: Path) -> None:
    path, _ = keep_token(tmp_path, "web")
    path.write_bytes(b"Bearer:" + b"x" * 40)
    for is_new in (False, True):
        assert keep_token(tmp_path, "web", is_new=is_new) == (path, b"Bearer:" + b"x" * 40)


def test_token_that_was_made_is_replaced_and_only_the_new_one_matches(tmp_path: Path) -> None:
    path, old = keep_token(tmp_path, "web")
    found = TokenFile(tmp_path, "web", is_new=True)
    new = path.read_bytes()
    assert new != old
    assert (found.matches(new), found.matches(old), found.matches(b"")) == (True, False, False)
    assert _mode(path) == 0o600
    assert os.listdir(tmp_path) == [path.name]


def test_running_server_accepts_the_token_that_another_server_of_the_profile_made(tmp_path: Path) -> None:
    running = TokenFile(tmp_path, "web", is_new=True)
    path, token = keep_token(tmp_path, "web", is_new=True)
    assert running.matches(token)
    path.unlink()
    assert (running.matches(token), running.matches(b"x")) == (True, False)


def test_key_of_imds_tokens_stays(tmp_path: Path) -> None:
    assert keep_imds_key(tmp_path) == keep_imds_key(tmp_path)
    assert _mode(tmp_path / "imds.key") == 0o600


def test_link_or_folder_is_refused(tmp_path: Path) -> None:
    real, _ = keep_token(tmp_path, "web")
    (tmp_path / "db.token").symlink_to(real)
    (tmp_path / "dir.token").mkdir()
    for name in ("db", "dir"):
        with pytest.raises(HwsignerError, match=rf"{name}\.token"):
            keep_token(tmp_path, name)


def test_error_names_a_folder_that_can_t_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HwsignerError, match=r"can't keep a token in .*/file/x/web\.token"):
        keep_token(tmp_path / "file" / "x", "web")


def test_folder_is_the_runtime_folder_if_it_is_this_user_s_else_the_state_folder(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    state = {**home, "XDG_STATE_HOME": f"{tmp_path}/state"}
    service = {**home, "STATE_DIRECTORY": f"{tmp_path}/service:{tmp_path}/other"}
    assert token_folder({**state, "XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "hwsigner/serve"
    assert token_folder({**state, "XDG_RUNTIME_DIR": f"{tmp_path}/missing"}) == tmp_path / "state/hwsigner/serve"
    assert token_folder({**state, "XDG_RUNTIME_DIR": "."}) == tmp_path / "state/hwsigner/serve"
    assert token_folder({**state, **service}) == tmp_path / "state/hwsigner/serve"
    assert token_folder(service) == tmp_path / "service/hwsigner/serve"
    assert token_folder({**home, "XDG_STATE_HOME": "x"}) == tmp_path / ".local/state/hwsigner/serve"


def test_tokens_are_random() -> None:
    assert len({new_token() for _ in range(100)}) == 100


def test_token_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, link = os.fsync, os.link

    def note_sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        sync(descriptor)

    def note_link(source: Path, target: Path) -> None:
        done.append("named")
        link(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "link", note_link)
    keep_token(tmp_path, "web")
    keep_token(tmp_path, "web")
    assert done == ["52 bytes", "named", "folder"]
