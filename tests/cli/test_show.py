"""`hwsigner show`: what it says of a key, its certificate and the path to the root, and what it does not touch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

import certs
from backends.file.keyfiles import openssl
from backends.pkcs11.tokens import remove_tokens
from emulators import InProcessSoftHSM
from hwsigner._pins import sources as pin_sources
from hwsigner.key import open_key
from scene import Outcome, Scene
from softhsm.command import run
from softhsm.tpm import SoftTPM
from softhsm.yubikey import YKCS11, YubiKey

pytestmark = pytest.mark.usefixtures("user_file")
Call = Callable[..., Outcome]


@pytest.fixture
def key(scene: Scene) -> Path:
    """A key in a folder of its own, without a certificate."""
    folder = scene.folder / "alone"
    folder.mkdir()
    return certs.write_key(folder / "web.key", ec.generate_private_key(ec.SECP256R1()))


def shown(outcome: Outcome) -> dict[str, Any]:
    assert (outcome.status, outcome.err) == (0, "")
    data: dict[str, Any] = json.loads(outcome.out)
    return data


def rows(outcome: Outcome) -> dict[str, list[str]]:
    """Return what each row says, by its name. Lines without a name go on with the one above."""
    assert (outcome.status, outcome.err) == (0, "")
    found: dict[str, list[str]] = {}
    for line in outcome.out.splitlines():
        name = line[:13].strip()
        if name:
            last = found.setdefault(name, [])
            last.append(line[13:])
        else:
            last[-1] += f"\n{line[13:]}"
    return found


def issue(ca: certs.Authority, key: Path, shape: certs.Shape = certs.LEAF) -> x509.Certificate:
    with open_key(str(key)) as opened:
        return certs.issue(ca, opened.public_key(), shape)


class TestKey:
    def test_json_has_what_the_backend_says_and_the_public_key(self, call: Call, key: Path) -> None:
        data = shown(call("show", key, "--json"))
        assert (data["uri"], data["place"], data["algorithm"]) == (str(key), f"the file {key}", "EC P-256")
        assert data["publicKey"].encode() == openssl("pkey", "-in", str(key), "-pubout")
        assert "The file has mode 0600" in data["guards"]
        assert data["properties"]["extractable"] is True
        assert data["certificate"] is None

    def test_text_has_the_same(self, call: Call, key: Path) -> None:
        said = rows(call("show", key))
        assert (said["URI"], said["Algorithm"]) == ([str(key)], ["EC P-256"])
        assert said["Guard"][0] == "The file has mode 0600"
        assert "--certificate" in said["Certificate"][0]

    def test_missing_key_is_an_error(self, call: Call, tmp_path: Path) -> None:
        outcome = call("show", tmp_path / "none")
        assert (outcome.status, outcome.out) == (3, "")

    def test_no_key_is_a_usage_error(self, call: Call) -> None:
        outcome = call("show")
        assert (outcome.status, outcome.out) == (2, "")
        assert "no key is named" in outcome.err

    def test_profile_without_a_key_is_a_usage_error(self, call: Call) -> None:
        assert call("profile", "add", "web", "--role-arn=arn:aws:iam::123456789012:role/web").status == 0
        outcome = call("show", "--profile", "web")
        assert (outcome.status, outcome.out) == (2, "")
        assert "profile 'web' names no key and no certificate. Run hwsigner install-certificate" in outcome.err

    def test_control_characters_are_escaped(self, call: Call, scene: Scene, key: Path) -> None:
        odd = certs.Shape("evil\x1b]0;title\x07")
        path = scene.write("odd.pem", certs.pem(issue(certs.make_ca("CA\x1b[2J"), key, odd)))
        outcome = call("show", key, "--certificate", path)
        assert outcome.status == 0
        assert outcome.out.replace("\n", "").isprintable()


class TestCertificate:
    @pytest.mark.parametrize("name", ["web.key", "web.crt", "web.key.crt", "web.pem"])
    def test_certificate_beside_the_key_is_found(self, call: Call, scene: Scene, key: Path, name: str) -> None:
        path = key.parent / name
        leaf = issue(scene.ca, key)
        with path.open("ab") as file:
            file.write(certs.pem(leaf))
        data = shown(call("show", key, "--json"))["certificate"]
        assert (data["uri"], data["matches"]) == (str(path), True)
        assert data["subject"] == leaf.subject.rfc4514_string()
        assert data["serialNumber"] == str(leaf.serial_number)
        assert data["notAfter"] == leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert data["warnings"] == []

    def test_certificate_beside_the_target_of_a_link_is_found(self, call: Call, scene: Scene, key: Path) -> None:
        key.with_suffix(".crt").write_bytes(certs.pem(issue(scene.ca, key)))
        link = scene.folder / "link.key"
        link.symlink_to(key)
        assert shown(call("show", link, "--json"))["certificate"]["matches"] is True

    def test_another_keys_certificate_beside_the_key_is_not_its_own(self, call: Call, scene: Scene, key: Path) -> None:
        key.with_suffix(".crt").write_bytes(scene.leaf.read_bytes())
        key.with_suffix(".pem").write_bytes(b"nonsense")
        assert shown(call("show", key, "--json"))["certificate"] is None

    def test_named_certificate_of_another_key_is_shown_as_such(self, call: Call, scene: Scene, key: Path) -> None:
        outcome = call("show", key, "--certificate", scene.leaf)
        assert rows(outcome)["Matches"] == ["no: it is for another key"]
        assert shown(call("show", key, "--certificate", scene.leaf, "--json"))["certificate"]["matches"] is False

    def test_certificate_that_the_service_refuses_is_warned_of(self, call: Call, scene: Scene, key: Path) -> None:
        expired = issue(scene.ca, key, certs.Shape(begin=certs.ago(9), end=certs.ago(1)))
        path = scene.write("expired.pem", certs.pem(expired))
        said = rows(call("show", key, "--certificate", path))
        assert said["Expires"][0].endswith("(expired)")
        assert "The service would refuse it" in said["Warning"][0]

    @pytest.mark.parametrize(("begin", "is_late"), [(2, False), (4, True)])
    def test_certificate_in_the_last_quarter_of_its_life_is_warned_of(
        self, begin: float, is_late: bool, call: Call, scene: Scene, key: Path
    ) -> None:
        old = issue(scene.ca, key, certs.Shape(begin=certs.ago(begin), end=certs.ago(-1)))
        said = rows(call("show", key, "--certificate", scene.write("old.pem", certs.pem(old))))
        assert ("Warning" in said) == is_late
        if is_late:
            assert "was not renewed: less than a quarter of its life" in " ".join(said["Warning"])

    @pytest.mark.parametrize(("days", "left"), [(1.5, "1 day left"), (2.5, "2 days left"), (0.5, "0 days left")])
    def test_days_left_are_counted(self, days: float, left: str, call: Call, scene: Scene, key: Path) -> None:
        path = scene.write("short.pem", certs.pem(issue(scene.ca, key, certs.Shape(end=certs.ago(-days)))))
        assert rows(call("show", key, "--certificate", path))["Expires"][0].endswith(f"({left})")

    def test_latest_of_several_is_shown_with_a_warning(self, call: Call, scene: Scene, key: Path) -> None:
        old, new = issue(scene.ca, key), issue(scene.ca, key, certs.Shape(end=certs.ago(-90)))
        path = scene.write("two.pem", certs.pem(old, new))
        data = shown(call("show", key, "--certificate", path, "--json"))["certificate"]
        assert data["serialNumber"] == str(new.serial_number)
        assert data["warnings"] == ["2 certificates may be the key's; this one expires last"]

    def test_missing_certificate_is_an_error(self, call: Call, key: Path) -> None:
        assert call("show", key, "--certificate", "/nowhere.pem").status == 4

    def test_session_tags_and_what_can_not_be_one(self, call: Call, scene: Scene, key: Path) -> None:
        path = scene.write("tags.pem", certs.pem(issue(scene.ca, key, certs.Shape("R&D"))))
        data = shown(call("show", key, "--certificate", path, "--json"))["certificate"]
        assert data["sessionTags"]["x509Subject/OU"] == "devops"
        assert "x509Subject/CN" not in data["sessionTags"]
        assert any("'&'" in warning for warning in data["warnings"])
        said = rows(call("show", key, "--certificate", path))
        assert "x509Subject/OU = devops" in said["Tag"]
        assert any("x509Subject/CN" in warning for warning in said["Warning"])


class TestPath:
    @pytest.fixture
    def chain(self, scene: Scene, key: Path) -> list[x509.Certificate]:
        upper = certs.make_ca("Upper CA", scene.ca)
        lower = certs.make_ca("A lower CA with a name that is too long for eighty columns", upper)
        return [issue(lower, key), lower.certificate, upper.certificate]

    def test_tree_goes_from_the_root_to_the_leaf(
        self, call: Call, scene: Scene, key: Path, chain: list[x509.Certificate]
    ) -> None:
        leaf, lower, upper = chain
        path = scene.write("chain.pem", certs.pem(upper, leaf))
        more = scene.write("more.pem", certs.pem(scene.ca.certificate, lower))
        outcome = call("show", key, "--certificate", path, "--intermediates", more)
        lines = rows(outcome)["Path"][0].splitlines()
        assert [line.strip(" └").split(",")[0][:8] for line in lines] == [
            "CN=Examp",
            "CN=Upper",
            "CN=A low",
            "CN=bambo",
        ]
        assert [line.index("CN") for line in lines] == [0, 2, 4, 6]
        assert lines[0].endswith("root")
        assert "…" in lines[2]
        assert max(map(len, outcome.out[outcome.out.index("Path") :].splitlines())) <= 80
        data = shown(call("show", key, "--certificate", path, "--intermediates", more, "--json"))["certificate"]
        subjects = [one["subject"] for one in data["path"]]
        assert subjects == [one.subject.rfc4514_string() for one in (scene.ca.certificate, upper, lower, leaf)]

    def test_issuer_that_is_not_there_is_named(
        self, call: Call, scene: Scene, key: Path, chain: list[x509.Certificate]
    ) -> None:
        path = scene.write("chain.pem", certs.pem(*chain))
        first, *others = rows(call("show", key, "--certificate", path))["Path"][0].splitlines()
        assert first.startswith("CN=Example CA")
        assert first.endswith("not here")
        assert len(others) == 3


class TestProfile:
    def test_profile_names_key_and_certificate(self, call: Call, scene: Scene) -> None:
        call("profile", "add", "web", *scene.flags())
        data = shown(call("show", "--profile", "web", "--json"))
        assert (data["uri"], data["certificate"]["uri"]) == (str(scene.key), str(scene.leaf))
        assert data["certificate"]["matches"] is True

    def test_key_uri_takes_precedence_over_the_profiles(self, call: Call, scene: Scene, key: Path) -> None:
        call("profile", "add", "web", *scene.flags())
        data = shown(call("show", key, "--profile", "web", "--json"))
        assert (data["uri"], data["certificate"]["matches"]) == (str(key), False)

    def test_pin_of_the_profile_goes_to_no_other_key(
        self, call: Call, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"right")
        )
        path = scene.write("locked.key", secret)
        folder = tmp_path / "credentials"
        folder.mkdir()
        (folder / "hwsigner.profile-pin.web").write_text("right")
        (folder / "hwsigner.profile-pin.web").chmod(0o600)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
        call("profile", "add", "web", *scene.flags(private_key=path))
        assert call("show", "--profile", "web").status == 0
        assert call("show", path, "--profile", "web").status == 3
        pin_sources.forget()


@pytest.fixture(scope="module")
def token(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    """A token with four keys: with its certificate, with one of another id, with another key's, and with none."""
    ca = certs.make_ca("Token CA")
    for number, label in enumerate(("own", "elsewhere", "wrong", "bare"), 1):
        softhsm.generate(label, bytes([number]), "EC:prime256v1")
    for label, number, key in (("own", 1, 1), ("far", 9, 2), ("wrong", 3, 1)):
        leaf = certs.issue(ca, softhsm.public_key(bytes([key])), certs.Shape(label))
        softhsm.write_certificate(leaf.public_bytes(Encoding.DER), label, bytes([number]))
    softhsm.write_certificate(ca.certificate.public_bytes(Encoding.DER), "ca", b"\x0a")
    yield softhsm
    remove_tokens(softhsm, softhsm.label)


