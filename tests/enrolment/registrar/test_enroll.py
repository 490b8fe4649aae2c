"""`hwsigner enroll` with a registrar: one command, from an empty TPM to a certificate that the policy allows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509

import certs
from attestation.chips import Chip
from enrolment.registrar.sites import DNS, SUBJECT, Issuer, Site, tpm
from hwsigner import attestation
from hwsigner.cli import main


@pytest.fixture
def site(chip: Chip, ca: certs.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A registrar that knows a TPM, and a home folder for the machine."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    found = Site(tmp_path, chip.trust, Issuer(ca))
    found.allow(tpm(hashlib.sha256(attestation.endorsement_key(chip.key)).hexdigest(), dns=(DNS,)))
    return found


def enroll(url: str, chip: Chip, folder: Path, *more: str) -> int:
    key = f"--private-key=tpm2:path={folder}/web.tss2"
    names = (f"--subject={SUBJECT}", f"--dns={DNS}")
    issuer = ("--issuer=registrar", f"--issuer-url={url}", "--no-aws-config")
    return main(["enroll", "web", key, f"--tcti={chip.tpm.tcti}", *names, *issuer, *more])


def test_enroll_gets_a_certificate_from_a_registrar(
    site: Site, chip: Chip, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with site.serving() as server:
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        assert enroll(url, chip, tmp_path) == 0, capfd.readouterr().err
        assert enroll(url, chip, tmp_path) == 0, capfd.readouterr().err
        assert site.decisions == ["challenged", "proven", "issued"]
        leaf = (tmp_path / "web.crt").read_bytes()
        assert x509.load_pem_x509_certificate(leaf).subject.rfc4514_string() == SUBJECT
        capfd.readouterr()
        assert enroll(url, chip, tmp_path, "--subject=CN=web-02,OU=web") == 5  # Another machine's name.
        assert capfd.readouterr().err.count("\n") == 1
    assert (tmp_path / "web.crt").read_bytes() == leaf
