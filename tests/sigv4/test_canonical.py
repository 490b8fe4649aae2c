"""The implementation in use agrees with the reference: the same result, or an error of the same type."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from hwsigner.sigv4 import canonical
from hwsigner.sigv4 import reference as _reference

Arguments = Sequence[Any]

CONTEXT = ("AWS4-HMAC-SHA256", "20260301T000000Z", "20260301/eu-west-1/service/aws4_request")
KEY = bytes(range(100, 132))
PLAIN: tuple[Any, Any, Any, Any, Any] = ("GET", "/", [("Host", "example.com")], b"", CONTEXT)
# Around the sizes at which the extension starts to use the heap, or another way to sort.
SIZES = (0, 1, 2, 15, 16, 17, 18, 33, 500)
LENGTHS = (0, 1, 170, 171, 341, 511, 512, 513, 682, 683, 1024, 1365, 1366, 2047, 2048, 4095, 4096, 4097, 20_000)


def outcome(function: Callable[..., object], arguments: Arguments) -> object:
    """Return a function's result, or the type of its exception."""
    try:
        return function(*arguments)
    except Exception as error:
        return type(error)


def agree(*arguments: Any) -> object:
    """Check that a call has the same outcome for both implementations, also with a key, and return it."""
    expected = outcome(_reference.request_to_sign, arguments)
    assert outcome(canonical.request_to_sign, arguments) == expected
    signed = sign(_reference.sign_hmac, arguments)
    assert sign(canonical.sign_hmac, arguments) == signed
    assert isinstance(signed, type) == isinstance(expected, type)
    return expected


def sign(function: Callable[..., object], arguments: Arguments) -> object:
    """Return the outcome of a call with a key for the same request."""
    s3 = arguments[5] if len(arguments) > 5 else False
    return outcome(function, (*arguments[:5], s3, *arguments[6:], KEY))


