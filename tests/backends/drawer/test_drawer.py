"""A backend in a package of its own that can do everything: installed with pip, it passes the contract and is used."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cli.conftest import call, enrolment, scene
from enrolments import Enrolment, refused, succeeds
from hwsigner import Key, KeyRequest, backends, delete_key, describe_key, find_certificates, generate_key, open_key
from hwsigner.attestation import make_statement
from hwsigner.errors import HwsignerError, PluginError
from hwsigner.key.listing import list_tokens
from hwsigner.testing import KeyContract, LockedKey, MakeKey, OpenKey, PinContract
from scene import Scene

pytestmark = pytest.mark.slow  # pip installs the package.

__all__ = ["call", "enrolment", "scene"]  # fixtures

HERE = Path(__file__).parent
PIN = "right-4711"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package's module, once pip has installed it."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", f"--target={folder}", str(HERE)]
    subprocess.run(command, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        backends = importlib.import_module("hwsigner.backends")
        patch.setattr(backends, "BACKENDS", dict(backends.BACKENDS))
        patch.setattr("hwsigner._uri.BACKENDS", backends.BACKENDS)
        backends._load_entry_point.cache_clear()
        yield importlib.import_module("hwsigner_drawer")
    backends._load_entry_point.cache_clear()


@dataclass(frozen=True)
class Drawer:
    """A drawer, and the file with its PIN."""

    folder: Path
    pin_file: Path

    def uri(self, label: str = "web", *, with_pin: bool = False) -> str:
        """Return a key's URI."""
        return f"drawer:folder={self.folder};label={label}" + (f"?pin-source=file:{self.pin_file}" * with_pin)


@pytest.fixture
def drawer(module: ModuleType, tmp_path: Path) -> Drawer:
    made = Drawer(tmp_path / "drawer", tmp_path / "pin")
    made.folder.mkdir()
    made.pin_file.write_text(PIN)
    made.pin_file.chmod(0o600)
    return made


class TestDrawerKey(KeyContract):
    KINDS = ("p256", "p384")

    @pytest.fixture
    def make_key(self, drawer: Drawer) -> MakeKey:
        def make(kind: Any) -> tuple[Key, bytes]:
            label = f"{kind}-{len(list(drawer.folder.iterdir()))}"
            made = generate_key(drawer.uri(label), KeyRequest(kind), PIN)
            assert made.public_key
            return open_key(made.uri, PIN), made.public_key

        return make

    @pytest.fixture
    def absent_key(self, drawer: Drawer) -> OpenKey:
        generate_key(drawer.uri("there"), None, PIN)
        return lambda: open_key(drawer.uri("absent"), PIN)

    @pytest.fixture
    def unreachable_key(self, drawer: Drawer) -> OpenKey:
        return lambda: open_key(f"drawer:folder={drawer.folder}/none;label=web", PIN)

    @pytest.fixture
    def lost_key(self, drawer: Drawer) -> Key:
        generate_key(drawer.uri(), None, PIN)
        key = open_key(drawer.uri(), PIN)
        for file in drawer.folder.iterdir():
            file.unlink()
        drawer.folder.rmdir()
        return key


class TestDrawerPin(PinContract):
    @pytest.fixture
    def locked_key(self, drawer: Drawer) -> LockedKey:
        generate_key(drawer.uri(), None, PIN)
        return LockedKey(lambda pin: open_key(drawer.uri(), pin), PIN)


def test_key_is_enrolled_shown_renewed_listed_and_deleted(drawer: Drawer, enrolment: Enrolment) -> None:
    call, uri = enrolment.scene.call, drawer.uri(with_pin=True)
    rows = succeeds(enrolment.run(f"--private-key={uri}", "--subject=CN=bamboo-01"))
    assert rows["Key"] == f"{drawer.uri()}, made now"
    assert enrolment.gets_credentials()
    assert enrolment.profile()["certificate"] == drawer.uri()
    first = (drawer.folder / "web.crt").read_bytes()
    succeeds(enrolment.renewal_by(enrolment.issuer(days="3")))
    assert (drawer.folder / "web.crt").read_bytes() != first
    assert enrolment.gets_credentials()
    shown = json.loads(call("show", uri, "--json").out)
    assert (shown["algorithm"], shown["certificate"]["subject"]) == ("EC P-256", "CN=bamboo-01")
    (token,) = json.loads(call("list", f"drawer:folder={drawer.folder}", "--json").out)["tokens"]
    assert [key["uri"] for key in token["keys"]] == [drawer.uri()]
    assert call("delete", uri, "--yes").status == 0
    assert list(drawer.folder.iterdir()) == []


