"""PKCS #11 modules: which one is loaded, what is tried, and what they print. Judge: p11-kit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emulators import InProcessSoftHSM
from hwsigner.backends.pkcs11.module import TOKEN_ATTRIBUTES, load_module
from hwsigner.errors import BackendUnavailableError, UsageError
from hwsigner.key import find_certificates, open_key
from hwsigner.uri import KeyURI


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
        ("/dev/null", "is not a file"),
        ("/etc/passwd", "/etc/passwd can't be used: (invalid ELF header|file too short)"),
        ("libc.so.6", r"libc\.so\.6 can't be used: it is not a PKCS #11 module"),
        ("/proc/self/exe", "it is not a PKCS #11 module|can't be used: "),
        ("nonesuch.so", r"nonesuch\.so can't be used: cannot open shared object file"),
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


def test_a_folder_that_may_not_be_read_holds_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> list[str]:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "listdir", refuse)  # The tests may be run by root, who may read all.
    with pytest.raises(BackendUnavailableError, match=rf"x\.so is in none of {tmp_path}"):
        open_key(f"pkcs11:token=x?module-path={tmp_path}&module-name=x")


def test_an_unknown_attribute_is_refused(uri: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="'tokem'"):
        open_key(uri("tokem=x"))
    with pytest.raises(UsageError, match="'module-dir'"):
        find_certificates(uri(query="&module-dir=x"))


def test_every_token_attribute_decides(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    token = next(t for t in load_module(hsm.module).tokens() if t.label == hsm.label)
    right = {
        "manufacturer": "SoftHSM%20project",
        "model": "SoftHSM%20v2",
        "serial": token.serial,
        "slot-id": str(token.slot),
        "slot-manufacturer": "SoftHSM%20project",
        "slot-description": KeyURI("pkcs11", {"x": token.slot_description.encode()}).name[len("pkcs11:x=") :],
        "library-manufacturer": "SoftHSM",
        "library-description": "Implementation%20of%20PKCS11",
        "library-version": "2.6",
    }
    assert {"token", *right} == TOKEN_ATTRIBUTES
    for name, value in right.items():
        open_key(uri(f"object=P-256;{name}={value}"), "1234").close()
        with pytest.raises(BackendUnavailableError):
            open_key(uri(f"object=P-256;{name}=1"), "1234")


def test_a_major_version_alone_is_its_first_minor_one(hsm: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_module(hsm.module)
    monkeypatch.setattr(module, "_library", {"library-version": "3.0"})
    for version, matches in (("3", True), ("3.0", True), ("3.1", False), ("2", False), ("", False)):
        assert bool(module.matching_tokens(KeyURI.parse(f"pkcs11:library-version={version}"))) is matches
