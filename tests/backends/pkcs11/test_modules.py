"""PKCS #11 modules: which one is loaded, how tokens are matched, and other users of a module."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from any_module import find_certificates, open_key
from backends.contract import ENVIRONMENT
from emulators import InProcessSoftHSM
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.module import TOKEN_ATTRIBUTES, load_module
from hwsigner.errors import BackendUnavailableError, UsageError
from judges import needs_linux
from pkcs11_shim import ROOT, run_alone


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
        (sys.executable, "it is not a PKCS #11 module|can't be used: "),
        ("nonesuch.so", r"nonesuch\.so can't be used: cannot open shared object file"),
    ],
)
def test_error_names_the_file_that_is_not_a_module(path: str, words: str) -> None:
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        open_key(f"pkcs11:token=x?module-path={path}")
    assert path in caught.value.message
    assert "--pkcs11-lib" in caught.value.hint


@needs_linux
def test_module_name_finds_the_module(hsm: InProcessSoftHSM, uri: Callable[..., str]) -> None:
    folder = os.path.dirname(os.path.realpath(hsm.module))
    for query in ("module-name=softhsm2", f"module-path={folder}&module-name=softhsm2"):
        with open_key(f"pkcs11:token={hsm.label};object=P-256?{query}", "1234") as key:
            assert key.sign(b"message")
    with pytest.raises(BackendUnavailableError, match=r"nonesuch\.so"):
        open_key("pkcs11:token=x?module-name=nonesuch")
    with pytest.raises(UsageError, match="module-name"):
        open_key("pkcs11:token=x?module-name=/a/path")


def test_unreadable_folder_has_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> list[str]:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "listdir", refuse)  # Root, who may run the tests, can read every folder.
    with pytest.raises(BackendUnavailableError, match=rf"x\.so is in none of {tmp_path}"):
        open_key(f"pkcs11:token=x?module-path={tmp_path}&module-name=x")


def test_unknown_attribute_of_a_uri_is_an_error(uri: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="'tokem'"):
        open_key(uri("tokem=x"))
    with pytest.raises(UsageError, match="'module-dir'"):
        find_certificates(uri(query="&module-dir=x"))


def test_token_must_have_every_attribute_of_the_uri(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
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


def test_major_version_alone_means_minor_version_0(hsm: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_module(hsm.module)
    monkeypatch.setattr(module, "_library", {"library-version": "3.0"})
    for version, matches in (("3", True), ("3.0", True), ("3.1", False), ("2", False), ("", False)):
        assert bool(module.matching_tokens(KeyURI.parse(f"pkcs11:library-version={version}"))) is matches


WITHOUT_PYTHON_PKCS11 = """
import os, sys
sys.modules["pkcs11"] = None
from any_module import list_tokens
from any_module import open_key
token = f"{os.environ['URI']}?module-path={sys.argv[1]}"
with open_key(token.replace("?", ";object=P-256?"), "1234") as key:
    print(len(key.sign(b"message")) > 60)
print([(one.label, one.algorithm) for found in list_tokens(token) for one in found.objects])
"""


def test_key_signs_and_is_listed_without_python_pkcs11(hsm: InProcessSoftHSM) -> None:
    expected = "True\n[('P-256', 'type 0x3')]\n"
    assert run_alone(WITHOUT_PYTHON_PKCS11, hsm.module, hsm.env, hsm.label) == expected


OPEN_AT_EXIT = """
import os, sys
from any_module import open_key
class Owner:
    key = open_key(f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}", "1234")
    def __del__(self):
        self.key.close()
owners = [Owner(), open_key(f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}", "1234")]
owners.append(owners)
owners[1].sign(b"message")
"""


def test_nothing_is_printed_at_exit_when_keys_are_open(hsm: InProcessSoftHSM) -> None:
    assert run_alone(OPEN_AT_EXIT, hsm.module, hsm.env, hsm.label) == ""


BESIDE_PYTHON_PKCS11 = """
import sys
import pkcs11
from hwsigner.key import open_key
proxy, label = sys.argv[1:]
with open_key(f"pkcs11:token={label};object=P-256?module-path={proxy}", "1234") as key:
    (token,) = (one for one in pkcs11.lib(proxy).get_tokens() if one.label == label)
    session = token.open()  # The login counts for the whole process.
    (found,) = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
    print(len(key.sign(b"message")) > 60, len(found.sign(bytes(32), mechanism=pkcs11.Mechanism.ECDSA)))
    session.close()
    print(len(key.sign(b"message")) > 60)
"""


@pytest.mark.usefixtures("pcsc")
def test_key_signs_through_the_proxy_beside_another_user_of_the_proxy(hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BESIDE_PYTHON_PKCS11, "p11-kit-proxy.so", hsm.label]
    environment = {**ENVIRONMENT, **hsm.env, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    # The system's other modules may write to stderr, and to their folder.
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True 64\nTrue\n"
