"""A small CA that can be killed at any moment: `python killable_ca.py FOLDER PORT`. It speaks the sign API of Vault.

FOLDER has `ca.pem` and `ca.key`. Each certificate is written down in `issued`, as a line of JSON, before it is sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

SIGN_PATH = "/v1/pki/sign/fleet"
LIFE = timedelta(days=1)
_USAGE = (True, False, False, False, False, False, False, False, False)  # digitalSignature alone.


class CA:
    """The CA in a folder."""

    def __init__(self, folder: Path) -> None:
        self.certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        self._key: Any = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        self._log = os.open(folder / "issued", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def issue(self, request: x509.CertificateSigningRequest) -> x509.Certificate:
        """Issue a certificate with the names of a request, and write it down."""
        now = datetime.now(UTC)
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        builder = (
            x509.CertificateBuilder(self.certificate.subject, request.subject, request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(*_USAGE), critical=True)
            .add_extension(names.value, critical=False)
        )
        leaf = builder.sign(self._key, SHA256())
        public_key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        facts = {
            "subject": leaf.subject.rfc4514_string(),
            "key": hashlib.sha256(public_key).hexdigest(),
            "request": hashlib.sha256(request.public_bytes(Encoding.DER)).hexdigest(),
            "serial": leaf.serial_number,
        }
        os.write(self._log, f"{json.dumps(facts)}\n".encode())
        return leaf


def answer(ca: CA, body: bytes) -> bytes:
    """Return Vault's answer to a request in JSON."""
    leaf = ca.issue(x509.load_pem_x509_csr(json.loads(body)["csr"].encode()))
    texts = [one.public_bytes(Encoding.PEM).decode() for one in (leaf, ca.certificate)]
    return json.dumps({"data": {"certificate": texts[0], "ca_chain": texts[1:]}}).encode()


def serve(folder: Path, port: int) -> None:
    """Answer until this process is killed."""
    ca = CA(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = answer(ca, self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(random.uniform(0.0, 1.0))  # Kills shall come in between too.
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
