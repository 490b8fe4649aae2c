"""A key URI from elsewhere loads the modules of the system and of p11-kit only, unless the program allows others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from emulators import InProcessSoftHSM
from hwsigner._identity import IdentitySource, open_identity
from hwsigner.backends.pkcs11 import paths
from hwsigner.errors import BackendUnavailableError, UsageError
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import list_tokens
from judges import needs_linux


@pytest.fixture
def elsewhere(hsm: InProcessSoftHSM, tmp_path: Path) -> Path:
    """The token's module, in a folder that is not the system's."""
    return Path(shutil.copy(hsm.module, tmp_path / "module.so"))


def list_all(uri: str, **options: Any) -> list[Any]:
    return list(list_tokens(uri, **options))


def open_leaf(uri: str, **options: Any) -> None:
    open_identity(IdentitySource(uri, **options)).close()


@pytest.mark.parametrize("use", [open_key, find_certificates, list_all, open_leaf])
def test_module_elsewhere_is_refused_unless_it_is_allowed(use: Callable[..., Any], tmp_path: Path) -> None:
    uri = f"pkcs11:token=x?module-path={tmp_path}/none.so"
    with pytest.raises(UsageError, match=rf"module {tmp_path}/none\.so is neither in the system's") as caught:
        use(uri)
    assert "allow_modules=True" in caught.value.hint
    with pytest.raises(BackendUnavailableError, match="does not exist"):
        use(uri, allow_modules=True)


def test_allowed_module_elsewhere_signs(hsm: InProcessSoftHSM, elsewhere: Path) -> None:
    uri = f"pkcs11:token={hsm.label};object=P-256?module-path={elsewhere}"
    with open_key(uri, "1234", allow_modules=True) as key:
        assert key.sign(b"message")
    with pytest.raises(UsageError, match="allow_modules"):
        open_key(uri, "1234")


def test_key_and_intermediates_of_an_identity_are_refused_too(
    hsm: InProcessSoftHSM, ca: certs.Authority, tmp_path: Path
) -> None:
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certs.issue(ca, hsm.public_key(b"\x01")).public_bytes(Encoding.PEM))
    refused = f"pkcs11:object=x?module-path={tmp_path}/none.so"
    for source in (IdentitySource(str(leaf), refused), IdentitySource(str(leaf), str(leaf), refused)):
        with pytest.raises(UsageError, match="is neither in the system's"):
            open_identity(source)
        with pytest.raises(BackendUnavailableError, match="does not exist"):
            open_identity(IdentitySource(**{**vars(source), "allow_modules": True}))


@pytest.mark.parametrize(
    "path",
    [
        "/usr/lib/../../tmp/x.so",
        "/usr/library/x.so",
        "lib/x.so",
        "./x.so",
        "/proc/self/fd/3",
        "/usr/lib/..//../tmp/x.so",
    ],
)
def test_path_that_leaves_the_systems_folders_is_refused(path: str) -> None:
    assert not paths.is_trusted(path)


def test_link_to_a_module_of_the_system_is_refused(hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    link = tmp_path / "link.so"
    link.symlink_to(hsm.module)  # Whoever owns the link can change it before the module is loaded.
    assert not paths.is_trusted(str(link))


@pytest.mark.parametrize("path", ["x.so", "/usr/lib/x.so", "/usr/lib64/pkcs11/x.so", "/lib/x86_64//x.so"])
@needs_linux
def test_module_of_the_system_is_trusted(path: str) -> None:
    assert paths.is_trusted(path)


def test_folder_elsewhere_is_refused_with_a_module_name(elsewhere: Path) -> None:
    with pytest.raises(UsageError, match="allow_modules"):
        open_key(f"pkcs11:token=x?module-path={elsewhere.parent}&module-name=module")


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with p11-kit's configuration files."""
    (tmp_path / "etc" / "modules").mkdir(parents=True)
    monkeypatch.setattr(paths, "_SYSTEM", tmp_path / "etc")
    return tmp_path / "etc" / "modules"


def test_module_in_the_configuration_of_p11_kit_signs(
    hsm: InProcessSoftHSM, elsewhere: Path, configuration: Path
) -> None:
    link = elsewhere.with_name("link.so")
    link.symlink_to(elsewhere)
    (configuration / "mine.module").write_text(f"module: {link}\n")
    for path in (link, os.path.realpath(link)):
        with open_key(f"pkcs11:token={hsm.label};object=P-256?module-path={path}", "1234") as key:
            assert key.sign(b"message")


def test_well_known_module_of_a_vendor_is_trusted(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_KNOWN", (str(elsewhere.parent / "*.so"),))
    assert paths.is_trusted(str(elsewhere))
