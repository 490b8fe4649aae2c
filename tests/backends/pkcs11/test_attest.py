"""Statements and answers of emulated YubiKeys and of SoftHSM, as their verifier sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from backends.contract import openssl_verifies
from backends.pkcs11.tokens import key_uri, remove_tokens, tool
from emulators import InProcessSoftHSM
from hwsigner._cli import main
from hwsigner._pins import PinSource
from hwsigner.attestation import (
    Document,
    Findings,
    answer_challenge,
    challenge,
    examine,
    make_statement,
    read,
    read_trust,
    verify_answer,
)
from hwsigner.attestation.documents import binding, new
from hwsigner.backends.pkcs11.functions import Functions, TokenInfo
from hwsigner.errors import AttestationError, PinRequiredError, UnsupportedKeyError, UsageError, WrongPinError
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import OPENSC, YKCS11, YubiKey
from yubikeys import forget_cards, succeed

PROOF_OF_POSSESSION = "The key signed the challenge"


@pytest.fixture
def roots(yubikey: YubiKey, tmp_path: Path) -> str:
    """A folder with the root of the emulated card."""
    return folder_of(yubikey, tmp_path)


def folder_of(card: YubiKey, tmp_path: Path) -> str:
    folder = tmp_path / f"roots of {card.serial}"
    folder.mkdir(exist_ok=True)
    (folder / "root.pem").write_text(card.attestation_root)
    return str(folder)


def attested(card: YubiKey, roots: str, slot: int = 0x9A, pin: PinSource | str | None = None) -> Findings:
    """Return what a card's own statement and answer prove, after all of them have travelled."""
    uri, pin, trust = card.uri(slot, YKCS11), pin or card.pin, read_trust(roots)
    statement = travelled(make_statement(uri, pin))
    asked, state = map(travelled, challenge(statement, trust))
    return verify_answer(statement, state, travelled(answer_challenge(uri, asked, pin)), trust)


def travelled(document: Document) -> Document:
    return read(document.to_json().encode(), document.kind)


# YubiKeys


def test_yubikey_proves_where_its_key_was_generated(yubikey: YubiKey, roots: str) -> None:
    public_key = yubikey.generate(0x9A, pin_policy=2)
    yubikey.self_sign(0x9A, "bamboo")
    found = attested(yubikey, roots)
    assert (found.public_key, found.chip) == (public_key, str(yubikey.serial))
    generated = f"The key was generated on the YubiKey with the serial number {yubikey.serial} and firmware 5.4.3"
    assert found.proven[0].startswith(generated)
    assert PROOF_OF_POSSESSION in found.proven
    assert found.claimed == ()
    assert set(yubikey.pin_tries) == {0x9000}


@pytest.mark.parametrize("kind", ["RSA:2048", "EC:P-384"])
def test_key_that_wants_pin_and_touch_each_time_is_attested(yubikey: YubiKey, roots: str, kind: str) -> None:
    public_key = yubikey.generate(0x9C, kind, touch_policy=2)
    done = threading.Event()

    def touch() -> None:
        while not done.wait(0.1):
            yubikey.touch()

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        found = attested(yubikey, roots, 0x9C, PinSource(yubikey.pin, reuse=True))
    finally:
        done.set()
        thread.join()
    assert found.public_key == public_key
    assert {"Each signature needs the PIN", "Each signature needs a touch", PROOF_OF_POSSESSION} <= set(found.proven)


def test_each_slot_has_its_own_statement(yubikey: YubiKey, roots: str) -> None:
    keys = {slot: yubikey.generate(slot) for slot in (0x9A, 0x9D, 0x82, 0x95)}
    for slot, public_key in keys.items():
        found = attested(yubikey, roots, slot)
        assert found.public_key == public_key
        assert f"was in slot {slot:02x} when" in found.proven[0]


def test_firmware_5_7_is_attested_without_a_warning(
    yubikey: YubiKey, pcsc: SoftPcsc, new_yubikey: Callable[..., YubiKey], tmp_path: Path
) -> None:
    card = new_yubikey((5, 7, 1))
    card.generate(0x9A)
    card.insert(pcsc, reader=1)
    forget_cards()
    try:
        found = attested(card, folder_of(card, tmp_path))
        assert "firmware 5.7.1" in found.proven[0]
        assert found.warnings == ()
        yubikey.generate(0x9A)
        assert "EUCLEAK" in attested(yubikey, folder_of(yubikey, tmp_path)).warnings[0]
        with pytest.raises(AttestationError, match="leads to none of the roots"):
            examine(make_statement(card.uri(0x9A, YKCS11), card.pin), read_trust(folder_of(yubikey, tmp_path)))
    finally:
        card.remove()


