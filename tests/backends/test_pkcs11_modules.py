"""PKCS #11 modules: which one is loaded, what is tried, and what they print. Judge: p11-kit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.contract import ENVIRONMENT
from emulators import InProcessSoftHSM
from hwsigner.backends import _pkcs11_module, _pkcs11_p11kit, _pkcs11_paths
from hwsigner.errors import AmbiguousKeyError, BackendUnavailableError, UsageError
from hwsigner.inventory import list_tokens
from hwsigner.key import find_certificates, open_key
from hwsigner.uri import KeyURI

ROOT = Path(__file__).parents[2]
(PROXY,) = _pkcs11_paths.module_paths(KeyURI("pkcs11", {}))


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> InProcessSoftHSM:
    """A token with a key."""
    softhsm.generate("P-256", b"\x01", "EC:prime256v1")
    return softhsm


@pytest.fixture
def uri(hsm: InProcessSoftHSM) -> Callable[..., str]:
    """Return a URI on the token."""

    def make(attributes: str = "", query: str = "") -> str:
        path = ";".join(filter(None, (f"token={hsm.label}", attributes)))
        return f"pkcs11:{path}?module-path={hsm.module}{query}"

    return make


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere/module.so", "does not exist"),
        ("/etc", "is a folder"),
        ("/etc/passwd", "can't be used"),
        ("libz.so.1", "C_GetF"),
    ],
)
def test_what_is_no_module_is_named(path: str, words: str) -> None:
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        open_key(f"pkcs11:token=x?module-path={path}")
    assert path in caught.value.message
    assert "--pkcs11-lib" in caught.value.hint


def test_module_name_is_looked_up(hsm: InProcessSoftHSM, uri: Callable[..., str]) -> None:
    folder = os.path.dirname(os.path.realpath(hsm.module))
    for query in ("module-name=softhsm2", f"module-path={folder}&module-name=softhsm2"):
        with open_key(f"pkcs11:token={hsm.label};object=P-256?{query}", "1234") as key:
            assert key.sign(b"message")
    with pytest.raises(BackendUnavailableError, match=r"nonesuch\.so"):
        open_key("pkcs11:token=x?module-name=nonesuch")
    with pytest.raises(UsageError, match="module-name"):
        open_key("pkcs11:token=x?module-name=/a/path")


def test_an_unknown_attribute_is_refused(uri: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="'tokem'"):
        open_key(uri("tokem=x"))
    with pytest.raises(UsageError, match="'module-dir'"):
        find_certificates(uri(query="&module-dir=x"))


def test_every_token_attribute_decides(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    token = next(t for t in _pkcs11_module.load_module(KeyURI.parse(uri())).tokens() if t.label == hsm.label)
    right = {
        "manufacturer": "SoftHSM%20project",
        "model": "SoftHSM%20v2",
        "serial": token.serial.decode(),
        "slot-id": str(token.slot.slot_id),
        "slot-manufacturer": "SoftHSM%20project",
        "slot-description": KeyURI("pkcs11", {"x": token.slot.slot_description.encode()}).name[len("pkcs11:x=") :],
        "library-manufacturer": "SoftHSM",
        "library-description": "Implementation%20of%20PKCS11",
        "library-version": "2.6",
    }
    assert {"token", *right} == _pkcs11_module.TOKEN_ATTRIBUTES
    for name, value in right.items():
        open_key(uri(f"object=P-256;{name}={value}"), "1234").close()
        with pytest.raises(BackendUnavailableError):
            open_key(uri(f"object=P-256;{name}=1"), "1234")


def test_a_major_version_alone_is_its_first_minor_one(uri: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = _pkcs11_module.load_module(KeyURI.parse(uri()))
    library = type("Library", (), {"library_version": (3, 0), "manufacturer_id": "x", "library_description": "y"})()
    token = next(iter(module.tokens()))
    monkeypatch.setattr(module, "_library", library)
    for version, matches in (("3", True), ("3.0", True), ("3.1", False), ("2", False), ("", False)):
        assert module.matches(token, KeyURI.parse(f"pkcs11:library-version={version}")) is matches


# What is tried


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system whose folders are empty: modules lie in `lib/pkcs11`, p11-kit's files in `etc` and `packages`."""
    for name in ("lib/pkcs11", "etc/modules", "packages", "home/pkcs11/modules"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(_pkcs11_paths, "_FOLDERS", (str(tmp_path / "lib" / "pkcs11"),))
    monkeypatch.setattr(_pkcs11_paths, "_KNOWN", ("libsofthsm2.so", "libykcs11.so*", str(tmp_path / "opt" / "*.so")))
    monkeypatch.setattr(_pkcs11_p11kit, "_SYSTEM", tmp_path / "etc")
    monkeypatch.setattr(_pkcs11_p11kit, "_PACKAGES", tmp_path / "packages")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def link(folders: Path, hsm: InProcessSoftHSM, name: str) -> None:
    (folders / "lib" / "pkcs11" / name).symlink_to(os.path.realpath(hsm.module))


def test_without_any_module_the_message_says_what_was_tried(folders: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="no PKCS #11 module is found") as caught:
        open_key("pkcs11:token=x")
    assert f"p11-kit-proxy.so is in none of {folders}/lib/pkcs11" in caught.value.message
    assert "--pkcs11-lib" in caught.value.hint


def test_without_a_proxy_p11_kits_modules_are_tried_and_then_known_ones(folders: Path, hsm: InProcessSoftHSM) -> None:
    link(folders, hsm, "libsofthsm2.so")
    link(folders, hsm, "configured.so")
    assert _pkcs11_paths.module_paths(KeyURI("pkcs11", {})) == [str(folders / "lib" / "pkcs11" / "libsofthsm2.so")]
    with open_key(f"pkcs11:token={hsm.label};object=P-256", "1234") as key:
        assert key.sign(b"message")
    (folders / "packages" / "one.module").write_text("module: configured.so\n")
    (folders / "packages" / "two.module").write_text("module: /etc/passwd\n")
    assert len(_pkcs11_paths.module_paths(KeyURI("pkcs11", {}))) == 2
    with open_key(f"pkcs11:token={hsm.label};object=P-256", "1234") as key:
        assert key.sign(b"message")
    with pytest.raises(BackendUnavailableError, match="no token of 2 PKCS #11 modules matches") as caught:
        open_key("pkcs11:token=nonesuch", "1234")
    assert "/etc/passwd can't be used" in caught.value.hint
    assert f"token={hsm.label}" in caught.value.hint or f"'{hsm.label}'" in caught.value.hint


@pytest.mark.parametrize("query", ["", f"&module-path={PROXY}"])
def test_a_key_is_used_through_p11_kits_proxy(hsm: InProcessSoftHSM, query: str) -> None:
    key = f"pkcs11:token={hsm.label};object=P-256?pin-value=1234{query}"
    environment = {**ENVIRONMENT, **hsm.env, "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hwsigner", "sign-string", "--private-key", key, "--format", "text"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert bytes.fromhex(done.stdout).startswith(b"\x30")


def test_a_proxy_is_taken_before_other_modules(folders: Path, hsm: InProcessSoftHSM) -> None:
    link(folders, hsm, "libsofthsm2.so")
    proxy = folders / "lib" / "pkcs11" / "p11-kit-proxy.so"
    proxy.touch()
    assert _pkcs11_paths.module_paths(KeyURI("pkcs11", {})) == [str(proxy)]


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
def test_a_modules_name_has_no_affixes_and_no_case(folders: Path, hsm: InProcessSoftHSM, name: str, file: str) -> None:
    link(folders, hsm, file)
    link(folders, hsm, "another.so")
    with open_key(f"pkcs11:token={hsm.label};object=P-256?module-name={name}", "1234") as key:
        assert key.sign(b"message")
    with pytest.raises(BackendUnavailableError, match=r"min\.so is in none of .*, nor in p11-kit's configuration"):
        open_key("pkcs11:token=x?module-name=min")


def test_a_modules_name_is_one_of_p11_kits_configuration(folders: Path, hsm: InProcessSoftHSM) -> None:
    (folders / "etc" / "modules" / "Odd Name.module").write_text(f"# a comment: x\n module :  {hsm.module} \n")
    with open_key(f"pkcs11:token={hsm.label};object=P-256?module-name=odd%20name", "1234") as key:
        assert key.sign(b"message")


def configured(folders: Path) -> dict[str, str]:
    return {one.name: one.path for one in _pkcs11_p11kit.configured_modules((str(folders / "lib" / "pkcs11"),))}


def test_a_users_configuration_wins_over_the_systems_and_that_over_the_packages(folders: Path) -> None:
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


def test_roots_own_configuration_is_not_read(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "home" / "pkcs11" / "modules" / "a.module").write_text("module: /h/a\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
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
def test_modules_that_p11_kits_proxy_does_not_show_are_not_listed(folders: Path, settings: str, shown: bool) -> None:
    (folders / "packages" / "a.module").write_text(f"module: /p/a\n{settings}\n")
    (folders / "packages" / "b.module").write_text("module: /p/b\n")
    assert _pkcs11_paths.listed_paths(KeyURI("pkcs11", {})) == (["/p/a", "/p/b"] if shown else ["/p/b"])


def test_broken_configuration_is_no_error(folders: Path) -> None:
    for name, data in {
        "empty": b"",
        "binary": b"\xff\0:\xfe",
        "remote": b"remote: |ssh host",
        "lost": b"module: x.so",
    }.items():
        (folders / "packages" / f"{name}.module").write_bytes(data)
    (folders / "packages" / "folder.module").mkdir()
    assert configured(folders) == {}


def test_the_systems_modules_are_those_of_p11_kit() -> None:
    printed = subprocess.run(
        ["p11-kit", "list-modules"],
        env=ENVIRONMENT | {"HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = dict(re.findall(r"^module: (\S+)\n\s+path: (\S+)$", printed, re.MULTILINE))
    ours = {one.name: one.path for one in _pkcs11_p11kit.configured_modules(_pkcs11_paths._FOLDERS)}
    assert "softhsm2" in theirs
    assert theirs.items() <= ours.items()


def test_a_broken_module_is_a_warning_of_the_list(folders: Path, hsm: InProcessSoftHSM) -> None:
    shutil.copy("/etc/passwd", folders / "lib" / "pkcs11" / "broken.so")
    (folders / "packages" / "broken.module").write_text("module: broken.so\n")
    (folders / "packages" / "good.module").write_text(f"module: {hsm.module}\n")
    with pytest.warns(match=r"broken\.so can't be used"):
        assert hsm.label in {token.label for token in list_tokens()}


def test_a_token_of_two_modules_is_named_with_its_module(folders: Path, hsm: InProcessSoftHSM) -> None:
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