def test_functions_come_from_the_implementation_that_canonical_names() -> None:
    home = {"native": "hwsigner._native", "python": "hwsigner.sigv4.reference"}[canonical.IMPLEMENTATION]
    assert canonical.request_to_sign.__module__ == canonical.sign_hmac.__module__ == home
    assert inspect.signature(canonical.request_to_sign) == inspect.signature(_reference.request_to_sign).replace(
        parameters=[
            parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in inspect.signature(_reference.request_to_sign).parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    ) or home.endswith(".reference")


def test_canonical_replaces_two_functions_of_the_reference_when_native() -> None:
    functions = {name for name, value in vars(_reference).items() if inspect.isfunction(value) and name[0] != "_"}
    assert {*canonical.__all__} - {"IMPLEMENTATION"} <= functions
    others = [getattr(canonical, name) is getattr(_reference, name) for name in canonical.__all__ if name in functions]
    assert others.count(False) == {"native": 2, "python": 0}[canonical.IMPLEMENTATION]


@pytest.mark.parametrize(
    ("library", "reason"), [("damaged", "file too short"), ("without functions", "undefined symbol: OpenSSL_version")]
)
def test_python_is_used_when_libcrypto_cannot_be(library: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "libcrypto.so.3"
    if library == "damaged":
        path.touch()
    else:
        subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", "-o", path], check=True)
    script = "from hwsigner.sigv4 import canonical; print(canonical.describe_implementation())"
    command = ["/usr/bin/env", f"LD_LIBRARY_PATH={tmp_path}", sys.executable, "-c", script]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.startswith("python (")
    if canonical.IMPLEMENTATION == "native":
        assert "libcrypto.so.3" in printed
        assert reason in printed


# Random requests.

PIECES = ["/", "/", "//", ".", "..", "/./", "/../", "a", "b", "%2F", "%41", "%7e", "%2e%2E", "%", "%4", "%zz", "%C3%a9"]
QUERY_PIECES = [*PIECES, "?", "&", "&", "&", "=", "=", "==", "+", " ", "#", "~", "a=1", "a=", "a-", "A", "z"]
NAMES = [
    "Host",
    "host",
    "X-Amz-Date",
    "x-amz-date",
    "X-AMZ-DATE",
    "a",
    "A-",
    "a_",
    "!#$%&'*+-.^_`|~",
    "x",
    "",
    "x y",
    "x:",
]
VALUES = st.text(st.sampled_from("ab,;=\"'  \t\t\v\f:%\n\r\0\x01\x7f\x80\xff\xa0\x85"), max_size=12)


def wire(pieces: Sequence[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=12).map("".join)


def text(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str | bytes]:
    """Generate strings and, as often, bytes."""
    return strategy | strategy.map(lambda value: value.encode("latin-1"))


targets = text(
    st.builds(lambda path, query: f"/{path}{query}", wire(PIECES), st.just("") | wire(QUERY_PIECES).map("?{}".format))
)
headers = st.lists(st.tuples(text(st.sampled_from(NAMES)), text(VALUES)), max_size=20)
good_headers = st.lists(
    st.tuples(text(st.sampled_from(NAMES[:10])), text(st.text(st.sampled_from("ab,  \t\v\f"), max_size=8))), max_size=20
)
words = text(st.sampled_from(["GET", "POST", "", "G T", "UNSIGNED-PAYLOAD", "a\nb", "a\0", "é", "/", "x"]))
wrong: st.SearchStrategy[object] = st.sampled_from(
    [None, 1, 1.5, [], (), (1,), ("a",), ("a", "b"), ("a", 1), bytearray(b"a"), {}, "é", "\ud800", [("é", "a")]]
)
contexts = st.just(CONTEXT) | st.tuples(words, words, words)


@settings(max_examples=scaled(500))
@given(st.tuples(words, targets, good_headers | headers, words | st.binary(max_size=200), contexts, st.booleans()))
def test_implementations_agree_on_random_requests(arguments: Arguments) -> None:
    agree(*arguments)


@settings(max_examples=scaled(500))
@given(targets, good_headers, st.binary(max_size=100), st.booleans())
def test_implementations_agree_on_mostly_valid_requests(target: Any, headers: Any, payload: bytes, s3: bool) -> None:
    agree("GET", target, headers, payload, CONTEXT, s3)


@settings(max_examples=scaled(500))
@given(st.integers(0, 5), wrong, st.booleans())
def test_implementations_agree_when_an_argument_has_a_wrong_type(place: int, value: object, iterate: bool) -> None:
    arguments = [*PLAIN, False]
    arguments[place] = iter(value) if iterate and isinstance(value, list) else value
    expected = outcome(_reference.request_to_sign, arguments)
    arguments[place] = iter(value) if iterate and isinstance(value, list) else value
    assert outcome(canonical.request_to_sign, arguments) == expected


def test_implementations_agree_which_of_two_wrong_arguments_is_reported() -> None:
    """The first of two wrong arguments decides; wrong types and non-ASCII characters come before all else."""
    for first in range(5):
        for second in range(first + 1, 5):
            for one, other in ((1, "é"), ("é", 1), ("", 1), ("", "é")):
                arguments = list(PLAIN)
                for place, value in ((first, one), (second, other)):
                    arguments[place] = {2: [(value, value)], 4: (value, value, value)}.get(place, value)
                agree(*arguments)


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_wrong_number_of_arguments_raises_type_error(count: int) -> None:
    assert agree(*([*PLAIN, False, False][:count])) is TypeError
    with pytest.raises(TypeError):
        canonical.request_to_sign(*PLAIN, s3=True)  # type: ignore[call-arg]


# Every byte in every place.


def places(one: bytes) -> Iterator[Arguments]:
    for around in (b"%s", b"a%s", b"%sa", b"a%sa", b"a%s%sa"):
        data = around.replace(b"%s", one)
        yield (data, *PLAIN[1:])
        yield ("GET", b"/" + data, *PLAIN[2:])
        yield ("GET", b"/" + data, *PLAIN[2:], True)
        yield ("GET", data, *PLAIN[2:])
        yield ("GET", b"/?" + data, *PLAIN[2:])
        yield ("GET", b"/?a=" + data + b"&a=b", *PLAIN[2:])
        yield ("GET", b"/?a=%" + data, *PLAIN[2:])
        yield ("GET", b"/?a=%4" + data, *PLAIN[2:])
        yield ("GET", "/", [(data, b"b")], *PLAIN[3:])
        yield ("GET", "/", [("b", data), ("a", b"x"), (data, b"b")], *PLAIN[3:])
        yield (*PLAIN[:3], data, CONTEXT)
        if data.isascii():
            yield (*PLAIN[:3], data.decode(), CONTEXT)
        for place in range(3):
            yield (*PLAIN[:4], (*CONTEXT[:place], data, *CONTEXT[place + 1 :]))


@pytest.mark.slow
def test_implementations_agree_on_every_byte_in_every_place() -> None:
    for byte in range(256):
        for arguments in places(bytes((byte,))):
            agree(*arguments)


@pytest.mark.slow
def test_implementations_agree_on_every_pair_after_a_percent_sign() -> None:
    for high in range(256):
        for low in range(256):
            agree("GET", b"/?a=%%%c%c" % (high, low), [], "x", CONTEXT)


# Sizes.


@pytest.mark.parametrize("length", LENGTHS)
def test_implementations_agree_on_texts_of_every_length(length: int) -> None:
    for letter in "a/&=% ,":
        data = letter * length
        for arguments in (
            (data or "G", *PLAIN[1:]),
            ("GET", "/" + data, *PLAIN[2:]),
            ("GET", "/" + data, *PLAIN[2:], True),
            ("GET", "/é".encode() + data.encode(), *PLAIN[2:]),
            ("GET", "/?" + data, *PLAIN[2:]),
            ("GET", b"/?\xff" + data.encode(), *PLAIN[2:]),
            ("GET", "/", [("a", data), ("a", data), ("b" + "a" * length, "x")], *PLAIN[3:]),
            (*PLAIN[:3], data.encode(), CONTEXT),
            (*PLAIN[:3], data, CONTEXT),
            (*PLAIN[:4], ("a", "b", data)),
        ):
            agree(*arguments)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("distinct", [1, 2, 7, 1000])
def test_implementations_agree_on_any_number_of_headers_and_parameters(count: int, distinct: int) -> None:
    for step in (1, 7, 499):
        numbers = [i * step % 1009 % distinct for i in range(count)]
        sent = [(f"X-{n}" if n % 2 else f"x-{n}", str(i)) for i, n in enumerate(numbers)]
        agree("GET", "/", sent, b"", CONTEXT)
        agree("GET", "/", iter(sent) if not sent else tuple(sent), b"", CONTEXT)
        agree("GET", "/?" + "&".join(f"{n}={i % 3}" for i, n in enumerate(numbers)), [], b"", CONTEXT)
        agree("GET", "/?" + "&".join(f"{n}" for n in numbers), [], b"", CONTEXT)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_signature_is_the_hmac_of_the_string_to_sign(key: bytes, payload: bytes) -> None:
    arguments = "PUT", "/a?b=c", [("Host", "h")], payload, CONTEXT
    to_sign, names = canonical.request_to_sign(*arguments)
    expected = hmac.new(key, to_sign, "sha256").hexdigest().encode()
    assert canonical.sign_hmac(*arguments, False, key) == (expected, names)


@pytest.mark.parametrize("key", [b"", b"k", bytes(31), bytes(33), bytes(64), "k" * 31, "é" * 32, None, bytearray(32)])
def test_signing_key_is_refused_when_it_is_not_32_bytes(key: Any) -> None:
    expected = outcome(_reference.sign_hmac, (*PLAIN, False, key))
    assert expected in (ValueError, TypeError)
    assert outcome(canonical.sign_hmac, (*PLAIN, False, key)) == expected
    assert outcome(canonical.sign_hmac, ("", *PLAIN[1:], False, key)) == expected
    assert outcome(canonical.sign_hmac, (1, *PLAIN[1:], False, key)) is TypeError


def test_signing_key_may_be_str() -> None:
    assert canonical.sign_hmac(*PLAIN, False, "k" * 32) == canonical.sign_hmac(*PLAIN, False, b"k" * 32)
    assert canonical.sign_hmac(*PLAIN, True, b"k" * 32) == _reference.sign_hmac(*PLAIN, True, b"k" * 32)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65_535, 65_536, 65_537, 1_000_000])
def test_payload_of_any_size_signs_like_its_hash(size: int) -> None:
    payload = bytes(size)
    signed = agree("PUT", "/", [], payload, CONTEXT)
    assert signed == agree("PUT", "/", [], hashlib.sha256(payload).hexdigest(), CONTEXT)


def test_headers_may_be_any_iterable() -> None:
    pairs = [("b", "1"), ("a", "2")]
    expected = canonical.request_to_sign("GET", "/", pairs, b"", CONTEXT)
    assert expected[1] == b"a;b"
    for other in (tuple(pairs), iter(pairs), {"b": "1", "a": "2"}.items(), (pair for pair in pairs)):
        assert canonical.request_to_sign("GET", "/", other, b"", CONTEXT) == expected


def test_exception_of_a_headers_iterable_is_passed_on() -> None:
    def broken() -> Iterator[tuple[str, str]]:
        yield "a", "b"
        raise KeyError("no more")

    for function in (canonical.request_to_sign, _reference.request_to_sign):
        with pytest.raises(KeyError):
            function("GET", "/", broken(), b"", CONTEXT)


def test_implementations_raise_the_same_messages() -> None:
    for arguments in (
        ("", *PLAIN[1:]),
        ("GET", "a", *PLAIN[2:]),
        ("GET", "/#", *PLAIN[2:]),
        ("GET", "/?#", *PLAIN[2:]),
        ("GET", "/?%", *PLAIN[2:]),
        ("GET", "/", [("a", "\n")], *PLAIN[3:]),
        ("GET", "/", [("a", 1)], *PLAIN[3:]),
        ("GET", "/", ["ab", "c"], *PLAIN[3:]),
        ("GET", "é", *PLAIN[2:]),
        (None, *PLAIN[1:]),
        (*PLAIN[:4], ("a", "b")),
    ):
        messages = []
        for function in (canonical.request_to_sign, _reference.request_to_sign):
            with pytest.raises((TypeError, ValueError)) as caught:
                function(*arguments)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
