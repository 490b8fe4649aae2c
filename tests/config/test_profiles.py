"""Profiles of config.toml: the user's and the system's file, invalid files, and writing that changes nothing else."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._config import profiles as config
from hwsigner._config.profiles import (
    add_profile,
    change_profile,
    check_name,
    is_system_file_hidden,
    profile,
    profiles,
    remove_profile,
    user_file,
)
from hwsigner._system import files as atomic_file
from hwsigner.errors import ConfigError, HwsignerError, LockError, UsageError
from judges import needs_linux, needs_shared_folder

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture(autouse=True)
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's file, which does not exist."""
    path = tmp_path / "etc" / "config.toml"
    path.parent.mkdir()
    monkeypatch.setattr(config, "SYSTEM_FILE", str(path))
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}


@pytest.fixture
def file(environ: dict[str, str]) -> Path:
    """The user's file, which does not exist; its folder does."""
    path = Path(user_file(environ))
    path.parent.mkdir(parents=True)
    return path


class TestLocation:
    @pytest.mark.parametrize(
        ("environ", "path"),
        [
            ({"HOME": "/home/a"}, "/home/a/.config/hwsigner/config.toml"),
            ({"HOME": "checkout"}, "/.config/hwsigner/config.toml"),
            ({"HOME": "/home/a", "XDG_CONFIG_HOME": "/x"}, "/x/hwsigner/config.toml"),
            ({"HOME": "/home/a", "XDG_CONFIG_HOME": ""}, "/home/a/.config/hwsigner/config.toml"),
            ({"HOME": "/home/a", "XDG_CONFIG_HOME": "relative"}, "/home/a/.config/hwsigner/config.toml"),
        ],
    )
    def test_user_file_follows_xdg(self, environ: dict[str, str], path: str) -> None:
        assert user_file(environ) == path

    def test_user_file_is_in_the_users_home_without_a_home_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/b")
        assert user_file({}) == "/home/b/.config/hwsigner/config.toml"

    @needs_linux
    def test_user_file_of_a_mac_may_be_in_application_support(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        environ = {"HOME": str(tmp_path)}
        usual, other = (
            tmp_path / folder / "hwsigner" / "config.toml" for folder in (".config", "Library/Application Support")
        )
        other.parent.mkdir(parents=True)
        other.touch(0o600)
        assert user_file(environ) == str(usual)  # On Linux.
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr("hwsigner._system.descriptors.read_macos_acl", lambda _: None)  # Linux has none of macOS's.
        assert user_file(environ) == str(other)
        assert user_file({**environ, "XDG_CONFIG_HOME": "/etc"}) == "/etc/hwsigner/config.toml"
        add_profile("web", {"region": "eu-central-1"}, environ)
        assert "web" in profiles(environ)
        assert "[profile.web]" in other.read_text()
        usual.parent.mkdir(parents=True)
        usual.touch(0o600)
        assert user_file(environ) == str(usual)
        assert profiles(environ) == {}

    def test_new_user_file_of_a_mac_is_where_linux_has_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        assert user_file({"HOME": str(tmp_path)}) == f"{tmp_path}/.config/hwsigner/config.toml"


class TestReading:
    def test_missing_files_have_no_profiles(self, environ: dict[str, str]) -> None:
        assert profiles(environ) == {}
        with pytest.raises(ConfigError, match="no profile 'web'") as caught:
            profile("web", environ)
        assert user_file(environ) in caught.value.message
        assert "none" in caught.value.hint

    def test_users_profile_replaces_all_of_the_systems(
        self, file: Path, system_file: Path, environ: dict[str, str]
    ) -> None:
        system_file.write_text('[profile.web]\nregion = "a"\ncertificate = "c"\n[profile.db]\nregion = "b"\n')
        file.write_text('[profile.web]\nregion = "z"\n')
        assert profile("web", environ).values == {"region": "z"}
        assert profile("web", environ).file == str(file)
        assert profile("db", environ).values == {"region": "b"}
        assert profile("db", environ).file == str(system_file)

    def test_missing_profile_is_reported_with_the_others(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile.web]\n[profile.db]\n")
        with pytest.raises(ConfigError) as caught:
            profile("mail", environ)
        assert "db, web" in caught.value.hint

    @pytest.mark.parametrize("mode", [0o600, 0o644, 0o400, 0o640, 0o604])
    def test_profile_says_whether_others_can_read_its_file(
        self, mode: int, file: Path, environ: dict[str, str]
    ) -> None:
        file.write_text("[profile.web]\n")
        file.chmod(mode)
        assert profile("web", environ).exposed == bool(mode & 0o044)

    def test_repr_of_a_profile_has_no_values(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text('[profile.web]\npkcs8-password = "hush"\n')
        assert "hush" not in repr(profile("web", environ))
        assert "hush" not in repr(profiles(environ))


class TestRefused:
    """Each message names the file and shows nothing of its content."""

    def message(self, environ: dict[str, str], file: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            profiles(environ)
        assert caught.value.exit_status == 2
        assert str(file) in caught.value.message
        assert "hush" not in f"{caught.value} {caught.value.__cause__}"
        return str(caught.value)

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
    def test_file_that_others_can_write_is_refused(
        self, mode: int, file: Path, system_file: Path, environ: dict[str, str]
    ) -> None:
        for path in (file, system_file):
            path.write_text('[profile.web]\npkcs8-password = "hush"\n')
            path.chmod(mode)
            message = self.message(environ, path)
            assert f"mode {mode:04o}" in message
            assert "chmod" in message
            path.unlink()

    @pytest.mark.parametrize(
        ("mode", "group", "is_refused"),
        [
            (0o755, "other", False),
            (0o775, "other", True),
            (0o775, "own", False),
            (0o777, "own", True),
            (0o1777, "other", False),
        ],
    )
    def test_folder_whose_files_others_can_replace_is_refused(
        self,
        file: Path,
        environ: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        *,
        mode: int,
        group: str,
        is_refused: bool,
    ) -> None:
        file.write_text("[profile.web]\n")
        file.parent.chmod(mode)
        own = file.parent.stat().st_gid
        monkeypatch.setattr(os, "getegid", lambda: own if group == "own" else own + 1)
        if own == 0 and group == "other":
            os.chown(file.parent, -1, 4711)
        if is_refused:
            message = self.message(environ, file)
            assert f"{file.parent} has mode {mode:04o}: other users can replace {file}. Run chmod go-w" in message
        else:
            assert "web" in profiles(environ)

    @pytest.mark.parametrize("is_mount", [True, False])
    def test_folder_that_others_can_write_is_trusted_only_if_it_is_mounted_read_only(
        self, file: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, is_mount: bool
    ) -> None:
        """As that of a ConfigMap, which has mode 0777. In a unit with ProtectSystem, all folders are read-only."""
        file.write_text("[profile.web]\n")
        file.parent.chmod(0o777)
        real = os.statvfs(file.parent)
        changed = os.statvfs_result((*real[:8], real.f_flag | os.ST_RDONLY, *real[9:]))
        monkeypatch.setattr(os, "statvfs", lambda _: changed)
        monkeypatch.setattr(os.path, "ismount", lambda path: is_mount and path == str(file.parent))
        if is_mount:
            assert "web" in profiles(environ)
        else:
            assert "has mode 0777: other users can replace" in self.message(environ, file)

    @pytest.mark.root
    def test_folder_of_another_user_is_refused(self, system_file: Path, environ: dict[str, str]) -> None:
        system_file.write_text("[profile.web]\n")
        os.chown(system_file.parent, 12345, -1)
        assert "belongs to user 12345, who can replace" in self.message(environ, system_file)

    def test_file_of_another_user_is_refused(
        self, file: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text("[profile.web]\n")
        owner = os.stat(file).st_uid
        monkeypatch.setattr(os, "geteuid", lambda: owner)
        assert "web" in profiles(environ)
        if owner == 0:
            os.chown(file, 12345, -1)
            assert "12345" in self.message(environ, file)

    def test_pipe_is_refused_and_not_waited_for(self, file: Path, system_file: Path, environ: dict[str, str]) -> None:
        for path in (file, system_file):
            os.mkfifo(path)
            assert "not a regular file" in self.message(environ, path)
            path.unlink()
            path.symlink_to("/dev/zero")
            assert "not a regular file" in self.message(environ, path)
            path.unlink()

    def test_huge_file_is_refused_and_not_read(self, file: Path, environ: dict[str, str]) -> None:
        file.touch()
        os.truncate(file, 2**40)
        assert f"{2**40} bytes long" in self.message(environ, file)

    @pytest.mark.parametrize(
        ("content", "place"),
        [
            (b"[profile.web]\nregion = hush\n", "line 2, column 10"),
            (b'[profile.web]\npkcs8-password = "hush', ""),
            (b"[profile.web]\nhush\n", "line 2"),
            (b'[profile.web]\na="hush"\na="hush"\n', "line 3"),
            (b"hush = " + b"[" * 10_000, ""),
        ],
        ids=["bare word", "open string", "no value", "twice", "deep"],
    )
    def test_file_that_is_not_toml_is_refused_with_the_place(
        self, content: bytes, place: str, file: Path, environ: dict[str, str]
    ) -> None:
        file.write_bytes(content)
        message = self.message(environ, file)
        assert "is not TOML" in message
        assert place in message

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ("region = 'x'\nsession-duration = 1", "region, session-duration outside of [profile.NAME]"),
            ("[profiles.web]", "profiles outside of [profile.NAME]"),
            ("[web]\n[profile.a]", "web outside of [profile.NAME]"),
            ("profile = 1", "a profile outside of [profile.NAME]"),
            ("[[profile]]", "a profile outside of [profile.NAME]"),
        ],
    )
    def test_file_with_other_tables_is_refused(
        self, content: str, named: str, file: Path, environ: dict[str, str]
    ) -> None:
        file.write_text(content)
        hint = "Write [profile.NAME] above the keys of each profile"
        assert self.message(environ, file) == f"{file} has {named}. {hint}"

    def test_profile_without_a_name_is_refused(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile]\nregion = 'hush'")
        assert "profile.region, which is not a table" in self.message(environ, file)

    def test_folder_is_refused(self, file: Path, environ: dict[str, str]) -> None:
        file.mkdir()
        assert "directory" in self.message(environ, file)


NAMES = st.sampled_from(["web", "db", "a.b", "a b", "ünï", "web-2"])
VALUES = st.dictionaries(
    st.sampled_from(["region", "certificate", "debug", "timeout", "session-duration", "instance-property"]),
    st.text(st.characters(codec="utf-8"))
    | st.booleans()
    | st.integers(0, 99999)
    | st.lists(st.just("k=v"), max_size=2),
    min_size=1,
)
FILLER = st.sampled_from(["", "\n", "# a comment\n", "  # one [profile.web]\r\n", "\r\n", "# \u2028 [x\n"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A file with some profiles, comments, blank lines, both line endings, and perhaps no newline at its end."""
    parts = [draw(FILLER)]
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        end = draw(st.sampled_from(["\n", "\r\n"]))
        quoted = name if name.replace("-", "").isascii() and name.replace("-", "").isalnum() else f'"{name}"'
        parts += [draw(st.sampled_from(["", "  "])), f"[profile.{quoted}]", draw(st.sampled_from(["", " # [x]"])), end]
        for key in draw(st.lists(st.sampled_from(["region", "certificate", "endpoint"]), unique=True)):
            parts += [key, draw(st.sampled_from([" = 'x'", '="[y]"  # why', "=[\n 'z' ]"])), end, draw(FILLER)]
        if draw(st.booleans()):
            parts += [f"[profile.{quoted}.instance-property]", end, "k = 'v'", end]
        parts.append(draw(FILLER))
    text = "".join(parts)
    return text.rstrip("\r\n") if draw(st.booleans()) else text


def test_unreadable_system_file_is_skipped(
    environ: dict[str, str], file: Path, system_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[profile.mine]\n")
    system_file.write_text("[profile.agents]\n")
    assert sorted(profiles(environ)) == ["agents", "mine"]
    with pytest.raises(ConfigError, match=f"no profile 'x' in {file} or {system_file}"):
        profile("x", environ)
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: (path, mode) != (str(system_file), os.R_OK) and access(path, mode)
    )
    assert sorted(profiles(environ)) == ["mine"]
    with pytest.raises(ConfigError, match=f"no profile 'agents' in {file}, and you can't read {system_file}"):
        profile("agents", environ)


@pytest.mark.root
@needs_shared_folder
def test_system_file_in_a_folder_that_is_closed_to_the_user_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory() as made:  # Other users can't enter those of pytest.
        closed, own = Path(made, "etc"), Path(made, "hwsigner")
        for folder, name in ((closed, "agents"), (own, "mine")):
            folder.mkdir()
            (folder / "config.toml").write_text(f"[profile.{name}]\n")
        monkeypatch.setattr(config, "SYSTEM_FILE", str(closed / "config.toml"))
        os.chmod(made, 0o755)
        os.chmod(closed, 0o700)
        environ = {"XDG_CONFIG_HOME": made}
        os.seteuid(NOBODY)
        try:
            assert (sorted(profiles(environ)), is_system_file_hidden()) == (["mine"], True)
            with pytest.raises(ConfigError, match=f"no profile 'agents' in .*, and you can't read {closed}"):
                profile("agents", environ)
        finally:
            os.seteuid(0)


def test_missing_system_file_is_not_called_unreadable(environ: dict[str, str], file: Path, system_file: Path) -> None:
    with pytest.raises(ConfigError, match=f"no profile 'web' in {file} or {system_file}"):
        profile("web", environ)


class TestWriting:
    @given(text=documents(), name=NAMES, values=VALUES)
    def test_new_profile_is_appended(self, text: str, name: str, values: dict[str, Any]) -> None:
        before = tomllib.loads(text).get("profile", {})
        with _user_file(text) as (environ, file):
            if name in before:
                with pytest.raises(ConfigError, match="--replace"):
                    add_profile(name, values, environ)
                assert file.read_bytes() == text.encode()
            else:
                assert add_profile(name, values, environ) == str(file)
                assert file.read_bytes().startswith(text.encode())
                assert tomllib.loads(file.read_text())["profile"] == {**before, name: values}

    @given(text=documents(), values=VALUES, data=st.data())
    def test_replacing_a_profile_leaves_the_rest(self, text: str, values: dict[str, Any], data: st.DataObject) -> None:
        before = tomllib.loads(text).get("profile", {})
        name = data.draw(st.sampled_from([*before, "new"]))
        with _user_file(text) as (environ, file):
            add_profile(name, values, environ, replace=True)
            after = file.read_bytes().decode()
            assert tomllib.loads(after)["profile"] == {**before, name: values}
            for other in before.keys() - {name}:
                assert add_profile(other, before[other], environ) == str(file)
            assert file.read_bytes().decode() == after

    def test_comments_around_a_replaced_profile_stay(self, file: Path, environ: dict[str, str]) -> None:
        head, tail = b"# head\r\n[profile.a]\nx = 1 # one\r\n\r\n# of b\n", b"\n# of c\r\n[profile.c]  # c\n y=  2"
        file.write_bytes(head + b"[profile.b]\nold = 1\n# inside\nolder = 2\n[profile.b.deep]\nz = 1\n" + tail)
        add_profile("b", {"region": "x"}, environ, replace=True)
        assert file.read_bytes() == head + b'[profile.b]\nregion = "x"\n' + tail

    def test_adding_the_same_profile_again_writes_nothing(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile.a] # note\ndebug=true\n")
        before = os.stat(file)
        add_profile("a", {"debug": True}, environ)
        assert os.stat(file).st_ino == before.st_ino

    @pytest.mark.parametrize(
        "text",
        ["profile = {a = {x = 1}}", "[profile]\na = {x = 1}\nb = {}\n", "[profile.b]\nx = '''\n[profile.a]\n'''\n"],
    )
    def test_file_that_can_not_be_edited_is_left_unchanged(
        self, text: str, file: Path, environ: dict[str, str]
    ) -> None:
        file.write_text(text)
        name = "new" if text.startswith("profile") else "a"
        with pytest.raises(ConfigError, match="by hand"):
            add_profile(name, {"region": "x"}, environ, replace=True)
        assert file.read_text() == text

    def test_new_file_and_folder_are_private(self, environ: dict[str, str]) -> None:
        old = os.umask(0)
        try:
            file = Path(add_profile("a", {"region": "x"}, environ))
        finally:
            os.umask(old)
        assert [stat.S_IMODE(os.stat(path).st_mode) for path in (file, file.parent)] == [0o600, 0o700]
        file.chmod(0o644)
        add_profile("b", {"region": "x"}, environ)
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o644

    def test_symbolic_link_stays_one(self, file: Path, environ: dict[str, str], tmp_path: Path) -> None:
        target = tmp_path / "dotfiles.toml"
        target.write_text("[profile.a]\n")
        file.symlink_to(target)
        add_profile("b", {"region": "x"}, environ)
        assert file.is_symlink()
        assert target.read_text() == '[profile.a]\n\n[profile.b]\nregion = "x"\n'

    def test_file_that_others_can_write_is_not_changed(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile.a]\n")
        file.chmod(0o666)
        with pytest.raises(ConfigError, match="mode 0666"):
            add_profile("b", {"region": "x"}, environ)
        assert file.read_text() == "[profile.a]\n"

    def test_folder_that_can_not_be_made_is_reported(self, environ: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "xdg").write_text("a file")
        with pytest.raises(HwsignerError, match="Not a directory"):
            add_profile("a", {"region": "x"}, environ)

    def test_full_disk_leaves_the_old_file(
        self, file: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        file.write_text("[profile.a]\n")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(HwsignerError, match="No space left"):
            add_profile("b", {"region": "x"}, environ)
        assert file.read_text() == "[profile.a]\n"
        assert sorted(os.listdir(file.parent)) == [".config.toml.hwsigner-lock", "config.toml"]

    def test_killed_writer_leaves_the_old_file_and_no_lock(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile.a]\n")
        killed = _run("import os; os.rename = lambda *_, **__: os.kill(os.getpid(), 9)", "b", environ)
        assert killed.wait() == -signal.SIGKILL
        assert file.read_text() == "[profile.a]\n"
        add_profile("c", {"region": "x"}, environ)
        assert list(profiles(environ)) == ["a", "c"]

    @pytest.mark.slow
    def test_concurrent_writers_lose_nothing(self, environ: dict[str, str]) -> None:
        slow = "import os, time; fsync = os.fsync; os.fsync = lambda fd: (time.sleep(0.05), fsync(fd))"
        writers = [_run(slow, f"p{number}", environ) for number in range(6)]
        assert [writer.wait() for writer in writers] == [0] * 6
        assert sorted(profiles(environ)) == [f"p{number}" for number in range(6)]

    def test_writer_reports_a_lock_that_is_held_too_long(
        self, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(atomic_file, "LOCK_TIMEOUT", 0.1)
        file = Path(add_profile("a", {"region": "x"}, environ))
        with (file.parent / ".config.toml.hwsigner-lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(LockError, match=f"another process has been writing {file}"):
                add_profile("b", {"region": "x"}, environ)
        assert list(profiles(environ)) == ["a"]

    def test_writer_changes_nothing_when_another_added_the_same_profile(
        self, file: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "[profile.web]\nregion='x'  # by another writer\n"

        def wait_and_edit(path: str, edit: Callable[[bytes], bytes]) -> None:
            file.write_text(text)
            atomic_file.edit_file(path, edit)

        monkeypatch.setattr(config, "edit_file", wait_and_edit)
        add_profile("web", {"region": "x"}, environ)
        assert file.read_text() == text


@contextmanager
def _user_file(text: str) -> Iterator[tuple[dict[str, str], Path]]:
    """Yield an environment and its user's file with some content, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {"XDG_CONFIG_HOME": folder}
        file = Path(user_file(environ))
        file.parent.mkdir()
        file.write_bytes(text.encode())
        yield environ, file


def _run(first: str, name: str, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """Add a profile in another process, after running some code there."""
    add = f"add_profile({name!r}, {{'region': 'x'}}, {environ!r})"
    code = f"{first}\nfrom hwsigner._config.profiles import add_profile\n{add}"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={"PATH": os.environ["PATH"]})


class TestChanging:
    @given(text=documents(), values=VALUES, data=st.data())
    def test_other_values_and_profiles_stay(self, text: str, values: dict[str, Any], data: st.DataObject) -> None:
        before = tomllib.loads(text).get("profile", {})
        name = data.draw(st.sampled_from([*before, "new"]))
        with _user_file(text) as (environ, file):
            assert change_profile(name, {**values, "endpoint": None}, environ) == str(file)
            wanted = {key: one for key, one in {**before.get(name, {}), **values}.items() if key != "endpoint"}
            assert tomllib.loads(file.read_text())["profile"] == {**before, name: wanted}

    def test_table_in_a_profile_becomes_a_value(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile.web]\n[profile.web.instance-property]\nk = 'v'\n")
        values = {"region": "r", "instance-property": "p", "certificate": "c", "debug": "", "timeout": ""}
        change_profile("web", values, environ)
        assert tomllib.loads(file.read_text())["profile"]["web"] == values

    def test_comments_in_the_profile_stay(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text(
            "[profile.web]\n# my role\nrole-arn = 'r'  # for tests\ncertificate = 'old'\n\n# the other\n[profile.b]\n"
        )
        change_profile("web", {"certificate": "new", "private-key": "k"}, environ)
        changed = file.read_text()
        assert "# my role\nrole-arn = 'r'  # for tests\ncertificate = \"new\"\n" in changed
        assert "\n# the other\n[profile.b]\n" in changed

    def test_systems_profile_is_changed_where_it_is(
        self, file: Path, system_file: Path, environ: dict[str, str]
    ) -> None:
        system_file.write_text("[profile.web]\nregion = 'x'\n")
        assert change_profile("web", {"certificate": "c"}, environ) == str(system_file)
        assert profile("web", environ).values == {"region": "x", "certificate": "c"}
        assert not file.exists()

    def test_same_values_write_nothing(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile.web]\ncertificate = 'c'\n")
        before = file.stat()
        change_profile("web", {"certificate": "c", "intermediates": None}, environ)
        after = file.stat()
        assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
            before.st_ino,
            before.st_mtime_ns,
            before.st_ctime_ns,
        )

    def test_file_that_can_not_be_edited_is_left_unchanged(self, file: Path, environ: dict[str, str]) -> None:
        text = "[profile]\na = {x = 1}\nb = {}\n"
        file.write_text(text)
        with pytest.raises(ConfigError, match="by hand"):
            change_profile("a", {"certificate": "c"}, environ)
        assert file.read_text() == text

    def test_profile_that_was_removed_meanwhile_is_not_half_written(
        self, file: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text("[profile.web]\nregion = 'x'\n")
        edit = atomic_file.edit_file

        def later(path: str, change: Callable[[bytes], bytes]) -> None:
            file.write_text("[profile.db]\n")
            edit(path, change)

        monkeypatch.setattr(config, "edit_file", later)
        with pytest.raises(ConfigError, match="no profile 'web' any more"):
            change_profile("web", {"certificate": "c"}, environ)
        assert file.read_text() == "[profile.db]\n"


def test_invalid_name_of_a_profile_is_a_usage_error() -> None:
    check_name("web-1")
    with pytest.raises(UsageError, match="at most 64"):
        check_name("a b")


class TestRemoving:
    BEFORE = "# First\r\n[profile.a]\nregion = 'x'  # keep\n\n  # About web\n"
    WEB = "[profile.web]\nregion = 'y'\n[profile.web.instance-property]\nk = 'v'\n"
    AFTER = "\n# About b\n\n[profile.b]\nregion = 'z'"

    def test_rest_of_the_file_stays_byte_for_byte(self, file: Path, environ: dict[str, str]) -> None:
        file.write_bytes((self.BEFORE + self.WEB + self.AFTER).encode())
        file.chmod(0o640)
        assert remove_profile("web", environ) == str(file)
        assert file.read_bytes() == (self.BEFORE + self.AFTER).encode()
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert profiles(environ).keys() == {"a", "b"}

    def test_profile_is_removed_when_another_value_is_nan(self, file: Path, environ: dict[str, str]) -> None:
        file.write_text("[profile.a]\ntimeout = nan\n" + self.WEB)
        remove_profile("web", environ)
        assert file.read_text() == "[profile.a]\ntimeout = nan\n"

    def test_only_profile_leaves_an_empty_file(self, file: Path, environ: dict[str, str]) -> None:
        add_profile("web", {"region": "x"}, environ)
        assert remove_profile("web", environ) == str(file)
        assert (file.read_bytes(), profiles(environ)) == (b"", {})

    def test_missing_profile_is_not_an_error(self, environ: dict[str, str]) -> None:
        assert remove_profile("web", environ) is None
        assert not os.path.exists(user_file(environ))

    def test_profile_of_the_systems_file_is_removed_there(self, system_file: Path, environ: dict[str, str]) -> None:
        system_file.write_text(self.WEB)
        assert remove_profile("web", environ) == str(system_file)
        assert system_file.read_text() == ""

    @pytest.mark.parametrize(
        "text", ["profile.web.region = 'x'\nprofile.b.region = 'y'\n", "[profile]\nweb = {region = 'x'}\n"]
    )
    def test_profile_that_has_no_table_is_an_error_that_changes_nothing(
        self, file: Path, environ: dict[str, str], text: str
    ) -> None:
        file.write_text(text)
        with pytest.raises(ConfigError, match="without changing other lines"):
            remove_profile("web", environ)
        assert file.read_text() == text

    @pytest.mark.slow
    @given(names=st.lists(st.from_regex(r"[a-z][a-z0-9.]{0,9}", fullmatch=True), min_size=1, unique=True))
    def test_profiles_that_were_added_are_removed_in_any_order(self, names: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            environ = {"XDG_CONFIG_HOME": folder}
            for name in names:
                add_profile(name, {"region": name}, environ)
            for number, name in enumerate(sorted(names), 1):
                remove_profile(name, environ)
                assert profiles(environ).keys() == set(sorted(names)[number:])
