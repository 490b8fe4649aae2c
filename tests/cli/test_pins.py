"""PINs from places that only a whole command uses: the environment, systemd credentials, commands, pinentry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

import certs
import hwsigner
from hwsigner._pins import sources as pin_sources
from hwsigner.errors import PinError
from judges import needs_proc
from scene import Scene
from softhsm.command import run
from softhsm.tpm import SoftTPM
from terminals import ROOT, Terminal

PIN = "hunter2SECRET"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    pin_sources.forget()


@pytest.fixture
def locked(scene: Scene) -> dict[str, str | Path | None]:
    """Flags for a key file with a passphrase, and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PIN.encode()))
    return {"certificate": scene.issue(key.public_key()), "private_key": scene.write("locked.key", data)}


@pytest.fixture
def bundle(scene: Scene) -> Path:
    """A PKCS #12 file with a certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certs.issue(scene.ca, key.public_key())
    encryption = BestAvailableEncryption(PIN.encode())
    return scene.write("both.p12", serialize_key_and_certificates(None, key, leaf, None, encryption))


Flags = dict[str, str | Path | None]


class TestEnvironment:
    def test_hwsigner_pin_unlocks_the_key_and_leaves_the_environment(
        self, scene: Scene, locked: Flags, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", PIN)
        outcome = scene.credentials(**locked)
        assert (outcome.status, outcome.err) == (0, "")
        assert "HWSIGNER_PIN" not in os.environ
        assert scene.credentials(**locked).status == 3  # The first command took it.

    def test_wrong_pin_is_an_error_that_hides_it(
        self, scene: Scene, locked: Flags, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "WRONG")
        outcome = scene.credentials(**locked)
        assert outcome.status == 3
        assert "wrong passphrase" in outcome.err
        assert "WRONG" not in outcome.err

    def test_password_flag_takes_precedence_over_hwsigner_pin(
        self, scene: Scene, locked: Flags, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HWSIGNER_PIN", "WRONG")
        assert scene.credentials("--pkcs8-password", PIN, **locked).status == 0

    def test_hwsigner_pin_unlocks_a_file_with_key_and_certificate(
        self, scene: Scene, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key in (None, f"./{bundle.name}"):
            monkeypatch.chdir(scene.folder)
            monkeypatch.setenv("HWSIGNER_PIN", PIN)
            assert scene.credentials(certificate=bundle, private_key=key).status == 0

    def test_hwsigner_pin_is_not_used_for_other_files(
        self, scene: Scene, locked: Flags, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for names in ({"certificate": bundle}, {"intermediates": bundle}):
            monkeypatch.setenv("HWSIGNER_PIN", PIN)
            outcome = scene.credentials(**{**locked, **names})
            assert outcome.status == 3
            assert f"{bundle} needs its passphrase" in outcome.err

    @needs_proc
    def test_hwsigner_pin_is_not_in_proc_while_a_pin_command_runs(self, scene: Scene, locked: Flags) -> None:
        pipe = scene.folder / "pipe"
        os.mkfifo(pipe, 0o600)
        script = (
            f"cd {scene.folder}; cat /proc/self/environ >own; cat /proc/$PPID/environ >parent 2>/dev/null; cat {pipe}"
        )
        (scene.folder / "script").write_text(script)
        source = f"cmd:sh%20{scene.folder}/script"
        flags = scene.flags(**{**locked, "private_key": f"file:{locked['private_key']}?pin-source={source}"})
        process = subprocess.Popen(
            [sys.executable, "-m", "hwsigner", "credential-process", *flags],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HWSIGNER_PIN": "OTHERSECRET", "HWSIGNER_PINS": "kept"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        pipe.write_text(f"{PIN}\n")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err, out[:1]) == (0, b"", b"{")
        own, parent = ((scene.folder / name).read_bytes().split(b"\0") for name in ("own", "parent"))
        assert b"HWSIGNER_PINS=kept" in own
        assert not any(variable.startswith(b"HWSIGNER_PIN=") for variable in own)
        # Only root can read a command's own block. There, the name stays without a value.
        kept = [b"HWSIGNER_PIN=", b"HWSIGNER_PINS=kept"] if os.geteuid() == 0 else []
        assert sorted(variable for variable in parent if variable.startswith(b"HWSIGNER_PIN")) == kept


class TestOtherPlaces:
    def test_systemd_credential_unlocks_the_key(
        self, scene: Scene, locked: Flags, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.write("hwsigner.pin", f"{PIN}\n".encode()).chmod(0o440)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(scene.folder))
        monkeypatch.setenv("HWSIGNER_PIN", "WRONG")
        outcome = scene.credentials(**locked)
        assert (outcome.status, outcome.err) == (0, "")

    def test_pin_command_of_the_command_line_is_run(self, scene: Scene, locked: Flags) -> None:
        uri = f"file:{locked['private_key']}?pin-source=cmd:echo%20{PIN}"
        assert scene.credentials(**{**locked, "private_key": uri}).status == 0
        failed = scene.credentials(**{**locked, "private_key": f"{uri};x".replace(";x", "%3Bx")})
        assert failed.status == 3
        assert PIN not in failed.err

    def test_pin_command_of_a_profile_is_run(
        self, scene: Scene, locked: Flags, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(scene.folder))
        uri = f"file:{locked['private_key']}?pin-source=cmd:echo%20{PIN}"
        scene.call("profile", "add", "web", *scene.flags(**{**locked, "private_key": uri}))
        assert scene.call("credential-process", "--profile", "web").status == 0
        with pytest.raises(PinError, match="not allowed"):
            hwsigner.open_key(uri)

    def test_variable_named_by_pin_source_unlocks_the_key(
        self, scene: Scene, locked: Flags, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uri = f"file:{locked['private_key']}?pin-source=env:MY_PIN"
        assert "MY_PIN" in scene.credentials(**{**locked, "private_key": uri}).err
        monkeypatch.setenv("MY_PIN", PIN)
        assert scene.credentials(**{**locked, "private_key": uri}).status == 0

    def test_error_lists_every_place_for_a_pin(self, scene: Scene, locked: Flags) -> None:
        outcome = scene.credentials(**locked)
        assert (outcome.status, outcome.out) == (3, "")
        for place in ("pin-source=file:", "env:", "cmd:", "pin-value", "--pkcs8-password", "hwsigner.pin",
                      "HWSIGNER_PIN", "pinentry", "terminal"):  # fmt: skip
            assert place in outcome.err


class TestAsking:
    @pytest.fixture
    def terminal(self, tmp_path: Path) -> Iterator[Terminal]:
        terminal = Terminal(tmp_path)
        yield terminal
        terminal.close()

    def start(self, terminal: Terminal, locked: Flags, *flags: str, **environ: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hwsigner", "sign-string", f"--private-key={locked['private_key']}", *flags]
        return terminal.start(*command, TERM="xterm", **environ)

    @pytest.mark.parametrize(
        ("flags", "environ", "prompt"),
        [
            ([], {}, "key: "),
            (["--pinentry=none"], {"DISPLAY": ":99", "HWSIGNER_PINENTRY": "pinentry-tty"}, "key: "),
            ([], {"HWSIGNER_PINENTRY": "pinentry-tty"}, "\r\npassphrase: "),
            (["--pinentry", "pinentry-tty"], {"HWSIGNER_PINENTRY": "/nonexistent"}, "\r\npassphrase: "),
        ],
    )
    def test_pinentry_or_terminal_asks_as_configured(
        self, terminal: Terminal, locked: Flags, flags: list[str], environ: dict[str, str], prompt: str
    ) -> None:
        process = self.start(terminal, locked, *flags, **environ)
        shown = terminal.shown_until(prompt)
        assert shown.startswith(f"passphrase for {locked['private_key']}")
        terminal.wait_until_silent()
        terminal.type(f"{PIN}\n".encode())
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err, out[:2]) == (0, b"", b'"3')

    def test_user_is_not_asked_again_after_cancelling(self, terminal: Terminal, locked: Flags) -> None:
        process = self.start(terminal, locked, "--pinentry=pinentry-tty")
        terminal.shown_until("\r\npassphrase: ")
        terminal.type(b"\x04")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (3, b"")
        assert err.decode() == f"hwsigner: the question for the passphrase for {locked['private_key']} was cancelled\n"


class TestTPM:
    """A TPM key may have an empty auth value, so a PIN that names no key is used only if the key needs one."""

    def test_hwsigner_pin_unlocks_a_persistent_key(self, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch) -> None:
        swtpm.persist(0x81000077, "ecc256", PIN)
        monkeypatch.setenv("HWSIGNER_PIN", PIN)
        with hwsigner.open_key(swtpm.uri(0x81000077)) as key:
            assert key.sign(b"message")
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000077"], swtpm.env)

    def test_hwsigner_pin_unlocks_a_key_file_that_needs_one(
        self, swtpm: SoftTPM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "key.pem"
        swtpm.create_key_file(path, "EC:P-256", PIN)
        monkeypatch.setenv("HWSIGNER_PIN", PIN)
        with hwsigner.open_key(swtpm.uri(path)) as key:
            assert key.sign(b"message")

    def test_hwsigner_pin_is_not_used_for_a_key_file_without_auth(
        self, swtpm: SoftTPM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "key.pem"
        swtpm.create_key_file(path, "EC:P-256")
        monkeypatch.setenv("HWSIGNER_PIN", "not for this one")
        with hwsigner.open_key(swtpm.uri(path)) as key:
            assert key.sign(b"message")

    def test_callable_takes_precedence_over_a_stored_pin(self, swtpm: SoftTPM, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        swtpm.create_key_file(path, "EC:P-256", PIN)
        uri = f"{swtpm.uri(path)}&pin-value=wrong"
        with hwsigner.open_key(uri, lambda request: PIN) as key:
            assert key.sign(b"message")
