"""Which names of a certificate or a request become session tags, and which can't."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

import certs
from hwsigner._identity.certificate import Certificate
from hwsigner._identity.certificate_request import CertificateRequest, parse_name
from hwsigner._identity.session_tags import other_names, session_tags, untaggable

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(subject: str, *names: x509.GeneralName, issuer: str = "CN=CA") -> Certificate:
    now = certs.ago(1)
    builder = x509.CertificateBuilder(parse_name(issuer), parse_name(subject), KEY.public_key(), 7, now, now)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Certificate(builder.sign(KEY, SHA256()), "made")


def request(subject: str, *names: x509.GeneralName) -> CertificateRequest:
    builder = x509.CertificateSigningRequestBuilder(parse_name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return CertificateRequest(builder.sign(KEY, SHA256()).public_bytes(Encoding.DER))


@pytest.mark.parametrize("value", ["8003616263", "a0050c03616263", "0a053f9e99192f", "0903c1f981", "0300", "0c0161"])
def test_other_name_may_have_any_value(value: str) -> None:
    name = x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), bytes.fromhex(value))
    made = certificate("CN=a", x509.DNSName("a.example"), name)
    assert other_names(made) == ({"a"} if value == "0c0161" else set())
    assert session_tags(made)["x509SAN/DNS"] == "a.example"


def test_subject_issuer_and_first_alternative_names_become_tags() -> None:
    inner = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "inner")])
    made = certificate(
        "CN=bamboo-01,OU=devops,SERIALNUMBER=7,emailAddress=a@b,UID=u,C=DE",
        *(x509.RFC822Name("c@d"), x509.DNSName("a.example"), x509.DNSName("b.example")),
        *(x509.DirectoryName(inner), x509.UniformResourceIdentifier("spiffe://x/y")),
        issuer="CN=Example CA,O=Example",
    )
    assert session_tags(made) == {
        "x509Subject/C": "DE",
        "x509Subject/UID": "u",
        "x509Subject/E": "a@b",
        "x509Subject/SERIALNUMBER": "7",
        "x509Subject/OU": "devops",
        "x509Subject/CN": "bamboo-01",
        "x509Issuer/O": "Example",
        "x509Issuer/CN": "Example CA",
        "x509SAN/DNS": "a.example",
        "x509SAN/URI": "spiffe://x/y",
        "x509SAN/Name/CN": "inner",
    }
    assert untaggable(made) == []


def test_request_has_no_issuer() -> None:
    made = request("CN=bamboo-01", x509.DNSName("a.example"))
    assert session_tags(made) == {"x509Subject/CN": "bamboo-01", "x509SAN/DNS": "a.example"}


@pytest.mark.parametrize("value", ["Größe 7", "名前", "a b\u00a0c", "_.:/\\=\\+-@", "x" * 64, "١٢"])
def test_letters_digits_spaces_and_some_punctuation_become_tags(value: str) -> None:
    assert untaggable(request(f"CN={value}")) == []
    assert len(session_tags(request(f"CN={value}"))) == 1


@pytest.mark.parametrize(
    ("value", "bad"),
    [
        ("R&D", "'&'"),
        ("a (b)(c)", "'(' ')'"),
        ("a\\,b", "','"),
        ("*", "'*'"),
        ("a\u200bb", "'\\u200b'"),
        ("😀", "'😀'"),
    ],
)
def test_other_characters_are_named_and_give_no_tag(value: str, bad: str) -> None:
    made = request(f"CN={value},OU=x")
    assert session_tags(made) == {"x509Subject/OU": "x"}
    [problem] = untaggable(made)
    assert problem.startswith("x509Subject/CN is ")
    assert problem.endswith(f", and a session tag can't have {bad}")


def test_value_of_more_than_256_characters_is_no_tag() -> None:
    assert untaggable(request(f"OU={'x' * 256}")) == []
    assert untaggable(request(f"OU={'x' * 257}")) == [
        "x509Subject/OU has 257 characters, and a session tag has 256 at most"
    ]


def test_issuer_s_names_count_too() -> None:
    assert untaggable(certificate("CN=a", issuer="CN=R&D")) == [
        "x509Issuer/CN is 'R&D', and a session tag can't have '&'"
    ]


def test_several_values_of_a_name_are_one_tag() -> None:
    """In the order of the certificate, which is the reverse of the text's."""
    made = request("CN=a,DC=example,DC=com")
    assert session_tags(made) == {"x509Subject/CN": "a", "x509Subject/DC": "com/example"}
    assert untaggable(made) == []


def test_only_the_first_alternative_name_of_each_kind_becomes_a_tag() -> None:
    uris = [x509.UniformResourceIdentifier(f"spiffe://{name}") for name in ("x", "y?z")]
    made = request("CN=a", x509.DNSName("a.example"), x509.DNSName("b.example"), x509.RFC822Name("a*b@c"), *uris)
    assert session_tags(made) == {"x509Subject/CN": "a", "x509SAN/DNS": "a.example", "x509SAN/URI": "spiffe://x"}
    assert untaggable(made) == []


def test_later_dns_names_must_be_such_that_they_could_be_tags() -> None:
    made = request("CN=a", x509.DNSName("a.example"), x509.DNSName("*.example"), x509.DNSName("b.example"))
    assert untaggable(made) == ["x509SAN/DNS/2 is '*.example', and a session tag can't have '*'"]
    assert untaggable(request("CN=a", x509.DNSName("*.example"), x509.DNSName("a.example"))) == [
        "x509SAN/DNS is '*.example', and a session tag can't have '*'"
    ]


def test_unknown_types_give_no_tag() -> None:
    made = request("CN=a,STREET=x&y,1.3.6.1.4.1.99999.1=z")
    assert session_tags(made) == {"x509Subject/CN": "a"}
    assert untaggable(made) == []
