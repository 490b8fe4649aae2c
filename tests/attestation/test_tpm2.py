"""Attestations of keys in TPMs: what is proven, and that nothing is after any change."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequestBuilder, Name

from attestation.chips import Chip, Vendor, changed
from backends.tpm2.tpms import flag_of_encode
from hwsigner import attestation
from hwsigner._cli import main
from hwsigner._pins import PinSource
from hwsigner.attestation import Document, Trust
from hwsigner.errors import (
    AttestationError,
    HwsignerError,
    PinRequiredError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import open_key
from hwsigner.key.management import KeyRequest, generate_key
from shared_hardware import reset_lockout
from softhsm.command import run
from softhsm.tabrmd import ResourceManager
from softhsm.tpm import SoftTPM

ROOT = Path(attestation.__file__).parents[2]


def _csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    return CertificateSigningRequestBuilder(Name([])).sign(key, SHA256()).public_bytes(Encoding.PEM)


def _flips(document: Document) -> Iterator[Document]:
    """Yield a document with one bit of each byte of each member flipped."""
    for name, value in document.values.items():
        if isinstance(value, bytes):
            for index in range(len(value)):
                yield changed(document, **{name: _flipped(value, index)})
        elif isinstance(value, tuple):
            for place, item in enumerate(value):
                for index in range(len(item)):
                    items = (*value[:place], _flipped(item, index), *value[place + 1 :])
                    yield changed(document, **{name: items})


def _flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1 << index % 8]) + data[index + 1 :]


def _is_refused(statement: Document, state: Document, answer: Document, trust: Trust) -> bool:
    with suppress(AttestationError):
        attestation.verify_answer(statement, state, answer, trust)
        return False
    return True


class TestWhatIsProven:
    def test_answer_proves_the_key_and_what_guards_it(self, chip: Chip) -> None:
        statement, _, state, answer = chip.answered()
        found = attestation.verify_answer(statement, state, answer, chip.trust)
        with open_key(chip.key) as key:
            assert found.public_key == key.public_key()
        assert "The key was made in this TPM and can't leave it (fixedTPM, fixedParent, sensitiveDataOrigin)" in (
            found.proven
        )
        assert found.proven[-1].startswith(f"All this was so after {state.text('created')}")
        assert (found.claimed, found.warnings, found.matches_csr) == ((), (), None)

    def test_statement_alone_proves_nothing(self, chip: Chip) -> None:
        found = attestation.examine(chip.statement(), chip.trust)
        assert found.proven == ()
        assert len(found.claimed) >= 3

    def test_statement_is_the_same_each_time(self, chip: Chip) -> None:
        assert chip.statement() == chip.statement()

    def test_documents_travel_as_json(self, chip: Chip) -> None:
        documents = chip.answered("sha256:7")
        statement, _, state, answer = (attestation.read(one.to_json().encode(), one.kind) for one in documents)
        assert attestation.verify_answer(statement, state, answer, chip.trust).proven

    def test_quote_proves_pcrs(self, chip: Chip) -> None:
        run(["tpm2_pcrextend", f"16:sha256={'a5' * 32}"], chip.tpm.env)
        statement, _, state, answer = chip.answered("sha256:7,16")
        run(["tpm2_pcrreset", "16"], chip.tpm.env)
        found = attestation.verify_answer(statement, state, answer, chip.trust)
        value = hashlib.sha256(bytes(32) + b"\xa5" * 32).hexdigest()
        assert f"PCR sha256:16 is {value}" in found.proven
        assert f"PCR sha256:7 is {'00' * 32}" in found.proven

    @pytest.mark.parametrize(
        ("pcrs", "message"),
        [("sha256:99", "'sha256:99' names no PCRs"), ("7", "'7' names no PCRs"), ("sha1:0", "no PCR sha1:0")],
    )
    def test_quote_is_refused_when_there_are_no_such_pcrs(self, chip: Chip, pcrs: str, message: str) -> None:
        with pytest.raises(HwsignerError, match=message):
            chip.answered(pcrs)

    @pytest.mark.parametrize("pin", ["", "right-4711"])
    def test_quote_proves_the_pcrs_that_the_key_is_bound_to(self, chip: Chip, tmp_path: Path, pin: str) -> None:
        key = f"tpm2:path={tmp_path / 'key.pem'}?tcti={chip.tpm.tcti}"
        generate_key(key, KeyRequest(pcrs="sha256:7,14"), pin)
        statement = attestation.make_statement(key)
        challenge, state = attestation.challenge(statement, chip.trust)
        sentence = "The key signs only while these PCRs have these values"
        if pin:
            sentence += ", and with its auth value, which may be empty"
        for pcrs, expected in (("sha256:7,14", [sentence]), ("sha256:7", []), ("", [])):
            answer = attestation.answer_challenge(key, challenge, pin, pcrs=pcrs)
            found = attestation.verify_answer(statement, state, answer, chip.trust)
            assert [text for text in found.proven if "these PCRs" in text] == expected
            assert any("signs only while its policy is satisfied" in text for text in found.proven)

    def test_chip_is_the_hash_of_the_endorsement_key(self, chip: Chip) -> None:
        found = attestation.examine(chip.statement(), chip.trust)
        assert found.chip == hashlib.sha256(attestation.endorsement_key(chip.key)).hexdigest()
        assert found.chip == hashlib.sha256(attestation.endorsement_key(f"tpm2:?tcti={chip.tpm.tcti}")).hexdigest()

    @pytest.mark.parametrize("kind", ["RSA:2048", "EC:P-384"])
    def test_key_of_another_kind_is_proven(self, chip: Chip, kind: str, tmp_path: Path) -> None:
        chip.tpm.create_key_file(tmp_path / "key.pem", kind)
        other = Chip(chip.tpm, chip.tpm.uri(tmp_path / "key.pem"), chip.trust)
        statement, _, state, answer = other.answered()
        found = attestation.verify_answer(statement, state, answer, chip.trust)
        assert found.public_key == chip.tpm.public_key(tmp_path / "key.pem")

    def test_persistent_key_is_proven(self, chip: Chip) -> None:
        chip.tpm.persist(0x81004711, "ecc256")
        other = Chip(chip.tpm, chip.tpm.uri(0x81004711) + "&pin-source=env:EMPTY", chip.trust)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EMPTY", "")
            statement, _, state, answer = other.answered()
        found = attestation.verify_answer(statement, state, answer, chip.trust)
        assert found.public_key == chip.tpm.public_key(0x81004711)
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81004711"], chip.tpm.env)


class TestCertificateRequest:
    def test_request_of_the_key_matches_and_another_does_not(self, chip: Chip) -> None:
        other = attestation.make_statement(chip.key, csr=_csr(ec.generate_private_key(ec.SECP256R1())))
        assert attestation.examine(other, chip.trust).matches_csr is False

    def test_request_is_refused_when_it_is_not_one(self, chip: Chip) -> None:
        with pytest.raises(UsageError, match="the certificate request can't be read"):
            attestation.make_statement(chip.key, csr=b"-----BEGIN CERTIFICATE REQUEST-----\n")

    def test_request_does_not_match_when_any_byte_of_it_is_flipped(self, chip: Chip, tmp_path: Path) -> None:
        request = tmp_path / "request.der"
        arguments = ["openssl", "req", "-new", "-subj", "/CN=bamboo", "-key", str(chip.tpm.folder / "key.pem")]
        arguments += ["-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2"]
        run([*arguments, "-outform", "DER", "-out", str(request)], chip.tpm.env)
        statement = attestation.make_statement(chip.key, csr=request.read_bytes())
        assert attestation.examine(statement, chip.trust).matches_csr is True
        der = request.read_bytes()
        # Two bytes are not signed: the NULL that tpm2-openssl writes after the OID, and the count of unused bits.
        null = der.index(bytes.fromhex("06082a8648ce3d0403020500")) + 10
        for index in set(range(len(der))) - {null, null + 4}:
            flipped = changed(statement, certificateRequest=_flipped(der, index))
            assert attestation.examine(flipped, chip.trust).matches_csr is False


class TestPins:
    @pytest.fixture
    def guarded(self, chip: Chip) -> Iterator[Chip]:
        path = chip.tpm.folder / "guarded.pem"
        chip.tpm.create_key_file(path, "EC:P-256", "right-4711")
        yield Chip(chip.tpm, chip.tpm.uri(path), chip.trust)
        reset_lockout(chip.tpm)

    def test_statement_needs_no_pin_and_the_answer_does(self, guarded: Chip) -> None:
        challenge, state = attestation.challenge(guarded.statement(), guarded.trust)
        with pytest.raises(PinRequiredError):
            attestation.answer_challenge(guarded.key, challenge)
        answer = attestation.answer_challenge(guarded.key, challenge, "right-4711")
        assert attestation.verify_answer(guarded.statement(), state, answer, guarded.trust).proven

    def test_wrong_pin_is_counted_once_and_not_sent_again(self, guarded: Chip) -> None:
        challenge, _ = attestation.challenge(guarded.statement(), guarded.trust)
        before = _failures(guarded)
        with pytest.raises(WrongPinError):
            attestation.answer_challenge(guarded.key, challenge, "wrong-4711")
        assert _failures(guarded) == before + 1


def _failures(chip: Chip) -> int:
    lines = run(["tpm2_getcap", "properties-variable"], chip.tpm.env).decode().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("TPM2_PT_LOCKOUT_COUNTER"))


class TestTampering:
    def test_answer_is_refused_when_any_byte_of_it_is_flipped(self, chip: Chip) -> None:
        statement, _, state, answer = chip.answered("sha256:7")
        assert not _is_refused(statement, state, answer, chip.trust)
        for flipped in _flips(answer):
            assert _is_refused(statement, state, flipped, chip.trust)

    def test_answer_is_refused_when_any_member_of_it_is_truncated(self, chip: Chip) -> None:
        statement, _, state, answer = chip.answered("sha256:7")
        for name, value in answer.values.items():
            assert isinstance(value, bytes | tuple)
            for length in range(len(value)):
                assert _is_refused(statement, state, changed(answer, **{name: value[:length]}), chip.trust)

    def test_answer_is_refused_when_any_byte_of_the_statement_is_flipped(self, chip: Chip) -> None:
        statement, _, state, answer = chip.answered()
        for flipped in _flips(statement):
            assert _is_refused(flipped, state, answer, chip.trust)

    def test_answer_is_refused_when_any_byte_of_the_state_is_flipped(self, chip: Chip) -> None:
        statement, _, state, answer = chip.answered()
        for flipped in _flips(state):
            assert _is_refused(statement, flipped, answer, chip.trust)

    def test_nothing_else_is_proven_when_any_byte_of_the_statement_was_flipped_before_the_challenge(
        self, chip: Chip
    ) -> None:
        statement, _, state, answer = chip.answered()
        found = attestation.verify_answer(statement, state, answer, chip.trust)
        key, proven = found.public_key, found.proven[:-1]  # Without the time.
        reached = 0
        for flipped in _flips(statement):
            with suppress(AttestationError):
                challenge, state = attestation.challenge(flipped, chip.trust)
                reached += 1
                answer = attestation.answer_challenge(chip.key, challenge)
                # Not all of the endorsement key's public area is needed, nor all of what is around a signature.
                found = attestation.verify_answer(flipped, state, answer, chip.trust)
                assert (found.public_key, found.proven[:-1]) == (key, proven)
        assert reached > 40  # Not all are refused before the chip is asked.

    def test_challenge_is_of_no_use_when_any_byte_of_it_is_flipped(self, chip: Chip) -> None:
        statement = chip.statement()
        challenge, state = attestation.challenge(statement, chip.trust)
        for flipped in _flips(challenge):
            with suppress(AttestationError):
                answer = attestation.answer_challenge(chip.key, flipped)
                assert _is_refused(statement, state, answer, chip.trust)

    def test_challenge_whose_secret_has_too_few_bytes_is_damaged(self, chip: Chip) -> None:
        challenge, _ = attestation.challenge(chip.statement(), chip.trust)
        secret = challenge.blob("encryptedSecret")
        assert secret[2:4] == b"\x00\x30"  # Of a point on P-384: sizes of 2 bytes, coordinates of 48.
        short = secret[:2] + b"\x00\x32" + secret[4:54] + b"\x00\x30" + secret[56:]
        with pytest.raises(AttestationError, match="can't open the challenge"):
            attestation.answer_challenge(chip.key, changed(challenge, encryptedSecret=short))


class TestReplay:
    def test_answer_to_another_challenge_is_refused(self, chip: Chip) -> None:
        statement, _, _, answer = chip.answered()
        _, state = attestation.challenge(statement, chip.trust)
        with pytest.raises(AttestationError, match="the answer is to another challenge"):
            attestation.verify_answer(statement, state, answer, chip.trust)
        renamed = changed(answer, nonce=state.blob("nonce"))
        with pytest.raises(AttestationError, match="does not have the challenge's secret"):
            attestation.verify_answer(statement, state, renamed, chip.trust)
        renamed = changed(renamed, secret=state.blob("secret"))
        with pytest.raises(AttestationError, match="the certification was made for another challenge"):
            attestation.verify_answer(statement, state, renamed, chip.trust)

    def test_quote_of_another_answer_is_refused(self, chip: Chip) -> None:
        _, _, _, earlier = chip.answered("sha256:7")
        statement, _, state, answer = chip.answered("sha256:7")
        quote = {name: earlier.values[name] for name in ("quoteInfo", "quoteSignature", "pcrValues")}
        with pytest.raises(AttestationError, match="the quote was made for another challenge"):
            attestation.verify_answer(statement, state, changed(answer, **quote), chip.trust)

    @pytest.mark.parametrize("place", [1, 31, 33, 63])
    def test_pcr_values_are_refused_when_they_are_cut_at_another_place(self, chip: Chip, place: int) -> None:
        statement, _, state, answer = chip.answered("sha256:7,14")
        joined = b"".join(answer.blobs("pcrValues"))
        cut = changed(answer, pcrValues=(joined[:place], joined[place:]))
        with pytest.raises(AttestationError, match="the answer's PCR values are not those of the quote"):
            attestation.verify_answer(statement, state, cut, chip.trust)

    def test_quote_is_not_taken_for_a_certification(self, chip: Chip) -> None:
        statement, _, state, answer = chip.answered("sha256:7")
        quote = {"certifyInfo": answer.blob("quoteInfo"), "certifySignature": answer.blob("quoteSignature")}
        with pytest.raises(AttestationError, match="the certification is an attestation of another kind"):
            attestation.verify_answer(statement, state, changed(answer, **quote), chip.trust)

    def test_answer_for_another_key_of_the_chip_is_refused(self, chip: Chip, tmp_path: Path) -> None:
        statement = chip.statement()
        challenge, state = attestation.challenge(statement, chip.trust)
        chip.tpm.create_key_file(tmp_path / "key.pem", "EC:P-256")
        answer = attestation.answer_challenge(chip.tpm.uri(tmp_path / "key.pem"), challenge)
        with pytest.raises(AttestationError, match="the certification is of another key"):
            attestation.verify_answer(statement, state, answer, chip.trust)


class TestOtherChips:
    def test_chip_can_t_open_the_challenge_to_another(self, chips: tuple[Chip, Chip, Chip]) -> None:
        challenge, _ = attestation.challenge(chips[0].statement(), chips[0].trust)
        with pytest.raises(AttestationError, match="the TPM can't open the challenge"):
            attestation.answer_challenge(chips[1].key, challenge)

    def test_no_chip_can_answer_for_keys_of_one_and_the_endorsement_key_of_another(
        self, chips: tuple[Chip, Chip, Chip]
    ) -> None:
        one, other = chips[0].statement(), chips[1].statement()
        mixed = changed(one, ekPublic=other.blob("ekPublic"), ekCertificates=other.blobs("ekCertificates"))
        challenge, _ = attestation.challenge(mixed, chips[0].trust)
        for chip in chips[:2]:
            with pytest.raises(AttestationError, match="the TPM can't open the challenge"):
                attestation.answer_challenge(chip.key, challenge)

    def test_key_of_another_chip_is_not_certified(self, chips: tuple[Chip, Chip, Chip]) -> None:
        mixed = changed(chips[0].statement(), keyPublic=chips[1].statement().blob("keyPublic"))
        challenge, state = attestation.challenge(mixed, chips[0].trust)
        answer = attestation.answer_challenge(chips[0].key, challenge)
        with pytest.raises(AttestationError, match="the certification is of another key"):
            attestation.verify_answer(mixed, state, answer, chips[0].trust)

    def test_statement_is_refused_when_the_vendor_is_unknown(self, chips: tuple[Chip, Chip, Chip]) -> None:
        with pytest.raises(AttestationError, match="leads to none of the roots"):
            attestation.examine(chips[2].statement(), chips[0].trust)

    def test_statement_is_refused_when_its_certificate_is_of_another_chip(self, chips: tuple[Chip, Chip, Chip]) -> None:
        mixed = changed(chips[0].statement(), ekCertificates=chips[1].statement().blobs("ekCertificates"))
        with pytest.raises(AttestationError, match="the statement has no certificate of the endorsement key"):
            attestation.examine(mixed, chips[0].trust)

    def test_statement_is_refused_when_a_certificate_is_not_valid_yet(
        self, chip: Chip, vendors: tuple[Vendor, Vendor]
    ) -> None:
        trust = vendors[0].trust(datetime(2000, 1, 1, tzinfo=UTC))
        with pytest.raises(AttestationError, match=r"is valid from .* only"):
            attestation.examine(chip.statement(), trust)


class TestKeysThatAreRefused:
    def test_key_that_can_be_copied_is_refused(self, chip: Chip, tmp_path: Path) -> None:
        key = _key_file(chip, tmp_path, "sensitivedataorigin|userwithauth|sign")
        with pytest.raises(AttestationError, match="the key can be copied"):
            attestation.examine(attestation.make_statement(key), chip.trust)

    def test_key_with_admin_policy_is_refused_by_the_maker(self, chip: Chip, tmp_path: Path) -> None:
        policy = tmp_path / "policy"
        policy.write_bytes(bytes(32))
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign"
        key = _key_file(chip, tmp_path, attributes, "-L", str(policy))
        with pytest.raises(UnsupportedKeyError, match="has adminWithPolicy"):
            attestation.make_statement(key)

    def test_attestation_key_that_signs_anything_is_refused(self, chip: Chip) -> None:
        statement = chip.statement()
        with pytest.raises(
            AttestationError, match="the attestation key is not an ECC key restricted to what the TPM makes"
        ):
            attestation.examine(changed(statement, akPublic=statement.blob("keyPublic")), chip.trust)

    def test_endorsement_key_that_signs_is_refused(self, chip: Chip) -> None:
        statement = chip.statement()
        with pytest.raises(AttestationError, match="the endorsement key is not a TPM's storage key"):
            attestation.examine(changed(statement, ekPublic=statement.blob("keyPublic")), chip.trust)


def _key_file(chip: Chip, folder: Path, attributes: str, *create: str) -> str:
    """Make a key with tpm2-tools; return its URI."""
    paths = {name: str(folder / name) for name in ("primary", "public", "private", "key.pem")}
    parts = ["-u", paths["public"], "-r", paths["private"]]
    run(["tpm2_createprimary", "-Q", "-G", "ecc", "-c", paths["primary"]], chip.tpm.env)
    run(["tpm2_create", "-Q", "-C", paths["primary"], "-G", "ecc256", "-a", attributes, *parts, *create], chip.tpm.env)
    encode = ["tpm2_encodeobject", "-C", paths["primary"], *parts, "-o", paths["key.pem"]]
    run([*encode, *flag_of_encode(is_empty=True)], chip.tpm.env)
    for kind in ("-t", "-l"):
        run(["tpm2_flushcontext", kind], chip.tpm.env)
    return chip.tpm.uri(folder / "key.pem")


class TestCommandLine:
    def test_three_steps_end_with_the_public_key(
        self, chip: Chip, vendors: tuple[Vendor, Vendor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        csr, statement, challenge, state, answer = (str(tmp_path / name) for name in ("r", "s", "c", "st", "a"))
        verify = ["verify-attestation", statement, "--roots", str(vendors[0].roots), "--state", state]
        assert main(["csr", chip.key, "--subject", "CN=bamboo", "--out", csr]) == 0
        assert main(["attest", chip.key, "--csr", csr, "--out", statement]) == 0
        assert main([*verify, "--challenge", challenge]) == 0
        assert "proven " not in capfd.readouterr().out
        assert os.stat(state).st_mode & 0o777 == 0o600
        assert main(["attest", chip.key, "--challenge", challenge, "--pcrs", "sha256:7", "--out", answer]) == 0
        assert main([*verify, "--answer", answer]) == 0
        printed = capfd.readouterr().out
        assert "proven    PCR sha256:7 is" in printed
        assert "request   The certificate request is signed by this key" in printed
        pem = printed[printed.index("-----BEGIN") :].encode()
        public = run(["openssl", "pkey", "-pubin", "-pubout", "-outform", "DER"], {}, pem)
        assert public == chip.tpm.public_key(chip.tpm.folder / "key.pem")
        assert main([*verify, "--answer", answer, "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["publicKey"] == pem.decode()
        assert found["matchesCsr"] is True

    def test_verifier_runs_without_the_library_of_tpms(
        self, chip: Chip, vendors: tuple[Vendor, Vendor], tmp_path: Path
    ) -> None:
        paths = [tmp_path / name for name in ("statement", "challenge", "state", "answer")]
        for path, document in zip(paths, chip.answered("sha256:7"), strict=True):
            path.write_text(document.to_json())
        statement, _, state, answer = map(str, paths)
        program = (
            "import sys; sys.modules['tpm2_pytss'] = None; from hwsigner._cli import main; sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", program, "verify-attestation", statement, "--roots", str(vendors[0].roots)]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*command, "--state", state, "--answer", answer], env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"proven    The key was made in this TPM" in done.stdout

    def test_key_is_proven_through_a_resource_manager(self, chip: Chip, tmp_path: Path) -> None:
        statement, challenge, answer = (str(tmp_path / name) for name in ("statement", "challenge", "answer"))
        key = chip.key.replace(f"tcti={chip.tpm.tcti}", "tcti=tabrmd")
        with ResourceManager(chip.tpm) as manager:
            environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
            environment["DBUS_SYSTEM_BUS_ADDRESS"] = manager.env["DBUS_SESSION_BUS_ADDRESS"]
            # In processes of their own: GLib ends the one whose bus goes away.
            attest = [sys.executable, "-m", "hwsigner", "attest", key]
            run([*attest, "--out", statement], environment)
            made = attestation.read(Path(statement).read_bytes(), "statement")
            asked, state = attestation.challenge(made, chip.trust)
            Path(challenge).write_text(asked.to_json())
            run([*attest, "--challenge", challenge, "--pcrs", "sha256:7", "--out", answer], environment)
        answered = attestation.read(Path(answer).read_bytes(), "answer")
        assert attestation.verify_answer(made, state, answered, chip.trust).in_hardware

    def test_request_that_is_not_the_key_s_ends_with_status_3(
        self, chip: Chip, vendors: tuple[Vendor, Vendor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        csr, statement = tmp_path / "csr.pem", str(tmp_path / "statement")
        csr.write_bytes(_csr(ec.generate_private_key(ec.SECP256R1())))
        assert main(["attest", chip.key, "--csr", str(csr), "--out", statement]) == 0
        challenge = ["--challenge", str(tmp_path / "challenge"), "--state", str(tmp_path / "state")]
        assert main(["verify-attestation", statement, "--roots", str(vendors[0].roots), *challenge]) == 3
        assert "not signed by this key" in capfd.readouterr().err
        assert not (tmp_path / "state").exists()

    def test_no_file_is_overwritten(
        self, chip: Chip, vendors: tuple[Vendor, Vendor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        statement, challenge = tmp_path / "statement", tmp_path / "challenge"
        assert main(["attest", chip.key, "--out", str(statement)]) == 0
        assert main(["attest", chip.key, "--out", str(statement)]) == 2
        challenge.write_text("old")
        verify = ["verify-attestation", str(statement), "--roots", str(vendors[0].roots)]
        assert main([*verify, "--challenge", str(challenge), "--state", str(tmp_path / "state")]) == 2
        assert challenge.read_text() == "old"
        assert not (tmp_path / "state").exists()
        assert f"{challenge} is there already" in capfd.readouterr().err

    def test_missing_certificate_of_the_endorsement_key_is_warned_of(
        self, swtpm: SoftTPM, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        uri = swtpm.uri(tmp_path / "key.tss2")
        assert [main([command, uri]) for command in ("keygen", "attest")] == [0, 0]
        assert "warning: the TPM holds no certificate of its endorsement key" in capfd.readouterr().err

    def test_endorsement_key_s_hash_is_printed(self, chip: Chip, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["attest", "--ek", "--tcti", chip.tpm.tcti]) == 0
        assert capfd.readouterr().out == f"{attestation.examine(chip.statement(), chip.trust).chip}\n"


def test_key_without_a_pin_is_attested_in_lockout(
    vendors: tuple[Vendor, Vendor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = vendors[0]
    monkeypatch.setenv("WRONG_PIN", "wrong-4711")
    with vendor.make(tmp_path / "chip") as tpm:
        key, guarded = tpm.uri(tmp_path / "key.tss2"), tmp_path / "guarded.pem"
        generate_key(key, request=KeyRequest())
        tpm.create_key_file(guarded, "EC:P-256", "4711")
        _lock_out(tpm, guarded)
        chip = Chip(tpm, key, vendor.trust())
        statement, _, state, answer = chip.answered("sha256:7")
        assert attestation.verify_answer(statement, state, answer, chip.trust).proven


def test_power_cuts_after_attestations_do_not_put_a_tpm_in_lockout(
    vendors: tuple[Vendor, Vendor], tmp_path: Path
) -> None:
    with vendors[0].make(tmp_path / "chip") as tpm:
        key = tpm.uri(tmp_path / "key.tss2")
        generate_key(key, request=KeyRequest())
        for _ in range(2):
            Chip(tpm, key, vendors[0].trust()).answered("sha256:7")
            tpm.cut_power()
        assert b"TPM2_PT_LOCKOUT_COUNTER: 0x0\n" in run(["tpm2_getcap", "properties-variable"], tpm.env)


def _lock_out(tpm: SoftTPM, guarded: Path) -> None:
    """Put a TPM in lockout, as a wrong PIN of another user's key may."""
    run(["tpm2_dictionarylockout", "-s", "-n", "1", "-t", "1000", "-l", "1000"], tpm.env)
    wrong = f"{tpm.uri(guarded)}&pin-source=env:WRONG_PIN"
    with open_key(wrong, PinSource(allow_final_try=True)) as key, pytest.raises(WrongPinError):
        key.sign(b"")
    assert b"inLockout:                 1" in run(["tpm2_getcap", "properties-variable"], tpm.env)