def test_key_is_attested(drawer: Drawer, scene: Scene, tmp_path: Path) -> None:
    uri, roots = generate_key(drawer.uri(), None, PIN).uri, tmp_path / "roots"
    roots.mkdir()
    (roots / "ca.pem").write_bytes(scene.ca.pem)
    statement, challenge, state, answer = (tmp_path / name for name in ("statement", "challenge", "state", "answer"))
    verify = "verify-attestation", statement, f"--roots={roots}", f"--state={state}"
    assert scene.call("attest", uri, f"--out={statement}").status == 0
    assert scene.call(*verify, f"--challenge={challenge}").status == 0
    pin = f"?pin-source=file:{drawer.pin_file}"
    assert scene.call("attest", uri + pin, f"--challenge={challenge}", f"--out={answer}").status == 0
    assert "proven    The key signed the challenge" in scene.call(*verify, f"--answer={answer}").out


@pytest.mark.parametrize(
    ("command", "function", "words"),
    [
        (("keygen", "KEY"), "generate_key", "drawer: keys can't be made by hwsigner"),
        (("show", "KEY"), "describe_key", "drawer: keys can't be described by hwsigner"),
        (("delete", "KEY", "--yes"), "delete_key", "drawer: keys can't be deleted by hwsigner"),
        (("list", "KEY"), "list_tokens", "drawer: keys can't be listed"),
        (("attest", "KEY"), "make_statement", "drawer: keys can't be attested"),
        (("attest", "KEY", "--ek"), "formats", "drawer: keys have no endorsement key"),
        (("read-certificate-data", "--certificate=KEY"), "find_certificates", "can't name a certificate"),
        (("sign-string", "--private-key=KEY"), "open_key", "drawer: keys can't be opened"),
    ],
)
def test_capability_that_a_backend_lacks_is_named(
    drawer: Drawer,
    module: ModuleType,
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    function: str,
    words: str,
) -> None:
    monkeypatch.delattr(module, function)
    refused(scene.call(*(word.replace("KEY", drawer.uri()) for word in command)), 2, words)


def test_enrolment_names_what_is_lacking(
    drawer: Drawer, module: ModuleType, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "install_certificate")
    outcome = enrolment.run(f"--private-key={drawer.uri(with_pin=True)}", "--subject=CN=bamboo-01")
    refused(outcome, 2, "drawer: keys can't be given their certificates by hwsigner")
    assert enrolment.issued == 0
    assert list(drawer.folder.iterdir()) == []


