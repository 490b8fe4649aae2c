"""From the kernel's TPM to a role and to the next certificate: registrar, enrolment, system's agent and renewal.

It runs after test_units.py, which installs and starts the units.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from machine.guest.commands import BIN, CONFIG, ENDPOINT, credentials, done, run
from machine.guest.first_boot.setting_up import HWSIGNER, PKI, REQUESTS, Machine

SUBJECT = "CN=hosted,OU=web"
KEY, LEAF = Path("/etc/pki/hosted.tss2"), Path("/etc/pki/hosted.crt")
ISSUE = Path("/usr/local/bin/issue")
USER, SEALING_KEYS = "hwsigner-registrar", Path("/var/lib/hwsigner-registrar/keys")
NEW = "-days 30"


@pytest.fixture(scope="module")
def registrar(machine: Machine) -> str:
    """Set a registrar up as docs/how-to/registrar.md has it, and return its URL."""
    (PKI / "ca.key").write_bytes(machine.ca.key_pem)
    (PKI / "ca.key").chmod(0o640)
    done("chgrp", USER, PKI / "ca.key")
    authority = f"-CA {PKI}/ca.pem -CAkey {PKI}/ca.key"
    ISSUE.write_text(f"#!/bin/sh\nexec openssl x509 -req {authority} -copy_extensions copy $(cat {PKI}/validity)\n")
    ISSUE.chmod(0o755)
    shutil.copytree("/tests/roots", PKI / "roots")
    tls, key = PKI / "tls.pem", PKI / "tls.key"
    names = ("-subj", "/CN=registrar", "-addext", "subjectAltName=IP:127.0.0.1")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", key)
    done("openssl", "req", "-x509", *new_key, *names, "-out", tls)
    pair = PKI / "registrar.pem"
    pair.touch(mode=0o600)
    pair.write_text(tls.read_text() + key.read_text())
    (PKI / "registrar.env").write_text(f"FLAGS=--issuer-command {ISSUE}\n")
    done("install", "-d", "-m", "0700", "-o", USER, "-g", USER, SEALING_KEYS.parent)
    done(HWSIGNER, "registrar", "rotate-keys", user=USER)
    chip = done(HWSIGNER, "attest", "--ek").strip()
    done(HWSIGNER, "registrar", "allow", chip, f"--subject={SUBJECT}")
    done("systemctl", "enable", "--now", "hwsigner-registrar.service")
    return "https://127.0.0.1:8443"


def test_root_enrols_the_tpm_and_the_agent_serves_the_new_profile(machine: Machine, registrar: str) -> None:
    (PKI / "validity").write_text(past_three_quarters())
    KEY.parent.mkdir(exist_ok=True)
    issuer = ("--issuer=registrar", f"--issuer-url={registrar}", f"--issuer-ca-file={PKI}/tls.pem")
    names = (f"--private-key=tpm2:path={KEY}", f"--subject={SUBJECT}", f"--endpoint={ENDPOINT}")
    done(HWSIGNER, "enroll", "hosted", "--system", *names, *issuer, *machine.flags)
    assert (KEY.group(), KEY.stat().st_mode & 0o777) == ("hwsigner", 0o640)
    profile = "[profile.hosted]\n"
    CONFIG.write_text(CONFIG.read_text().replace(profile, f'{profile}allow-users = ["alice"]\n'))
    done("systemctl", "reload", "hwsigner-agent.service")
    assert "SessionToken" in credentials("hosted", "alice")
    assert sessions(serial()) == 1


def test_agent_and_registrar_cannot_use_what_is_the_other_s(registrar: str) -> None:
    for secret in (PKI / "ca.key", SEALING_KEYS):
        done("cat", secret, user=USER)
        assert "Permission denied" in run("cat", secret, user="hwsigner").stderr
    assert "Permission denied" in run("cat", KEY, user=USER).stderr
    refused = run(BIN / "hwsigner-credentials", "--profile", "web", user=USER)
    assert (refused.returncode, refused.stdout) == (7, "")
    assert "allow-users" in refused.stderr


def test_timer_renews_the_certificate_and_the_agent_uses_the_new_one(machine: Machine) -> None:
    old = serial()
    (PKI / "validity").write_text(NEW)
    done("systemctl", "enable", "--now", "hwsigner-renew@hosted.timer")
    assert "hwsigner-renew@hosted.timer" in done("systemctl", "list-timers", "--no-pager")
    done("systemctl", "start", "hwsigner-renew@hosted.service")
    new = serial()
    assert new != old
    # The renewal has tried it once.
    assert sessions(new) == 1
    done(HWSIGNER, "agent", "refresh", "hosted", "--system")
    assert "SessionToken" in credentials("hosted", "alice")
    assert sessions(new) == 2
    assert (CONFIG.group(), CONFIG.stat().st_mode & 0o777) == ("hwsigner", 0o640)


def test_next_run_of_the_service_changes_nothing() -> None:
    new = serial()
    done("systemctl", "start", "hwsigner-renew@hosted.service")
    assert serial() == new


def test_machine_that_the_policy_no_longer_names_fails_to_renew_and_keeps_its_certificate(machine: Machine) -> None:
    new = serial()
    (PKI / "registrar.toml").write_text("")
    refused = run(HWSIGNER, "renew", "hosted")
    assert (refused.returncode, serial()) == (5, new)
    assert "policy does not give this chip" in refused.stderr
    audit = done("journalctl", "--no-pager", "-o", "cat", "-p", "warning", "-u", "hwsigner-registrar.service")
    assert json.loads(audit.splitlines()[-1])["decision"] == "refused"


def past_three_quarters() -> str:
    """Return flags for a certificate that has lived nine tenths of its life."""
    now = datetime.now(UTC)
    begin, end = (f"{now + timedelta(days=days):%Y%m%d%H%M%SZ}" for days in (-90, 10))
    return f"-not_before {begin} -not_after {end}"


def serial() -> int:
    """Return the serial number of the certificate in use."""
    return x509.load_pem_x509_certificates(LEAF.read_bytes())[0].serial_number


def sessions(of: int) -> int:
    """Return how many sessions the service has created with a certificate."""
    entries = [json.loads(line) for line in REQUESTS.read_text().splitlines()]
    created = [entry for entry in entries if entry["action"] == "rolesanywhere:CreateSession" and entry["accepted"]]
    return sum(f"Credential={of}/" in dict(entry["headers"])["Authorization"] for entry in created)
