"""Certificate requests: names as RFC 4514 writes them, and requests that openssl and CAs accept."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

import certs
from backends.file.keyfiles import openssl
from hwsigner._identity.certificate import load, preflight
from hwsigner._identity.certificate_request import CertificateRequest, check_names, parse_name, sign_certificate_request
from hwsigner.errors import KeyMismatchError, UsageError
from hwsigner.key import ECDSA, Algorithm, FoundCertificate, HashName, Key, open_key
from hwsigner.key.management import KeyRequest, generate_key
from judges import needs_openssl_3_5

# Names that cryptography writes as dotted OIDs otherwise.
OVERRIDES = {"emailAddress": NameOID.EMAIL_ADDRESS, "SERIALNUMBER": NameOID.SERIAL_NUMBER}


def parts(text: str) -> list[list[tuple[str, str]]]:
    """Return the parts of a parsed name in the order of its DER, with their OIDs."""
    return [[(each.oid.dotted_string, str(each.value)) for each in rdn] for rdn in parse_name(text).rdns]


def common_name(text: str) -> str:
    [[(oid, value)]] = parts(f"CN={text}")
    assert oid == "2.5.4.3"
    return value


class TestName:
    def test_der_has_the_parts_in_the_opposite_order(self) -> None:
        text = "CN=bamboo-01,OU=devops,O=Example,C=DE"
        assert parse_name(text) == certs.subject("bamboo-01")
        assert parse_name(text).rfc4514_string() == text

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("bamboo", "bamboo"),
            (r"a\,b", "a,b"),
            (r"a\2Cb", "a,b"),
            (r"a\2cb", "a,b"),
            (r"\#a", "#a"),
            ("a#b", "a#b"),
            (r"\ a\ ", " a "),
            (r"\20a\20", " a "),
            ("  a  b  ", "a  b"),
            (r" \ a", " a"),
            (r"a\ \ ", "a  "),
            (r"\"\+\;\<\>\=\\", '"+;<>=\\'),
            ("a=b", "a=b"),
            (r"\C3\A4", "ä"),
            ("ä名", "ä名"),
            (r"\E2\82\AC1", "€1"),
            (r"a\0Ab", "a\nb"),
        ],
    )
    def test_escapes_and_spaces(self, text: str, value: str) -> None:
        assert common_name(text) == value

    @pytest.mark.parametrize(
        ("name", "oid"),
        [
            ("CN", "2.5.4.3"),
            ("commonName", "2.5.4.3"),
            ("L", "2.5.4.7"),
            ("ST", "2.5.4.8"),
            ("O", "2.5.4.10"),
            ("OU", "2.5.4.11"),
            ("STREET", "2.5.4.9"),
            ("DC", "0.9.2342.19200300.100.1.25"),
            ("UID", "0.9.2342.19200300.100.1.1"),
            ("E", "1.2.840.113549.1.9.1"),
            ("emailAddress", "1.2.840.113549.1.9.1"),
            ("SERIALNUMBER", "2.5.4.5"),
            ("SN", "2.5.4.4"),
            ("GN", "2.5.4.42"),
            ("2.5.4.97", "2.5.4.97"),
            ("1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.99999.1"),
        ],
    )
    def test_types_are_names_in_any_case_or_oids(self, name: str, oid: str) -> None:
        for written in (name, name.lower(), name.upper(), f" {name} "):
            assert parts(f"{written}=abc") == [[(oid, "abc")]]

    def test_values_of_one_part_are_joined_by_plus(self) -> None:
        [[*both], country] = reversed(parts("CN=a + UID = b , C=de"))
        assert sorted(both) == [("0.9.2342.19200300.100.1.1", "b"), ("2.5.4.3", "a")]
        assert country == [("2.5.4.6", "de")]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "is not TYPE=value"),
            ("bamboo", "is not TYPE=value"),
            ("/CN=bamboo", "is in openssl's form"),
            ("CN=", "CN has an empty value"),
            ("CN= ", "CN has an empty value"),
            ("CN=a,OU=", "OU has an empty value"),
            ("CN=a,", "'' is not TYPE=value"),
            ("CN=a,,OU=b", "',OU=b' is not TYPE=value"),
            ("CN=a+", "is not TYPE=value"),
            ("CN=a;OU=b", "is not TYPE=value"),
            ('CN="a"', "is not TYPE=value"),
            ("CN=a<b", "is not TYPE=value"),
            ("CN=a\\", "is not TYPE=value"),
            (r"CN=\zz", "is not TYPE=value"),
            ("CN=a\0b", "is not TYPE=value"),
            (r"CN=\C3", "CN has a value that is not UTF-8"),
            ("CN=\udcc3", "CN has a value that is not UTF-8"),
            ("CN=#0C0161", "CN has a value that starts with #; write \\# for it"),
            ("CN= #hello", "CN has a value that starts with #"),
            ("XY=a", "the type XY is unknown"),
            ("3.1=a", "invalid"),
            ("C=DEU", "C is not a country code of two letters"),
            ("c=4x", "c is not a country code of two letters"),
            ("CN=a,C=D_", "C is not a country code"),
            ("SERIALNUMBER=a_b", "SERIALNUMBER can't have the character '_'"),
            ("emailAddress=ä@b", "emailAddress has a character that is not ASCII"),
            ("DC=ä", "DC has a character that is not ASCII"),
            (f"CN={'x' * 65}", "CN has 65 characters, more than 64"),
            ("CN=a+CN=a", "duplicate"),
        ],
    )
    def test_invalid_name_is_an_error(self, text: str, problem: str) -> None:
        with pytest.raises(UsageError) as error:
            parse_name(text)
        assert problem in error.value.message
        assert error.value.message.isprintable()

    @given(
        st.lists(
            st.lists(
                st.tuples(
                    st.sampled_from(
                        [
                            *(NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.USER_ID),
                            *(NameOID.SURNAME, x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")),
                        ]
                    ),
                    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16)  # up to 64 bytes
                    | st.text(' \\,+"<>;=#a\0\n2C', min_size=1, max_size=12),
                ),
                min_size=1,
                max_size=3,
                unique_by=lambda pair: pair[0],
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_every_name_that_cryptography_writes_is_read_back(self, wanted: list[list[tuple[Any, str]]]) -> None:
        name = x509.Name(
            [x509.RelativeDistinguishedName([x509.NameAttribute(*pair) for pair in pairs]) for pairs in wanted]
        )
        assert parse_name(name.rfc4514_string()) == name
        assert parse_name(name.rfc4514_string()).public_bytes() == name.public_bytes()

    @given(st.text('CNOU=\\,+#"<>; 0123456789abcdefE.\0é\udc80'))
    def test_any_text_is_a_name_or_an_error(self, text: str) -> None:
        try:
            name = parse_name(text)
        except UsageError:
            return
        assert parse_name(name.rfc4514_string()) == name

    @given(st.from_regex(r"(CN|OU|2\.5\.4\.10)=[^\n]{1,20}([,+](O|L|UID)=[ -~]{1,20}){0,3}", fullmatch=True))
    def test_what_cryptography_reads_is_read_alike(self, text: str) -> None:
        try:
            expected = x509.Name.from_rfc4514_string(text, OVERRIDES)
        except ValueError:
            return
        if "=#" not in text:  # There, cryptography takes the bytes for the text, without their DER.
            assert parse_name(text) == expected


class FakeKey(Key):
    """A P-256 key with a chosen public key, which signs something else than it is asked to."""

    def __init__(self, public_key: bytes | None, *, damaged: bool = False) -> None:
        self._public_key = public_key
        self._damaged = damaged
        self.calls = 0

    @property
    def algorithm(self) -> Algorithm:
        return ECDSA

    def public_key(self) -> bytes | None:
        return self._public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        self.calls += 1
        from cryptography.hazmat.primitives.hashes import SHA256

        return ec.generate_private_key(ec.SECP256R1()).sign(message, ec.ECDSA(SHA256()))

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "web.key"
    generate_key(str(path))
    return path


def request(path: Path, *arguments: str, **named: Any) -> CertificateRequest:
    with open_key(str(path)) as key:
        return sign_certificate_request(key, *arguments, **named)


def shown(made: CertificateRequest, *flags: str) -> str:
    """Return what openssl shows of a request, once it has verified its signature."""
    command = ["openssl", "req", "-verify", "-noout", *flags]
    ran = subprocess.run(command, input=made.pem, capture_output=True, check=True)
    verdict = "Certificate request self-signature verify OK\n"
    assert verdict in (ran.stdout + ran.stderr).decode()  # On stderr before OpenSSL 3.5.
    return ran.stdout.decode().replace(verdict, "")


class TestRequest:
    @pytest.mark.parametrize("algorithm", ["p256", "p384", "p521", "rsa2048"])
    def test_openssl_verifies_it(self, tmp_path: Path, algorithm: Any) -> None:
        public_key = generate_key(str(tmp_path / "k"), KeyRequest(algorithm)).public_key
        made = request(tmp_path / "k", "CN=bamboo-01")
        text = shown(made, "-text")
        assert ("sha256WithRSAEncryption" if algorithm == "rsa2048" else "ecdsa-with-SHA256") in text
        pem = openssl("req", "-pubkey", "-noout", data=made.pem)
        assert openssl("pkey", "-pubin", "-outform", "DER", data=pem) == public_key
        assert made.x509.is_signature_valid

    @needs_openssl_3_5
    @pytest.mark.parametrize("kind", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
    def test_ml_dsa_signs_it_too(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "k"
        openssl("genpkey", "-algorithm", kind, "-out", str(path))
        path.chmod(0o600)
        made = request(path, "CN=bamboo-01")
        assert made.x509.is_signature_valid
        assert f"Signature Algorithm: {kind}" in shown(made, "-text")

    def test_it_asks_for_what_the_service_demands(self, key_file: Path) -> None:
        made = request(key_file, "CN=x", dns_names=["a.example.com", "*.b"], uris=["spiffe://example.com/a?b"])
        text = [line.strip() for line in shown(made, "-text").splitlines()]
        start = text.index("Requested Extensions:")
        assert text[start + 1 : start + 9] == [
            "X509v3 Basic Constraints: critical",
            "CA:FALSE",
            "X509v3 Key Usage: critical",
            "Digital Signature",
            "X509v3 Extended Key Usage:",
            "TLS Web Client Authentication",
            "X509v3 Subject Alternative Name:",
            "DNS:a.example.com, DNS:*.b, URI:spiffe://example.com/a?b",
        ]
        assert "Alternative" not in shown(request(key_file, "CN=x"), "-text")

    def test_openssl_shows_the_subject_in_both_orders(self, key_file: Path) -> None:
        made = request(key_file, r"CN=Doe\, Jane,OU=dev ops,O=Größe,C=DE")
        flags = ("-subject", "-nameopt", "utf8,sep_comma_plus")
        assert shown(made, *flags) == "subject=C=DE,O=Größe,OU=dev ops,CN=Doe, Jane\n"
        assert shown(made, *flags[:2], "RFC2253,-esc_msb,utf8") == "subject=CN=Doe\\, Jane,OU=dev ops,O=Größe,C=DE\n"

    def test_der_has_the_string_types_of_rfc_5280(self, key_file: Path) -> None:
        subject = "CN=a,SERIALNUMBER=12-3,emailAddress=a@b.example,DC=example,C=DE"
        dump = openssl("asn1parse", data=request(key_file, subject).pem).decode().splitlines()
        types = {
            dump[i].split(":")[-1]: dump[i + 1].split(":")[2].split()[-1]
            for i in range(len(dump) - 1)
            if "OBJECT" in dump[i]
        }
        wanted = {
            "commonName": "UTF8STRING",
            "serialNumber": "PRINTABLESTRING",
            "emailAddress": "IA5STRING",
            "domainComponent": "IA5STRING",
            "countryName": "PRINTABLESTRING",
        }
        assert wanted.items() <= types.items()

    def test_certificate_issued_by_openssl_passes_the_service_s_rules(self, key_file: Path, tmp_path: Path) -> None:
        ca = certs.make_ca()
        (tmp_path / "ca.pem").write_bytes(ca.pem)
        certs.write_key(tmp_path / "ca.key", ca.key)
        made = request(key_file, "CN=bamboo-01,OU=devops", dns_names=["bamboo-01.example.com"])
        flags = ("-CA", str(tmp_path / "ca.pem"), "-CAkey", str(tmp_path / "ca.key"), "-copy_extensions", "copy")
        der = openssl("x509", "-req", "-days", "2", *flags, "-outform", "DER", data=made.pem)
        [leaf] = load([FoundCertificate(der, "issued")])
        preflight(leaf, datetime.now(UTC))
        assert leaf.subject == "CN=bamboo-01,OU=devops"

    def test_key_without_a_public_key_is_not_used(self) -> None:
        key = FakeKey(None)
        with pytest.raises(KeyMismatchError, match="has no public key"):
            sign_certificate_request(key, "CN=x")
        assert key.calls == 0

    def test_wrong_signature_is_not_handed_out(self, key_file: Path) -> None:
        with open_key(str(key_file)) as key:
            public_key = key.public_key()
        with pytest.raises(KeyMismatchError, match="does not match"):
            sign_certificate_request(FakeKey(public_key), "CN=x")

    @pytest.mark.parametrize(
        "name", ["", "-a", "a-", "a..b", "a.", "ä", "a b", "*", "a.*.b", "https://a", "x" * 64, "a." * 127 + "a"]
    )
    def test_invalid_dns_name_is_an_error_before_the_key_signs(self, key_file: Path, name: str) -> None:
        key = FakeKey(b"")
        with pytest.raises(UsageError, match="is not a DNS name"):
            sign_certificate_request(key, "CN=x", dns_names=["good.example", name])
        with pytest.raises(UsageError, match="is not a DNS name"):
            check_names("CN=x", dns_names=[name])
        assert key.calls == 0

    @pytest.mark.parametrize("uri", ["", "a", "://a", "1a:b", "a:", "a:b c", "a:ä", "a:b\n"])
    def test_invalid_uri_is_an_error(self, uri: str) -> None:
        with pytest.raises(UsageError, match="is not a URI"):
            check_names("CN=x", uris=[uri])

    def test_long_values_are_encoded(self, key_file: Path) -> None:
        names = [f"{'x' * 60}-{number}.example.com" for number in range(100)]
        made = request(key_file, f"CN=x,OU={'y' * 1000}", dns_names=names)
        assert made.x509.is_signature_valid
        found = made.x509.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert found.get_values_for_type(x509.DNSName) == names
