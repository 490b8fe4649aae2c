"""Modules that are used if the URI names none: p11-kit's configuration, its proxy, and known modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import judges
from backends.contract import ENVIRONMENT
from emulators import InProcessSoftHSM
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import paths
from hwsigner.errors import AmbiguousKeyError, BackendUnavailableError
from hwsigner.key import open_key
from hwsigner.key.listing import list_tokens

ROOT = Path(__file__).parents[3]
# Without pcscd, as on macOS, no test here runs.
PROXY = "" if sys.platform == "darwin" else paths.module_paths(KeyURI("pkcs11", {}))[0]
# The proxy also loads the modules for smart cards, and these keep to the first pcscd that they find.
pytestmark = pytest.mark.usefixtures("pcsc")


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system with empty folders: `lib/pkcs11` for modules, `etc` and `packages` for p11-kit's files."""
    for name in ("lib/pkcs11", "etc/modules", "packages", "home/pkcs11/modules"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(paths, "_FOLDERS", (str(tmp_path / "lib" / "pkcs11"),))
    monkeypatch.setattr(paths, "_KNOWN", ("libsofthsm2.so", "libykcs11.so*", str(tmp_path / "opt" / "*.so")))
    monkeypatch.setattr(paths, "_SYSTEM", tmp_path / "etc")
    monkeypatch.setattr(paths, "_PACKAGES", tmp_path / "packages")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def link(folders: Path, hsm: InProcessSoftHSM, name: str) -> None:
    (folders / "lib" / "pkcs11" / name).symlink_to(os.path.realpath(hsm.module))


def test_error_says_where_modules_were_looked_for_when_there_is_none(folders: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="no PKCS #11 module is found") as caught:
        open_key("pkcs11:token=x")
    assert f"p11-kit-proxy.so is in none of {folders}/lib/pkcs11" in caught.value.message
    assert "--pkcs11-lib" in caught.value.hint


def test_error_names_packages_of_debian_and_fedora_when_there_is_no_module(folders: Path) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        list(list_tokens("pkcs11:"))
    for package in ("ykcs11 for a YubiKey", "Fedora: yubico-piv-tool", "opensc for another smart card"):
        assert package in caught.value.hint


def test_configured_modules_then_known_ones_are_used_without_a_proxy(folders: Path, hsm: InProcessSoftHSM) -> None:
    link(folders, hsm, "libsofthsm2.so")
    link(folders, hsm, "configured.so")
    assert paths.module_paths(KeyURI("pkcs11", {})) == [str(folders / "lib" / "pkcs11" / "libsofthsm2.so")]
    with open_key(f"pkcs11:token={hsm.label};object=P-256", "1234") as key:
        assert key.sign(b"message")
    (folders / "packages" / "one.module").write_text("module: configured.so\n")
    (folders / "packages" / "two.module").write_text("module: /etc/passwd\n")
    assert len(paths.module_paths(KeyURI("pkcs11", {}))) == 2
    with open_key(f"pkcs11:token={hsm.label};object=P-256", "1234") as key:
        assert key.sign(b"message")
    with pytest.raises(BackendUnavailableError, match="no token of 2 PKCS #11 modules matches") as caught:
        open_key("pkcs11:token=nonesuch", "1234")
    assert "/etc/passwd can't be used" in caught.value.hint
    assert f"token={hsm.label}" in caught.value.hint or f"'{hsm.label}'" in caught.value.hint


@pytest.mark.parametrize("query", ["", f"&module-path={PROXY}"])
def test_key_signs_through_the_proxy_of_p11_kit(hsm: InProcessSoftHSM, tmp_path: Path, query: str) -> None:
    key = f"pkcs11:token={hsm.label};object=P-256?pin-value=1234{query}"
    environment = {**ENVIRONMENT, **hsm.env, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hwsigner", "sign-string", "--private-key", key, "--format", "text"]
    # The system's other modules may write to their folder.
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert bytes.fromhex(done.stdout).startswith(b"\x30")


def test_proxy_is_preferred_to_other_modules(folders: Path, hsm: InProcessSoftHSM) -> None:
    link(folders, hsm, "libsofthsm2.so")
    proxy = folders / "lib" / "pkcs11" / "p11-kit-proxy.so"
    proxy.touch()
    assert paths.module_paths(KeyURI("pkcs11", {})) == [str(proxy)]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mine", "mine.so"),
        ("mine", "libmine.so"),
        ("libmine", "libmine.so"),
        ("MINE", "libMine.so"),
        ("mine", "libmine.so.2"),
        ("mine.so", "mine.so.2.7.1"),
        ("mine", "mine-pkcs11.so"),
        ("mine", "libmine_pkcs11.so"),
    ],
)
def test_module_name_matches_without_affixes_and_case(
    folders: Path, hsm: InProcessSoftHSM, name: str, file: str
) -> None:
    link(folders, hsm, file)
    link(folders, hsm, "another.so")
    with open_key(f"pkcs11:token={hsm.label};object=P-256?module-name={name}", "1234") as key:
        assert key.sign(b"message")
    with pytest.raises(BackendUnavailableError, match=r"min\.so is in none of .*, nor in p11-kit's configuration"):
        open_key("pkcs11:token=x?module-name=min")


