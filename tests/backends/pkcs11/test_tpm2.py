"""Keys of libtpm2-pkcs11, on a TPM for this test module."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.contract import openssl_verifies
from hwsigner._pins import PinSource
from hwsigner.errors import PinLockedError, SigningKeyError, UnsupportedKeyError, WrongPinError
from hwsigner.key import open_key
from hwsigner.key.listing import list_tokens
from hwsigner.key.management import KeyAlgorithm, KeyRequest, delete_key, generate_key
from hwsigner.key.public_key import verify
from pkcs11_shim import ROOT, Person, forget_refusals
from real_modules import reload_module
from softhsm.command import run
from softhsm.tpm import SoftTPM
from softhsm.tpm2_pkcs11 import TPM2Token

THREADS, SIGNATURES = 16, 12  # 200 were run by hand.


@pytest.fixture(scope="module")
def tpm(hardware: None) -> Iterator[SoftTPM]:
    with tempfile.TemporaryDirectory(prefix="hwsigner-tpm-") as folder, SoftTPM(Path(folder)) as tpm:
        yield tpm


@pytest.fixture(scope="module")
def chip(tpm: SoftTPM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TPM2Token]:
    """A token with keys P-256 and RSA-2048."""
    token = TPM2Token(tmp_path_factory.mktemp("tpm2") / "store", tpm)
    token.make()
    token.generate("P-256", b"\x01", "EC:prime256v1")
    token.generate("RSA-2048", b"\x02", "rsa:2048")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in token.env.items():
            patch.setenv(name, value)
        reload_module(token.module)  # Another test may have used it with another TPM.
        yield token


@pytest.fixture(autouse=True)
def nothing_refused(chip: TPM2Token, tpm: SoftTPM) -> None:
    forget_refusals()
    run(["tpm2_dictionarylockout", "--clear-lockout"], tpm.env)
    run(["tpm2_flushcontext", "--transient-object"], tpm.env)  # The module leaves each key there that it deletes.


def wrong_pins(tpm: SoftTPM) -> int:
    """Return how many wrong auth values the TPM counts."""
    shown = run(["tpm2_getcap", "properties-variable"], tpm.env).decode()
    [line] = (line for line in shown.splitlines() if "LOCKOUT_COUNTER" in line)
    return int(line.split()[-1], 0)


@pytest.mark.parametrize("label", ["P-256", "RSA-2048"])
def test_key_of_tpm2_pkcs11_signs(chip: TPM2Token, label: str, tmp_path: Path) -> None:
    with open_key(chip.uri(label), chip.pin) as key:
        public_key = key.public_key()
        assert public_key is not None
        assert openssl_verifies(tmp_path, public_key, key.sign(b"message"), b"message", "sha256")


@pytest.mark.parametrize("algorithm", ["p256", "p384", "rsa2048"])
def test_key_is_made_in_tpm2_pkcs11_for_signing_alone(chip: TPM2Token, algorithm: KeyAlgorithm, tmp_path: Path) -> None:
    uri = chip.uri("made").replace("?", ";id=%03?")
    made = generate_key(uri, KeyRequest(algorithm), chip.pin)
    with open_key(made.uri, chip.pin) as key:
        assert made.public_key is not None
        assert openssl_verifies(tmp_path, made.public_key, key.sign(b"message"), b"message", "sha256")
    deleted = delete_key(made.uri, lambda lines: None, chip.pin)
    assert [line.partition(" (")[0] for line in deleted] == ["private key", "public key"]


def test_nothing_is_left_of_a_key_that_tpm2_pkcs11_cannot_copy(chip: TPM2Token) -> None:
    """It keeps on the token what is made for a session."""
    with pytest.raises(UnsupportedKeyError, match="can't give a key the id of its public key") as caught:
        generate_key(chip.uri("uncopied"), pin=chip.pin)
    assert "id=%01" in caught.value.hint
    [token] = list_tokens(f"pkcs11:?module-path={chip.module}")
    assert "uncopied" not in {one.label for one in token.objects}


def test_token_of_tpm2_pkcs11_is_listed(chip: TPM2Token) -> None:
    [token] = list_tokens(f"pkcs11:?module-path={chip.module}")
    assert (token.label, token.wants_login, token.pin_state) == ("chip", True, "good")
    assert [(one.label, one.id, one.is_hidden) for one in token.objects] == [
        ("P-256", b"\x01", True),
        ("RSA-2048", b"\x02", True),
    ]
    for one in token.objects:
        with open_key(one.uri, chip.pin) as key:
            assert key.public_key() == one.public_key


def test_threads_sign_at_once_with_a_key_of_tpm2_pkcs11(chip: TPM2Token) -> None:
    failures: list[Exception] = []
    with open_key(chip.uri("P-256"), chip.pin) as key:
        public_key = key.public_key()
        assert public_key is not None

        def work(number: int) -> None:
            for count in range(SIGNATURES):
                message = b"%d %d" % (number, count)
                try:
                    assert verify(public_key, message, signature=key.sign(message))
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_key_signs_after_the_tpm_was_restarted(chip: TPM2Token, tpm: SoftTPM) -> None:
    person = Person(chip.pin)
    with open_key(chip.uri("P-256"), person) as key:
        assert key.sign(b"message")
        tpm.stop()
        with pytest.raises(SigningKeyError, match="token 'chip'"):
            key.sign(b"message")
        tpm.start()
        assert key.sign(b"message")
    assert len(person.asked) == 1


def test_wrong_stored_pin_reaches_the_tpm_once(chip: TPM2Token, tpm: SoftTPM) -> None:
    for error in (WrongPinError, PinLockedError, PinLockedError):
        with pytest.raises(error):
            open_key(chip.uri("P-256"), "9999")
    assert wrong_pins(tpm) == 1


def test_error_names_the_token_when_the_tpm_is_in_lockout(chip: TPM2Token, tpm: SoftTPM) -> None:
    for _ in range(4):
        with pytest.raises(SigningKeyError) as caught:
            open_key(chip.uri("P-256"), PinSource("9999", allow_final_try=True))
    assert "token 'chip'" in caught.value.message


@pytest.mark.parametrize("pin", ["1234", "9999"])
def test_output_of_tpm2_pkcs11_is_kept_from_stderr(chip: TPM2Token, pin: str, tmp_path: Path) -> None:
    secret = tmp_path / "pin"
    secret.write_text(pin)
    secret.chmod(0o600)
    uri = f"{chip.uri('P-256')}&pin-source=file:{secret}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hwsigner", "list", "--login", uri]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    if pin == chip.pin:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("hwsigner: wrong PIN for token 'chip'")
        assert done.stderr.count("\n") == 1
