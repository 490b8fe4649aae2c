"""The verifier for PIV keys of YubiKeys: what a chain and an answer prove, and forgeries."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.piv_chains import (
    CSPN,
    FIPS,
    FIRMWARE,
    FORM_FACTOR,
    NOW,
    OLD_F9,
    OLD_ROOT,
    POLICIES,
    SERIAL,
    YUBIKEY,
    Chain,
    Issued,
    answered,
    name,
    new_chain,
    old_chain,
    slot_of,
)
from hwsigner.attestation import Findings, challenge, examine, verify_answer
from hwsigner.attestation import chain as chain_module
from hwsigner.attestation.chain import VendorCertificate, verifies
from hwsigner.attestation.documents import new
from hwsigner.attestation.weaknesses import is_roca, weaknesses_of_yubikey
from hwsigner.errors import AttestationError

OLD = old_chain()
GENERATED = (
    "The key was generated on the YubiKey with the serial number 10550341 and firmware 5.4.3, which lets no key out, "
    "and was in slot 9a when the card certified it"
)


def proven(chain: Chain, key: Any = None) -> Findings:
    asked, state = challenge(chain.statement, chain.trust)
    return verify_answer(chain.statement, state, answered(asked, key or chain.slot.key), chain.trust)


def refusal(chain: Chain) -> str:
    """Return why a chain is refused."""
    with pytest.raises(AttestationError) as caught:
        examine(chain.statement, chain.trust)
    return caught.value.message


# What is proven


def test_statement_alone_proves_nothing() -> None:
    found = examine(OLD.statement, OLD.trust)
    assert found.proven == ()
    assert not found.in_hardware
    assert found.claimed[0] == GENERATED
    assert found.chip == "10550341"
    assert found.public_key == OLD.public_key


def test_answer_proves_origin_serial_firmware_and_policies() -> None:
    found = proven(OLD)
    assert found.in_hardware
    assert found.claimed == ()
    assert found.proven == (
        GENERATED,
        "Each signature needs the PIN",
        "A signature needs no touch",
        f"Common Name: {OLD_ROOT} certified the attestation key of the YubiKey",
        "The key signed the challenge",
        "All this was so after 2026-06-01T00:00:00Z, when the challenge was made",
    )
    assert (found.chip, found.public_key, found.matches_csr) == ("10550341", OLD.public_key, None)


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(old_chain(ca=True), id="f9 is a CA, as from firmware 4.4"),
        pytest.param(old_chain(path_length=0), id="f9 without basicConstraints from the U2F root"),
        pytest.param(old_chain(ca=True, path_length=0), id="f9 is a CA, from a root with a path length of 0"),
        pytest.param(new_chain(), id="two intermediates, as from firmware 5.7.4"),
        pytest.param(old_chain(key=rsa.generate_private_key(65537, 2048)), id="RSA"),
        pytest.param(old_chain(key=ec.generate_private_key(ec.SECP384R1())), id="P-384"),
        pytest.param(old_chain(slot="82"), id="a retired slot"),
        pytest.param(old_chain({**YUBIKEY, SERIAL: bytes.fromhex("02034f8df1")}), id="a serial of three bytes"),
        pytest.param(old_chain({oid: YUBIKEY[oid] for oid in (FIRMWARE, SERIAL, POLICIES)}), id="no form factor"),
    ],
)
def test_chain_as_yubico_makes_it_is_accepted(chain: Chain) -> None:
    assert proven(chain).public_key == chain.public_key


def test_intermediates_may_come_from_the_folder_of_roots() -> None:
    chain = new_chain()
    statement = chain.but(intermediates=()).statement
    with pytest.raises(AttestationError, match="leads to none of the roots"):
        examine(statement, chain.trust)
    folder = tuple(VendorCertificate.read(one.der, "root") for one in (chain.root, *chain.intermediates))
    trust = type(chain.trust)(folder, NOW)
    assert examine(statement, trust).chip == "10550341"


@pytest.mark.parametrize(
    ("extensions", "sentence"),
    [
        ({POLICIES: b"\1\1"}, "A signature needs no PIN"),
        ({POLICIES: b"\2\1"}, "A signature needs the PIN, once for each session with the card"),
        ({POLICIES: b"\4\1"}, "A signature needs a fingerprint or the PIN, once for each session with the card"),
        ({POLICIES: b"\5\1"}, "Each signature needs a fingerprint or the PIN"),
        ({POLICIES: b"\1\2"}, "Each signature needs a touch"),
        ({POLICIES: b"\1\3"}, "A signature needs a touch, unless there was one in the last 15 seconds"),
        ({FORM_FACTOR: b"\x83"}, "The YubiKey is of the FIPS series"),
        ({FIPS: b"\2\1\7"}, "The YubiKey is of the FIPS series"),
        ({CSPN: b""}, "The YubiKey is of the CSPN series"),
    ],
)
def test_policies_and_series_are_shown(extensions: dict[str, bytes], sentence: str) -> None:
    assert sentence in proven(old_chain({**YUBIKEY, **extensions})).proven


def test_fips_series_is_read_from_the_certificate_of_f9() -> None:
    f9 = OLD.root.issue(OLD_F9, ca=True, path_length=0, extensions={FIPS: b"\2\1\7"})
    assert "The YubiKey is of the FIPS series" in proven(OLD.but(f9=f9, slot=slot_of(f9))).proven


# Answers


def test_answer_of_another_key_is_refused() -> None:
    with pytest.raises(AttestationError, match="the statement's key did not sign the answer"):
        proven(OLD, Issued("other").key)


def test_answer_to_another_challenge_is_refused() -> None:
    (first, state), (second, _) = (challenge(OLD.statement, OLD.trust) for _ in range(2))
    with pytest.raises(AttestationError, match="the answer is to another challenge"):
        verify_answer(OLD.statement, state, answered(second, OLD.slot.key), OLD.trust)
    replayed = answered(second, OLD.slot.key)
    replayed = new("answer", "piv", {**replayed.values, "nonce": first.blob("nonce")})
    with pytest.raises(AttestationError, match="the statement's key did not sign the answer"):
        verify_answer(OLD.statement, state, replayed, OLD.trust)


def test_answer_is_refused_for_the_statement_of_another_card() -> None:
    """Another card can have the same attestation key and root, but not the same key in its slot."""
    other = OLD.but(slot=slot_of(OLD.f9, {**YUBIKEY, SERIAL: bytes.fromhex("020400a0fc46")}))
    asked, state = challenge(other.statement, other.trust)
    with pytest.raises(AttestationError, match="the statement's key did not sign the answer"):
        verify_answer(other.statement, state, answered(asked, OLD.slot.key), other.trust)
    with pytest.raises(AttestationError, match="the state is of the challenge to another statement"):
        verify_answer(OLD.statement, state, answered(asked, OLD.slot.key), other.trust)


def test_new_attestation_of_the_same_key_is_another_statement() -> None:
    """Else the policies of a key's old and new attestation could be exchanged after the challenge."""
    again = OLD.but(slot=slot_of(OLD.f9, {**YUBIKEY, POLICIES: b"\3\2"}, key=OLD.slot.key))
    asked, state = challenge(OLD.statement, OLD.trust)
    with pytest.raises(AttestationError, match="the state is of the challenge to another statement"):
        verify_answer(again.statement, state, answered(asked, OLD.slot.key), OLD.trust)


