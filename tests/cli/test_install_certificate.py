"""`hwsigner install-certificate`: what is refused, what is installed, and the flags and profile that come of it."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from hwsigner._config import profiles
from hwsigner._pins import PinSource
from hwsigner._system import users
from hwsigner._uri import KeyURI
from hwsigner.backends import BACKENDS, Backend, register
from hwsigner.errors import HwsignerError, SigningKeyError
from hwsigner.key import FoundCertificate, open_key
from hwsigner.key.management import InstalledCertificate, KeyDescription
from judges import needs_linux
from scene import Outcome, Scene

pytestmark = pytest.mark.usefixtures("user_file")


@pytest.fixture
def issued(scene: Scene) -> Path:
    """The certificate of the scene's key, in a folder of its own."""
    path = scene.folder / "from-ca" / "issued.pem"
    path.parent.mkdir()
    scene.leaf.rename(path)
    return path


@pytest.fixture
def installed(scene: Scene) -> Path:
    """Where the file backend puts the certificate of the scene's key."""
    return scene.folder / "leaf.crt"


def refused(outcome: Outcome, status: int, *parts: str) -> None:
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.count("\n") == 1
    for part in parts:
        assert part in outcome.err


class TestFlags:
    def test_printed_flags_get_credentials(self, scene: Scene, issued: Path) -> None:
        outcome = scene.call("install-certificate", issued, scene.key)
        assert (outcome.status, outcome.err) == (0, "")
        (line,) = [line for line in outcome.out.splitlines() if line.startswith("Flags")]
        flags = shlex.split(line)[1:]
        assert flags[::2] == ["--certificate", "--private-key"]
        done = scene.credentials(*flags, certificate=None, private_key=None)
        assert done.status == 0, done.err

    def test_json_has_the_flags_and_what_was_installed(self, scene: Scene, issued: Path, installed: Path) -> None:
        outcome = scene.call("install-certificate", issued, scene.key, "--json")
        data = json.loads(outcome.out)
        assert (data["certificate"], data["privateKey"], data["intermediates"]) == (
            str(installed),
            str(scene.key),
            None,
        )
        assert data["subject"].startswith("CN=bamboo-01")
        expiry = x509.load_pem_x509_certificate(issued.read_bytes()).not_valid_after_utc
        assert data["notAfter"] == expiry.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert data["profile"] is None

    def test_flags_have_full_paths(
        self, scene: Scene, issued: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(scene.folder)
        data = json.loads(scene.call("install-certificate", issued, scene.key.name, "--json").out)
        assert (data["certificate"], data["privateKey"]) == (str(installed), str(scene.key))

    def test_flags_keep_the_pin_source_and_never_a_pin(self, scene: Scene, issued: Path) -> None:
        source = scene.write("pin", b"x\n")
        outcome = scene.call("install-certificate", issued, f"file:{scene.key}?pin-source=file:{source}", "--json")
        assert json.loads(outcome.out)["privateKey"] == f"file:{scene.key}?pin-source=file:{source}"
        outcome = scene.call("install-certificate", issued, f"file:{scene.key}?pin-value=hunter2", "--json")
        assert outcome.status == 0
        assert "hunter2" not in outcome.out + outcome.err


class TestCertificate:
    def test_chain_in_any_order_is_installed_in_order_without_the_root(
        self, scene: Scene, installed: Path, call: Callable[..., Outcome]
    ) -> None:
        upper = certs.make_ca("Upper CA", scene.ca)
        lower = certs.make_ca("Lower CA", upper)
        leaf = certs.issue(lower, open_key(str(scene.key)).public_key())
        chain = [lower.certificate, scene.ca.certificate, leaf, upper.certificate]
        outcome = call("install-certificate", scene.write("chain", certs.pem(*chain)), scene.key)
        assert outcome.status == 0, outcome.err
        found = x509.load_pem_x509_certificates(installed.read_bytes())
        assert found == [leaf, lower.certificate, upper.certificate]

    def test_intermediates_are_added(self, scene: Scene, installed: Path) -> None:
        lower = certs.make_ca("Lower CA", scene.ca)
        leaf = certs.issue(lower, open_key(str(scene.key)).public_key())
        leaf_file = scene.write("new", leaf.public_bytes(Encoding.DER))
        others = scene.write("others", lower.pem)
        outcome = scene.call("install-certificate", leaf_file, scene.key, "--intermediates", others)
        assert outcome.status == 0, outcome.err
        assert x509.load_pem_x509_certificates(installed.read_bytes()) == [leaf, lower.certificate]

    def test_renewed_certificate_replaces_the_old_one(self, scene: Scene, issued: Path, installed: Path) -> None:
        assert scene.call("install-certificate", issued, scene.key).status == 0
        renewed = scene.issue(open_key(str(scene.key)).public_key(), name="renewed.pem")
        assert scene.call("install-certificate", renewed, scene.key).status == 0
        assert installed.read_bytes() == renewed.read_bytes()

    def test_stranger_in_the_file_is_left_out_with_a_warning(self, scene: Scene, issued: Path, installed: Path) -> None:
        other = certs.make_ca("Unrelated CA", certs.make_ca("Somebody"))
        both = scene.write("both", issued.read_bytes() + other.pem)
        outcome = scene.call("install-certificate", both, scene.key)
        assert outcome.status == 0
        assert "not in the chain: CN=Unrelated CA" in outcome.err
        assert installed.read_bytes() == issued.read_bytes()


class TestRefused:
    @pytest.fixture(autouse=True)
    def nothing_changes(self, scene: Scene, installed: Path, user_file: Path) -> Iterator[None]:
        """The old certificate, and no profile."""
        installed.write_bytes(b"old")
        yield
        assert installed.read_bytes() == b"old"
        assert not user_file.exists()

    def test_certificate_of_another_key(self, scene: Scene) -> None:
        other = scene.issue(ec.generate_private_key(ec.SECP256R1()).public_key())
        outcome = scene.call("install-certificate", other, scene.key, "--profile", "web")
        refused(outcome, 3, str(other), str(scene.key), "certificate request")

    @pytest.mark.parametrize(
        ("shape", "word"),
        [
            (certs.Shape(end=certs.ago(1)), "expired"),
            (certs.Shape(begin=certs.ago(-1)), "not valid before"),
            (certs.Shape(is_ca=True), "CA:TRUE"),
            (certs.Shape(digital_signature=False), "digitalSignature"),
        ],
    )
    def test_certificate_that_the_service_refuses(self, scene: Scene, shape: certs.Shape, word: str) -> None:
        shape = replace(shape, begin=shape.begin or certs.ago(9))
        outcome = scene.call(
            "install-certificate", scene.issue(open_key(str(scene.key)).public_key(), shape), scene.key
        )
        refused(outcome, 4, word)

    def test_two_certificates_of_the_key(self, scene: Scene, issued: Path) -> None:
        second = scene.issue(open_key(str(scene.key)).public_key())
        both = scene.write("both", issued.read_bytes() + second.read_bytes())
        refused(scene.call("install-certificate", both, scene.key), 4, "2 certificates", "serial")

    @pytest.mark.parametrize(
        "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"]
    )
    def test_file_without_a_readable_certificate(self, scene: Scene, content: bytes) -> None:
        path = scene.write("bad", content)
        refused(scene.call("install-certificate", path, scene.key), 4, str(path))

    def test_chain_that_is_too_long(self, scene: Scene) -> None:
        authority = scene.ca
        chain = []
        for number in range(6):
            authority = certs.make_ca(f"CA {number}", authority)
            chain.append(authority.certificate)
        leaf = certs.issue(authority, open_key(str(scene.key)).public_key())
        refused(
            scene.call("install-certificate", scene.write("long", certs.pem(leaf, *chain)), scene.key), 4, "6 inter"
        )

    def test_file_with_too_many_certificates(self, scene: Scene, issued: Path) -> None:
        path = scene.write("many", issued.read_bytes() + 64 * scene.ca.pem)
        refused(scene.call("install-certificate", path, scene.key), 4, "has 65 certificates, more than 64")

    def test_stranger_in_the_file_when_warnings_are_errors(self, scene: Scene, issued: Path) -> None:
        other = certs.make_ca("Unrelated CA", certs.make_ca("Somebody"))
        both = scene.write("both", issued.read_bytes() + other.pem)
        refused(scene.call("install-certificate", both, scene.key, "--strict"), 4, "Unrelated CA")

    def test_unreadable_certificate_before_a_pin_is_asked_for(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hwsigner.key.management.describe_key", lambda *_: pytest.fail("asked"))
        refused(scene.call("install-certificate", "/nowhere.pem", scene.key), 4, "/nowhere.pem")

    def test_missing_key(self, scene: Scene, issued: Path) -> None:
        refused(scene.call("install-certificate", issued, scene.folder / "none.key"), 3, "none.key")

    def test_nv_index_of_a_key_in_a_file(self, scene: Scene, issued: Path) -> None:
        refused(scene.call("install-certificate", issued, scene.key, "--nv-index", "0x01c20000"), 2, "--nv-index")

    def test_invalid_name_of_a_profile(self, scene: Scene, issued: Path) -> None:
        refused(scene.call("install-certificate", issued, scene.key, "--profile", "a b"), 2, "at most 64")

    def test_missing_arguments(self, scene: Scene, issued: Path) -> None:
        refused(scene.call("install-certificate", issued), 2, "KEY-URI")


class TestProfile:
    def test_new_profile_has_the_flags(self, scene: Scene, issued: Path, installed: Path, user_file: Path) -> None:
        outcome = scene.call("install-certificate", issued, scene.key, "--profile", "web")
        assert f"{user_file}: [profile.web]" in outcome.out
        missing = "trust-anchor-arn, profile-arn, role-arn"
        command = "hwsigner profile edit web --trust-anchor-arn ARN --profile-arn ARN --role-arn ARN"
        assert f"Note       The profile has no {missing}: run {command}\n" in outcome.out
        written = tomllib.loads(user_file.read_text())["profile"]["web"]
        assert written == {"certificate": str(installed), "private-key": str(scene.key)}

    def test_path_that_can_not_be_printed_becomes_a_uri(self, scene: Scene, issued: Path, user_file: Path) -> None:
        key = str(scene.folder / "k\n\udcff\x1b[31m.key")
        os.rename(scene.key, key)
        outcome = scene.call("install-certificate", issued, key, "--profile", "web")
        assert outcome.status == 0, outcome.err
        flags = tomllib.loads(user_file.read_text())["profile"]["web"]
        assert flags["private-key"] == f"file:{scene.folder}/k%0A%FF%1B%5B31m.key"
        assert f"--private-key {flags['private-key']}" in outcome.out
        assert open_key(flags["private-key"]).public_key()

    def test_new_profile_is_said_to_be_new(self, scene: Scene, issued: Path, user_file: Path) -> None:
        said = "There was no profile web: it is new"
        flags = (issued, scene.key, "--profile", "web", "--json")
        assert [said in json.loads(scene.call("install-certificate", *flags).out)["notes"] for _ in range(2)] == [
            True,
            False,
        ]

    @pytest.mark.parametrize(
        ("line", "flag"),
        [
            ('role-arn = "arn:aws:iam::123456789012:user/web"', "--role-arn"),
            ('trust-anchor-arn = "ARN"', "--trust-anchor-arn"),
            ("profile-arn = 5", "--profile-arn"),
        ],
    )
    def test_malformed_arn_of_the_profile_is_an_error_before_anything_is_written(
        self, scene: Scene, issued: Path, user_file: Path, line: str, flag: str
    ) -> None:
        user_file.parent.mkdir(parents=True)
        user_file.write_text(f"[profile.web]\n{line}\n")
        before = sorted(scene.folder.rglob("*"))
        outcome = scene.call("install-certificate", issued, scene.key, "--profile", "web")
        refused(outcome, 2, f"profile 'web' in {user_file}: {flag} is ", "Use arn:aws:")
        assert user_file.read_text() == f"[profile.web]\n{line}\n"
        assert sorted(scene.folder.rglob("*")) == before

    def test_other_values_and_comments_of_the_profile_stay(self, scene: Scene, issued: Path, user_file: Path) -> None:
        scene.call(
            "profile", "add", "web", *scene.flags(certificate="/old", private_key="/old.key"), "--intermediates=x"
        )
        user_file.write_text(user_file.read_text().replace("[profile.web]", "[profile.web]\n# mine"))
        outcome = scene.call("install-certificate", issued, scene.key, "--profile", "web")
        assert (outcome.status, "Note" in outcome.out) == (0, False)
        assert "# mine" in user_file.read_text()
        assert "intermediates" not in user_file.read_text()
        done = scene.call("credential-process", "--profile", "web")
        assert done.status == 0, done.err

    def test_selector_that_the_flags_exclude_goes(self, scene: Scene, issued: Path, user_file: Path) -> None:
        scene.call("profile", "add", "web", "--cert-selector", "Key=x509Subject,Value=CN=a", "--region=x")
        assert scene.call("install-certificate", issued, scene.key, "--profile", "web").status == 0
        assert tomllib.loads(user_file.read_text())["profile"]["web"].keys() == {"certificate", "private-key", "region"}

    def test_broken_config_is_found_before_anything_is_installed(
        self, scene: Scene, issued: Path, installed: Path, user_file: Path
    ) -> None:
        user_file.parent.mkdir(parents=True)
        user_file.write_text("[profile.web")
        refused(scene.call("install-certificate", issued, scene.key, "--profile", "web"), 2, "is not TOML")
        assert not installed.exists()

    @needs_linux
    @pytest.mark.root
    def test_profile_of_the_system_gets_files_that_its_agent_can_read(
        self, scene: Scene, issued: Path, installed: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "agent_group", lambda: 12345)
        installed.touch(0o600)
        rows = scene.call("install-certificate", issued, scene.key, "--profile", "web", "--system").out
        assert f"Profile    {profiles.SYSTEM_FILE}: [profile.web]" in rows
        assert "run hwsigner profile edit web --system --trust-anchor-arn ARN" in rows
        assert "Next       hwsigner systemd install --system --allow-user USER --profile web" in rows
        assert not user_file.exists()
        for path in (installed, scene.key, Path(profiles.SYSTEM_FILE)):
            assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (12345, 0o640)

    def test_profile_that_can_not_be_written_is_an_error_with_the_flags(
        self, scene: Scene, issued: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: str, edit: object) -> None:
            raise HwsignerError(f"can't write {path}: No space left on device", "The file was not changed")

        monkeypatch.setattr(profiles, "edit_file", full)
        outcome = scene.call("install-certificate", issued, scene.key, "--profile", "web")
        refused(outcome, 1, "the certificate is installed, but", f"--certificate {installed} --private-key {scene.key}")
        assert installed.read_bytes() == issued.read_bytes()


class Drawer:
    """A backend whose keys show no public key, and whose certificates go nowhere."""

    def __init__(self, key: Path) -> None:
        self.key = str(key)
        self.got: list[tuple[bytes, ...]] = []
        self.nv_index = ""
        self.fails = False
        self.properties: dict[str, str] = {}

    def open_key(self, uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> object:
        return open_key(self.key)

    def describe_key(self, uri: KeyURI, pins: PinSource) -> KeyDescription:
        return KeyDescription(str(uri), "a drawer", None, properties=self.properties)

    def install_certificate(
        self, uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate], *, nv_index: str = ""
    ) -> InstalledCertificate:
        if self.fails:
            raise SigningKeyError("the drawer is full", "Empty it")
        self.got.append(tuple(one.der for one in chain))
        self.nv_index = nv_index
        return InstalledCertificate("drawer:name=leaf", "rest.pem", ("The drawer is open.",))


@pytest.fixture
def drawer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawer]:
    drawer = Drawer(scene.key)
    module = ModuleType("test_drawer")
    for name in ("open_key", "describe_key", "install_certificate"):
        setattr(module, name, getattr(drawer, name))
    monkeypatch.setitem(sys.modules, "test_drawer", module)
    register("drawer", Backend("test_drawer", management="test_drawer"))
    yield drawer
    del BACKENDS["drawer"]


