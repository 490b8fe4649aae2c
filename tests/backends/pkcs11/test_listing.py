"""How many calls of a module it takes to list a token with many keys, and to open one of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from any_module import list_tokens, open_key
from backends.pkcs11.tokens import EC, P256, PRIVATE_KEY, PUBLIC_KEY, certificate_object, create, self_made
from hwsigner.key.listing import ListedToken
from pkcs11_shim import FIND_OBJECTS_INIT, GET_ATTRIBUTE_VALUE, Shim

FEW, MANY = 4, 12
Calls = tuple[int, int]


@pytest.fixture(scope="module")
def tokens(loaded_shim: Shim) -> list[bytes]:
    """The public keys on tokens with few and with many keys. Half of them are in certificates, half in objects."""
    loaded_shim.hsm.add_token("copies")
    publics = []
    for count in (FEW, MANY):
        loaded_shim.hsm.add_token(f"with {count}")
        objects = []
        for number in range(count):
            key = ec.generate_private_key(ec.SECP256R1())
            spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            names = {"ID": bytes((number,)) * 2, "LABEL": b"key %d" % number}
            made = {"KEY_TYPE": EC, "EC_PARAMS": P256, **names}
            value = key.private_numbers().private_value.to_bytes(32)
            objects.append({"CLASS": PRIVATE_KEY, "VALUE": value, "SIGN": True, "PRIVATE": True, **made})
            if number % 2:
                objects.append(certificate_object(self_made(spki, "leaf"), names["LABEL"], names["ID"]))
            else:
                objects.append({"CLASS": PUBLIC_KEY, "EC_POINT": spki[-65:], "PRIVATE": False, **made})
            publics.append(spki)
        create(loaded_shim.hsm, f"with {count}", *objects)
    return publics


def calls(shim: Shim, work: Callable[[], object]) -> Calls:
    """Return how many searches something makes, and how often it reads attributes of an object."""
    before = shim.count(FIND_OBJECTS_INIT), shim.count(GET_ATTRIBUTE_VALUE)
    work()
    return shim.count(FIND_OBJECTS_INIT) - before[0], shim.count(GET_ATTRIBUTE_VALUE) - before[1]


@pytest.mark.parametrize("log_in", [False, True])
def test_list_makes_as_many_searches_for_many_keys_as_for_few(shim: Shim, tokens: list[bytes], log_in: bool) -> None:
    found: dict[int, ListedToken] = {}

    def work(count: int) -> None:
        uri = f"pkcs11:token=with%20{count}?module-path={shim.path}"
        (found[count],) = list_tokens(uri, "1234", log_in=log_in)

    few, few_reads = calls(shim, lambda: work(FEW))
    many, many_reads = calls(shim, lambda: work(MANY))
    assert few == many <= 8
    assert many_reads <= few_reads * MANY / FEW
    if log_in:
        keys = [one for token in found.values() for one in token.objects if one.kind == "key"]
        assert sorted(one.public_key or b"" for one in keys) == sorted(tokens)


def test_extractable_key_is_listed_as_one_that_can_be_copied(shim: Shim, tokens: list[bytes]) -> None:
    made = {"CLASS": PRIVATE_KEY, "KEY_TYPE": EC, "EC_PARAMS": P256, "VALUE": b"\1" * 32, "SIGN": True}
    create(shim.hsm, "copies", *({**made, "LABEL": b"%d" % flag, "EXTRACTABLE": flag} for flag in (False, True)))
    (token,) = list_tokens(f"pkcs11:token=copies?module-path={shim.path}", "1234", log_in=True)
    assert {one.label: one.notes for one in token.objects} == {"0": (), "1": ("can be copied",)}


def test_key_is_found_among_many_by_its_public_key_with_few_searches(shim: Shim, tokens: list[bytes]) -> None:
    def work(count: int, public_key: bytes) -> None:
        uri = f"pkcs11:token=with%20{count}?module-path={shim.path}"
        with open_key(uri, "1234", public_key=public_key) as key:
            assert key.public_key() == public_key

    few, _ = calls(shim, lambda: work(FEW, tokens[FEW - 1]))
    many, _ = calls(shim, lambda: work(MANY, tokens[-1]))
    assert few == many == 2


@pytest.mark.parametrize("number", [0, 1])  # Its public key is in an object, or in a certificate.
@pytest.mark.parametrize("name", ["object=key%20{0}", "id=%{0:02x}%{0:02x}", "object=key%20{0};id=%{0:02x}%{0:02x}"])
@pytest.mark.parametrize("is_certified", [True, False])
def test_key_that_is_named_is_opened_with_a_search_before_the_login_and_one_after(
    shim: Shim, tokens: list[bytes], name: str, number: int, is_certified: bool
) -> None:
    uri = f"pkcs11:token=with%20{MANY};{name.format(number)}?module-path={shim.path}"
    public_key = tokens[FEW + number]
    work = partial(open_key, uri, "1234", public_key=public_key if is_certified else None)
    searches, _ = calls(shim, lambda: work().close())
    assert searches == 2
    with work() as key:
        searches, _ = calls(shim, lambda: key.public_key())
        assert key.public_key() == public_key
    assert searches <= (0 if is_certified and number == 0 else 1)


def test_key_that_is_named_is_opened_without_reading_the_others(shim: Shim, tokens: list[bytes]) -> None:
    def work(count: int) -> None:
        open_key(f"pkcs11:token=with%20{count};object=key%201?module-path={shim.path}", "1234").close()

    assert calls(shim, lambda: work(FEW)) == calls(shim, lambda: work(MANY))