@pytest.mark.slow
def test_signature_is_refused_when_any_byte_of_it_changes_or_is_missing() -> None:
    asked, state = challenge(OLD.statement, OLD.trust)
    good = answered(asked, OLD.slot.key)
    signature = good.blob("signature")
    verify_answer(OLD.statement, state, good, OLD.trust)
    changed = [signature[:i] + bytes([signature[i] ^ 1]) + signature[i + 1 :] for i in range(len(signature))]
    for bad in (*changed, *(signature[:i] for i in range(1, len(signature))), signature + b"\0"):
        with pytest.raises(AttestationError, match="did not sign"):
            verify_answer(OLD.statement, state, new("answer", "piv", {**good.values, "signature": bad}), OLD.trust)


# Certificates that were changed


@pytest.mark.slow
@pytest.mark.parametrize("part", ["slot", "f9"])
def test_certificate_is_refused_when_any_byte_changes(part: str) -> None:
    whole: Issued = getattr(OLD, part)
    for place in range(len(whole.der)):
        changed = whole.der[:place] + bytes([whole.der[place] ^ 1]) + whole.der[place + 1 :]
        assert refusal(OLD.but(**{part: Issued(whole.common_name, whole.key, changed)}))


@pytest.mark.parametrize("part", ["slot", "f9"])
def test_certificate_is_refused_when_it_is_truncated(part: str) -> None:
    whole: Issued = getattr(OLD, part)
    for length in range(1, len(whole.der)):
        assert refusal(OLD.but(**{part: Issued(whole.common_name, whole.key, whole.der[:length])}))


