"""`hwsigner aws revoke`: the service refuses what was revoked, and nothing that was revoked before is forgotten."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import EndpointConnectionError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from emulator import planes
from emulators import InProcessSoftHSM
from enrolment.registrar.sites import tpm
from hwsigner._control_plane import revocation
from hwsigner._identity.next_revocation_list import Draft, draft_list
from hwsigner.emulator import Fault, TrustAnchor
from hwsigner.enrolment.registrar.policy import add_machine
from json_output import read
from revocations import Account, account, denied, interrupted, number_of
from scene import Outcome
from softhsm.tpm import SoftTPM
from terminals import Terminal

__all__ = ["account"]

CALLS = ("GetTrustAnchor", "ListCrls", "ImportCrl", "GetCrl", "UpdateCrl", "EnableCrl")


def foreign(
    ca: certs.Authority, serials: list[int], *, number: int | None = 7, signer: certs.Authority | None = None
) -> bytes:
    """Return the PEM of a list that another tool made."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(now - timedelta(days=1)).next_update(now + timedelta(days=30))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(days=2))
        builder = builder.add_revoked_certificate(entry.build())
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign((signer or ca).key, SHA256()).public_bytes(Encoding.PEM)


def imported(account: Account, data: bytes, *, enabled: bool = True) -> str:
    arn, api = account.emulator.trust_anchor_arn, account.api
    found = api.import_crl(name="theirs", crlData=data, trustAnchorArn=arn, enabled=enabled)["crl"]
    return str(found["crlId"])


def one_line(outcome: Outcome, status: int) -> str:
    """Check that a command failed with one line of error, and return it."""
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (status, "", 1), outcome
    return outcome.err


def test_create_session_refuses_a_revoked_certificate_only(account: Account) -> None:
    bad, good = account.machine(), account.machine("bamboo-02")
    assert account.credentials(bad).status == 0
    outcome = account.revoke(bad.path, "--reason=keyCompromise")
    assert (outcome.status, outcome.err) == (0, "")
    refused = account.credentials(bad)
    assert (refused.status, "revoked" in refused.err) == (5, True)
    assert account.credentials(good).status == 0
    entry = account.only_list().get_revoked_certificate_by_serial_number(bad.serial)
    assert entry is not None
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.key_compromise


def test_second_revocation_keeps_the_first_in_the_same_list(account: Account) -> None:
    one, two, three = (account.machine(name) for name in ("a", "b", "c"))
    assert account.revoke(one.path).status == 0
    before = account.lists()[0]["crlId"]
    assert account.revoke(two.path, f"--serial={three.serial}").status == 0
    assert account.revoked() == {one.serial, two.serial, three.serial}
    assert (number_of(account.only_list()), account.lists()[0]["crlId"]) == (2, before)
    assert all(account.credentials(each).status == 5 for each in (one, two, three))


def test_serial_number_as_openssl_prints_it_revokes(account: Account) -> None:
    machine = account.machine()
    text = f"{machine.serial:040x}"
    assert account.revoke("--serial", ":".join(text[i : i + 2] for i in range(0, 40, 2))).status == 0
    assert account.revoked() == {machine.serial}


def test_chip_that_a_registrar_still_lets_renew_is_named(account: Account, tmp_path: Path) -> None:
    machine, policy = account.machine(), tmp_path / "registrar.toml"
    subject = machine.certificate.subject.rfc4514_string()
    add_machine(str(policy), tpm("1" * 64, "first", subject))
    add_machine(str(policy), tpm("2" * 64, "other", "CN=other"))
    flag = f"--registrar-policy={policy}"
    said = account.revoke(machine.path, flag).out
    chip = f"The chip {'1' * 64} can still get a new one: run hwsigner registrar remove first --policy {policy}\n"
    assert (chip in said, "2" * 64 in said) == (True, False)
    # Some CAs write the names in another order.
    add_machine(str(policy), tpm("1" * 64, "first", ",".join(reversed(subject.split(",")))), replace=True)
    assert chip in account.revoke(machine.path, flag).out
    assert account.call("registrar", "remove", "first", f"--policy={policy}").status == 0
    said = account.revoke(machine.path, flag).out
    hint = f"look with hwsigner registrar list --policy {policy}"
    assert f"{policy} has no chip with this subject. If the CA writes others, {hint}\n" in said
    assert account.call("registrar", "remove", "other", f"--policy={policy}").status == 0
    listed = account.call("registrar", "list", f"--policy={policy}")
    assert (listed.status, listed.out, f"{policy} has no machine" in listed.err) == (0, "", True)


