"""TPMs with a vendor's certificate, as swtpm_setup makes them, and certificates of vendors that break rules."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from hwsigner import attestation
from hwsigner.attestation import Document, Trust
from shared_hardware import facts_of_tpm, watched
from softhsm.tpm import SoftTPM
from softhsm.vendor import TPMVendor

EK_USAGE = x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")])


class Vendor(TPMVendor):
    """A vendor of TPMs, and the trust in it."""

    def trust(self, now: datetime | None = None) -> Trust:
        """Return the trust in this vendor."""
        return attestation.read_trust(str(self.roots), now)


class Chip:
    """A TPM, a key in it, and the documents about that."""

    def __init__(self, tpm: SoftTPM, key: str, trust: Trust) -> None:
        self.tpm = tpm
        self.key = key
        self.trust = trust

    def statement(self) -> Document:
        return attestation.make_statement(self.key)

    def answered(self, pcrs: str = "") -> tuple[Document, Document, Document, Document]:
        """Return a statement, the challenge to it, the verifier's state, and the answer."""
        statement = self.statement()
        challenge, state = attestation.challenge(statement, self.trust)
        return statement, challenge, state, attestation.answer_challenge(self.key, challenge, pcrs=pcrs)


def changed(document: Document, **values: Any) -> Document:
    """Return a document with other members."""
    return Document(document.kind, document.format, {**document.values, **values})


def issue(
    subject: str,
    issuer: tuple[x509.Certificate, Any] | None = None,
    *extensions: x509.ExtensionType,
    public_key: Any = None,
    key: Any = None,
    days: tuple[int, int] = (-1, 1),
    critical: bool = True,
    padding: Any = None,
) -> tuple[x509.Certificate, Any]:
    """Issue a certificate; return it and its private key.

    Args:
        subject: its common name; empty for none.
        issuer: the issuer's certificate and private key; None for a root.
        extensions: its extensions.
        public_key: its public key, of which nobody has the private key.
        key: its private key; a new one by default.
        days: from when until when it is valid, from now.
        critical: whether its extensions are critical.
        padding: of an RSA issuer's signature.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    begin, end = (datetime.now().astimezone() + timedelta(days=day) for day in days)
    builder = x509.CertificateBuilder(issuer[0].subject if issuer else name, name, public_key or key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer[1] if issuer else key, SHA256(), rsa_padding=padding), key


@pytest.fixture(scope="session")
def vendors(hardware: None) -> Iterator[tuple[Vendor, Vendor]]:
    """Two vendors of TPMs."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-vendor-") as one, tempfile.TemporaryDirectory() as other:
        yield Vendor(Path(one)), Vendor(Path(other))


@pytest.fixture(scope="session")
def chips(vendors: tuple[Vendor, Vendor]) -> Iterator[tuple[Chip, Chip, Chip]]:
    """Two TPMs of one vendor, and one of another."""
    with ExitStack() as stack:
        made = []
        for vendor in (vendors[0], vendors[0], vendors[1]):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsigner-chip-")))
            tpm = stack.enter_context(vendor.make(folder))
            tpm.create_key_file(folder / "key.pem", "EC:P-256")
            stack.enter_context(watched(partial(facts_of_tpm, tpm)))
            made.append(Chip(tpm, tpm.uri(folder / "key.pem"), vendor.trust()))
        yield made[0], made[1], made[2]


@pytest.fixture(scope="session")
def chip(chips: tuple[Chip, Chip, Chip]) -> Chip:
    """A TPM."""
    return chips[0]