def test_certificates_are_refused_in_the_wrong_places() -> None:
    assert (
        refusal(OLD.but(slot=OLD.f9, f9=OLD.slot)) == "the certificate of slot f9 did not issue the slot's certificate"
    )
    wanted = "has the subject 'Common Name: Yubico PIV Attestation', which is not that of a slot"
    assert wanted in refusal(OLD.but(slot=OLD.f9, f9=OLD.root))


# What the slot's certificate has to say


@pytest.mark.parametrize(
    "extensions",
    [
        {SERIAL: bytes.fromhex("0203989681")},  # Negative. 10000001 is 0204 00989681.
        {SERIAL: bytes.fromhex("0204004f8df1")},  # Longer than need be.
        {SERIAL: bytes.fromhex("02050100000000")},  # More than 32 bits.
        {SERIAL: bytes.fromhex("0281034f8df1")},  # The length in two bytes.
        {SERIAL: bytes.fromhex("02034f8df100")},  # A byte more.
        {SERIAL: bytes.fromhex("04034f8df1")},  # Not an INTEGER.
        {SERIAL: b"\2\0"},
        {SERIAL: b"\2"},
        {SERIAL: b""},
        {POLICIES: b"\0\1"},
        {POLICIES: b"\6\1"},
        {POLICIES: b"\1\0"},
        {POLICIES: b"\1\4"},
        {POLICIES: b"\1"},
        {POLICIES: b"\1\1\1"},
        {POLICIES: b"\4\2\1\1"},  # In an OCTET STRING.
        {FIRMWARE: b"\5\4"},
        {FIRMWARE: b"\4\3\5\4\3"},
        {FORM_FACTOR: b""},
        {FORM_FACTOR: b"\4\4"},
    ],
)
def test_extension_is_refused_when_it_is_not_as_yubikeys_write_it(extensions: dict[str, bytes]) -> None:
    assert refusal(old_chain({**YUBIKEY, **extensions})).startswith("the slot's certificate has ")


@pytest.mark.parametrize("oid", [FIRMWARE, SERIAL, POLICIES])
def test_certificate_is_refused_without_an_extension(oid: str) -> None:
    rest = {key: value for key, value in YUBIKEY.items() if key != oid}
    assert re.match("the slot's certificate(, of firmware 5.4.3,)? has no ", refusal(old_chain(rest)))


def test_yubikey_that_writes_no_serial_number_is_told_so() -> None:
    """As those with firmware 4.3.7 may."""
    old = old_chain({FIRMWARE: b"\4\3\7", POLICIES: YUBIKEY[POLICIES]})
    with pytest.raises(AttestationError) as caught:
        examine(old.statement, old.trust)
    assert caught.value.message == "the slot's certificate, of firmware 4.3.7, has no serial number"
    assert caught.value.hint.startswith("Use a YubiKey that writes one")