def test_answer_of_another_key_on_the_card_is_refused(yubikey: YubiKey, roots: str) -> None:
    yubikey.generate(0x9A)
    yubikey.generate(0x9D)
    trust, statement = read_trust(roots), make_statement(yubikey.uri(0x9A, YKCS11), yubikey.pin)
    asked, state = challenge(statement, trust)
    answer = answer_challenge(yubikey.uri(0x9D, YKCS11), asked, yubikey.pin)
    with pytest.raises(AttestationError, match="did not sign"):
        verify_answer(statement, state, answer, trust)


def test_answer_is_refused_when_the_key_was_made_again(yubikey: YubiKey, roots: str) -> None:
    yubikey.generate(0x9A)
    uri, trust = yubikey.uri(0x9A, YKCS11), read_trust(roots)
    statement = make_statement(uri, yubikey.pin)
    asked, state = challenge(statement, trust)
    yubikey.generate(0x9A)
    forget_cards()
    with pytest.raises(AttestationError, match="did not sign"):
        verify_answer(statement, state, answer_challenge(uri, asked, yubikey.pin), trust)


def test_imported_key_has_no_statement(yubikey: YubiKey) -> None:
    yubikey.import_key(0x9A, ec.generate_private_key(ec.SECP256R1()))
    yubikey.self_sign(0x9A, "imported")
    with pytest.raises(UnsupportedKeyError, match="keys that were imported can't be attested"):
        make_statement(yubikey.uri(0x9A, YKCS11), yubikey.pin)


def test_wrong_pin_is_sent_once(yubikey: YubiKey) -> None:
    yubikey.generate(0x9A)
    with pytest.raises(WrongPinError):
        make_statement(yubikey.uri(0x9A, YKCS11), "654321")
    assert yubikey.pin_tries == [0x63C2]


def test_statement_is_refused_without_a_pin(yubikey: YubiKey) -> None:
    yubikey.generate(0x9A)
    with pytest.raises(PinRequiredError):
        make_statement(yubikey.uri(0x9A, YKCS11))


def test_statement_has_the_certificates_that_other_tools_show(yubikey: YubiKey, roots: str, tmp_path: Path) -> None:
    public_key = yubikey.generate(0x9A)
    statement = make_statement(yubikey.uri(0x9A, YKCS11), yubikey.pin)
    slot, f9 = tmp_path / "slot.pem", tmp_path / "f9.pem"
    for path, member in ((slot, "slotCertificate"), (f9, "attestationCertificate")):
        certificate = x509.load_der_x509_certificate(statement.blob(member))
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
    succeed("openssl", "verify", "-CAfile", f"{roots}/root.pem", "-untrusted", f9, slot)
    assert succeed("yubico-piv-tool", "-a", "read-certificate", "-s", "f9") == f9.read_text()
    # And the verifier takes what yubico-piv-tool makes.
    foreign = succeed("yubico-piv-tool", "-a", "attest", "-s", "9a").encode()
    der = x509.load_pem_x509_certificate(foreign).public_bytes(Encoding.DER)
    assert examine(
        new("statement", "piv", {**statement.values, "slotCertificate": der}), read_trust(roots)
    ).public_key == (public_key)


def test_answer_is_a_signature_that_openssl_verifies(yubikey: YubiKey, roots: str, tmp_path: Path) -> None:
    public_key = yubikey.generate(0x9A)
    uri = yubikey.uri(0x9A, YKCS11)
    asked, _ = challenge(make_statement(uri, yubikey.pin), read_trust(roots))
    signature = answer_challenge(uri, asked, yubikey.pin).blob("signature")
    assert openssl_verifies(tmp_path, public_key, signature, binding(asked), "sha256")


def test_pcrs_are_refused(yubikey: YubiKey, roots: str) -> None:
    yubikey.generate(0x9A)
    uri = yubikey.uri(0x9A, YKCS11)
    asked, _ = challenge(make_statement(uri, yubikey.pin), read_trust(roots))
    with pytest.raises(UsageError, match="--pcrs does not apply to keys on a PKCS #11 token"):
        answer_challenge(uri, asked, yubikey.pin, pcrs="sha256:7")


