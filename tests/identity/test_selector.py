"""Certificate selectors: the grammar, and names as `openssl -nameopt RFC2253` writes them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

import certs
from hwsigner._identity import selector as selector_module
from hwsigner._identity.certificate import load
from hwsigner._identity.selector import Selector, parse_selector, select
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import CertificateError, CertificateWarning, UsageError
from hwsigner.key import FoundCertificate

KEY = ec.generate_private_key(ec.SECP256R1())
CA = certs.make_ca("Example CA")
LEAF = certs.issue(CA, KEY.public_key(), certs.Shape(serial=0x15D1))

# Any name, without what would end the value: white space at its ends, and another `Key=`.
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(
    lambda text: text == text.strip() and " Key=" not in text and "\u2028Key=" not in text
)


class TestGrammar:
    @given(st.none() | VALUES, st.none() | VALUES, st.none() | st.integers(0, 2**160), st.data())
    def test_selector_is_parsed_in_any_order(
        self, subject: str | None, issuer: str | None, serial: int | None, data: st.DataObject
    ) -> None:
        pairs = {"x509Subject": subject, "x509Issuer": issuer, "x509Serial": None if serial is None else f"{serial:X}"}
        given = data.draw(st.permutations([f"Key={k},Value={v}" for k, v in pairs.items() if v is not None]))
        if given:
            assert parse_selector(" ".join(given)) == Selector(subject, issuer, serial)
            assert parse_selector(" " + "  ".join(given) + " ") == Selector(subject, issuer, serial)

    @pytest.mark.parametrize("text", ["15D1", "15d1", "15:D1", "0015D1"])
    def test_serial_number_is_hexadecimal(self, text: str) -> None:
        assert parse_selector(f"Key=x509Serial,Value={text}").serial == 0x15D1

    @pytest.mark.parametrize("text", ["", ":", "15DG", "0x15", "-15", "1_5", "1 5", "١٥"])
    def test_invalid_serial_number_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="serial number"):
            parse_selector(f"Key=x509Serial,Value={text}")

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("", "--cert-selector"),
            ("x509Subject", "x509Subject"),
            ("Key=x509Subject", "Key=x509Subject"),
            ("Value=a,Key=x509Subject", "Value=a"),
            ("key=x509Subject,value=CN=a", "key="),
            ("Key=x509Colour,Value=red", "x509Colour"),
            ("Key=x509Subject,Value=CN=a Key=x509Subject,Value=CN=b", "x509Subject twice"),
        ],
    )
    def test_malformed_selector_is_refused_with_what_is_wrong(self, text: str, named: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse_selector(text)
        assert named in caught.value.message
        assert caught.value.hint


class TestFile:
    @given(st.dictionaries(st.sampled_from(["x509Subject", "x509Issuer"]), VALUES, min_size=1))
    def test_file_has_the_same_as_json(self, values: dict[str, str]) -> None:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            json.dump([{"Key": key, "Value": value} for key, value in values.items()], file)
            file.flush()
            found = parse_selector(f"file://{file.name}")
        assert found == Selector(values.get("x509Subject"), values.get("x509Issuer"))

    def test_file_is_found_by_absolute_and_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "selector.json").write_text('[{"Key": "x509Serial", "Value": "15D1"}]')
        monkeypatch.chdir(tmp_path)
        for path in ("selector.json", tmp_path / "selector.json"):
            assert parse_selector(f"file://{path}") == Selector(serial=0x15D1)

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "x",
            "{}",
            "[1]",
            '[{"Key": "x509Subject"}]',
            '[{"Key": "x509Subject", "Value": 1}]',
            '[{"Key": "x509Colour", "Value": "red"}]',
            '[{"Key": "x509Subject", "Value": "CN=a"}, {"Key": "x509Subject", "Value": "CN=b"}]',
            "[]",
            "[" * 60000,
            "\xff",
        ],
    )
    def test_malformed_file_is_refused(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "selector.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(UsageError, match="selector"):
            parse_selector(f"file://{tmp_path}/selector.json")

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=f"{tmp_path}/missing"):
            parse_selector(f"file://{tmp_path}/missing")


NAMES = {
    "plain": "/C=DE/O=Example/CN=bamboo-01",
    "commas": "/O=Acme, Inc./CN=a,b",
    "plus": "/O=A\\+B/CN=c\\+d",
    "several values": "/O=Example/CN=a+OU=b",
    "spaces": "/O= leading/CN=trailing ",
    "hash and quotes": '/O=#1/CN="quoted" <a;b> c=d',
    "backslash": "/CN=a\\\\\\\\b",
    "not ASCII": "/O=Größe/CN=日本€",
    "other attributes": "/DC=org/DC=example/serialNumber=42/GN=Jo/SN=Doe/title=Dr/CN=x/emailAddress=a@example/UID=u",
}


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_name_written_by_openssl_matches(self, name: str, tmp_path: Path) -> None:
        certs.write_key(tmp_path / "key.pem", KEY)
        subject = ["-multivalue-rdn", "-utf8", "-subj", NAMES[name]]
        openssl(tmp_path, "req", "-x509", "-new", "-key", "key.pem", "-out", "leaf.pem", *subject)
        certificate = x509.load_pem_x509_certificate((tmp_path / "leaf.pem").read_bytes())
        for options in ("RFC2253", "RFC2253,-esc_msb,utf8"):
            shown = openssl(tmp_path, "x509", "-in", "leaf.pem", "-noout", "-subject", "-nameopt", options)
            text = shown.decode().removesuffix("\n").removeprefix("subject=")
            selector = parse_selector(f"Key=x509Subject,Value={text}")
            assert selector.matches(certificate), text
            assert not parse_selector(f"Key=x509Subject,Value={text}x").matches(certificate)
            assert not selector.matches(LEAF)

    @given(st.lists(st.tuples(st.sampled_from(["CN", "O", "OU", "L"]), st.text(min_size=1, max_size=20)), min_size=1))
    def test_name_shown_by_hwsigner_matches(self, pairs: list[tuple[str, str]]) -> None:
        oids = {"CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME, "L": NameOID.LOCALITY_NAME}
        name = x509.Name(
            [x509.NameAttribute(oids.get(key, NameOID.ORGANIZATIONAL_UNIT_NAME), text) for key, text in pairs]
        )
        shown = name.rfc4514_string()
        assert Selector(subject=shown).matches(_Named(name))  # type: ignore[arg-type]

    def test_hexadecimal_value_matches(self) -> None:
        name = x509.Name.from_rfc4514_string("1.2.840.113549.1.9.1=a@b,CN=x")
        for text in ("1.2.840.113549.1.9.1=#0c03614062,CN=x", "emailAddress=#1603614062,CN=x", "emailAddress=a@b,CN=x"):
            assert Selector(subject=text).matches(_Named(name))  # type: ignore[arg-type]

    def test_order_and_case_of_a_name_must_match(self) -> None:
        assert Selector("CN=bamboo-01,OU=devops,O=Example,C=DE").matches(LEAF)
        for other in ("C=DE,O=Example,OU=devops,CN=bamboo-01", "CN=BAMBOO-01,OU=devops,O=Example,C=DE", "CN=bamboo-01"):
            assert not Selector(other).matches(LEAF)

    def test_every_key_must_match(self) -> None:
        subject, issuer = LEAF.subject.rfc4514_string(), LEAF.issuer.rfc4514_string()
        assert Selector().matches(LEAF)
        assert Selector(subject, issuer, 0x15D1).matches(LEAF)
        for wrong in (Selector(issuer, issuer), Selector(subject, subject), Selector(subject, issuer, 0x15D2)):
            assert not wrong.matches(LEAF)


class TestSelect:
    def found(self, monkeypatch: pytest.MonkeyPatch, *ders: bytes) -> None:
        certificates = [FoundCertificate(der, f"pkcs11:id=%{number:02X}") for number, der in enumerate(ders)]
        monkeypatch.setattr(selector_module, "find_certificates", lambda *_, **__: certificates)

    def test_matching_certificates_are_selected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        other = certs.issue(CA, KEY.public_key(), certs.Shape("other"))
        self.found(monkeypatch, *(c.public_bytes(Encoding.DER) for c in (other, LEAF)))
        chosen = select(Selector(serial=0x15D1), KeyURI.parse("pkcs11:"), PinSource())
        assert [(c.x509, c.source) for c in chosen] == [(LEAF, "pkcs11:id=%01")]

    def test_unreadable_certificate_is_skipped_with_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found(monkeypatch, b"broken", LEAF.public_bytes(Encoding.DER))
        with pytest.warns(CertificateWarning, match="pkcs11:id=%00"):
            chosen = select(Selector(), KeyURI.parse("pkcs11:"), PinSource())
        assert [c.x509 for c in chosen] == [LEAF]

    def test_no_certificates_select_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(*_: object, **__: object) -> list[FoundCertificate]:
            raise CertificateError("there is none")

        monkeypatch.setattr(selector_module, "find_certificates", none)
        assert select(Selector(), KeyURI.parse("pkcs11:"), PinSource()) == []


def test_subject_shown_selects_the_certificate() -> None:
    [certificate] = load([FoundCertificate(LEAF.public_bytes(Encoding.DER), "x")])
    assert Selector(subject=certificate.subject).matches(LEAF)


class _Named:
    """The part of a certificate that `Selector.matches` uses."""

    def __init__(self, subject: x509.Name) -> None:
        self.subject = subject


def openssl(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True).stdout
