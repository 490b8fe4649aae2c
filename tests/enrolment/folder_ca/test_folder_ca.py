"""An issuer in a package of its own: installed with pip, it passes the contract, enrols and renews."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import certs
from cli.conftest import call, enrolment, scene
from enrolment.authority import Requested
from enrolments import Enrolment, refused, succeeds
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending, open_issuer
from hwsigner.enrolment.testing import IssuerContract
from hwsigner.errors import HwsignerError, PluginError

pytestmark = pytest.mark.slow  # pip installs the package.

__all__ = ["call", "enrolment", "scene"]  # fixtures

HERE = Path(__file__).parent
PACKAGE = "hwsigner_folder_ca of the package hwsigner-folder-ca 1.0, the issuer folder-ca"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package's module, once pip has installed it."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", f"--target={folder}", str(HERE)]
    subprocess.run(command, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("hwsigner_folder_ca")


@pytest.fixture
def issuer_settings(module: ModuleType, ca: certs.Authority, tmp_path: Path) -> IssuerSettings:
    """A CA in a folder, whose key has a passphrase."""
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    certs.write_key(tmp_path / "plain.key", ca.key)
    encrypt = ["openssl", "pkcs8", "-topk8", "-in", "plain.key", "-out", "ca.key", "-passout", "pass:right-4711"]
    subprocess.run(encrypt, cwd=tmp_path, check=True)
    return IssuerSettings(url=f"file://{tmp_path}", secret=lambda: "right-4711")


class TestFolderCA(IssuerContract):
    NAME = "folder-ca"
    URIS = ("spiffe://example.com/bamboo-01",)

    @pytest.fixture
    def issuer_settings(self, issuer_settings: IssuerSettings) -> IssuerSettings:
        return issuer_settings

    @pytest.fixture
    def refused_settings(self, issuer_settings: IssuerSettings) -> IssuerSettings:
        return replace(issuer_settings, secret=lambda: "wrong-4712")


def test_enroll_and_renew_use_it(issuer_settings: IssuerSettings, enrolment: Enrolment, tmp_path: Path) -> None:
    place = tmp_path / "passphrase"
    place.write_text("right-4711")
    place.chmod(0o600)
    flags = ["--issuer=folder-ca", f"--issuer-url={issuer_settings.url}", f"--issuer-secret=file:{place}"]
    (tmp_path / "closed").touch()
    refused(enrolment.run(*flags, "--issuer-command="), 5, "has no certificate yet")
    (tmp_path / "closed").unlink()
    assert "issued now" in succeeds(enrolment.again())["Certified"]
    assert enrolment.gets_credentials()
    first = enrolment.leaf()
    time.sleep(1.1)  # The new one must end later than the old one, by whole seconds.
    succeeds(enrolment.scene.call("renew", "web"))
    assert enrolment.leaf().serial_number != first.serial_number
    assert enrolment.gets_credentials()


class TestFailure:
    """A failure of the package itself: its name is in the message, and no text that may be a secret."""

    @pytest.mark.parametrize("failure", [OSError(28, "hunter2"), KeyError("hunter2"), SystemExit("hunter2")])
    def test_names_the_package(
        self, module: ModuleType, asked: Requested, monkeypatch: pytest.MonkeyPatch, failure: BaseException
    ) -> None:
        def fail(*arguments: Any) -> Any:
            raise failure

        monkeypatch.setattr(module.FolderCA, "issue", fail)
        issuer = open_issuer("folder-ca", IssuerSettings(url="file:///none"))
        with pytest.raises(PluginError, match=rf"{PACKAGE}, failed: \w+ at test_f") as caught:
            issuer.issue(asked.request)
        assert "hunter2" not in str(caught.value)
        monkeypatch.setattr(module, "open_issuer", fail)
        with pytest.raises(PluginError, match="Report it to the authors of that package"):
            open_issuer("folder-ca", IssuerSettings())

    @pytest.mark.parametrize("answer", [None, b"DER", Issued(("text",)), Issued(None)])  # type: ignore[arg-type]
    def test_answer_of_another_type_names_the_package(
        self, module: ModuleType, asked: Requested, monkeypatch: pytest.MonkeyPatch, answer: Any
    ) -> None:
        monkeypatch.setattr(module.FolderCA, "issue", lambda *_: answer)
        with pytest.raises(PluginError, match=f"{PACKAGE}, failed: TypeError"):
            open_issuer("folder-ca", IssuerSettings(url="file:///none")).issue(asked.request)

    @pytest.mark.parametrize(
        "answer",
        [Issued(()), Issued((b"",) * 65), Pending(math.nan), Pending(-1.0), Pending(math.inf)],
    )
    def test_answer_that_makes_no_sense_names_the_package(
        self, module: ModuleType, asked: Requested, monkeypatch: pytest.MonkeyPatch, answer: Any
    ) -> None:
        monkeypatch.setattr(module.FolderCA, "issue", lambda *_: answer)
        with pytest.raises(HwsignerError, match="the issuer folder-ca"):
            open_issuer("folder-ca", IssuerSettings(url="file:///none")).issue(asked.request)

    def test_package_that_can_not_be_imported_is_named(
        self, module: ModuleType, monkeypatch: pytest.MonkeyPatch, enrolment: Enrolment
    ) -> None:
        monkeypatch.setitem(sys.modules, "hwsigner_folder_ca", None)
        refused(enrolment.run("--issuer=folder-ca"), 1, f"{PACKAGE}, failed: Module")