@pytest.mark.parametrize("slot", ["9b", "f9", "9A", "96", "81", "9a ", "9a\n", " 9a", "9", "9aa", "٩a"])
def test_certificate_is_refused_when_it_names_no_slot(slot: str) -> None:
    assert "which is not that of a slot" in refusal(old_chain(slot=slot))


def test_certificate_is_refused_when_its_subject_says_more() -> None:
    twice = x509.Name([*name("YubiKey PIV Attestation 9a"), *name("YubiKey PIV Attestation 9c")])
    assert "which is not that of a slot" in refusal(old_chain(subject=twice))


def test_certificate_is_refused_when_an_extension_is_there_twice() -> None:
    """A reader that takes the first one would see another PIN policy than one that takes the last."""
    spare = f"{POLICIES[:-1]}5"
    der = old_chain({**YUBIKEY, spare: b"\1\1"}).slot.der
    five, eight = (bytes.fromhex("060a2b0601040182c40a03") + bytes([number]) for number in (5, 8))
    assert der.count(five) == 1
    with pytest.raises(AttestationError, match="the slot's certificate can't be read"):
        examine(OLD.but(slot=Issued("", der=der.replace(five, eight))).statement, OLD.trust)


def test_unknown_critical_extension_is_refused() -> None:
    assert "critical extension that is unknown here" in refusal(old_chain({**YUBIKEY, "1.2.3": b"\5\0"}, critical=True))


@pytest.mark.parametrize("depth", [200, 1900])
def test_extension_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    value = b"\5\0"
    for _ in range(depth):
        value = b"\x30\x82" + len(value).to_bytes(2) + value
    assert (
        refusal(old_chain({**YUBIKEY, "2.5.29.17": value})) == "the slot's certificate can't be read as a certificate"
    )


@pytest.mark.parametrize("dates", [{"end": NOW - timedelta(1)}, {"begin": NOW + timedelta(1)}])
def test_certificate_is_refused_when_it_is_not_valid_now(dates: dict[str, Any]) -> None:
    assert "is valid from" in refusal(OLD.but(slot=slot_of(OLD.f9, **dates)))
    f9 = OLD.root.issue(OLD_F9, **dates)
    assert "is valid from" in refusal(OLD.but(f9=f9, slot=slot_of(f9)))
    chain = new_chain()
    lower = chain.intermediates[1].issue("Yubico PIV Attestation B 1", chain.intermediates[0].key, ca=True, **dates)
    assert "is valid from" in refusal(chain.but(intermediates=(lower, chain.intermediates[1])))


# Forged chains


def test_root_with_the_same_name_and_another_key_is_refused() -> None:
    assert "leads to none of the roots" in refusal(OLD.but(root=Issued(OLD_ROOT).issue_root()))


def test_chain_of_the_forgers_own_is_refused() -> None:
    forged = old_chain()
    assert "leads to none of the roots" in refusal(forged.but(root=OLD.root))
    own_root = (forged.root,)
    assert "leads to none of the roots" in refusal(forged.but(root=OLD.root, intermediates=own_root))


@pytest.mark.parametrize("ca", [None, True])
def test_key_of_a_slot_can_not_pretend_to_be_f9(ca: bool | None) -> None:
    """The key of a slot signs anything, and its certificate leads to the root: with f9 as its CA."""
    chain = old_chain(ca=ca)
    forged = slot_of(chain.slot, {**YUBIKEY, SERIAL: b"\2\1\7", POLICIES: b"\3\2"})
    assert refusal(chain.but(f9=chain.slot, slot=forged, intermediates=(chain.f9,)))
    # Nor if the verifier trusts the card's own f9.
    assert "is not one of slot f9" in refusal(chain.but(root=chain.f9, f9=chain.slot, slot=forged))


