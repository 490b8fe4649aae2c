"""A registrar with its files, an issuer that records, and machines: YubiKeys made of certificates, or TPMs."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from attestation.chips import changed
from attestation.piv_chains import Chain, answered
from enrolment.authority import Answer, certified
from hwsigner._identity.certificate_request import CertificateRequest, parse_name
from hwsigner._pins import PinSource
from hwsigner._system.reloading import ReloadedFile
from hwsigner._uri import KeyURI
from hwsigner.attestation import Document, Trust
from hwsigner.attestation.documents import read
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending, open_issuer
from hwsigner.enrolment.registrar.limits import RateLimit
from hwsigner.enrolment.registrar.policy import TPM, YUBIKEY, Machine, RegistrarPolicy, read_policy
from hwsigner.enrolment.registrar.registrar import Registrar
from hwsigner.enrolment.registrar.sealing import SealingKeys, read_keys, rotate_keys
from hwsigner.enrolment.registrar.server import RegistrarServer
from hwsigner.errors import HwsignerError
from hwsigner.key.management import KeyAccess

SUBJECT, DNS, URI = "CN=web-01,OU=web", "web-01.example.com", "spiffe://example.com/web-01"
SERIAL = "10550341"  # Of the certificates in `piv_chains`.


@dataclass
class Issuer:
    """An issuer that records the requests. `instead` is returned or raised in place of a certificate."""

    ca: certs.Authority
    requests: list[bytes] = field(default_factory=list)
    instead: Issued | Pending | HwsignerError | None = None

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        self.requests.append(request.der)
        if isinstance(self.instead, HwsignerError):
            raise self.instead
        if self.instead:
            return self.instead
        has_names = any(one.oid == x509.SubjectAlternativeName.oid for one in request.x509.extensions)
        leaf = certified(self.ca, request, Answer() if has_names else Answer(alternatives=()))
        return Issued((leaf, self.ca.certificate.public_bytes(Encoding.DER)))


@dataclass
class Site:
    """A registrar with a policy file and a file of keys, which others may share.

    Attributes:
        folder: has `policy.toml` and `keys`.
        trust: the vendors' roots.
        issuer: the issuer.
        audit: the facts of all decisions.
        now: the time, in seconds since 1970.
    """

    folder: Path
    trust: Trust
    issuer: Issuer
    audit: list[Mapping[str, object]] = field(default_factory=list)
    errors: list[HwsignerError] = field(default_factory=list)
    now: float | None = None

    def __post_init__(self) -> None:
        if not self.keys.exists():
            rotate_keys(str(self.keys))

    @property
    def policy(self) -> Path:
        return self.folder / "policy.toml"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    def allow(self, *machines: Machine) -> None:
        """Write the policy."""
        self.policy.write_text("".join(map(table, machines)))

    def registrar(self, audit: Callable[[Mapping[str, object]], None] | None = None) -> Registrar:
        policy: ReloadedFile[RegistrarPolicy] = ReloadedFile(str(self.policy), read_policy, self.errors.append)
        keys: ReloadedFile[SealingKeys] = ReloadedFile(str(self.keys), read_keys, self.errors.append)
        clock = {} if self.now is None else {"clock": lambda: self.now or 0.0}
        return Registrar(policy.content, keys.content, self.trust, self.issuer, audit or self.audit.append, **clock)

    @contextmanager
    def serving(
        self,
        *,
        limit: RateLimit | None = None,
        tls: ssl.SSLContext | None = None,
        registrar: Registrar | None = None,
    ) -> Iterator[RegistrarServer]:
        """Serve on a free port of 127.0.0.1."""
        server = RegistrarServer(
            registrar or self.registrar(),
            socket.create_server(("127.0.0.1", 0)),
            limit=limit or RateLimit(10**6, 10**6),
            audit=self.audit.append,
            tls=tls,
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(20)

    @property
    def decisions(self) -> list[object]:
        """The decisions, without the lines that requests were received."""
        return [facts["decision"] for facts in self.audit if facts["decision"] != "received"]


def url(server: RegistrarServer, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}"


def enrolled(
    registrar_url: str, key: str, request: CertificateRequest, *, pin: str | None = None, ca_file: str = ""
) -> x509.Certificate:
    """Return the certificate that a registrar gives to a key for its request."""
    access = KeyAccess(KeyURI.of(key).resolved(), PinSource.of(pin))
    found = open_issuer("registrar", IssuerSettings(registrar_url, ca_file=ca_file, key=access)).issue(request)
    assert isinstance(found, Issued)
    return x509.load_der_x509_certificate(found.certificates[0])


def table(machine: Machine) -> str:
    """Return a machine's table in TOML; what JSON writes for these values is TOML too."""
    values = "".join(f"{key} = {json.dumps(value)}\n" for key, value in machine.values().items())
    return f"[machine.{machine.name}]\n{values}\n"


def yubikey(chain: Chain, serial: str = SERIAL, **instead: Any) -> Machine:
    """Return the machine with a YubiKey."""
    values = {"subject": SUBJECT, "dns": (DNS,), "uris": (URI,), "root": sha256(chain.root.der), **instead}
    return Machine(values.pop("name", "web-01"), YUBIKEY, serial, **values)


def tpm(chip: str, name: str = "web-01", subject: str = SUBJECT, dns: tuple[str, ...] = ()) -> Machine:
    """Return the machine with a TPM."""
    return Machine(name, TPM, chip, "", subject, dns)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def request(key: Any, subject: str = SUBJECT, *extensions: x509.ExtensionType, attribute: bool = False) -> bytes:
    """Return the DER of a request that a private key signs, by default as the policy allows it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(parse_name(subject))
    for extension in extensions or (names(),):
        builder = builder.add_extension(extension, critical=False)
    if attribute:
        builder = builder.add_attribute(x509.oid.AttributeOID.UNSTRUCTURED_NAME, b"x")
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def names(*others: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName(DNS), x509.UniformResourceIdentifier(URI), *others])


def statement(chain: Chain, csr: bytes | None = None) -> Document:
    """Return a YubiKey's statement with a request."""
    return changed(chain.statement, certificateRequest=request(chain.slot.key) if csr is None else csr)


def body(**members: Any) -> bytes:
    """Return a request's body."""
    return json.dumps({name: as_member(value) for name, value in members.items()}).encode()


def as_member(value: Any) -> Any:
    if isinstance(value, Document):
        return json.loads(value.to_json())
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def challenged(registrar: Registrar, given: Document) -> tuple[Document, str]:
    """Return the challenge to a statement, and the sealed state."""
    reply = registrar.challenge(body(statement=given), "127.0.0.1")
    return read(json.dumps(reply["challenge"]).encode(), "challenge"), reply["state"]


def certificate_body(registrar: Registrar, chain: Chain, given: Document) -> dict[str, Any]:
    """Return the members of a YubiKey's right request for a certificate."""
    challenge, state = challenged(registrar, given)
    return {"statement": given, "state": state, "answer": answered(challenge, chain.slot.key)}
