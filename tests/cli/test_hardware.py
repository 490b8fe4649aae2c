"""Commands with keys in a SoftHSM token and a swtpm TPM, and the flags for such keys."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from emulators import InProcessSoftHSM
from scene import Outcome, Scene
from softhsm.command import run
from softhsm.token import SoftHSM
from softhsm.tpm import SoftTPM

AUTH = "tpm-auth-value"


def subjects(outcome: str) -> list[str]:
    """Return the common names in a list of identities."""
    return [line.split("CN=")[1].split(",")[0] for line in outcome.splitlines() if line.startswith("Subject: ")]


@pytest.fixture(scope="module")
def token(softhsm: InProcessSoftHSM, ca: certs.Authority) -> SoftHSM:
    """A token with an EC and an RSA key and their certificates."""
    for number, label, kind in ((b"\x01", "ec", "EC:prime256v1"), (b"\x02", "rsa", "rsa:2048")):
        softhsm.generate(label, number, kind)
        leaf = certs.issue(ca, softhsm.public_key(number), certs.Shape(label, serial=0xA000 + number[0]))
        softhsm.write_certificate(leaf.public_bytes(Encoding.DER), label, number)
    softhsm.reload()
    return softhsm


@pytest.fixture(scope="module")
def handle(swtpm: SoftTPM) -> Iterator[int]:
    """A persistent handle, with an auth value."""
    swtpm.persist(0x81000042, "ecc256", AUTH)
    yield 0x81000042
    run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000042"], swtpm.env)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("pkcs11:token=x?module-path=/nowhere/x.so", "/nowhere/x.so does not exist"),
        ("tpm2:handle=0x81000001?tcti=/nowhere/x.so", "TCTI /nowhere/x.so can't be loaded"),
    ],
)
def test_commands_load_any_library(scene: Scene, call: Callable[..., Outcome], uri: str, words: str) -> None:
    outcomes = [scene.credentials(private_key=uri), call("sign-string", "--private-key", uri)]
    if uri.startswith("pkcs11:"):
        selector = ("--cert-selector", "Key=x509Subject,Value=CN=x", "--pkcs11-lib", "/nowhere/x.so")
        outcomes += [call("read-certificate-data", "--certificate", uri), call("read-certificate-data", *selector)]
        outcomes += [call("list", uri)]
    else:
        outcomes += [call("list", "tpm2:?tcti=/nowhere/x.so")]
    for outcome in outcomes:
        assert (outcome.status, outcome.out) == (3, "")
        assert words in outcome.err


class TestToken:
    @pytest.fixture
    def pin(self, scene: Scene) -> Path:
        return scene.write("pin", b"1234\n")

    @pytest.mark.parametrize("label", ["ec", "rsa"])
    def test_certificate_uri_names_the_key_too(self, scene: Scene, token: SoftHSM, pin: Path, label: str) -> None:
        outcome = scene.credentials(certificate=token.uri(label, pin), private_key=None)
        assert (outcome.status, outcome.err) == (0, "")
        assert json.loads(outcome.out)["Version"] == 1

    def test_certificate_may_be_in_a_file(self, scene: Scene, token: SoftHSM, pin: Path) -> None:
        leaf = scene.issue(token.public_key(b"\x01"))
        assert scene.credentials(certificate=leaf, private_key=token.uri("ec", pin)).status == 0

    def test_readable_pin_file_causes_one_warning(self, scene: Scene, token: SoftHSM, pin: Path) -> None:
        pin.chmod(0o644)
        outcome = scene.credentials(certificate=token.uri("ec", pin), private_key=None)
        assert outcome.status == 0
        assert outcome.err.count("warning: ") == 1

    def test_pkcs11_lib_names_the_module(self, scene: Scene, token: SoftHSM, pin: Path) -> None:
        uri = f"pkcs11:token={token.label};object=ec?pin-source=file:{pin}"
        outcome = scene.credentials("--pkcs11-lib", token.module, certificate=uri, private_key=None)
        assert outcome.status == 0
        wrong = scene.credentials("--pkcs11-lib", "/nonexistent.so", certificate=uri, private_key=None)
        assert wrong.status == 3
        assert "/nonexistent.so" in wrong.err

    def test_wrong_pin_is_sent_once_until_the_user_logs_in(self, scene: Scene, token: SoftHSM, pin: Path) -> None:
        uri = token.uri("ec", scene.write("wrong", b"4321"))
        outcome = scene.credentials(certificate=uri, private_key=None)
        assert outcome.status == 3
        assert f"wrong PIN for token '{token.label}'" in outcome.err
        assert "4321" not in outcome.err
        # The token reports an earlier failure, so not even the right PIN is sent without the user.
        right: dict[str, str | Path | None] = {"certificate": token.uri("ec", pin), "private_key": None}
        refused = scene.credentials(**right)
        assert refused.status == 3
        assert "an earlier PIN failed" in refused.err
        log_in = [
            "pkcs11-tool",
            "--module",
            token.module,
            "--token-label",
            token.label,
            "--login",
            "--pin",
            "1234",
            "-O",
        ]
        subprocess.run(log_in, env={"PATH": "/usr/bin:/bin", **token.env}, check=True, capture_output=True)
        assert scene.credentials(**right).status == 0

    def test_missing_pin_is_an_error_that_names_pin_source(self, scene: Scene, token: SoftHSM) -> None:
        outcome = scene.credentials(certificate=token.uri("ec"), private_key=None)
        assert outcome.status == 3
        assert "pin-source=file:" in outcome.err

    def test_passphrase_of_a_file_is_not_sent_to_a_token(self, scene: Scene, token: SoftHSM) -> None:
        outcome = scene.credentials("--pkcs8-password", "1234", certificate=token.uri("ec"), private_key=None)
        assert outcome.status == 3
        assert "needs its user PIN" in outcome.err

    def test_cert_selector_finds_the_certificate(self, scene: Scene, token: SoftHSM) -> None:
        selector = "Key=x509Subject,Value=CN=ec,OU=devops,O=Example,C=DE Key=x509Serial,Value=A001"
        flags = ("--pkcs11-lib", token.module, "--cert-selector", selector)
        chosen = scene.credentials(*flags, certificate=None, private_key=None)
        assert chosen.status == 3  # The certificate was found; its key needs a PIN, and there is no terminal.
        assert "user PIN" in chosen.err
        none = scene.credentials(*flags[:-1], "Key=x509Serial,Value=FF", certificate=None, private_key=None)
        assert none.status == 4

    def test_cert_selector_with_two_matches_is_an_error(self, scene: Scene, token: SoftHSM) -> None:
        issuer = "Key=x509Issuer,Value=CN=Example CA,OU=devops,O=Example,C=DE"
        flags = ("--pkcs11-lib", token.module, "--cert-selector", issuer)
        outcome = scene.credentials(*flags, certificate=None, private_key=None)
        assert outcome.status == 4
        assert "2 certificates" in outcome.err
        latest = scene.credentials(*flags, "--use-latest-expiring-certificate", certificate=None, private_key=None)
        assert "user PIN" in latest.err

    def test_read_certificate_data_lists_the_certificates_of_a_token(
        self, scene: Scene, token: SoftHSM, pin: Path
    ) -> None:
        outcome = scene.call("read-certificate-data", "--certificate", token.uri("ec"))
        assert outcome.status == 0
        lines = outcome.out.splitlines()
        assert lines[0] == "Matching identities"
        assert lines[1].startswith("1) Hex Fingerprint: ")
        assert lines[2] == "Subject: CN=ec,OU=devops,O=Example,C=DE"
        assert lines[4] == "Serial Number: A001"
        uri = lines[5].removeprefix("URI: ")
        assert scene.credentials(certificate=f"{uri}&pin-source=file:{pin}", private_key=None).status == 0

    def test_read_certificate_data_lists_the_certificates_of_a_selector(self, scene: Scene, token: SoftHSM) -> None:
        command = ("read-certificate-data", "--pkcs11-lib", token.module, "--cert-selector")
        issuer = "Key=x509Issuer,Value=CN=Example CA,OU=devops,O=Example,C=DE"
        assert sorted(subjects(scene.call(*command, issuer).out)) == ["ec", "rsa"]
        assert scene.call(*command, "Key=x509Serial,Value=FF").out == "No matching identities\n"

    def test_reuse_pin_gives_the_login_pin_for_each_signature(self, scene: Scene, token: SoftHSM, pin: Path) -> None:
        command = ["pkcs11-tool", "--module", token.module, "--token-label", token.label, "--login", "--pin", "1234"]
        command += ["--keypairgen", "--key-type", "EC:prime256v1", "--always-auth", "--label", "each", "--id", "09"]
        subprocess.run(command, env={"PATH": "/usr/bin:/bin", **token.env}, check=True, capture_output=True)
        leaf = scene.issue(token.public_key(b"\x09"))
        names: dict[str, str | Path | None] = {"certificate": leaf, "private_key": token.uri("each", pin)}
        asked = scene.credentials(**names)
        assert asked.status == 3
        assert "PIN for this signature" in asked.err
        assert scene.credentials("--reuse-pin", **names).status == 0

    def test_sign_string_signs_with_a_token_key(self, scene: Scene, token: SoftHSM, pin: Path) -> None:
        assert scene.call("sign-string", "--private-key", token.uri("rsa", pin)).status == 0


class TestTPM:
    @pytest.fixture(autouse=True)
    def tcti(self, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)

    @pytest.mark.parametrize("kind", ["EC:P-256", "EC:P-384", "RSA:2048"])
    def test_tpm_key_file_gets_credentials(self, scene: Scene, swtpm: SoftTPM, kind: str) -> None:
        path = scene.folder / "tss2.pem"
        swtpm.create_key_file(path, kind)
        leaf = scene.issue(swtpm.public_key(path))
        outcome = scene.credentials(certificate=leaf, private_key=path)
        assert (outcome.status, outcome.err) == (0, "")

    @pytest.mark.parametrize("name", ["certificate", "private_key"])
    def test_one_file_may_hold_a_tpm_key_and_its_certificate(self, scene: Scene, swtpm: SoftTPM, name: str) -> None:
        path = scene.folder / "tss2.pem"
        swtpm.create_key_file(path, "EC:P-256")
        leaf = scene.issue(swtpm.public_key(path))
        both = scene.write("both.pem", leaf.read_bytes() + path.read_bytes())
        names: dict[str, str | Path | None] = {
            "certificate": both,
            "private_key": None if name == "certificate" else both,
        }
        assert scene.credentials(**names).status == 0
        assert scene.call("read-certificate-data", "--certificate", both).status == 0

    def test_tpm_key_file_may_be_der(self, scene: Scene, swtpm: SoftTPM) -> None:
        path = scene.folder / "tss2.pem"
        swtpm.create_key_file(path, "EC:P-256")
        leaf = scene.issue(swtpm.public_key(path))
        text = "".join(line for line in path.read_text().splitlines() if not line.startswith("-"))
        der = scene.write("tss2.der", base64.b64decode(text))
        assert scene.credentials(certificate=leaf, private_key=der).status == 0

    def test_tpm_key_without_a_certificate_is_a_usage_error(self, scene: Scene, swtpm: SoftTPM) -> None:
        path = scene.folder / "tss2.pem"
        swtpm.create_key_file(path, "EC:P-256")
        outcome = scene.credentials(certificate=None, private_key=path)
        assert outcome.status == 2
        assert "--certificate" in outcome.err

    def test_tpm_key_password_unlocks_the_key_with_a_warning(self, scene: Scene, swtpm: SoftTPM, handle: int) -> None:
        names: dict[str, str | Path | None] = {
            "certificate": scene.issue(swtpm.public_key(handle)),
            "private_key": f"handle:{handle:#x}",
        }
        outcome = scene.credentials("--tpm-key-password", AUTH, **names)
        assert outcome.status == 0
        assert "warning: --tpm-key-password" in outcome.err
        assert AUTH not in outcome.err

    def test_pin_source_unlocks_a_tpm_key(self, scene: Scene, swtpm: SoftTPM, handle: int) -> None:
        pin = scene.write("pin", AUTH.encode() + b"\n")
        uri = f"tpm2:handle={handle:#x}?pin-source=file:{pin}&tcti={swtpm.tcti}"
        assert scene.credentials(certificate=scene.issue(swtpm.public_key(handle)), private_key=uri).status == 0

    @pytest.mark.usefixtures("any_auth_values")
    def test_wrong_tpm_key_password_is_an_error_that_hides_it(self, scene: Scene, swtpm: SoftTPM, handle: int) -> None:
        names: dict[str, str | Path | None] = {
            "certificate": scene.issue(swtpm.public_key(handle)),
            "private_key": f"handle:{handle:#x}",
        }
        outcome = scene.credentials("--tpm-key-password", "wrong-one", **names)
        assert outcome.status == 3
        assert f"wrong TPM auth value for handle:{handle:#x}" in outcome.err
        assert "wrong-one" not in outcome.err
        assert scene.emulator.requests == []

    @pytest.mark.usefixtures("any_auth_values")
    def test_no_tpm_key_password_sends_an_empty_auth_value(self, scene: Scene, swtpm: SoftTPM) -> None:
        path = scene.folder / "tss2.pem"
        swtpm.create_key_file(path, "EC:P-256", AUTH)
        names: dict[str, str | Path | None] = {
            "certificate": scene.issue(swtpm.public_key(path, AUTH)),
            "private_key": path,
        }
        asked = scene.credentials(**names)
        assert asked.status == 3
        assert "needs its TPM auth value" in asked.err
        # The flag says that the auth value is empty; the TPM says that it is wrong.
        told = scene.credentials("--no-tpm-key-password", **names)
        assert told.status == 3
        assert "wrong TPM auth value" in told.err

    @pytest.mark.usefixtures("any_auth_values")
    def test_last_attempt_is_made_only_with_allow_final_pin_try(
        self, scene: Scene, swtpm: SoftTPM, handle: int
    ) -> None:
        names: dict[str, str | Path | None] = {
            "certificate": scene.issue(swtpm.public_key(handle)),
            "private_key": f"handle:{handle:#x}",
        }
        run(["tpm2_dictionarylockout", "--setup-parameters", "--max-tries=1", "--recovery-time=1000"], swtpm.env)
        # One wrong value would lock the TPM for all users, so not even the right one is sent.
        refused = scene.credentials("--tpm-key-password", AUTH, **names)
        assert refused.status == 3
        assert "--allow-final-pin-try" in refused.err
        allowed = scene.credentials("--tpm-key-password", AUTH, "--allow-final-pin-try", **names)
        assert allowed.status == 0

    def test_missing_tpm_is_an_error_that_names_it(
        self, scene: Scene, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TPM2_TCTI", "swtpm:path=/nonexistent/socket")
        outcome = scene.credentials(private_key="handle:0x81000042")
        assert outcome.status == 3
        assert "/nonexistent/socket" in outcome.err
        assert "Traceback" not in outcome.err
