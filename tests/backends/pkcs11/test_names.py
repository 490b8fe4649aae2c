"""URIs that name only one token, or only one object on it, whatever its names are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.functions import TokenInfo
from hwsigner.backends.pkcs11.module import token_uri
from hwsigner.backends.pkcs11.objects import CertificateObject, count_names, object_uri

ANY = KeyURI("pkcs11", {})
NAMES = st.binary(max_size=6) | st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace"))
CERTIFICATES = st.builds(CertificateObject, st.just(b""), NAMES, NAMES.map(lambda name: name.replace(b"\0", b"")))


def token(label: str, serial: str, slot: int = 7) -> TokenInfo:
    return TokenInfo(slot, "", "", label, "", "", serial, identity=b"", flags=0)


def test_token_uri_has_label_and_serial_number() -> None:
    assert str(token_uri(token("a b", "12"), ANY)) == "pkcs11:token=a%20b;serial=12"


def test_token_uri_has_the_slot_when_tokens_have_the_same_names() -> None:
    tokens = [token("card", "0000", slot) for slot in (1, 2)]
    assert [str(token_uri(one, ANY, tokens)) for one in tokens] == [
        f"pkcs11:token=card;serial=0000;slot-id={slot}" for slot in (1, 2)
    ]
    assert "slot-id" not in token_uri(tokens[0], ANY, [*tokens[:1], token("another", "0000", 3)]).path


def test_token_uri_has_the_slot_when_the_token_has_no_names() -> None:
    assert str(token_uri(token("", ""), ANY)) == "pkcs11:slot-id=7"


def test_token_uri_has_no_label_that_is_not_utf8() -> None:
    assert str(token_uri(token("caf\ufffd", "12"), ANY)) == "pkcs11:serial=12"


def test_token_uri_keeps_the_attributes_that_found_the_token() -> None:
    asked = KeyURI.parse("pkcs11:slot-id=7;model=m;object=x;id=%01?module-path=/m.so&pin-source=file:/pin&pin-value=1")
    named = token_uri(token("t", "1"), asked)
    assert str(named) == "pkcs11:token=t;serial=1;slot-id=7;model=m?module-path=/m.so"
    assert named.pin_value is None


@given(st.lists(CERTIFICATES, min_size=1, max_size=5, unique_by=lambda one: (one.id, one.label)))
def test_object_uri_names_one_of_several_objects_alone(found: list[CertificateObject]) -> None:
    for one in found:
        path = KeyURI.parse(object_uri(one, ANY, ANY, count_names(found))).path
        wanted = {name: path[name] for name in ("id", "object") if name in path}
        named = [other for other in found if wanted.items() <= {"id": other.id, "object": other.label}.items()]
        assert named == [one]
