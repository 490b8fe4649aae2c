"""PCRs that the policy demands: a machine that booted something else gets no certificate."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import certs
from attestation.chips import Chip, Vendor, changed, vendors
from enrolment.registrar.sites import Issuer, Site, body, challenged, enrolled, tpm, url
from enrolment.registrar.test_hardware import asked, ek, statement
from hwsigner import attestation
from hwsigner.attestation import Document
from hwsigner.attestation.structures import read_quoted
from hwsigner.enrolment.registrar.policy import Machine
from hwsigner.enrolment.registrar.registrar import RefusedRequest, Registrar
from hwsigner.errors import ServiceError, UnsupportedKeyError
from softhsm.command import run

__all__ = ["vendors"]

CLIENT = "192.0.2.1"
ZERO = "0" * 64
OTHER = "1" * 64


@pytest.fixture
def chip(vendors: tuple[Vendor, Vendor]) -> Iterator[Chip]:
    """A TPM of its own, whose PCRs a test may extend."""
    with tempfile.TemporaryDirectory() as name, vendors[0].make(Path(name)) as made:
        made.create_key_file(Path(name) / "key.pem", "EC:P-256")
        yield Chip(made, made.uri(Path(name) / "key.pem"), vendors[0].trust())


def extend(chip: Chip, number: int, bank: str = "sha256") -> None:
    run(["tpm2_pcrextend", f"{number}:{bank}={OTHER}"], chip.tpm.env)


def value(chip: Chip, number: int) -> str:
    path = chip.tpm.folder / "pcr"
    run(["tpm2_pcrread", f"sha256:{number}", "-o", str(path)], chip.tpm.env)
    return path.read_bytes().hex()


@pytest.fixture
def machine(chip: Chip) -> Machine:
    """A machine whose PCR 7 has one value, and whose PCR 14 has one of two."""
    extend(chip, 7)
    return replace(tpm(ek(chip)), pcrs=(f"7={value(chip, 7)}", f"14={OTHER}", f"14={ZERO}"))


@pytest.fixture
def site(chip: Chip, machine: Machine, ca: certs.Authority, tmp_path: Path) -> Site:
    site = Site(tmp_path, chip.trust, Issuer(ca))
    site.allow(machine)
    return site


def test_machine_is_renewed_until_its_pcrs_change(chip: Chip, site: Site) -> None:
    with site.serving() as server:
        enrolled(url(server), chip.key, asked(chip.key))
        extend(chip, 14)
        with pytest.raises(ServiceError, match="the policy does not allow the values of PCR sha256:14") as raised:
            enrolled(url(server), chip.key, asked(chip.key))
    assert "The machine booted something else" in str(raised.value)
    assert site.decisions == ["challenged", "proven", "issued", "challenged", "refused"]
    assert site.audit[-1]["reason"] == "the policy does not allow the values of PCR sha256:14"
    assert site.audit[-1]["quoted"] == {"sha256:14": value(chip, 14)}
    assert next(facts for facts in site.audit if facts["decision"] == "proven")["pcrs"] == "sha256:7,14"
    assert len(site.issuer.requests) == 1


def test_log_has_each_value_that_was_refused(chip: Chip, site: Site, machine: Machine) -> None:
    site.allow(replace(machine, pcrs=tuple(f"{number}={OTHER}" for number in range(24))))
    with site.serving() as server, pytest.raises(ServiceError, match="the policy does not allow the values of PCR"):
        enrolled(url(server), chip.key, asked(chip.key))
    assert site.audit[-1]["quoted"] == {f"sha256:{number}": value(chip, number) for number in range(24)}


def test_challenge_names_no_pcrs_unless_the_policy_does(chip: Chip, machine: Machine, site: Site) -> None:
    given = statement(chip, asked(chip.key))
    assert challenged(site.registrar(), given)[0].text("pcrs") == "sha256:7,14"
    site.allow(replace(machine, pcrs=()))
    challenge, _ = challenged(site.registrar(), given)
    assert "pcrs" not in challenge.values
    assert "quoteInfo" not in attestation.answer_challenge(chip.key, challenge).values


def refused(registrar: Registrar, given: Document, state: str, answer: Document, message: str) -> None:
    with pytest.raises(RefusedRequest, match=message):
        registrar.certify(body(statement=given, state=state, answer=answer), CLIENT)


@pytest.mark.parametrize("pcrs", ["sha256:7", "sha256:7,14,15", "sha1:7,14", "sha384:7,14"])
def test_quote_of_other_pcrs_or_another_bank_is_refused(pcrs: str, chip: Chip, site: Site) -> None:
    run(["tpm2_pcrallocate", "sha1:all+sha256:all+sha384:all"], chip.tpm.env)
    chip.tpm.restart()
    extend(chip, 7)
    registrar, given = site.registrar(), statement(chip, asked(chip.key))
    challenge, state = challenged(registrar, given)
    answer = attestation.answer_challenge(chip.key, challenge, pcrs=pcrs)
    refused(registrar, given, state, answer, "the answer has no quote of PCR sha256:7,14 alone")
    assert site.issuer.requests == []


def test_machine_whose_tpm_lacks_the_bank_gets_no_certificate(chip: Chip, site: Site) -> None:
    run(["tpm2_pcrallocate", "sha1:all+sha256:none+sha384:all"], chip.tpm.env)
    chip.tpm.restart()
    hint = "If a registrar asks for it, turn it on in the firmware"
    with site.serving() as server, pytest.raises(UnsupportedKeyError, match=f"no PCR sha256:7,14.*{hint}"):
        enrolled(url(server), chip.key, asked(chip.key))
    assert site.decisions == ["challenged"]


def test_answer_without_the_quote_or_with_that_of_another_challenge_is_refused(chip: Chip, site: Site) -> None:
    registrar, given = site.registrar(), statement(chip, asked(chip.key))
    challenge, _ = challenged(registrar, given)
    old = attestation.answer_challenge(chip.key, challenge)
    extend(chip, 14)
    challenge, state = challenged(registrar, given)
    answer = attestation.answer_challenge(chip.key, challenge)
    parts = ("quoteInfo", "quoteSignature", "pcrValues")
    without = Document("answer", "tpm2", {name: one for name, one in answer.values.items() if name not in parts})
    refused(registrar, given, state, without, "the answer has no quote of PCR")
    replayed = changed(answer, **{name: old.values[name] for name in parts})
    refused(registrar, given, state, replayed, "the quote was made for another challenge")
    claimed = changed(answer, pcrValues=old.values["pcrValues"])
    refused(registrar, given, state, claimed, "the answer's PCR values are not those of the quote")
    refused(registrar, given, state, answer, "the policy does not allow the values of PCR sha256:14")
    assert site.issuer.requests == []


def test_quote_by_another_restricted_key_of_the_tpm_is_refused(chip: Chip, site: Site) -> None:
    registrar, given = site.registrar(), statement(chip, asked(chip.key))
    challenge, state = challenged(registrar, given)
    answer = attestation.answer_challenge(chip.key, challenge)
    expected = read_quoted(answer.blob("quoteInfo")).extra_data.hex()
    ek_context, ak, info, signature = (str(chip.tpm.folder / name) for name in ("ek", "ak", "info", "signature"))
    for command in (
        ["tpm2_createek", "-Q", "-G", "ecc", "-c", ek_context],
        ["tpm2_createak", "-Q", "-C", ek_context, "-c", ak, "-G", "ecc", "-g", "sha256", "-s", "ecdsa"],
        ["tpm2_flushcontext", "-t"],
        ["tpm2_quote", "-Q", "-c", ak, "-l", "sha256:7,14", "-q", expected, "-m", info, "-s", signature],
    ):
        run(command, chip.tpm.env)
    quoted = {"quoteInfo": Path(info).read_bytes(), "quoteSignature": Path(signature).read_bytes()}
    assert read_quoted(quoted["quoteInfo"])[:3] == read_quoted(answer.blob("quoteInfo"))[:3]
    refused(
        registrar, given, state, changed(answer, **quoted), "the quote was not signed by the statement's attestation"
    )
    assert registrar.certify(body(statement=given, state=state, answer=answer), CLIENT)
