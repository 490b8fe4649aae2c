"""Logging in to issuers with the certificate in use, whose key is in a TPM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import certs
import judges
from enrolment.authority import DNS, SUBJECT, URI, requested
from enrolment.bao_servers import Bao
from enrolment.est_servers import EstServer
from hwsigner._identity.certificate import Chain
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.enrolment.issuers import IssuerSettings, open_issuer
from hwsigner.enrolment.steps import KeyToCertify, ensure_key, install, request_certificate, sign_request
from hwsigner.errors import ConfigError, ServiceError, ServiceUnreachableError, UsageError
from hwsigner.key.management import KeyAccess
from ports import reserve_port
from softhsm.tpm import SoftTPM

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Machine:
    """A machine with a key in its TPM."""

    wanted: KeyToCertify

    def enroll(self, name: str, settings: IssuerSettings) -> str:
        """Get a certificate, install it, and return its path."""
        return install(self.wanted.access, self.certify(name, settings)).certificate

    def certify(self, name: str, settings: IssuerSettings) -> Chain:
        issuer = open_issuer(name, replace(settings, key=self.wanted.access))
        with self.wanted.access.open() as key:
            request = sign_request(self.wanted, key)
        return request_certificate(request, issuer, lambda: datetime.now(UTC), wait=0.0)


def machine_with(uri: str, tcti: str, pin: str | None = None) -> Machine:
    access = KeyAccess(KeyURI.of_new(uri).with_query("tcti", tcti), PinSource(pin), allow_modules=True)
    found = Machine(KeyToCertify(access, SUBJECT, (DNS,), (URI,)))
    ensure_key(found.wanted)
    return found


@pytest.fixture
def machine(swtpm: SoftTPM, tmp_path: Path) -> Machine:
    return machine_with(f"tpm2:path={tmp_path}/web.tss2", swtpm.tcti)


@pytest.fixture(scope="module")
def est(estserver: Callable[..., EstServer]) -> EstServer:
    return estserver("-o")


@pytest.fixture
def est_settings(est: EstServer, ca: certs.Authority, tmp_path: Path) -> IssuerSettings:
    (tmp_path / "est-ca.pem").write_bytes(ca.pem)
    return IssuerSettings(est.url, ca_file=str(tmp_path / "est-ca.pem"), user="estuser", secret=lambda: "estpwd")


def with_certificate(settings: IssuerSettings, path: str) -> IssuerSettings:
    """Return settings with a certificate, and without the user."""
    return replace(settings, user="", secret=None, certificate=path)


def test_est_renews_the_certificate_that_logs_in(machine: Machine, est_settings: IssuerSettings) -> None:
    path = machine.enroll("est", est_settings)
    first = Path(path).read_bytes()
    machine.enroll("est", with_certificate(est_settings, path))
    assert Path(path).read_bytes() != first


@judges.needs_tpm2_openssl
def test_vault_lets_the_certificate_log_in(machine: Machine, bao: Bao) -> None:
    path = machine.enroll("vault", bao.settings())
    assert machine.certify("vault", with_certificate(bao.settings(), path)).leaf.subject == "CN=bamboo-01,OU=devops"


def test_certificate_of_another_ca_is_refused(
    machine: Machine, est_settings: IssuerSettings, bao: Bao, tmp_path: Path
) -> None:
    path = machine.enroll("est", est_settings)
    with pytest.raises(ServiceError, match=r"status 400: .*No role of the method cert trusts"):
        machine.certify("vault", with_certificate(bao.settings(), path))


def test_server_that_is_down_is_not_reached(machine: Machine, est_settings: IssuerSettings) -> None:
    path = machine.enroll("est", est_settings)
    settings = replace(with_certificate(est_settings, path), url=f"https://127.0.0.1:{reserve_port()}")
    with pytest.raises(ServiceUnreachableError, match="127"):
        machine.certify("est", settings)


def test_server_of_another_ca_is_not_trusted(machine: Machine, est_settings: IssuerSettings) -> None:
    settings = with_certificate(est_settings, machine.enroll("est", est_settings))
    with pytest.raises(ServiceUnreachableError, match="is not trusted"):
        machine.certify("est", replace(settings, ca_file=""))


def test_openssl_without_the_provider_is_named(
    machine: Machine, est_settings: IssuerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = with_certificate(est_settings, machine.enroll("est", est_settings))
    monkeypatch.setenv("OPENSSL_MODULES", str(tmp_path))
    with pytest.raises(ConfigError, match=r"can't be used for TLS\. Install OpenSSL's provider tpm2"):
        machine.certify("est", settings)


def test_key_with_an_auth_value_is_refused(swtpm: SoftTPM, est_settings: IssuerSettings, tmp_path: Path) -> None:
    machine = machine_with(f"tpm2:path={tmp_path}/pin.tss2", swtpm.tcti, "4711")
    with pytest.raises(UsageError, match="has an auth value, so it can't log in"):
        machine.certify("est", with_certificate(est_settings, machine.enroll("est", est_settings)))


def test_key_in_a_file_is_refused(est_settings: IssuerSettings, tmp_path: Path) -> None:
    path = str(requested(tmp_path).key)
    settings: dict[str, Any] = {"key": KeyAccess(KeyURI.of(path), PinSource()), "certificate": path}
    with pytest.raises(UsageError, match="only a TSS2 key file"):
        open_issuer("est", replace(est_settings, **settings))