def test_policy_that_can_not_be_read_keeps_no_certificate_from_being_revoked(account: Account, tmp_path: Path) -> None:
    machine, policy = account.machine(), tmp_path / "registrar.toml"
    policy.write_text("[machine")
    outcome = account.revoke(machine.path, f"--registrar-policy={policy}")
    assert (outcome.status, account.revoked()) == (0, {machine.serial})
    assert f"Whether a chip can still get a new one is not known: {policy} is not TOML" in outcome.out


def test_registrar_elsewhere_is_said_to_let_the_chip_renew(account: Account) -> None:
    assert "If a registrar issued it, its chip can still get a new one" in account.revoke("--serial=77").out


def test_ambiguous_serial_number_is_refused(account: Account) -> None:
    assert "0xABCD for hexadecimal" in one_line(account.revoke("--serial", "ABCD"), 2)
    assert account.lists() == []


def test_revoked_certificate_is_said_to_be_and_nothing_changes(account: Account) -> None:
    machine = account.machine()
    account.revoke(machine.path)
    before = account.lists()
    outcome = account.revoke(machine.path, answer="", ca_key="/absent")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"(decimal {machine.serial}) was revoked at 20" in outcome.out
    assert account.lists() == before


def test_list_of_another_tool_is_continued(account: Account) -> None:
    machine = account.machine()
    list_id = imported(account, foreign(account.ca, [5, 6], number=1000), enabled=False)
    assert account.revoke(machine.path).status == 0
    assert account.revoked() == {5, 6, machine.serial}
    assert (number_of(account.only_list()), account.lists()[0]["crlId"]) == (1001, list_id)


def test_list_that_is_not_enabled_is_enabled_without_the_key(account: Account) -> None:
    machine = account.machine()
    data = foreign(account.ca, [machine.serial])
    imported(account, data, enabled=False)
    outcome = account.revoke(machine.path, ca_key="/absent")
    assert (outcome.status, "enable" in outcome.out) == (0, True)
    assert account.lists()[0]["enabled"]
    assert account.lists()[0]["crlData"] == data
    assert account.credentials(machine).status == 5


def test_list_of_the_cas_name_and_another_key_is_refused(account: Account) -> None:
    twin = certs.Authority(account.ca.certificate, ec.generate_private_key(ec.SECP256R1()))
    # The service would not take it, so it is put there.
    list_id = imported(account, foreign(account.ca, []))
    [stored] = [crl for crl in account.emulator.world.crls.values() if crl.id == list_id]
    stored.data = foreign(twin, [1])
    assert "its key did not sign it" in one_line(account.revoke("--serial=1"), 4)


def test_list_of_another_ca_is_named_and_left_alone(account: Account) -> None:
    other = certs.make_ca("Other CA")
    arn, [anchor] = account.emulator.trust_anchor_arn, account.emulator.world.trust_anchors.values()
    anchor.certificates.append(other.certificate)
    theirs = foreign(other, [1, 2])
    imported(account, theirs)
    machine = account.machine()
    outcome = account.revoke(machine.path)
    assert outcome.status == 0
    assert "CN=Other CA" in outcome.out
    assert [each["crlData"] == theirs for each in account.lists()].count(True) == 1
    assert {each["trustAnchorArn"] for each in account.lists()} == {arn}
    assert account.credentials(machine).status == 5


def test_of_several_lists_of_a_ca_the_one_with_the_highest_number_is_continued(account: Account) -> None:
    imported(account, foreign(account.ca, [1], number=3))
    list_id = imported(account, foreign(account.ca, [1, 2], number=4))
    outcome = account.revoke("--serial=3")
    assert (outcome.status, "number 3" in outcome.out) == (0, True)
    [found] = [each for each in account.lists() if each["crlId"] == list_id]
    assert {entry.serial_number for entry in x509.load_pem_x509_crl(found["crlData"])} == {1, 2, 3}