@pytest.fixture
def attest_by_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that attests a key with commands alone, and returns the last one's status and output."""

    def by_commands(key: str, roots: str, *flags: str) -> tuple[int, str, str]:
        names = ("csr", "statement", "state", "challenge", "answer")
        csr, statement, state, asked, answer = (str(tmp_path / name) for name in names)
        verify = ["verify-attestation", statement, "--roots", roots, "--state", state]
        assert main(["csr", key, "--subject", "CN=bamboo", "--out", csr]) == 0
        assert main(["attest", key, "--csr", csr, "--out", statement]) == 0
        assert main([*verify, "--challenge", asked]) == 0
        assert "proven  " not in capfd.readouterr().out
        assert main(["attest", key, "--challenge", asked, "--out", answer]) == 0
        status = main([*verify, "--answer", answer, *flags])
        shown = capfd.readouterr()
        return status, shown.out, shown.err

    return by_commands


def test_commands_attest_a_key(
    yubikey: YubiKey,
    roots: str,
    attest_by_commands: Callable[..., tuple[int, str, str]],
    write_pin_file: Callable[[bytes], str],
) -> None:
    yubikey.generate(0x9A)
    key = f"{yubikey.uri(0x9A, YKCS11)}&pin-source={write_pin_file(yubikey.pin.encode())}"
    status, output, _ = attest_by_commands(key, roots, "--json")
    shown = json.loads(output)
    assert (status, shown["inHardware"], shown["matchesCsr"]) == (0, True, True)
    assert shown["chip"] == str(yubikey.serial)
    assert PROOF_OF_POSSESSION in shown["proven"]
    assert set(yubikey.pin_tries) == {0x9000}


# Other tokens


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    softhsm.generate("P-256", b"\x01", "EC:prime256v1")
    yield softhsm
    remove_tokens(softhsm, softhsm.label)


@pytest.fixture
def any_roots(tmp_path: Path) -> str:
    """A folder with a root that has nothing to do with the token."""
    return folder_of(YubiKey(tmp_path / "card.json"), tmp_path)


def test_token_without_attestation_proves_possession_only(hsm: InProcessSoftHSM, any_roots: str) -> None:
    uri, trust = key_uri(hsm.module, "id=%01", token=hsm.label), read_trust(any_roots)
    statement = travelled(make_statement(uri, hsm.pin))
    assert statement.format == "pkcs11"
    asked, state = challenge(statement, trust)
    found = verify_answer(statement, state, answer_challenge(uri, asked, hsm.pin), trust)
    assert found.proven[0] == PROOF_OF_POSSESSION
    assert not found.in_hardware
    assert len(found.proven) == 2
    assert f"token '{hsm.label}'" in found.claimed[0]
    shown = tool(hsm, hsm.label, "--list-objects", "--type", "privkey", "--id", "01")
    assert "sensitive, always sensitive, never extractable, local" in shown
    assert [claim.rsplit("(")[1] for claim in found.claimed[1:]] == [
        "CKA_SENSITIVE)",
        "CKA_NEVER_EXTRACTABLE)",
        "CKA_LOCAL)",
    ]
    assert "can be taken out" not in "".join(found.claimed)
    assert found.warnings[0].startswith("Nothing proves that the key is in hardware")
    assert found.chip == ""


def test_statement_about_a_token_with_control_characters_can_be_read(
    hsm: InProcessSoftHSM, any_roots: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Functions.token

    def token(functions: Functions, slot: int) -> TokenInfo:
        return real(functions, slot)._replace(manufacturer="A\x1b[31m")

    monkeypatch.setattr(Functions, "token", token)
    statement = travelled(make_statement(key_uri(hsm.module, "id=%01", token=hsm.label), hsm.pin))
    assert "A\\x1b[31m" in examine(statement, read_trust(any_roots)).claimed[0]


def test_opensc_has_no_attestation_so_that_a_yubikey_behind_it_only_claims(yubikey: YubiKey, any_roots: str) -> None:
    yubikey.write_chuid()
    yubikey.generate(0x9A)
    yubikey.self_sign(0x9A, "bamboo")
    statement = make_statement(yubikey.uri(0x9A, OPENSC), yubikey.pin)
    assert statement.format == "pkcs11"
    assert examine(statement, read_trust(any_roots)).proven == ()


@pytest.mark.parametrize(("flags", "status"), [((), 3), (("--accept-claims",), 0)])
def test_commands_refuse_claims_unless_they_are_accepted(
    hsm: InProcessSoftHSM,
    any_roots: str,
    attest_by_commands: Callable[..., tuple[int, str, str]],
    write_pin_file: Callable[[bytes], str],
    flags: tuple[str, ...],
    status: int,
) -> None:
    key = key_uri(hsm.module, "id=%01", token=hsm.label, query=f"&pin-source={write_pin_file(hsm.pin.encode())}")
    found, output, problem = attest_by_commands(key, any_roots, *flags)
    assert found == status
    assert "warning   Nothing proves that the key is in hardware" in output
    assert ("it is not proven that the key is only in hardware" in problem) == (status == 3)
