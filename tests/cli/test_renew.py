"""`hwsigner renew`: the old certificate is in use until the service has accepted the new one."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import certs
from emulators import InProcessSoftHSM
from enrolments import Enrolment, refused, succeeds
from hwsigner._system import systemd
from hwsigner.emulator import Fault
from hwsigner.enrolment import pace, profile, renewal
from judges import needs_systemd
from scene import Outcome
from softhsm.tpm import SoftTPM


@pytest.fixture
def enrolled(enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Enrolment:
    """A profile that was enrolled, with a key and a certificate in files."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    succeeds(enrolment.run())
    return enrolment


def run(enrolled: Enrolment, *more: str) -> Outcome:
    return enrolled.scene.call("renew", "web", *more)


def leaf(enrolled: Enrolment) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(enrolled.profile()["certificate"]).read_bytes())


def age(enrolled: Enrolment, begin: float, end: float) -> x509.Certificate:
    """Replace the certificate by one that began and ends some days ago, and return it."""
    shape = certs.Shape(begin=certs.ago(begin), end=certs.ago(end))
    old = x509.load_pem_x509_certificate(enrolled.certificate.read_bytes())
    aged = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=shape.begin,
        not_valid_after=shape.end,
        extensions=list(old.extensions),
    ).sign(enrolled.scene.ca.key, shape.hash)
    enrolled.certificate.write_bytes(certs.pem(aged))
    return aged


