"""Key URIs of tokens: hwsigner finds those that p11tool and pkcs11-tool print, and they find hwsigner's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import judges
from backends.pkcs11.tokens import certificate_object, create, p11tool, remove_tokens, self_made, tool
from emulators import InProcessSoftHSM
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import ListedObject, ListedToken, list_tokens

TOKENS = ["odd ;%/&=?# ü", "x" * 32, "  leading", "[bold]'\"\\|", "a" * 30 + "é"]
LABELS = {
    b"\x01": "a label with spaces",
    b"\x02": "semi;colon%percent/slash&and=is?question#hash",
    b"\x03": "  at both ends  ",
    b"\x04": "Ünïcödé 键 🔑",
    b"\x05": "x" * 200,
    b"\x06": "",
    b"\x00\xff;": "binary id",  # which pkcs11-tool writes as %00ff3b
}


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    """Tokens with odd labels. The first has a key and a certificate with each of the odd names."""
    for number, token in enumerate(TOKENS):
        softhsm.add_token(token)
        for key_id, label in LABELS.items() if number == 0 else [(b"\x01", "key")]:
            softhsm.generate(label, key_id, "EC:prime256v1", token)
            der = self_made(softhsm.public_key(key_id, token), "leaf")
            create(softhsm, token, certificate_object(der, label.encode(), key_id))
    yield softhsm
    remove_tokens(softhsm, *TOKENS)


@pytest.fixture(scope="module")
def listed(hsm: InProcessSoftHSM) -> dict[str, ListedToken]:
    """The tokens as listed after a login."""
    found = {}
    for token in TOKENS:
        uri = KeyURI("pkcs11", {"token": token.encode()}, {"module-path": hsm.module.encode()})
        (found[token],) = list_tokens(uri, "1234", log_in=True)
    return found


def objects(listed: dict[str, ListedToken], kind: str) -> list[ListedObject]:
    return [one for token in listed.values() for one in token.objects if one.kind == kind]


def urls(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("pkcs11:")]


def test_key_uri_of_p11tool_finds_the_same_key(hsm: InProcessSoftHSM) -> None:
    found = []
    for token in TOKENS:
        name = str(KeyURI("pkcs11", {"token": token.encode()}))
        for url in urls(p11tool(hsm, "--login", "--list-all-privkeys", "--only-urls", name)):
            with open_key(f"{url}?module-path={hsm.module}", "1234") as key:
                found.append(key.public_key())
                assert key.public_key() == hsm.public_key(KeyURI.parse(url).path["id"], token)
    assert len(set(found)) == len(LABELS) + len(TOKENS) - 1


def test_certificate_uri_of_p11tool_finds_the_same_certificate(hsm: InProcessSoftHSM) -> None:
    found = [url for token in TOKENS for url in urls(p11tool(hsm, "--list-all-certs", "--only-urls", token_uri(token)))]
    assert len(found) == len(LABELS) + len(TOKENS) - 1
    for url in found:
        (certificate,) = find_certificates(f"{url}?module-path={hsm.module}")
        exported = x509.load_pem_x509_certificate(p11tool(hsm, "--export", url).encode())
        assert certificate.der == exported.public_bytes(Encoding.DER)


def token_uri(token: str) -> str:
    return str(KeyURI("pkcs11", {"token": token.encode()}))


@judges.needs_opensc
def test_uri_of_pkcs11_tool_finds_the_same_key(hsm: InProcessSoftHSM, listed: dict[str, ListedToken]) -> None:
    for token in TOKENS[:3]:
        # It cuts off spaces at the end of a label.
        keys = [one for one in listed[token].objects if one.kind == "key" and not one.label.endswith(" ")]
        expected = {(one.label, one.public_key) for one in keys}
        lines = tool(hsm, token, "--list-objects", "--type", "privkey").splitlines()
        uris = [line.partition("uri:")[2].strip() for line in lines if "uri:" in line and "ends" not in line]
        found = set()
        for uri in uris:
            with open_key(f"{uri}?module-path={hsm.module}", "1234") as key:
                found.add((KeyURI.parse(uri).path.get("object", b"").decode(), key.public_key()))
        assert found == expected


def test_certificate_uri_names_one_certificate_for_p11tool(
    hsm: InProcessSoftHSM, listed: dict[str, ListedToken]
) -> None:
    certificates = objects(listed, "certificate")
    assert len(certificates) == len(LABELS) + len(TOKENS) - 1
    for one in certificates:
        exported = x509.load_pem_x509_certificate(p11tool(hsm, "--export", one.uri).encode())
        assert exported.public_bytes(Encoding.DER) == one.certificate
        assert [found.der for found in find_certificates(one.uri)] == [one.certificate]


def test_key_uri_names_one_key_for_p11tool(hsm: InProcessSoftHSM, listed: dict[str, ListedToken]) -> None:
    keys = objects(listed, "key")
    assert len(keys) == len(LABELS) + len(TOKENS) - 1
    for one in keys:
        (url,) = urls(p11tool(hsm, "--login", "--list-all", "--only-urls", one.uri))
        assert KeyURI.parse(url).path["id"] == one.id
        assert KeyURI.parse(url).path["type"] == b"private"
        with open_key(one.uri, PinSource("1234")) as key:
            assert key.public_key() == one.public_key


def test_token_uri_names_one_token_for_p11tool(hsm: InProcessSoftHSM, listed: dict[str, ListedToken]) -> None:
    theirs = [KeyURI.parse(url).path for url in urls(p11tool(hsm, "--list-token-urls"))]
    for token in listed.values():
        ours = KeyURI.parse(token.uri).path.items()
        (one,) = [path for path in theirs if ours <= path.items()]
        assert one["serial"].decode() == token.serial
