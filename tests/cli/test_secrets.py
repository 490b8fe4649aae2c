"""PINs in wrong places, closed streams and odd values: no secret is shown, and nothing breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

import certs
from hwsigner._uri import KeyURI
from scene import Scene

SECRET = "hunter2SECRET"
ROOT = Path(__file__).parents[2]


class TestPinsInWrongPlaces:
    @pytest.mark.parametrize(
        "uri",
        [
            "/nonexistent/key.pem?pin-value={}",
            "/nonexistent/key.pem?pin-source=file:/x{}",
            " pkcs11:token=a?pin-value={}",
            "pkcs1:token=a?pin-value={}",
            "file:/nonexistent&pin-value={}",
            "handle:0x81000001&pin-value={}",
            "tpm2:handle=0x81000001;pin-value={}",
            "tpm2:handle=0x81000001;pin-source={}",
            "pkcs11:token=a&pin-value={}?module-path=/nonexistent",
            "pkcs11:token=a?module-path=/nonexistent;pin-value={}",
            "pkcs11:token=a?pin-value={}&pin-value={}",
            "pkcs11:token=a?pin-value={}&foo=%zz",
            "pkcs11:token=a?foo=1&pin-value={}",
            "pkcs11:token=a?pin-value={};module-path=/nonexistent",
            "pkcs11:token=a?pin-value={}?module-path=/nonexistent",
            "handle:0x81000001?pin-value={};tcti=x",
        ],
    )
    @pytest.mark.parametrize("flag", ["certificate", "private_key"])
    def test_pin_in_the_wrong_part_of_a_uri_is_a_usage_error_that_hides_it(
        self, scene: Scene, uri: str, flag: str
    ) -> None:
        outcome = scene.credentials(**{flag: uri.replace("{}", SECRET)})
        assert (outcome.status, outcome.out) == (2, "")
        assert SECRET not in outcome.err

    @pytest.mark.parametrize("flag", ["--pkcs11-lib=/x.so?pin-value={}", "--cert-selector=pkcs11:token=a?pin-value={}"])
    def test_pin_in_another_flag_is_a_usage_error_that_hides_it(self, scene: Scene, flag: str) -> None:
        certificate = "pkcs11:token=a" if "pkcs11-lib" in flag else None
        outcome = scene.credentials(flag.replace("{}", SECRET), certificate=certificate, private_key=None)
        assert outcome.status == 2
        assert SECRET not in outcome.err

    def test_pin_is_kept_for_one_module_and_one_tpm(self) -> None:
        one, other = (KeyURI.parse(f"pkcs11:token=a?module-path={path}") for path in ("/a.so", "/b.so"))
        assert one.place != other.place
        assert one.place == KeyURI.parse("pkcs11:token=a;object=x?module-path=/a.so&pin-value=1").place
        assert KeyURI.parse("handle:0x81000001?tcti=a").place != KeyURI.parse("handle:0x81000001?tcti=b").place

    def test_pin_file_of_another_user_is_an_error(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        pin = scene.write("pin", b"1234")
        mine = os.geteuid()
        if mine == 0:
            os.chown(pin, 65534, 65534)
        else:
            monkeypatch.setattr("os.geteuid", lambda: mine + 1)
        outcome = scene.credentials(private_key=f"file:{scene.key}?pin-source=file:{pin}")
        assert outcome.status == 0  # The key has no passphrase, so the PIN file is not read.
        key = scene.write("k", encrypted(ec.generate_private_key(ec.SECP256R1())))
        refused = scene.credentials("--no-preflight", private_key=f"file:{key}?pin-source=file:{pin}")
        assert refused.status == 3
        assert f"belongs to user {mine or 65534}" in refused.err

    def test_readable_pin_file_causes_a_warning(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        pin = scene.write("pin", b"1234")
        names: dict[str, str | Path | None] = {
            "certificate": scene.issue(key.public_key()),
            "private_key": f"file:{scene.write('k', encrypted(key))}?pin-source=file:{pin}",
        }
        assert scene.credentials(**names).err == ""
        pin.chmod(0o640)
        lax, strict = scene.credentials(**names), scene.credentials("--strict", **names)
        assert (lax.status, strict.status) == (0, 3)
        assert f"warning: PIN file {pin} has mode 0640" in lax.err
        assert lax.err.count("\n") == 1

    def test_password_of_another_kind_of_key_causes_a_warning(self, scene: Scene) -> None:
        outcome = scene.credentials("--tpm-key-password", SECRET)
        assert outcome.status == 0
        assert "warning: --tpm-key-password on the command line" in outcome.err
        assert SECRET not in outcome.err

    def test_saving_a_password_in_a_profile_causes_a_warning(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(scene.folder))
        outcome = scene.call("profile", "add", "web", "--pkcs8-password", SECRET)
        assert outcome.status == 0
        assert "warning: --pkcs8-password" in outcome.err
        assert SECRET not in outcome.out + outcome.err
        assert "others can read it" not in outcome.err
        (scene.folder / "hwsigner" / "config.toml").chmod(0o644)
        other = scene.call("profile", "add", "other", "--pkcs8-password", SECRET)
        assert "others can read it" in other.err


def encrypted(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"1234"))


class TestOnePlaceOnePin:
    @pytest.fixture
    def bundle(self, scene: Scene) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certs.issue(scene.ca, key.public_key())
        return scene.write(
            "both.p12", serialize_key_and_certificates(None, key, leaf, None, BestAvailableEncryption(b"1234"))
        )

    @pytest.mark.parametrize(
        ("certificate", "key"), [("{}", "file:{}?pin-value=1234"), ("file:{}?pin-value=1234", "{}")]
    )
    def test_either_uri_may_have_the_pin_of_a_file_with_key_and_certificate(
        self, scene: Scene, bundle: Path, certificate: str, key: str
    ) -> None:
        names = {"certificate": certificate.format(bundle), "private_key": key.format(bundle)}
        assert scene.credentials(**names).status == 0

    def test_same_file_by_another_path_gets_the_password(
        self, scene: Scene, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(scene.folder)
        outcome = scene.credentials("--pkcs8-password=1234", certificate=bundle, private_key="./both.p12")
        assert outcome.status == 0

    def test_other_file_does_not_get_the_pin(self, scene: Scene, bundle: Path) -> None:
        outcome = scene.credentials(certificate=bundle, private_key=f"file:{scene.key}?pin-value=1234")
        assert outcome.status == 3
        assert f"{bundle} needs its passphrase" in outcome.err


class TestStreams:
    @pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
    def test_debug_works_without_stderr(self, scene: Scene, stderr: str) -> None:
        scene.key.chmod(0o644)  # This causes a warning.
        done = self.run(scene, stderr, "--debug")
        assert done.returncode == 0
        assert json.loads(done.stdout)["Version"] == 1

    @pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
    def test_exit_status_is_kept_without_stderr(self, scene: Scene, stderr: str) -> None:
        done = self.run(scene, stderr, "--session-duration=1")
        assert (done.returncode, done.stdout) == (2, b"")

    def run(self, scene: Scene, redirection: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
        script = f'exec "$@" {redirection}'
        command = [sys.executable, "-m", "hwsigner", "credential-process", *scene.flags(), *flags]
        return subprocess.run(["sh", "-c", script, "sh", *command], cwd=ROOT, stdout=subprocess.PIPE, check=False)


class TestOddValues:
    @pytest.mark.parametrize(
        "flag", ["--role-session-name", "--intermediates", "--region", "--cert-selector", "--pkcs8-password"]
    )
    def test_empty_text_is_like_no_flag(self, scene: Scene, flag: str) -> None:
        assert scene.credentials(flag, "").status == 0

    @pytest.mark.parametrize("flag", ["--profile", "--config-profile"])
    def test_empty_profile_is_like_no_flag(self, scene: Scene, flag: str) -> None:
        assert scene.credentials(flag, "").status == 0

    def test_empty_text_in_a_profile_is_like_no_key(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(scene.folder))
        scene.call("profile", "add", "web", *scene.flags(), "--role-session-name=abc")
        file = scene.folder / "hwsigner" / "config.toml"
        file.write_text(file.read_text().replace('"abc"', '""'))
        assert scene.call("credential-process", "--profile", "web").status == 0

    @pytest.mark.parametrize("flag", ["--session-duration", "--timeout", "--instance-property", "--debug="])
    def test_other_empty_value_is_a_usage_error(self, scene: Scene, flag: str) -> None:
        assert scene.credentials(*([flag] if flag.endswith("=") else [flag, ""])).status == 2

    def test_huge_number_in_config_toml_is_a_usage_error(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(scene.folder))
        (scene.folder / "hwsigner").mkdir()
        file = scene.folder / "hwsigner" / "config.toml"
        file.write_text("[profile.web]\nsession-duration = " + "9" * 5000)
        outcome = scene.call("credential-process", "--profile", "web")
        assert outcome.status == 2
        assert str(file) in outcome.err

    def test_path_that_is_not_text_cannot_be_saved(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(scene.folder))
        outcome = scene.call("profile", "add", "web", "--certificate", os.fsdecode(b"\xff"))
        assert (outcome.status, outcome.out) == (2, "")
        assert not (scene.folder / "hwsigner" / "config.toml").exists()
