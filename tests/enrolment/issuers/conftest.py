"""The servers of issuers, started for the modules that use them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

import certs
from enrolment import bao_servers
from enrolment.bao_servers import Bao
from enrolment.est_servers import EstServer


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    """A running OpenBao."""
    server, process = bao_servers.start(tmp_path_factory.mktemp("bao"))
    yield server
    process.kill()
    process.wait()


def server_certificate(ca: certs.Authority, public_key: Any) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(certs.subject("est"))
        .issuer_name(ca.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - certs.DAY)
        .not_valid_after(now + certs.DAY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(ca.key, SHA256())
    )


@pytest.fixture(scope="module")
def estserver(ca: certs.Authority) -> Iterator[Callable[..., EstServer]]:
    """A function that starts a server with flags."""
    running = []
    folders = []

    def start(*flags: str) -> EstServer:
        folder = Path(tempfile.mkdtemp(prefix="est-"))  # A socket's path is short.
        folders.append(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        certs.write_key(folder / "server.key", key)
        certs.write_key(folder / "ca.key", ca.key)
        (folder / "ca.pem").write_bytes(ca.pem)
        (folder / "server.pem").write_bytes(certs.pem(server_certificate(ca, key.public_key())))
        running.append(EstServer(folder, *flags))
        return running[-1]

    yield start
    for server in running:
        server.stop()
    for folder in folders:
        shutil.rmtree(folder)