def test_module_name_may_be_a_name_in_the_configuration_of_p11_kit(folders: Path, hsm: InProcessSoftHSM) -> None:
    (folders / "etc" / "modules" / "Odd Name.module").write_text(f"# a comment: x\n module :  {hsm.module} \n")
    with open_key(f"pkcs11:token={hsm.label};object=P-256?module-name=odd%20name", "1234") as key:
        assert key.sign(b"message")


def configured(folders: Path) -> dict[str, str]:
    return {one.name: one.path for one in paths.configured_modules()}


def test_users_configuration_wins_over_the_systems_and_that_over_the_packages(folders: Path) -> None:
    files = {
        "packages": {"a": "/p/a", "b": "/p/b", "c": "/p/c"},
        "etc/modules": {"a": "/e/a", "b": "/e/b"},
        "home/pkcs11/modules": {"a": "/h/a"},
    }
    for folder, modules in files.items():
        for name, path in modules.items():
            (folders / folder / f"{name}.module").write_text(f"module: {path}\n")
    assert configured(folders) == {"a": "/h/a", "b": "/e/b", "c": "/p/c"}
    for mode, expected in (("none", {"a": "/e/a", "b": "/e/b", "c": "/p/c"}), ("only", {"a": "/h/a"})):
        (folders / "etc" / "pkcs11.conf").write_text(f"user-config: {mode}\n")
        assert configured(folders) == expected


def test_roots_own_configuration_is_ignored(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "home" / "pkcs11" / "modules" / "a.module").write_text("module: /h/a\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert configured(folders) == {}


def test_configuration_in_the_current_folder_is_ignored(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a checkout of someone else's files; `HOME` is missing for users without an account."""
    (folders / "home" / "pkcs11" / "modules" / "a.module").write_text("module: /h/a\n")
    monkeypatch.chdir(folders)
    monkeypatch.setenv("XDG_CONFIG_HOME", "home")
    assert configured(folders) == {}


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ("", True),
        ("trust-policy: yes", False),
        ("disable-in: p11-kit-proxy", False),
        ("disable-in: firefox", True),
        ("enable-in: firefox", False),
        ("enable-in: firefox, hwsigner", True),
    ],
)
def test_list_leaves_out_modules_that_the_proxy_does_not_show(folders: Path, settings: str, shown: bool) -> None:
    (folders / "packages" / "a.module").write_text(f"module: /p/a\n{settings}\n")
    (folders / "packages" / "b.module").write_text("module: /p/b\n")
    assert paths.listed_paths(KeyURI("pkcs11", {})) == (["/p/a", "/p/b"] if shown else ["/p/b"])


def test_list_has_known_modules_that_are_not_configured(folders: Path, hsm: InProcessSoftHSM) -> None:
    link(folders, hsm, "libsofthsm2.so")
    (folders / "lib" / "pkcs11" / "libykcs11.so.2").write_text("")
    (folders / "packages" / "a.module").write_text("module: /p/a\n")
    names = [os.path.basename(path) for path in paths.listed_paths(KeyURI("pkcs11", {}))]
    assert names == ["a", "libsofthsm2.so", "libykcs11.so.2"]
    # A module that the configuration hides stays hidden, under whatever name.
    hidden = os.path.realpath(hsm.module)
    (folders / "packages" / "b.module").write_text(f"module: {hidden}\ndisable-in: p11-kit-proxy\n")
    names = [os.path.basename(path) for path in paths.listed_paths(KeyURI("pkcs11", {}))]
    assert names == ["a", "libykcs11.so.2"]