def test_certificate_of_another_ca_is_refused(account: Account) -> None:
    stranger = account.machine("stranger", certs.make_ca("Other CA"))
    error = one_line(account.revoke(stranger.path), 4)
    assert "was issued by CN=Other CA" in error
    assert account.lists() == []


def test_ca_that_the_trust_anchor_does_not_have_is_refused(account: Account) -> None:
    other = certs.make_ca("Other CA")
    (account.folder / "other.pem").write_bytes(other.pem)
    error = one_line(account.revoke("--serial=1", ca=account.folder / "other.pem"), 4)
    assert "is not in trust anchor" in error
    assert "CN=Example CA" in error


def test_key_of_another_ca_is_refused_before_anything_is_sent(account: Account) -> None:
    key = certs.write_key(account.folder / "other.key", certs.make_ca().key)
    error = one_line(account.revoke("--serial=1", ca_key=key), 3)
    assert "ca.pem" in error
    assert account.lists() == []


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"ca_key": None}, "--ca-key is missing"),
        ({"ca": None}, "--ca is missing"),
        ({"trust_anchor_arn": None}, "--trust-anchor-arn is missing"),
        ({"trust_anchor_arn": "arn:aws:iam::123456789012:role/web"}, "role ARN"),
        ({"profile": "web"}, "both name a trust anchor"),
        ({"reason": "anger"}, "--reason is 'anger'"),
        ({"days": "0"}, "--days is '0'"),
    ],
)
def test_wrong_flags_exit_with_status_2(account: Account, instead: dict[str, Any], words: str) -> None:
    assert words in one_line(account.revoke("--serial=1", **instead), 2)


def test_nothing_to_revoke_exits_with_status_2(account: Account) -> None:
    assert "nothing was given to revoke" in one_line(account.revoke(), 2)


def test_trust_anchor_comes_from_a_profile(account: Account) -> None:
    machine = account.machine()
    account.call("profile", "add", "web", *account.flags(machine))
    assert account.revoke(machine.path, "--profile=web", trust_anchor_arn=None).status == 0
    assert account.revoked() == {machine.serial}


def test_trust_anchor_that_does_not_exist_exits_with_status_5(account: Account) -> None:
    arn = account.emulator.trust_anchor_arn[:-4] + "abcd"
    assert "rolesanywhere:GetTrustAnchor" in one_line(account.revoke("--serial=1", trust_anchor_arn=arn), 5)


def test_plan_changes_nothing_and_needs_no_key(account: Account) -> None:
    machine = account.machine()
    outcome = account.revoke(machine.path, "--plan", answer="", ca_key="/absent")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"decimal {machine.serial}" in outcome.out
    assert "number 1, entries: 1, good until" in outcome.out
    assert account.lists() == []


@pytest.mark.slow
def test_json_names_the_list(account: Account) -> None:
    machine = account.machine()
    shown = read(account.revoke(machine.path, "--output=json", "--days=10"), "aws revoke", alone=True)
    assert shown["revoked"] == [f"{machine.serial:x}"]
    assert (shown["crlId"], shown["crlNumber"], shown["entries"]) == (account.lists()[0]["crlId"], 1, 1)
    end = datetime.fromisoformat(shown["nextUpdate"])
    assert abs(end - datetime.now(UTC) - timedelta(days=10)) < timedelta(minutes=5)


def test_renew_makes_a_list_with_the_same_entries_and_a_later_end(account: Account) -> None:
    imported(account, foreign(account.ca, [1, 2]))
    assert account.revoke("--renew").status == 0
    assert account.revoked() == {1, 2}
    made = account.only_list()
    assert made.next_update_utc
    assert (number_of(made), made.next_update_utc > datetime.now(UTC) + timedelta(days=300)) == (8, True)


@pytest.mark.slow
@pytest.mark.parametrize(("entries", "status"), [(4000, 0), (4900, 0), (5850, 1)])
def test_size_is_a_warning_at_80_percent_and_an_error_above_the_limit(
    account: Account, entries: int, status: int
) -> None:
    old = foreign(account.ca, list(range(1 << 150, (1 << 150) + entries)))
    list_id = imported(account, foreign(account.ca, []))
    [stored] = [crl for crl in account.emulator.world.crls.values() if crl.id == list_id]
    stored.data = old
    outcome = account.revoke("--serial=1")
    assert outcome.status == status
    if status:
        assert f"takes {revocation.MAX_BYTES}" in one_line(outcome, 1)
        assert account.lists()[0]["crlData"] == old
    else:
        assert ("warning" in outcome.err) == (len(account.lists()[0]["crlData"]) >= 240_000) == (entries > 4500)