class TestToken:
    @pytest.fixture
    def show(self, call: Call, token: InProcessSoftHSM) -> Callable[[str], dict[str, Any]]:
        def shown_of(label: str) -> dict[str, Any]:
            source = f"module-path={token.module}&pin-source=env:SHOWN_PIN"
            return shown(call("show", f"pkcs11:token={token.label};object={label}?{source}", "--json"))

        return shown_of

    @pytest.fixture(autouse=True)
    def pin(self, token: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHOWN_PIN", token.pin)

    def test_certificate_of_the_same_id_is_found_with_its_root(self, show: Callable[[str], dict[str, Any]]) -> None:
        data = show("own")["certificate"]
        assert data["matches"] is True
        assert [one["subject"].split(",")[0] for one in data["path"]] == ["CN=Token CA", "CN=own"]

    def test_certificate_of_another_id_is_found(self, show: Callable[[str], dict[str, Any]]) -> None:
        data = show("elsewhere")["certificate"]
        assert (data["matches"], data["subject"].split(",")[0]) == (True, "CN=far")

    def test_certificate_of_the_same_id_for_another_key_does_not_match(
        self, show: Callable[[str], dict[str, Any]]
    ) -> None:
        data = show("wrong")["certificate"]
        assert (data["matches"], data["subject"].split(",")[0]) == (False, "CN=wrong")

    def test_key_without_a_certificate_has_none(self, show: Callable[[str], dict[str, Any]]) -> None:
        data = show("bare")
        assert (data["algorithm"], data["certificate"]) == ("EC P-256", None)


class TestHardware:
    def test_attestation_certificate_of_a_yubikey_is_not_the_keys(self, call: Call, yubikey: YubiKey) -> None:
        yubikey.generate(0x9A)
        data = shown(call("show", yubikey.uri(0x9A, YKCS11), "--json"))
        assert (data["algorithm"], data["certificate"]) == ("EC P-256", None)
        assert yubikey.pin_tries == []

    def test_key_file_is_shown_without_its_tpm(
        self, call: Call, swtpm: SoftTPM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "web.tss2"
        swtpm.create_key_file(path, "EC:P-256", "secret")
        monkeypatch.setenv("TPM2_TCTI", "swtpm:path=/nonexistent")
        data = shown(call("show", path, "--json"))
        assert (data["algorithm"], data["properties"]["pin"], data["certificate"]) == ("EC P-256", True, None)

    def test_certificate_in_an_nv_index_is_found_for_a_key_file(
        self, call: Call, scene: Scene, swtpm: SoftTPM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)
        path = tmp_path / "web.tss2"
        swtpm.create_key_file(path, "EC:P-256")
        leaf = scene.write("leaf.der", certs.issue(scene.ca, swtpm.public_key(path)).public_bytes(Encoding.DER))
        size = str(leaf.stat().st_size)
        index = ["0x01500def", "-C", "o"]
        run(["tpm2_nvdefine", "-Q", *index, "-s", size, "-a", "ownerwrite|authread|no_da"], swtpm.env)
        try:
            run(["tpm2_nvwrite", "-Q", *index, "-i", str(leaf)], swtpm.env)
            data = shown(call("show", path, "--json"))["certificate"]
        finally:
            run(["tpm2_nvundefine", "-Q", *index], swtpm.env)
        assert (data["uri"], data["matches"]) == ("tpm2:nv=0x01500def", True)