def test_uri_names_the_module_of_a_token_whose_module_is_not_configured(folders: Path, hsm: InProcessSoftHSM) -> None:
    link(folders, hsm, "libsofthsm2.so")
    (folders / "lib" / "pkcs11" / "libykcs11.so.2").write_text("")
    with warnings.catch_warnings(record=True) as caught:  # libykcs11 is not a module, but the URI does not name it.
        warnings.simplefilter("always")
        [token] = list_tokens(f"pkcs11:token={hsm.label}")
        assert caught == []
        assert list(list_tokens("pkcs11:token=nonesuch")) == []
    assert ["libykcs11.so.2" in str(one.message) for one in caught] == [True]
    with open_key(f"{token.uri.replace('?', ';object=P-256?')}", "1234") as key:
        assert key.sign(b"message")


def test_error_names_modules_that_are_not_configured_when_a_token_is_not_found(
    folders: Path, hsm: InProcessSoftHSM
) -> None:
    (folders / "lib" / "pkcs11" / "p11-kit-proxy.so").symlink_to(PROXY)
    link(folders, hsm, "libsofthsm2.so")
    with pytest.raises(BackendUnavailableError) as caught:
        open_key("pkcs11:token=nonesuch", "1234")
    assert f"{folders}/lib/pkcs11/libsofthsm2.so: name such a module with --pkcs11-lib" in caught.value.hint


def test_broken_configuration_of_p11_kit_is_ignored(folders: Path) -> None:
    for name, data in {
        "empty": b"",
        "binary": b"\xff\0:\xfe",
        "remote": b"remote: |ssh host",
        "lost": b"module: x.so",
    }.items():
        (folders / "packages" / f"{name}.module").write_bytes(data)
    (folders / "packages" / "folder.module").mkdir()
    assert configured(folders) == {}


@judges.needs_p11_kit
@pytest.mark.usefixtures("softhsm_folder")
def test_modules_of_the_system_are_those_that_p11_kit_lists(tmp_path: Path) -> None:
    printed = subprocess.run(
        ["p11-kit", "list-modules"],
        # Some users can't read the system's configuration of SoftHSM.
        env=ENVIRONMENT | {"HOME": str(tmp_path), "SOFTHSM2_CONF": os.environ["SOFTHSM2_CONF"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = dict(re.findall(r"^module: (\S+)\n\s+path: (\S+)$", printed, re.MULTILINE))
    ours = {one.name: one.path for one in paths.configured_modules()}
    assert "softhsm2" in theirs
    assert theirs.items() <= ours.items()


def test_list_warns_about_a_broken_module(folders: Path, hsm: InProcessSoftHSM) -> None:
    shutil.copy("/etc/passwd", folders / "lib" / "pkcs11" / "broken.so")
    (folders / "packages" / "broken.module").write_text("module: broken.so\n")
    (folders / "packages" / "good.module").write_text(f"module: {hsm.module}\n")
    with pytest.warns(match=r"broken\.so can't be used"):
        assert hsm.label in {token.label for token in list_tokens()}


def test_uris_name_the_module_when_two_modules_show_a_token(folders: Path, hsm: InProcessSoftHSM) -> None:
    (folders / "lib" / "pkcs11" / "copy.so").write_bytes(Path(hsm.module).read_bytes())
    for name, path in (("copy", "copy.so"), ("module", hsm.module)):
        (folders / "packages" / f"{name}.module").write_text(f"module: {path}\n")
    with pytest.raises(AmbiguousKeyError, match="names 2 tokens: ") as caught:
        open_key(f"pkcs11:token={hsm.label};object=P-256", "1234")
    uris = caught.value.message.partition(" tokens: ")[2].split(", ")
    assert sorted(one.rpartition("/")[2] for one in uris) == ["copy.so", "libsofthsm2.so"]
    for one in uris:
        with open_key(one.replace("?", ";object=P-256?"), "1234") as key:
            assert key.sign(b"message")