@pytest.mark.parametrize("operation", CALLS)
def test_call_without_permission_is_named_and_the_next_run_completes(account: Account, operation: str) -> None:
    machine = account.machine()
    enabled = operation == "UpdateCrl"
    if operation in ("UpdateCrl", "EnableCrl"):
        imported(account, foreign(account.ca, [1]), enabled=enabled)
    with interrupted(operation, denied(operation)):
        outcome = account.revoke(machine.path)
    if operation == "GetCrl":  # ListCrls shows that the new list is in force.
        assert outcome.status == 0
    else:
        assert f"lacks rolesanywhere:{operation}" in one_line(outcome, 5)
    assert ("is there and not enabled" in outcome.err) == (operation == "EnableCrl")
    assert account.revoke(machine.path).status == 0
    assert account.credentials(machine).status == 5
    assert machine.serial in account.revoked()


@pytest.mark.parametrize(
    ("operation", "after", "words"),
    [
        ("ImportCrl", False, "Nothing is revoked: the service has no CRL of this CA"),
        ("UpdateCrl", False, "In force is CRL 'theirs' (ID), number 7, not the new one"),
        ("ImportCrl", True, ""),
        ("UpdateCrl", True, ""),
    ],
)
def test_failure_says_which_list_is_in_force_and_a_lost_answer_is_no_failure(
    account: Account, operation: str, after: bool, words: str
) -> None:
    list_id = imported(account, foreign(account.ca, [1])) if operation == "UpdateCrl" else "ID"
    machine = account.machine()
    error = EndpointConnectionError(endpoint_url="http://127.0.0.1")
    with interrupted(operation, error, after=after):
        outcome = account.revoke(machine.path)
    assert outcome.status == (0 if after else 6)
    assert (account.credentials(machine).status == 5) == after
    assert words.replace("ID", list_id) in outcome.err


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_list_is_imported_once_when_the_connection_ends_after_that(account: Account, fault: str) -> None:
    machine = account.machine()
    account.emulator.misbehave(Fault(fault), action="rolesanywhere:ImportCrl")
    assert account.revoke(machine.path).status == 0
    assert len(account.lists()) == 1
    assert account.credentials(machine).status == 5


def test_failure_says_when_the_list_in_force_is_not_known(account: Account) -> None:
    imported(account, foreign(account.ca, [1]))
    with interrupted("GetCrl", EndpointConnectionError(endpoint_url="http://127.0.0.1")):
        error = one_line(account.revoke(account.machine().path), 6)
    assert "It is not known whether the new CRL is in force (rolesanywhere:GetCrl of" in error


def test_certificate_in_a_list_that_has_expired_is_said_to_be(account: Account) -> None:
    builder = x509.CertificateRevocationListBuilder().issuer_name(account.ca.certificate.subject)
    begin, end = datetime.now(UTC) - timedelta(days=9), datetime.now(UTC) - timedelta(days=1)
    entry = x509.RevokedCertificateBuilder().serial_number(1).revocation_date(begin).build()
    builder = builder.last_update(begin).next_update(end).add_revoked_certificate(entry)
    imported(account, builder.sign(account.ca.key, SHA256()).public_bytes(Encoding.PEM))
    outcome = account.revoke("--serial=1")
    assert outcome.status == 0
    assert f"expired at {end:%Y-%m-%dT%H:%M:%SZ}: make the next with --renew" in outcome.out
    assert "expired at" not in account.revoke("--serial=1", "--renew").out


def test_other_trust_anchors_of_the_ca_are_said_to_need_a_list_of_their_own(account: Account) -> None:
    machine, one = account.machine(), account.emulator
    other = one.trust_anchor_arn.replace("00000000-", "00000001-")
    one.world.trust_anchors[other] = TrustAnchor(other, [account.ca.certificate])
    assert "Another trust anchor with" in account.revoke(machine.path).out
    assert account.credentials(machine).status == 5
    flags = [flag.replace(one.trust_anchor_arn, other) for flag in account.flags(machine)]
    assert account.call("credential-process", *flags).status == 0


