"""Where PKCS #11 modules and pinentries are on macOS. What is there is made in a folder of the test's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hwsigner._pins.pinentry import find_pinentry
from hwsigner._system import places
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import paths
from judges import needs_linux

MODULES = (
    "/opt/homebrew/lib/libykcs11.dylib",
    "/usr/local/lib/libykcs11.dylib",
    "/opt/homebrew/lib/opensc-pkcs11.so",
    "/Library/OpenSC/lib/opensc-pkcs11.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/opt/local/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/pkcs11/yubihsm_pkcs11.dylib",
)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Mac whose root is a folder; the home folder is in it."""
    found = places.module_places("darwin")

    def below(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{tmp_path}{name}" for name in names)

    moved = found._replace(folders=below(found.folders), trusted=below(found.trusted))
    moved = moved._replace(settings=f"{tmp_path}{found.settings}", packages=f"{tmp_path}{found.packages}")
    for name, value in (("MODULES", moved), ("_FOLDERS", moved.folders), ("_KNOWN", moved.known)):
        monkeypatch.setattr(paths, name, value)
    monkeypatch.setattr(paths, "_SYSTEM", moved.settings)
    monkeypatch.setattr(paths, "_PACKAGES", moved.packages)
    monkeypatch.setattr(places, "_PINENTRIES", below(places._PINENTRIES))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path / "Users" / "ada"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("module", MODULES)
def test_module_of_a_mac_is_found_listed_and_trusted(mac: Path, module: str) -> None:
    path = str(program(Path(f"{mac}{module}")))
    assert paths.module_paths(KeyURI("pkcs11", {})) == [path]
    assert paths.listed_paths(KeyURI("pkcs11", {})) == [path]
    assert paths.is_trusted(path)


@pytest.mark.parametrize("name", ["ykcs11", "libykcs11", "libykcs11.dylib", "libykcs11.2.dylib", "YKCS11"])
def test_module_of_a_mac_is_found_by_its_name(mac: Path, name: str) -> None:
    path = program(mac / "opt/homebrew/lib/libykcs11.dylib")
    program(mac / "opt/homebrew/lib/libykcs11.2.5.1.dylib")
    assert paths.module_paths(KeyURI.parse(f"pkcs11:?module-name={name}")) == [str(path)]


def test_versions_of_one_module_are_one(mac: Path) -> None:
    real = program(mac / "opt/homebrew/lib/libykcs11.2.5.1.dylib")
    for name in ("libykcs11.2.dylib", "libykcs11.dylib"):
        (real.parent / name).symlink_to(real.name)
    assert paths.listed_paths(KeyURI("pkcs11", {})) == [str(real.parent / "libykcs11.dylib")]


def test_proxy_of_homebrews_p11_kit_is_found(mac: Path) -> None:
    proxy = program(mac / "opt/homebrew/lib/p11-kit-proxy.dylib")
    program(mac / "opt/homebrew/lib/opensc-pkcs11.so")
    assert paths.module_paths(KeyURI("pkcs11", {})) == [str(proxy)]


def test_configuration_of_homebrews_p11_kit_is_read(mac: Path) -> None:
    module = program(mac / "opt/homebrew/lib/pkcs11/other.so")
    configured = mac / "opt/homebrew/etc/pkcs11/modules/mine.module"
    configured.parent.mkdir(parents=True)
    configured.write_text("module: other.so\n")
    assert paths.listed_paths(KeyURI("pkcs11", {})) == [str(module)]


def test_folder_that_homebrews_user_can_write_is_not_trusted_by_itself(mac: Path) -> None:
    for folder in ("opt/homebrew/lib", "usr/local/lib"):
        assert not paths.is_trusted(str(program(mac / folder / "mine.dylib")))


@pytest.mark.usefixtures("mac")
def test_name_that_macos_looks_up_in_the_current_folder_is_not_trusted() -> None:
    assert not paths.is_trusted("libykcs11.dylib")


@needs_linux
def test_linux_does_not_look_at_a_macs_places() -> None:
    of_linux = places.module_places("linux")
    assert not [text for text in (*of_linux.folders, *of_linux.known) if "homebrew" in text or "dylib" in text]
    assert places.module_places() == of_linux


@pytest.mark.parametrize("path", places._PINENTRIES)
def test_pinentry_of_a_mac_is_found_without_a_variable(mac: Path, path: str) -> None:
    assert find_pinentry(None, {}) is None
    made = program(Path(f"{mac}{path}"))
    found = find_pinentry(None, {})
    assert found
    assert found.program == str(made)


def test_pinentry_on_the_path_of_a_mac_comes_first(mac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(mac / "opt/homebrew/bin/pinentry-mac")
    made = program(mac / "mine" / "pinentry-mac")
    monkeypatch.setenv("PATH", f"{made.parent}:/usr/bin:/bin")
    found = find_pinentry(None, {})
    assert found
    assert found.program == str(made)


def test_no_window_is_opened_on_a_mac_for_a_login_over_ssh(mac: Path) -> None:
    program(mac / "opt/homebrew/bin/pinentry-mac")
    assert find_pinentry(None, {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22"}) is None
    assert find_pinentry("none", {}) is None


def test_pinentry_of_a_mac_that_is_not_executable_is_passed_over(mac: Path) -> None:
    os.chmod(program(mac / "opt/homebrew/bin/pinentry-mac"), 0o644)
    assert find_pinentry(None, {}) is None


def test_libcrypto_of_a_mac_is_a_file_that_only_root_or_this_user_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("homebrew", "everyone's", "missing", "macports")]
    for path, mode in zip(paths, (0o644, 0o666, None, 0o444), strict=True):
        if mode is not None:
            path.touch()
            path.chmod(mode)
    monkeypatch.setattr(places, "_LIBCRYPTO", tuple(map(str, paths)))
    assert places.libcrypto_names("darwin") == [str(paths[0]), str(paths[3])]


@pytest.mark.root
def test_libcrypto_of_another_user_of_a_mac_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "homebrew"
    path.touch()
    os.chown(path, 65534, 65534)
    monkeypatch.setattr(places, "_LIBCRYPTO", (str(path),))
    assert places.libcrypto_names("darwin") == []


def test_libcrypto_of_a_mac_is_named_by_whole_paths() -> None:
    assert places._LIBCRYPTO
    assert all(os.path.isabs(path) for path in places._LIBCRYPTO)
    assert not any("/" in name for name in places.libcrypto_names("linux"))