class TestWay:
    @pytest.mark.slow
    def test_key_stays_and_gets_a_certificate_with_the_same_names(self, enrolled: Enrolment) -> None:
        old, key = age(enrolled, 2, -1), Path(enrolled.key).read_bytes()
        rows = succeeds(run(enrolled))
        assert rows["Renewed"].startswith("CN=bamboo-01,OU=devops, expires ")
        new = leaf(enrolled)
        assert new.serial_number != old.serial_number
        assert (new.subject, new.public_key()) == (old.subject, old.public_key())
        assert Path(enrolled.key).read_bytes() == key
        assert enrolled.gets_credentials()

    @pytest.mark.slow
    def test_new_key_and_its_certificate_are_in_use_together(self, enrolled: Enrolment) -> None:
        age(enrolled, 2, -1)
        before, other = enrolled.profile(), enrolled.home / "keys" / "next.key"
        rows = succeeds(run(enrolled, "--new-key", str(other)))
        assert rows["Old"].startswith(f"key  {enrolled.key} is no longer used")
        after = enrolled.profile()
        assert (after["private-key"], after["certificate"]) == (str(other), str(other.with_suffix(".crt")))
        key = load_pem_private_key(other.read_bytes(), None)
        assert leaf(enrolled).public_key() == key.public_key()
        assert Path(before["private-key"]).exists()
        assert enrolled.gets_credentials()

    @pytest.mark.slow
    def test_new_key_may_get_a_certificate_that_ends_earlier(self, enrolled: Enrolment) -> None:
        age(enrolled, 2, -3000)  # Its key may have been copied: that must not go on for years.
        succeeds(run(enrolled, f"--new-key={enrolled.home / 'keys' / 'next.key'}"))
        assert enrolled.gets_credentials()

    @pytest.mark.slow
    def test_key_in_use_is_not_called_the_old_one_when_new_key_names_it(self, enrolled: Enrolment) -> None:
        rows = succeeds(run(enrolled, "--new-key", f"file:{enrolled.key}"))
        assert rows.keys() == {"Renewed", "Profile"}
        assert enrolled.gets_credentials()

    @pytest.mark.slow
    def test_profile_set_up_by_hand_keeps_the_names_of_its_certificate(self, enrolled: Enrolment) -> None:
        succeeds(enrolled.again("--dns", "a.example", "--uri", "spiffe://a/b"))
        old = age(enrolled, 1, -1)
        text = enrolled.config.read_text()
        kept = [line for line in text.splitlines() if line.partition(" = ")[0] not in ("subject", "dns", "uri")]
        enrolled.config.write_text("\n".join(kept) + "\n")
        succeeds(run(enrolled))
        new = leaf(enrolled)
        assert new.serial_number != old.serial_number
        for one in (old, new):
            names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == ["a.example"]
            assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://a/b"]

    @pytest.mark.slow
    def test_certificate_in_a_token_is_renewed(
        self, enrolment: Enrolment, softhsm: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pin = enrolment.scene.write("pin", softhsm.pin.encode())
        enrolment.key = f"pkcs11:token={softhsm.label};object=renew?module-path={softhsm.module}&pin-source=file:{pin}"
        succeeds(enrolment.run())
        enrolment.config.write_text(enrolment.config.read_text().replace("-days 2", "-days 3"))
        succeeds(run(enrolment, f"--new-key={enrolment.key.replace('object=renew', 'object=renewed')}"))
        assert "object=renewed" in enrolment.profile()["private-key"]
        assert enrolment.gets_credentials()

    @pytest.mark.slow
    def test_certificate_in_a_tpm_is_renewed(self, enrolment: Enrolment, cleaned_tpm: SoftTPM) -> None:
        enrolment.key = "handle:0x81000dee"
        succeeds(
            enrolment.run(
                f"--tcti={cleaned_tpm.tcti}", "--nv-index=0x01500dee", f"--issuer-command={enrolment.issuer(days='1')}"
            )
        )
        text = enrolment.config.read_text()
        enrolment.config.write_text(text.replace("'-days' '1'", "-days 3").replace("-days 1", "-days 3"))
        succeeds(run(enrolment))
        assert enrolment.issued == 2
        assert enrolment.gets_credentials()


class TestDue:
    @pytest.mark.parametrize(("begin", "end", "is_due"), [(0, -10, False), (6.5, -3.5, False), (7.6, -2.4, True)])
    def test_timer_renews_from_two_thirds_to_three_quarters_of_the_life(
        self, enrolled: Enrolment, begin: float, end: float, is_due: bool
    ) -> None:
        old = age(enrolled, begin, end)
        done = run(enrolled, "--if-due")
        # What the issuer gives ends in two days: no later than the old one.
        assert done.status == (4 if is_due else 0)
        assert "no later than the one in use" in done.err if is_due else not done.err
        assert leaf(enrolled) == old

    def test_certificate_that_expires_last_counts_if_there_are_several(self, enrolled: Enrolment) -> None:
        new = enrolled.certificate.read_bytes()
        age(enrolled, 10, 1)
        enrolled.certificate.write_bytes(enrolled.certificate.read_bytes() + new)
        assert run(enrolled, "--if-due") == Outcome(0, "", "")
        assert enrolled.issued == 1

    def test_expired_certificate_is_renewed(self, enrolled: Enrolment) -> None:
        old = age(enrolled, 10, 1)
        succeeds(run(enrolled, "--if-due"))
        assert leaf(enrolled).serial_number != old.serial_number

    def test_timer_waits_after_a_failure_and_a_person_does_not(self, enrolled: Enrolment) -> None:
        old = age(enrolled, 10, -1)
        enrolled.scene.emulator.misbehave(Fault.parse("deny*2"))
        refused(run(enrolled, "--if-due"), 5, "Access denied")
        assert run(enrolled, "--if-due") == Outcome(0, "", "")
        assert leaf(enrolled) == old
        refused(run(enrolled), 5, "Access denied")
        succeeds(run(enrolled))
        assert run(enrolled, "--if-due") == Outcome(0, "", "")

    def test_timer_waits_after_a_fault_of_our_own_too(
        self, enrolled: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = age(enrolled, 10, -1)
        with monkeypatch.context() as patched:
            patched.setattr(renewal, "_check_later", lambda *_: 1 // 0)
            refused(run(enrolled, "--if-due"), 1, "internal error: ZeroDivisionError")
        assert run(enrolled, "--if-due") == Outcome(0, "", "")
        assert leaf(enrolled) == old


class TestTimer:
    """The issuer gives two days, which are few here."""

    @pytest.fixture
    def drop_in(self, enrolled: Enrolment, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(pace, "_UNIT_STEP", 86400)
        monkeypatch.setattr(systemd, "_BOOTED", "/")
        monkeypatch.setattr(pace, "_reload", lambda *_, **__: None)
        return enrolled.home / "xdg" / "systemd" / "user" / "hwsigner-renew@web.timer.d" / "50-hwsigner.conf"

    @needs_systemd
    def test_renewal_has_the_timer_look_often_enough(self, enrolled: Enrolment, drop_in: Path) -> None:
        age(enrolled, 2, -1)
        assert succeeds(run(enrolled))["Timer"] == f"{drop_in}: a look every 4320 s, once the timer is enabled"
        assert "OnUnitInactiveSec=2160s" in drop_in.read_text()

    @needs_systemd
    def test_next_look_sets_the_timer_if_the_renewal_did_not(self, enrolled: Enrolment, drop_in: Path) -> None:
        assert run(enrolled, "--if-due") == Outcome(0, "", "")
        assert drop_in.exists()
        age(enrolled, 10, -90)
        assert run(enrolled, "--if-due") == Outcome(0, "", "")
        assert not drop_in.exists()

    @needs_systemd
    def test_timer_that_can_not_be_set_is_warned_of_and_the_renewal_done(
        self, enrolled: Enrolment, drop_in: Path
    ) -> None:
        old = age(enrolled, 2, -1)
        drop_in.parents[2].write_text("")
        done = run(enrolled)
        assert (done.status, done.err.count("\n")) == (0, 1)
        assert "warning: the timer can't be set to look every 4320 s" in done.err
        assert leaf(enrolled) != old
        assert run(enrolled, "--if-due").status == 0

    def test_certificate_that_lives_too_short_is_not_put_in_place(
        self, enrolled: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = age(enrolled, 2, -1)
        monkeypatch.setattr(pace, "_SHORTEST_LIFE", 3 * 86400)
        refused(run(enrolled), 4, "lives 172800 s", "Nothing was installed")
        assert leaf(enrolled) == old
        assert enrolled.gets_credentials()


class TestRefusals:
    @pytest.mark.slow
    def test_certificate_that_the_service_refuses_is_not_put_in_place(self, enrolled: Enrolment) -> None:
        old, config = age(enrolled, 2, -1), enrolled.config.read_bytes()
        enrolled.scene.emulator.misbehave(Fault.parse("deny"))
        refused(run(enrolled), 5, "tried and not put in place", "the old one stays in use", "Access denied")
        assert (leaf(enrolled), enrolled.config.read_bytes()) == (old, config)
        assert enrolled.gets_credentials()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("before", "status", "problem"),
        [
            ("exit 75", 5, "has no certificate yet"),
            ("echo no >&2; exit 1", 5, "no"),
            ("cat ca.pem; exit 0", 4, "is for another key"),
        ],
    )
    def test_issuer_that_misbehaves_changes_nothing(
        self, enrolled: Enrolment, before: str, status: int, problem: str
    ) -> None:
        old = age(enrolled, 2, -1)
        before = before.replace("ca.pem", str(enrolled.home / "ca.pem"))
        succeeds(enrolled.scene.call("profile", "add", "web", "--replace", *_flags(enrolled, before)))
        refused(run(enrolled), status, problem)
        assert leaf(enrolled) == old
        assert enrolled.gets_credentials()

    @pytest.mark.slow
    def test_unreachable_service_leaves_the_old_certificate(
        self, enrolled: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = age(enrolled, 2, -1)
        text = enrolled.config.read_text()
        enrolled.config.write_text(text.replace(enrolled.scene.emulator.url, "http://127.0.0.1:9"))
        refused(run(enrolled), 6, "the old one stays in use")
        assert leaf(enrolled) == old

    @pytest.mark.slow
    @pytest.mark.parametrize("end", [-1 / 24, 1])
    @pytest.mark.parametrize("fault", ["unavailable", "unreachable"])
    def test_certificate_without_a_trial_is_better_than_one_that_expires(
        self, enrolled: Enrolment, end: float, fault: str
    ) -> None:
        old, text = age(enrolled, 10, end), enrolled.config.read_text()
        if fault == "unreachable":
            enrolled.config.write_text(text.replace(enrolled.scene.emulator.url, "http://127.0.0.1:9"))
        else:
            enrolled.scene.emulator.misbehave(Fault.parse("fail*always:status=503"))
        done = run(enrolled, "--if-due")
        assert (done.status, done.err.count("\n")) == (0, 1)
        assert "warning: the new certificate is in use without a trial" in done.err
        assert leaf(enrolled).serial_number != old.serial_number
        enrolled.config.write_text(text)
        enrolled.scene.emulator.clear_faults()
        assert enrolled.gets_credentials()

    def test_refused_certificate_is_not_put_in_place_even_at_the_end(self, enrolled: Enrolment) -> None:
        old = age(enrolled, 10, 1)
        enrolled.scene.emulator.misbehave(Fault.parse("deny"))
        refused(run(enrolled), 5, "tried and not put in place", "Access denied")
        assert leaf(enrolled) == old

    def test_certificates_of_several_keys_are_an_error(self, enrolled: Enrolment) -> None:
        other = certs.issue(enrolled.scene.ca, certs.make_ca().key.public_key(), certs.Shape("other"))
        enrolled.certificate.write_bytes(certs.pem(other) + enrolled.certificate.read_bytes())
        refused(run(enrolled), 4, "certificates of 2 keys", "name one alone")
        assert enrolled.issued == 1

    def test_profile_without_an_issuer_or_a_certificate_is_an_error(self, enrolled: Enrolment) -> None:
        flags = [flag for flag in _flags(enrolled, "") if not flag.startswith("--issuer")]
        succeeds(enrolled.scene.call("profile", "add", "web", "--replace", *flags))
        refused(run(enrolled), 2, "no issuer", "hwsigner enroll web and --issuer NAME")
        refused(run(enrolled, "--if-due"), 2, "no issuer")  # Long before the certificate is due.
        enrolled.config.write_text('[profile.web]\nsubject = "CN=a"\n')
        refused(run(enrolled), 2, "nothing to renew", "hwsigner enroll web")
        refused(enrolled.scene.call("renew", "absent"), 2, "no profile 'absent'")

    def test_two_renewals_at_once_wait_for_each_other(
        self, enrolled: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(profile, "LOCK_TIMEOUT", 0.1)
        with profile.profile_lock("web", str(enrolled.config)):
            refused(run(enrolled), 7, "another hwsigner enroll or renew of web is running")
        monkeypatch.setattr(profile, "_RENEWAL_SECONDS", 0.1)
        with profile.renewal_lock(str(enrolled.config)):
            refused(run(enrolled), 7, "another hwsigner renew is running")

    def test_look_does_not_wait_for_the_renewal_of_another_profile(
        self, enrolled: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(profile, "_RENEWAL_SECONDS", 0.1)
        with profile.renewal_lock(str(enrolled.config)):
            assert run(enrolled, "--if-due").status == 0
            age(enrolled, 10, 1)
            refused(run(enrolled, "--if-due"), 7, "another hwsigner renew is running")


@pytest.mark.slow
@pytest.mark.slow
def test_renewal_that_is_killed_leaves_a_pair_that_works(enrolled: Enrolment) -> None:
    program = [sys.executable, "-m", "hwsigner", "renew", "web"]
    chance = random.Random(7)
    for number in range(12):
        age(enrolled, 2, -1)
        more = ["--new-key", str(enrolled.home / "keys" / f"{number}.key")] if number % 2 else []
        process = subprocess.Popen([*program, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.1, 1.0))
        process.kill()
        process.wait()
        assert enrolled.gets_credentials()
        profile = enrolled.profile()
        enrolled.key = profile["private-key"]
    age(enrolled, 2, -1)  # Else the last one may end no later than the one in use.
    succeeds(run(enrolled))
    assert enrolled.gets_credentials()


def _flags(enrolled: Enrolment, before: str) -> list[str]:
    """Return the flags of the profile, with an issuer that does something before."""
    values = enrolled.profile() | {"issuer-command": enrolled.issuer(before=before), "timeout": "2"}
    return [f"--{name}={value}" for name, value in values.items() if isinstance(value, str)]