def test_key_of_a_slot_can_not_pretend_to_be_f9_from_firmware_5_7_4() -> None:
    chain = new_chain()
    forged = slot_of(chain.slot, YUBIKEY)
    own = (chain.f9, *chain.intermediates)
    assert "leads to none of the roots" in refusal(chain.but(f9=chain.slot, slot=forged, intermediates=own))
    assert "is not one of slot f9" in refusal(chain.but(root=chain.f9, f9=chain.slot, slot=forged))


@pytest.mark.parametrize(
    "allowed",
    [pytest.param((2, 2, 1), id="root"), pytest.param((3, 1, 1), id="upper"), pytest.param((3, 2, 0), id="lower")],
)
def test_chain_is_refused_when_a_ca_allows_fewer_below_it(allowed: tuple[int, int, int]) -> None:
    """f9 is one of the CAs below: its certificate says CA:TRUE, and it issues the slot's."""
    assert "leads to none of the roots" in refusal(new_chain(allowed))


def test_chain_is_accepted_with_the_path_lengths_of_yubicos_own() -> None:
    assert proven(new_chain((3, 2, 1))).in_hardware
    assert proven(new_chain((None, 2, 1))).in_hardware


@pytest.mark.parametrize(("common_name", "ca"), [("alice", None), ("alice", False), (OLD_F9, False)])
def test_other_certificates_of_a_root_can_not_pretend_to_be_f9(common_name: str, ca: bool | None) -> None:
    leaf = OLD.root.issue(common_name, ca=ca)
    assert "is not one of slot f9" in refusal(OLD.but(f9=leaf, slot=slot_of(leaf)))


def test_f9_without_basic_constraints_is_refused_below_an_intermediate() -> None:
    chain = new_chain()
    f9 = chain.intermediates[0].issue(OLD_F9)
    assert "is not one of slot f9" in refusal(chain.but(f9=f9, slot=slot_of(f9)))


def test_intermediate_that_is_not_a_ca_is_refused() -> None:
    alice = OLD.root.issue("alice", ca=False)
    f9 = alice.issue(OLD_F9, ca=True)
    assert "leads to none of the roots" in refusal(OLD.but(f9=f9, slot=slot_of(f9), intermediates=(alice,)))


def test_intermediate_below_one_that_forbids_it_is_refused() -> None:
    upper = OLD.root.issue("upper", ca=True, path_length=0)
    lower = upper.issue("lower", ca=True)
    f9 = lower.issue(OLD_F9, ca=True)
    assert "leads to none of the roots" in refusal(OLD.but(f9=f9, slot=slot_of(f9), intermediates=(lower, upper)))


