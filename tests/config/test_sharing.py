"""What the system's agent may read afterwards: files of root's, whatever umask and copying did, and no others."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from hwsigner._config import profiles
from hwsigner._config.sharing import hidden_files, share, share_file
from hwsigner._system import users
from judges import needs_shared_folder

GROUP, PERSON, SERVICE = 12345, 1000, 999


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the system's config.toml, which is there. The agent has a group."""
    path = tmp_path / "etc"
    path.mkdir(mode=0o755)
    (path / "config.toml").touch(0o600)
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(path / "config.toml"))
    monkeypatch.setattr(users, "agent_group", lambda: GROUP)
    return path


def made(path: Path, mode: int, uid: int = 0, gid: int = 0) -> Path:
    path.touch()
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def rights(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@pytest.mark.root
@pytest.mark.parametrize("is_link", [True, False])
def test_file_that_another_user_leads_to_stays_as_it_is(folder: Path, is_link: bool) -> None:
    theirs, ours = folder.parent / "theirs", folder.parent / "ours"
    ours.mkdir()
    if is_link:
        theirs.symlink_to(ours)
    else:
        theirs.mkdir()
    os.chown(theirs, PERSON, PERSON, follow_symlinks=False)
    file = made(theirs / "web.key", 0o600)
    share_file(str(file))
    assert rights(file) == (0, 0, 0o600)


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o000])
def test_file_that_is_root_s_alone_is_shared_wherever_it_is(folder: Path, mode: int) -> None:
    for path in (folder / "web.tss2", folder.parent / "web.tss2"):
        share_file(str(made(path, mode)))
        assert rights(path) == (0, GROUP, 0o640)


@pytest.mark.root
@pytest.mark.parametrize(("mode", "then"), [(0o600, 0o640), (0o644, 0o644), (0o666, 0o644)])
def test_file_that_was_copied_with_its_owner_becomes_root_s(folder: Path, mode: int, then: int) -> None:
    share_file(str(made(folder / "web.crt", mode, PERSON, PERSON)))
    assert rights(folder / "web.crt") == (0, GROUP, then)


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "was"),
    [
        ("../web.key", (PERSON, PERSON, 0o600)),  # A person's, in a folder of their own.
        ("web.key", (SERVICE, SERVICE, 0o600)),  # hwsigner-serve@ may run as that user.
        ("web.key", (0, SERVICE, 0o640)),
        ("web.crt", (0, 0, 0o644)),  # The agent can read it.
    ],
)
def test_file_that_was_given_to_others_stays_as_it_is(folder: Path, name: str, was: tuple[int, int, int]) -> None:
    uid, gid, mode = was
    share_file(str(made(folder / name, mode, uid, gid)))
    assert rights(folder / name) == was


@pytest.mark.root
def test_link_and_its_target_stay_as_they_are(folder: Path) -> None:
    target = made(folder.parent / "secret", 0o600)
    (folder / "web.key").symlink_to(target)
    share_file(str(folder / "web.key"))
    assert rights(target) == (0, 0, 0o600)


@pytest.mark.root
def test_folder_that_a_umask_closed_is_opened_for_the_agent_alone(folder: Path) -> None:
    folder.chmod(0o700)
    share({})
    assert rights(folder) == (0, GROUP, 0o750)
    assert rights(folder / "config.toml") == (0, GROUP, 0o640)


@pytest.mark.root
def test_each_file_of_a_profile_is_shared(folder: Path) -> None:
    paths = [made(folder / name, 0o600) for name in ("web.crt", "web.tss2", "chain.pem")]
    keys = ("certificate", "private-key", "intermediates")
    share(dict(zip(keys, (str(paths[0]), f"tpm2:path={paths[1]}?tcti=none", str(paths[2])), strict=True)))
    assert {rights(path) for path in paths} == {(0, GROUP, 0o640)}


def test_nothing_changes_before_there_is_the_agent_s_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "agent_group", lambda: None)
    share({"certificate": "pkcs11:token=a", "private-key": "handle:0x81000100", "intermediates": "/absent"})
    assert stat.S_IMODE((folder / "config.toml").stat().st_mode) == 0o600


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> pwd.struct_passwd:
    """The user that stands in for the agent's."""
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr("hwsigner._config.sharing.pwd.getpwnam", lambda _: nobody)
    return nobody


@pytest.mark.root
@pytest.mark.usefixtures("agent")
@needs_shared_folder
def test_files_that_the_agent_can_t_read_are_named_with_the_command(folder: Path) -> None:
    for closed in (folder.parents[1], folder.parents[2], folder.parents[3]):
        if closed != Path("/tmp") and closed != Path("/"):
            closed.chmod(0o755)
    folder.parent.chmod(0o755)
    crt, key = made(folder / "web.crt", 0o644), made(folder / "web.key", 0o600)
    config = folder / "config.toml"
    values = {"certificate": str(crt), "private-key": str(key)}
    commands = {str(path): f"Run chown root:hwsigner {path} && chmod 640 {path}" for path in (config, key)}
    assert dict(hidden_files(values)) == commands
    folder.chmod(0o700)
    assert set(dict(hidden_files(values))) == {str(config), str(crt), str(key)}
    assert dict(hidden_files(values))[str(key)].startswith(f"Run chmod o+x {folder} && ")


@pytest.mark.root
@pytest.mark.usefixtures("agent")
def test_file_below_a_folder_that_was_closed_moves_rather_than_the_folder_opens(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a").chmod(0o700)
    key = made(tmp_path / "a" / "b" / "web.key", 0o640)
    fix = dict(hidden_files({"private-key": str(key)}))[str(key)]
    assert fix == f"Move it to {folder}, and name it there in the profile"


@pytest.mark.root
@pytest.mark.usefixtures("agent")
def test_file_in_a_home_folder_is_hidden_from_the_agent_whatever_its_mode(folder: Path) -> None:
    (folder / "config.toml").chmod(0o644)
    hidden = dict(hidden_files({"private-key": "/root/.profile"}))
    assert "Move it" in hidden["/root/.profile"]


@pytest.mark.root
def test_file_of_the_agent_s_own_in_a_folder_closed_to_others_is_not_hidden(
    tmp_path: Path, folder: Path, agent: pwd.struct_passwd
) -> None:
    for parent in tmp_path.parents:
        if parent.owner() == "root" and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    (folder / "config.toml").chmod(0o644)
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    key = made(own / "web.key", 0o600, agent.pw_uid)
    os.chown(own, agent.pw_uid, -1)
    assert dict(hidden_files({"private-key": str(key)})) == {}
