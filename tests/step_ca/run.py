"""Certificates of a real step-ca, with the template and the program of docs/how-to/no-ca.md; see `make test-step-ca`.

Debian has step-ca as libraries, from which `go` makes the program. The argument is that program.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

import certs
from enrolment.authority import DNS, SUBJECT, URI, requested
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, IssuerSettings, open_issuer
from pages import block
from ports import reserve_port
from step_ca.step import KEY_ID, base64url

PAGE = "docs/how-to/no-ca.md"
SECONDS = 30


def configuration(folder: Path, port: int) -> dict[str, Any]:
    """Make a root, an intermediate and the provisioner's key, and return the configuration that has them."""
    root = certs.make_ca("Example Root")
    intermediate = certs.make_ca("Example CA", root)
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "root.pem").write_bytes(root.pem)
    (folder / "ca.pem").write_bytes(intermediate.pem)
    certs.write_key(folder / "ca.key", intermediate.key)
    certs.write_key(folder / "password", key)
    (folder / "leaf.tpl").write_text(block(PAGE, "text", "`leaf.tpl`:", "*Insecure* means"))
    numbers = key.public_key().public_numbers()
    point = {name: base64url(number.to_bytes(32)) for name, number in (("x", numbers.x), ("y", numbers.y))}
    jwk = {"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": KEY_ID, **point}
    options = {"x509": {"templateFile": str(folder / "leaf.tpl")}}
    return {
        "root": str(folder / "root.pem"),
        "crt": str(folder / "ca.pem"),
        "key": str(folder / "ca.key"),
        "address": f"127.0.0.1:{port}",
        "dnsNames": ["localhost"],
        "logger": {"format": "text"},
        "authority": {"provisioners": [{"type": "JWK", "name": "registrar", "key": jwk, "options": options}]},
    }


def issue_program(folder: Path, port: int) -> str:
    """Write the registrar's program of the page, and the stand-in that it calls."""
    step = folder / "step"
    step.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("step.py")} "$@"\n')
    step.chmod(0o755)
    script = block(PAGE, "sh", "The program of the registrar", "`ca.pem` for AWS")
    script = script.replace("/etc/hwsigner/step-password", str(folder / "password"))
    script = script.replace("/etc/hwsigner/step-root.pem", str(folder / "root.pem"))
    program = folder / "issue"
    program.write_text(script.replace("https://ca.example.com", f"https://localhost:{port}"))
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    return shlex.quote(str(program))


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(10 * SECONDS):
        assert server.poll() is None, "step-ca has ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"step-ca does not listen on port {port}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), reserve_port()
        (folder / "ca.json").write_text(json.dumps(configuration(folder, port)))
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([sys.argv[1], folder / "ca.json"], stdout=log, stderr=log)
        try:
            wait_for(port, server)
            request = requested(folder).request
            issued = open_issuer("command", IssuerSettings(command=issue_program(folder, port))).issue(request)
            assert isinstance(issued, Issued)
            leaf = check_issued(request, issued, datetime.now(UTC)).leaf
        except BaseException:
            print((folder / "log").read_text(), file=sys.stderr)
            raise
        finally:
            server.kill()
            server.wait()
    assert leaf.subject == SUBJECT
    print(f"step-ca issued {leaf.subject} with {DNS} and {URI}, and hwsigner accepts it")


if __name__ == "__main__":
    main()