def test_many_certificates_of_one_ca_take_few_signatures_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of their orders would be tried."""
    forger = Issued("forger")
    many = tuple(forger.issue("forger", forger.key, ca=True) for _ in range(8))
    f9 = forger.issue(OLD_F9, ca=True)
    calls = []

    def counted(*arguments: Any) -> bool:
        calls.append(arguments)
        return verifies(*arguments)

    monkeypatch.setattr(chain_module, "verifies", counted)
    assert "leads to none of the roots" in refusal(OLD.but(f9=f9, slot=slot_of(f9), intermediates=many))
    assert len(calls) <= 9


# Weak keys


@pytest.mark.parametrize(
    ("firmware", "rsa_words", "ec_words"),
    [
        ((4, 3, 1), ("ROCA",), ("EUCLEAK",)),
        ((4, 3, 4), ("ROCA",), ("EUCLEAK",)),
        ((4, 3, 5), (), ("EUCLEAK",)),
        ((4, 4, 2), ("YSA-2019-02",), ("YSA-2019-02", "EUCLEAK")),
        ((4, 4, 4), ("YSA-2019-02",), ("YSA-2019-02", "EUCLEAK")),
        ((4, 4, 5), (), ("EUCLEAK",)),
        ((5, 4, 3), (), ("EUCLEAK",)),
        ((5, 6, 9), (), ("EUCLEAK",)),
        ((5, 7, 0), (), ()),
        ((5, 7, 4), (), ()),
    ],
)
def test_weak_firmware_is_warned_of(
    firmware: tuple[int, ...], rsa_words: tuple[str, ...], ec_words: tuple[str, ...]
) -> None:
    for key, words in ((rsa_key(), rsa_words), (OLD.slot.key, ec_words)):
        chain = old_chain({**YUBIKEY, FIRMWARE: bytes(firmware)}, key=key)
        found = proven(chain)
        warnings = found.warnings
        assert found.in_hardware == ("ROCA" not in words)
        assert len(warnings) == len(words)
        assert all(word in warning for word, warning in zip(words, warnings, strict=True))


@pytest.mark.parametrize(("form_factor", "count"), [(6, 1), (7, 1), (0x87, 1), (1, 0), (0x84, 0)])
def test_eucleak_is_fixed_in_the_bio_series_from_5_7_2(form_factor: int, count: int) -> None:
    chain = old_chain({**YUBIKEY, FIRMWARE: b"\5\7\1", FORM_FACTOR: bytes([form_factor])})
    assert len(examine(chain.statement, chain.trust).warnings) == count


def test_key_of_the_library_of_roca_is_found_whatever_the_firmware() -> None:
    weak, good = (
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key in (roca_key(), rsa_key().public_key())
    )
    assert is_roca(weak)
    assert not is_roca(good)
    assert "ROCA" in weaknesses_of_yubikey(weak, (5, 4, 3), is_bio=False)[0]
    assert weaknesses_of_yubikey(good, (5, 4, 3), is_bio=False) == ()


def test_key_that_may_be_factored_is_refused() -> None:
    chain = old_chain(key=rsa.generate_private_key(65537, 1024))
    claim = new("statement", "pkcs11", {"keyPublic": chain.public_key, "token": "alpha"})
    for statement in (chain.statement, claim):
        with pytest.raises(AttestationError, match="the key is an RSA key of less than 2048 bits"):
            challenge(statement, chain.trust)


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def roca_key() -> rsa.RSAPublicKey:
    """Return a key as the library made them: primes that are k * M + (65537 ** a mod M)."""
    source = random.Random(1)
    primes = [number for number in range(2, 702) if all(number % divisor for divisor in range(2, number))]
    product = math.prod(primes)
    bits = 1024 - product.bit_length()

    def prime() -> int:
        while True:
            number = (source.getrandbits(bits) | 3 << bits - 2) * product + pow(65537, source.getrandbits(256), product)
            if pow(2, number - 1, number) == 1:
                return number

    return rsa.RSAPublicNumbers(65537, prime() * prime()).public_key()


# Where no token can be


def test_verifier_needs_no_hardware_library(tmp_path: Path) -> None:
    asked, state = challenge(OLD.statement, OLD.trust)
    documents = {"statement": OLD.statement, "state": state, "answer": answered(asked, OLD.slot.key)}
    for kind, document in documents.items():
        (tmp_path / kind).write_text(document.to_json())
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots/yubico.der").write_bytes(OLD.root.der)
    code = f"""
import sys
for name in ("pkcs11", "tpm2_pytss", "ctypes"):
    sys.modules[name] = None
import datetime, pathlib
from hwsigner.attestation import read, read_trust, verify_answer
now = datetime.datetime.fromisoformat("{NOW.isoformat()}")
documents = [read(pathlib.Path(kind).read_bytes(), kind) for kind in ("statement", "state", "answer")]
print(verify_answer(*documents, read_trust("roots", now)).proven[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout.rstrip(), done.stderr) == (GENERATED, "")