class TestFailure:
    """A failure of the package itself: it is named, and no text that may be a secret."""

    BLAMED = (
        r"hwsigner_drawer[.a-z_]* of the package hwsigner-drawer 1\.0, the backend for drawer: keys, failed: OSError"
    )

    @pytest.fixture
    def failing(self) -> Callable[..., Any]:
        def fail(*arguments: object, **named: object) -> Any:
            raise OSError(28, "hunter2")

        return fail

    def test_of_the_module_names_the_package(
        self, drawer: Drawer, module: ModuleType, failing: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "open_key", failing)
        with pytest.raises(PluginError, match=self.BLAMED) as caught:
            open_key(drawer.uri())
        assert "hunter2" not in str(caught.value)
        monkeypatch.setattr(module, "_read", failing)
        (drawer.folder / "web.key").touch()
        with pytest.raises(PluginError, match=self.BLAMED):
            list(list_tokens(drawer.uri()))

    @pytest.mark.parametrize(
        ("name", "use"),
        [
            ("sign", lambda key: key.sign(b"message")),
            ("public_key", lambda key: key.public_key()),
            ("close", lambda key: key.close()),
            ("algorithm", lambda key: key.algorithm),
        ],
    )
    def test_of_a_key_names_the_package(
        self,
        drawer: Drawer,
        module: ModuleType,
        failing: Any,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        use: Callable[[Key], object],
    ) -> None:
        generate_key(drawer.uri(), None, PIN)
        key = open_key(drawer.uri(), PIN)
        monkeypatch.setattr(module.DrawerKey, name, property(failing) if name == "algorithm" else failing)
        with pytest.raises(PluginError, match=self.BLAMED):
            use(key)

    def test_of_a_key_names_the_package_when_open_key_has_another_name(
        self, drawer: Drawer, module: ModuleType, failing: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate_key(drawer.uri(), None, PIN)
        monkeypatch.setattr(module, "open_key", partial(module.open_key))
        monkeypatch.setattr(module.DrawerKey, "sign", failing)
        with open_key(drawer.uri(), PIN) as key, pytest.raises(PluginError, match=self.BLAMED):
            key.sign(b"message")

    def test_of_a_command_is_not_an_internal_error_of_hwsigner(
        self, drawer: Drawer, module: ModuleType, scene: Scene, failing: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "describe_key", failing)
        outcome = scene.call("show", drawer.uri())
        refused(outcome, 1, "hwsigner_drawer", "Report it to the authors of that package")
        assert "internal error" not in outcome.err

    def test_signature_of_another_type_names_the_package(
        self, drawer: Drawer, module: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate_key(drawer.uri(), None, PIN)
        monkeypatch.setattr(module.DrawerKey, "sign", lambda *_: None)
        with open_key(drawer.uri(), PIN) as key, pytest.raises(PluginError, match="failed: TypeError"):
            key.sign(b"message")

    @pytest.mark.parametrize(
        ("name", "result", "use"),
        [
            ("describe_key", None, lambda uri: describe_key(uri, PIN)),
            ("delete_key", None, lambda uri: delete_key(uri, lambda _: None, PIN)),
            ("find_certificates", None, find_certificates),
            ("find_certificates", [b"DER"], find_certificates),
            ("list_tokens", ["web"], lambda uri: list(list_tokens(uri))),
            ("list_tokens", [None], lambda uri: list(list_tokens(uri))),
        ],
    )
    def test_result_of_another_type_names_the_package(
        self,
        drawer: Drawer,
        module: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        result: object,
        use: Callable[[str], object],
    ) -> None:
        monkeypatch.setattr(module, name, lambda *_, **__: result)
        with pytest.raises(PluginError, match=rf"hwsigner_drawer\.{name} of .* failed: TypeError at "):
            use(drawer.uri())

    def test_is_placed_in_the_package_though_a_library_raised_it(
        self, drawer: Drawer, module: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate_key(drawer.uri(), None, PIN)
        monkeypatch.setattr(module.DrawerKey, "public_key", module._read)
        with open_key(drawer.uri(), PIN) as key, pytest.raises(PluginError, match=r"at hwsigner_drawer\.py:"):
            key.public_key()

    def test_import_that_fails_names_the_module(
        self, drawer: Drawer, module: ModuleType, monkeypatch: pytest.MonkeyPatch, failing: Any
    ) -> None:
        monkeypatch.setattr("hwsigner.backends.importlib.import_module", failing)
        with pytest.raises(PluginError, match="hwsigner_drawer, a backend, failed"):
            open_key(drawer.uri())

    def test_recognising_files_names_the_package(
        self, drawer: Drawer, failing: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate_key(drawer.uri(), None, PIN)
        monkeypatch.setitem(backends.BACKENDS, "drawer", backends.BACKENDS["drawer"]._replace(recognises=failing))
        with pytest.raises(PluginError, match=self.BLAMED):
            open_key(str(drawer.folder / "web.key"))

    def test_statement_with_an_unknown_member_names_the_package(
        self, drawer: Drawer, module: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate_key(drawer.uri(), None, PIN)
        monkeypatch.setattr(module, "make_statement", lambda *_, **__: ("pkcs11", {"publicKey": b"misspelt"}))
        with pytest.raises(PluginError, match=r"hwsigner_drawer of the package .* failed: KeyError"):
            make_statement(drawer.uri(), PIN)

    def test_its_own_errors_stay_as_they_are(self, drawer: Drawer, module: ModuleType) -> None:
        with pytest.raises(HwsignerError, match="no key is named by") as caught:
            open_key(drawer.uri("absent"), PIN)
        assert not isinstance(caught.value, PluginError)