class TestBackend:
    def test_backend_gets_the_chain_and_its_places_become_the_flags(
        self, scene: Scene, issued: Path, drawer: Drawer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(scene.folder)
        outcome = scene.call("install-certificate", issued, "drawer:name=web", "--nv-index", "0x01c20000")
        assert (outcome.status, outcome.err) == (0, "")
        assert drawer.got == [(x509.load_pem_x509_certificate(issued.read_bytes()).public_bytes(Encoding.DER),)]
        assert drawer.nv_index == "0x01c20000"
        flags = f"--certificate drawer:name=leaf --private-key drawer:name=web --intermediates {scene.folder}/rest.pem"
        assert flags in outcome.out
        assert "The drawer is open." in outcome.out

    def test_key_that_shows_no_public_key_proves_itself_by_a_signature(
        self, scene: Scene, issued: Path, drawer: Drawer
    ) -> None:
        drawer.key = str(certs.write_key(scene.folder / "other.key", ec.generate_private_key(ec.SECP256R1())))
        refused(scene.call("install-certificate", issued, "drawer:name=web"), 3, "does not belong to certificate")
        assert drawer.got == []

    def test_chain_of_a_key_that_shows_no_public_key_is_installed(self, scene: Scene, drawer: Drawer) -> None:
        lower = certs.make_ca("Lower CA", scene.ca)
        leaf = certs.issue(lower, open_key(str(scene.key)).public_key())
        both = scene.write("both", certs.pem(lower.certificate, leaf))
        assert scene.call("install-certificate", both, "drawer:name=web").status == 0
        assert drawer.got == [tuple(one.public_bytes(Encoding.DER) for one in (leaf, lower.certificate))]

    def test_failure_of_the_backend_is_the_error_and_writes_no_profile(
        self, scene: Scene, issued: Path, drawer: Drawer, user_file: Path
    ) -> None:
        drawer.fails = True
        refused(scene.call("install-certificate", issued, "drawer:name=web", "--profile=web"), 3, "full", "Empty it")
        assert not user_file.exists()

    def test_management_key_of_a_piv_card_is_not_taken_for_its_pin(
        self, scene: Scene, issued: Path, drawer: Drawer
    ) -> None:
        uri = "drawer:name=web?pin-source=file:/management.key"
        assert json.loads(scene.call("install-certificate", issued, uri, "--json").out)["privateKey"] == uri
        drawer.properties = {"pivSlot": "9a"}
        named = json.loads(scene.call("install-certificate", issued, uri, "--json").out)["privateKey"]
        assert named == "drawer:name=web"
