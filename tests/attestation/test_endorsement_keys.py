"""Endorsement keys of TCG's low range, the auth value of their hierarchy, and TPMs without a certificate."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from attestation.chips import EK_USAGE, Chip, issue
from hwsigner import attestation
from hwsigner._cli import main
from hwsigner.attestation import Trust
from hwsigner.attestation.chain import VendorCertificate
from hwsigner.errors import AttestationError, PinRequiredError, UsageError, WrongPinError
from softhsm.command import run
from softhsm.tpm import SoftTPM

_INDICES = {"rsa": "0x1c00002", "ecc": "0x1c0000a"}
AUTH = "endorse-4711"


def _trusting(certificate: bytes) -> Trust:
    return Trust((VendorCertificate.read(certificate, "the root"),), datetime.now(UTC))


class Plain:
    """A TPM without certificates, which has an endorsement key for the asking.

    Attributes:
        public: the DER of that.
        root: its vendor's root, with the private key.
        certificate: its certificate in DER.
    """

    def __init__(self, tpm: SoftTPM, algorithm: str) -> None:
        path, context = tpm.folder / "ek.pem", str(tpm.folder / "ek.ctx")
        run(["tpm2_createek", "-Q", "-G", algorithm, "-c", context, "-u", str(path), "-f", "pem"], tpm.env)
        run(["tpm2_flushcontext", "-t"], tpm.env)
        key = load_pem_public_key(path.read_bytes())
        self.root = root = issue("Vendor")
        self.tpm = tpm
        self.public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.certificate = issue("", root, EK_USAGE, public_key=key, critical=False)[0].public_bytes(Encoding.DER)
        tpm.create_key_file(tpm.folder / "key.pem", "EC:P-256")
        self.chip = Chip(tpm, tpm.uri(tpm.folder / "key.pem"), _trusting(root[0].public_bytes(Encoding.DER)))

    def store(self, algorithm: str) -> None:
        """Write the certificate where TCG wants it, with padding as some vendors have it."""
        path, index = self.tpm.folder / "padded", _INDICES[algorithm]
        path.write_bytes(self.certificate + b"\xff" * 100)
        attributes = "ownerwrite|ownerread|authread|authwrite|no_da"
        size = str(path.stat().st_size)
        run(["tpm2_nvdefine", "-Q", index, "-C", "o", "-s", size, "-a", attributes], self.tpm.env)
        run(["tpm2_nvwrite", "-Q", index, "-C", "o", "-i", str(path)], self.tpm.env)


@pytest.fixture(params=["rsa", "ecc"])
def stored(hardware: None, request: pytest.FixtureRequest) -> Iterator[Plain]:
    """A TPM with a certificate for an endorsement key of the low range, which is not persistent."""
    with tempfile.TemporaryDirectory() as folder, SoftTPM(Path(folder)) as tpm:
        plain = Plain(tpm, request.param)
        plain.store(request.param)
        yield plain


@pytest.fixture
def bare(hardware: None) -> Iterator[Plain]:
    """A TPM without a certificate."""
    with tempfile.TemporaryDirectory() as folder, SoftTPM(Path(folder)) as tpm:
        yield Plain(tpm, "rsa")


def test_key_of_the_low_range_is_made_and_its_certificate_read_without_padding(stored: Plain) -> None:
    statement, _, state, answer = stored.chip.answered("sha256:7")
    assert attestation.endorsement_key(stored.chip.key) == stored.public
    assert statement.blobs("ekCertificates") == (stored.certificate,)
    assert attestation.verify_answer(statement, state, answer, stored.chip.trust).proven


def test_nothing_is_left_in_the_tpm(stored: Plain) -> None:
    stored.chip.answered("sha256:7")
    for kind in ("handles-transient", "handles-loaded-session"):
        assert run(["tpm2_getcap", kind], stored.tpm.env) == b""


def test_hierarchy_s_auth_value_is_taken_from_its_own_place(stored: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    run(["tpm2_changeauth", "-c", "e", AUTH], stored.tpm.env)
    monkeypatch.setenv("ENDORSEMENT", AUTH)
    with pytest.raises(PinRequiredError, match="the endorsement hierarchy needs its TPM endorsement auth value"):
        stored.chip.statement()
    with_auth = Chip(stored.tpm, f"{stored.chip.key}&endorsement-pin-source=env:ENDORSEMENT", stored.chip.trust)
    statement, _, state, answer = with_auth.answered()
    assert attestation.verify_answer(statement, state, answer, stored.chip.trust).proven
    monkeypatch.setenv("ENDORSEMENT", "wrong-4711")
    with pytest.raises(WrongPinError, match="wrong TPM endorsement auth value"):
        with_auth.statement()


def test_certificate_that_the_tpm_does_not_hold_is_given(bare: Plain, tmp_path: Path) -> None:
    with pytest.raises(AttestationError, match="the statement has no certificate of the endorsement key"):
        attestation.examine(bare.chip.statement(), bare.chip.trust)
    (tmp_path / "ek.der").write_bytes(bare.certificate)
    paths = {name: str(tmp_path / name) for name in ("statement", "challenge", "answer")}
    given = ["--vendor-certificates", str(tmp_path / "ek.der"), "--out", paths["statement"]]
    assert main(["attest", bare.chip.key, *given]) == 0
    statement = attestation.read(Path(paths["statement"]).read_bytes(), "statement")
    challenge, state = attestation.challenge(statement, bare.chip.trust)
    answer = attestation.answer_challenge(bare.chip.key, challenge)
    assert attestation.verify_answer(statement, state, answer, bare.chip.trust).chip


def test_key_that_the_verifier_certifies_needs_no_certificate(
    bare: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ek.der").write_bytes(bare.public)
    assert main(["attest", bare.chip.key, "--out", "statement"]) == 0
    assert "so the verifier must trust the key itself" in capfd.readouterr().err
    verify = ["verify-attestation", "statement", "--state", "state"]
    assert main([*verify, "--ek-public-key", "ek.der", "--challenge", "challenge"]) == 0
    assert main(["attest", bare.chip.key, "--challenge", "challenge", "--out", "answer"]) == 0
    assert main([*verify, "--ek-public-key", "ek.der", "--answer", "answer"]) == 0
    assert "No vendor's certificate says that it is a TPM" in capfd.readouterr().out
    Path("other").write_text("1" * 64)
    assert main([*verify, "--ek-public-key", "other", "--answer", "answer"]) == 3
    assert ", and not 1111" in capfd.readouterr().err
    Path("roots").mkdir()
    Path("roots/root.pem").write_bytes(bare.root[0].public_bytes(Encoding.PEM))
    assert main([*verify, "--roots", "roots", "--answer", "answer"]) == 3
    assert "the statement has no certificate of the endorsement key" in capfd.readouterr().err


@pytest.mark.parametrize("readable", ["authread", "authread|ownerread"])
def test_index_that_counts_wrong_auth_values_costs_no_attempt(
    readable: str, bare: Plain, capfd: pytest.CaptureFixture[str]
) -> None:
    run(["tpm2_nvdefine", "-Q", _INDICES["rsa"], "-s", "300", "-a", f"ownerwrite|{readable}", "-p", AUTH], bare.tpm.env)
    run(["tpm2_nvwrite", "-Q", _INDICES["rsa"], "-C", "o", "-i", "-"], bare.tpm.env, bytes(300))
    run(["tpm2_changeauth", "-c", "o", AUTH], bare.tpm.env)
    assert main(["attest", "--ek", bare.chip.key]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{hashlib.sha256(bare.public).hexdigest()}\n"
    assert "NV index 0x01c00002 counts wrong auth values and may have an auth value, so it was not read" in printed.err
    assert b"TPM2_PT_LOCKOUT_COUNTER: 0x0\n" in run(["tpm2_getcap", "properties-variable"], bare.tpm.env)


def test_valid_certificate_is_taken_when_an_expired_one_is_beside_it(bare: Plain) -> None:
    key, trust = load_der_public_key(bare.public), bare.chip.trust
    old = issue("", bare.root, EK_USAGE, public_key=key, critical=False, days=(-2, -1))[0].public_bytes(Encoding.DER)
    for certificates in ((old, bare.certificate), (bare.certificate, old)):
        statement = attestation.make_statement(bare.chip.key, certificates=certificates)
        assert attestation.examine(statement, trust).chip
    with pytest.raises(AttestationError, match="is valid from"):
        attestation.examine(attestation.make_statement(bare.chip.key, certificates=(old,)), trust)


def test_another_endorsement_key_comes_with_its_own_certificate_when_it_is_chosen(chip: Chip) -> None:
    first = attestation.examine(chip.statement(), chip.trust)
    chosen = attestation.examine(attestation.make_statement(f"{chip.key}&endorsement-key=L-1"), chip.trust)
    assert first.chip != chosen.chip
    assert first.uncertified == chosen.uncertified == ""
    assert chosen.chip == hashlib.sha256(attestation.endorsement_key(f"{chip.key}&endorsement-key=L-1")).hexdigest()


def test_endorsement_key_is_not_asked_of_other_hardware() -> None:
    with pytest.raises(UsageError, match=r"file: keys have no endorsement key"):
        attestation.endorsement_key("file:/etc/hostname")
