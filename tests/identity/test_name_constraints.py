"""Names that a CA above a certificate does not allow, as `openssl verify` judges them."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certs import pem
from emulator.material import Form, authority, certificate
from hwsigner._identity.certificate import Certificate
from hwsigner._identity.name_constraints import forbidden_names

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
DNS, URI, MAIL = x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name


def directory(*names: str) -> x509.DirectoryName:
    oids = (NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    return x509.DirectoryName(x509.Name([*map(x509.NameAttribute, oids, names)]))


def address(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))


# What the CA permits and excludes, and the certificate's common name and alternative names.
CASES: list[tuple[list[x509.GeneralName], list[x509.GeneralName], str, list[x509.GeneralName]]] = [
    ([DNS("example")], [], "web", [DNS("a.example")]),
    ([DNS("example")], [], "web", [DNS("A.EXAMPLE")]),
    ([DNS("example")], [], "web", [DNS("badexample")]),
    ([DNS(".example")], [], "web", [DNS("a.example")]),
    ([DNS(".example")], [], "web", [DNS("example")]),
    ([DNS("")], [], "web", [DNS("a.example")]),
    ([DNS("a.example"), DNS("b.example")], [], "web", [DNS("b.example"), DNS("c.b.example")]),
    ([DNS("a.example")], [], "web", [DNS("a.example"), DNS("c.org")]),
    ([], [DNS("example")], "web", [DNS("a.example")]),
    ([DNS("example")], [DNS("a.example")], "web", [DNS("b.a.example")]),
    ([DNS("example")], [], "web", [URI("https://a.org")]),
    ([DNS("example")], [], "web.example.org", []),
    ([DNS("example")], [], "web.a.example", []),
    ([DNS("example")], [], "bamboo-01", []),
    ([DNS("example")], [], "web.example.org", [DNS("a.example")]),
    ([DNS("example")], [], "web.-a.org", []),
    ([directory("DE")], [], "web", []),
    ([directory("FR")], [], "web", []),
    ([directory("DE", "EXAMPLE")], [], "web", []),
    ([], [directory("DE", "Example")], "web", []),
    ([directory("DE")], [], "web", [directory("FR", "x")]),
    ([URI("example")], [], "web", [URI("spiffe://example/a")]),
    ([URI("example")], [], "web", [URI("spiffe://a.example/a")]),
    ([URI(".example")], [], "web", [URI("https://u@a.example:8443/a")]),
    ([URI(".example")], [], "web", [URI("https://example/")]),
    ([URI("example")], [], "web", [URI("urn:uuid:1")]),
    ([], [URI("example")], "web", [URI("urn:uuid:1")]),
    ([MAIL("a@example")], [], "web", [MAIL("b@example")]),
    ([MAIL("example")], [], "web", [MAIL("b@example")]),
    ([MAIL(".example")], [], "web", [MAIL("b@example")]),
    ([address("10.0.0.0/8")], [], "web", [address("10.1.2.3")]),
    ([address("10.0.0.0/8")], [], "web", [address("11.1.2.3")]),
    (
        [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))],
        [],
        "web",
        [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))],
    ),
]


@pytest.mark.parametrize(("permitted", "excluded", "name", "alternative"), CASES)
def test_name_is_forbidden_if_and_only_if_openssl_refuses_it(
    permitted: list[x509.GeneralName],
    excluded: list[x509.GeneralName],
    name: str,
    alternative: list[x509.GeneralName],
    tmp_path: Path,
) -> None:
    constraints = x509.NameConstraints(permitted or None, excluded or None)
    ca = authority(Form("A CA", ca=True, usages=("key_cert_sign",), extensions=((constraints, True),)))
    more = ((x509.SubjectAlternativeName(alternative), False),) if alternative else ()
    leaf = certificate(Form(directory("DE", "Example", name).value, extensions=more), KEY, ca)
    for path, each in (("ca.pem", ca.certificate), ("leaf.pem", leaf)):
        (tmp_path / path).write_bytes(pem(each))
    verify = ["openssl", "verify", "-trusted", str(tmp_path / "ca.pem"), str(tmp_path / "leaf.pem")]
    is_refused = subprocess.run(verify, capture_output=True, check=False).returncode != 0
    assert bool([*forbidden_names(Certificate(leaf, "leaf"), Certificate(ca.certificate, "ca"))]) is is_refused


def test_forbidden_name_is_said_with_its_kind() -> None:
    constraints = x509.NameConstraints([DNS("example")], None)
    ca = authority(Form("A CA", ca=True, usages=("key_cert_sign",), extensions=((constraints, True),)))
    more = ((x509.SubjectAlternativeName([DNS("a.org")]), False),)
    leaf = certificate(Form(extensions=more), KEY, ca)
    assert [*forbidden_names(Certificate(leaf, "leaf"), Certificate(ca.certificate, "ca"))] == ["the DNS name 'a.org'"]