MAY_FOLLOW = ". AWS may still act on what was sent: run the command again to find out"


@pytest.mark.parametrize(
    ("operation", "after", "words"),
    [
        ("ListCrls", False, "Nothing was revoked"),
        ("ImportCrl", False, f"Nothing is revoked: the service has no CRL of this CA{MAY_FOLLOW}"),
        ("ImportCrl", True, "number 1, the new one"),
        ("UpdateCrl", False, f"In force is CRL 'theirs' (ID), number 7, not the new one{MAY_FOLLOW}"),
        ("UpdateCrl", True, "In force is CRL 'theirs' (ID), number 8, the new one"),
    ],
)
def test_interruption_says_which_list_is_in_force(account: Account, operation: str, after: bool, words: str) -> None:
    list_id = imported(account, foreign(account.ca, [1])) if operation == "UpdateCrl" else "ID"
    with interrupted(operation, KeyboardInterrupt(), after=after):
        error = one_line(account.revoke("--serial=2"), 130)
    assert error.startswith("hwsigner: interrupted. ")
    assert error.endswith(f"{words.replace('ID', list_id)}\n")


def test_interruption_while_the_key_signs_says_that_nothing_was_sent(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_id = imported(account, foreign(account.ca, [1]))
    monkeypatch.setattr(Draft, "sign", Mock(side_effect=KeyboardInterrupt))
    error = one_line(account.revoke("--serial=2"), 130)
    in_force = f"In force is CRL 'theirs' ({list_id}), number 7, not the new one"
    assert error == f"hwsigner: interrupted before anything was sent. {in_force}\n"


def test_second_interruption_says_that_the_list_in_force_is_not_known(account: Account) -> None:
    imported(account, foreign(account.ca, [1]))
    with interrupted("UpdateCrl", KeyboardInterrupt()), interrupted("GetCrl", KeyboardInterrupt(), skip=1):
        error = one_line(account.revoke("--serial=2"), 130)
    assert "It is not known whether the new CRL is in force (interrupted again)" in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_process_says_which_list_is_in_force(account: Account, number: signal.Signals) -> None:
    """The answer to UpdateCrl never comes."""
    list_id = imported(account, foreign(account.ca, [1]))
    account.emulator.misbehave(Fault("stall"), action="rolesanywhere:UpdateCrl")
    process = subprocess.Popen(
        [sys.executable, "-m", "hwsigner", *account.command("--serial=2")], stderr=subprocess.PIPE, text=True
    )
    while not [each for each in account.emulator.requests if each.action == "rolesanywhere:UpdateCrl"]:
        time.sleep(0.01)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error == f"hwsigner: interrupted. In force is CRL 'theirs' ({list_id}), number 8, the new one\n"


@pytest.mark.parametrize("operation", ["ImportCrl", "UpdateCrl", "EnableCrl"])
@pytest.mark.parametrize("after", [False, True])
def test_run_after_one_that_was_killed_completes_it(account: Account, operation: str, after: bool) -> None:
    machine = account.machine()
    if operation != "ImportCrl":
        imported(account, foreign(account.ca, [1]), enabled=False)
    with interrupted(operation, KeyboardInterrupt(), after=after):
        assert account.revoke(machine.path).status == 130
    assert account.revoke(machine.path).status == 0
    assert account.revoked() == {machine.serial} | (set() if operation == "ImportCrl" else {1})
    assert account.credentials(machine).status == 5


def test_list_that_changes_meanwhile_is_not_overwritten(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    list_id = imported(account, foreign(account.ca, [1]))
    later = foreign(account.ca, [1, 2], number=8)

    def slow(*arguments: Any, **more: Any) -> Any:
        account.api.update_crl(crlId=list_id, crlData=later)
        return draft_list(*arguments, **more)

    monkeypatch.setattr(revocation, "draft_list", slow)
    assert "has changed since it was read" in one_line(account.revoke("--serial=3"), 1)
    assert account.lists()[0]["crlData"] == later


def test_clock_behind_the_list_is_refused(account: Account) -> None:
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(account.ca.certificate.subject)
    builder = builder.last_update(now + timedelta(days=1)).next_update(now + timedelta(days=9))
    imported(account, builder.sign(account.ca.key, SHA256()).public_bytes(Encoding.PEM))
    assert "Fix the clock" in one_line(account.revoke("--serial=1"), 4)


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_list_of_the_same_name_and_another_key_identifier_is_another_cas(account: Account) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    old, new = (rolled(account.ca.certificate.subject, each) for each in (account.ca.key, key))
    [anchor] = account.emulator.world.trust_anchors.values()
    anchor.certificates[:] = [old, new]
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(account.ca.key.public_key())
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(old.subject).add_extension(own, critical=False)
    builder = builder.last_update(now - timedelta(days=1)).next_update(now + timedelta(days=9))
    imported(account, builder.sign(account.ca.key, SHA256()).public_bytes(Encoding.PEM))
    (account.folder / "new.pem").write_bytes(certs.pem(new))
    ca_key = certs.write_key(account.folder / "new.key", key)
    assert account.revoke("--serial=5", ca=account.folder / "new.pem", ca_key=ca_key).status == 0
    assert len(account.lists()) == 2


def rolled(name: x509.Name, key: Any) -> x509.Certificate:
    """Return a CA's certificate with a subjectKeyIdentifier."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - certs.DAY).not_valid_after(now + certs.DAY)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, SHA256())


def test_broken_list_is_a_warning_and_left_alone(account: Account) -> None:
    list_id = imported(account, foreign(account.ca, []))
    [stored] = [crl for crl in account.emulator.world.crls.values() if crl.id == list_id]
    stored.data = b"nothing"
    outcome = account.revoke("--serial=1")
    assert (outcome.status, outcome.err.count("warning: "), list_id in outcome.err) == (0, 1, True)
    assert stored.data == b"nothing"


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "status"), [(b"yes\n", 0), (b"y\n", 1)])
def test_user_is_asked_on_the_terminal(account: Account, tmp_path: Path, typed: bytes, status: int) -> None:
    one = account.emulator
    flags = [f"--ca-key={tmp_path / 'ca.key'}", f"--ca={tmp_path / 'ca.pem'}", f"--endpoint={one.url}"]
    command = [sys.executable, "-m", "hwsigner", "aws", "revoke", "--serial=1000", "--trust-anchor-arn"]
    keys = {"AWS_ACCESS_KEY_ID": planes.KEY[0], "AWS_SECRET_ACCESS_KEY": planes.KEY[1]}
    terminal = Terminal(tmp_path)
    process = terminal.start(*command, one.trust_anchor_arn, *flags, **keys)
    assert "revoke serial number 03:E8 (decimal 1000)" in terminal.shown_until("Type yes to do it: ")
    assert account.lists() == []
    terminal.type(typed)
    _, err = process.communicate(timeout=60)
    terminal.close()
    assert (process.returncode, len(account.lists())) == (status, 1 - status)
    assert (b"nothing was revoked" in err) == bool(status)


class TestHardware:
    @pytest.mark.slow
    def test_ca_key_in_a_token_signs_with_the_pin(self, account: Account, softhsm: InProcessSoftHSM) -> None:
        softhsm.generate("ca", b"\x01", "rsa:2048")
        softhsm.reload()
        pin = account.folder / "pin"
        pin.touch(0o600)
        pin.write_text(softhsm.pin)
        self.revoke(account, softhsm.uri("ca", pin), softhsm.public_key(b"\x01"))

    @pytest.mark.slow
    def test_ca_key_in_a_tpm_signs(self, account: Account, swtpm: SoftTPM) -> None:
        path = account.folder / "tpm.key"
        swtpm.create_key_file(path, "EC:P-256")
        self.revoke(account, f"tpm2:path={path}?tcti={swtpm.tcti}", swtpm.public_key(path))

    def revoke(self, account: Account, uri: str, public_key: bytes) -> None:
        """Revoke twice with a CA whose key is at a URI."""
        ca = certs.issue(account.ca, public_key, certs.Shape("Hardware CA", is_ca=True))
        (account.folder / "ca.pem").write_bytes(certs.pem(ca))
        [anchor] = account.emulator.world.trust_anchors.values()
        anchor.certificates[:] = [ca]
        for serial in (1, 2):
            outcome = account.revoke(f"--serial={serial}", ca_key=uri)
            assert (outcome.status, outcome.err) == (0, "")
        assert (account.revoked(), number_of(account.only_list())) == ({1, 2}, 2)
