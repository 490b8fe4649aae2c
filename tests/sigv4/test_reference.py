"""The canonical forms. The judge is botocore's SigV4Auth; the rules are also spelled out byte by byte."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from hwsigner.sigv4 import reference

Pairs = Sequence[tuple[str, str]]

EMPTY_HASH = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
UNRESERVED = set((string.ascii_letters + string.digits + "-_.~").encode())
TOKEN = set((string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode())
EVERY_BYTE = bytes(range(256))

PATH_PIECES = [
    "/",
    "/",
    "//",
    ".",
    "..",
    "/./",
    "/../",
    "a",
    "b%2Fc",
    "%2E",
    "%2e%2E",
    "+",
    "=",
    "é",
    "%C3%A9",
    "~",
    ";",
    ":",
    "%",
]
WORDS = st.text(st.sampled_from("aAzZ09-_.~ +=&%/?#:;,é€\U0001f511\t\n\0*'\"()!@[]{}|\\^`<>$"), max_size=6)
PLAIN_HEADER_NAMES = [
    "X-Amz-Meta",
    "x-amz-meta",
    "X-AMZ-Meta-2",
    "x-amz-a",
    "Content-Type",
    "X_Odd",
    "x-!#$%&'*+.^`|~",
    "Z",
]

paths = st.lists(st.sampled_from(PATH_PIECES), max_size=8).map(lambda pieces: "/" + "".join(pieces)) | st.just("")
parameters = st.lists(st.tuples(WORDS | st.sampled_from(["a", "a-", "a.b", "A", ""]), WORDS), max_size=6)
# No \x1c-\x1f, \x85 or \xa0: botocore folds all that str.split() treats as white space.
header_values = st.text(st.sampled_from('ab,;="é€  \t\t\v\f:%'), max_size=10)
headers = st.lists(st.tuples(st.sampled_from(PLAIN_HEADER_NAMES), header_values), max_size=6)


def pairs(items: Pairs) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in items]


def judge(
    url: str, parameters: Pairs = (), headers: Pairs = (), method: str = "GET", body: bytes = b""
) -> tuple[bytes, bytes]:
    """Return botocore's canonical request and string to sign."""
    request = AWSRequest(method=method, url=url, params=list(parameters), data=body)
    for name, value in headers:
        request.headers.add_header(name, value)
    request.context["timestamp"] = "20260301T000000Z"
    auth = SigV4Auth(Credentials("id", "secret"), "rolesanywhere", "eu-west-1")
    canonical = auth.canonical_request(request)
    return canonical.encode(), auth.string_to_sign(request, canonical).encode()


@settings(max_examples=scaled(500))
@given(paths, parameters, headers, st.sampled_from(["GET", "POST", "DELETE", "X-METHOD"]), st.binary(max_size=20))
def test_canonical_request_and_string_to_sign_equal_botocores(
    path: str, parameters: Pairs, headers: Pairs, method: str, body: bytes
) -> None:
    headers = [*headers, ("Host", "rolesanywhere.eu-west-1.amazonaws.com")]
    canonical = reference.canonical_request(
        method.encode(),
        path.encode(),
        parameters=pairs(parameters),
        headers=pairs(headers),
        payload_hash=hashlib.sha256(body).hexdigest().encode(),
    )
    to_sign = reference.string_to_sign(
        b"AWS4-HMAC-SHA256",
        b"20260301T000000Z",
        scope=b"20260301/eu-west-1/rolesanywhere/aws4_request",
        canonical_request=canonical,
    )
    assert (canonical, to_sign) == judge("https://host" + path, parameters, headers, method, body)


@settings(max_examples=scaled(500))
@given(st.lists(st.tuples(WORDS, WORDS | st.none()), min_size=1, max_size=6))
def test_canonical_query_of_a_sent_query_equals_botocores(parts: list[tuple[str, str | None]]) -> None:
    """A sent query, even with empty parts, gives the canonical query that botocore reads from the URL."""
    wire = "&".join(quote(n, safe="-_.~") + ("" if v is None else "=" + quote(v, safe="-_.~")) for n, v in parts)
    expected = judge(f"https://host/?{wire}")[0].split(b"\n")[2]
    assert reference.canonical_query(reference.parse_query(wire.encode())) == expected


def test_string_to_sign_matches_two_published_examples() -> None:
    """AWS's test suite (get-vanilla) and its long-standing ListUsers example."""
    vanilla = reference.canonical_request(
        b"GET",
        b"/",
        parameters=[],
        headers=[(b"Host", b"example.amazonaws.com"), (b"X-Amz-Date", b"20150830T123600Z")],
        payload_hash=EMPTY_HASH,
    )
    scope = b"20150830/us-east-1/service/aws4_request"
    assert reference.string_to_sign(
        b"AWS4-HMAC-SHA256", b"20150830T123600Z", scope=scope, canonical_request=vanilla
    ) == (
        b"AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/service/aws4_request\n"
        b"bb579772317eb040ac9ed261061d46c1f17a8133879d6129b6e1c25292927e63"
    )
    list_users = reference.canonical_request(
        b"GET",
        b"/",
        parameters=[(b"Action", b"ListUsers"), (b"Version", b"2010-05-08")],
        headers=[
            (b"Host", b"iam.amazonaws.com"),
            (b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-8"),
            (b"X-Amz-Date", b"20150830T123600Z"),
        ],
        payload_hash=EMPTY_HASH,
    )
    digest = hashlib.sha256(list_users).hexdigest()
    assert digest == "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"


def test_canonical_request_has_its_parts_in_order() -> None:
    canonical = reference.canonical_request(
        b"get",
        b"/a/../b c",
        parameters=[(b"y", b"2"), (b"x", b"")],
        headers=[(b"Host", b"h"), (b"A", b"1")],
        payload_hash=b"UNSIGNED-PAYLOAD",
    )
    assert canonical == b"get\n/b%20c\nx=&y=2\na:1\nhost:h\n\na;host\nUNSIGNED-PAYLOAD"


# Percent-encoding.


def test_only_unreserved_bytes_are_left_unencoded() -> None:
    for byte in range(256):
        one = bytes((byte,))
        expected = one if byte in UNRESERVED else f"%{byte:02X}".encode()
        assert reference.percent_encode(one) == expected
        assert reference.percent_encode(one, slash=True) == (b"/" if one == b"/" else expected)
        assert reference.percent_decode(expected) == one


@given(st.binary(max_size=40), st.booleans())
def test_encoding_equals_the_standard_librarys(data: bytes, slash: bool) -> None:
    encoded = reference.percent_encode(data, slash=slash)
    assert encoded == quote(data, safe="-_.~/" if slash else "-_.~").encode()
    assert reference.percent_decode(encoded) == data


def test_encoding_works_on_all_bytes_at_once() -> None:
    assert reference.percent_decode(reference.percent_encode(EVERY_BYTE)) == EVERY_BYTE
    assert reference.percent_encode(b"") == reference.percent_decode(b"") == b""
    assert reference.percent_encode(b"100%41 a+b") == b"100%2541%20a%2Bb"


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [(b"%2f%2F", b"//"), (b"%aB%Ab%ab", b"\xab" * 3), (b"a+b", b"a+b"), (b"%2541", b"%41"), (b"\xff", b"\xff")],
)
def test_percent_encoding_is_decoded(encoded: bytes, decoded: bytes) -> None:
    assert reference.percent_decode(encoded) == decoded


@pytest.mark.parametrize(
    "bad", [b"%", b"a%", b"%4", b"%%41", b"%4g", b"%g4", b"% 4", b"%4 ", b"%+4", b"%0x", b"%-1", b"%\xff\xff"]
)
def test_percent_sign_without_two_hex_digits_is_refused(bad: bytes) -> None:
    for query in (bad, b"a=" + bad, bad + b"&b=1"):
        with pytest.raises(ValueError, match="percent"):
            reference.parse_query(query)
    with pytest.raises(ValueError, match="percent"):
        reference.percent_decode(bad)


# Paths.


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", b"/"),
        (b"/", b"/"),
        (b"//", b"/"),
        (b"/sessions", b"/sessions"),
        (b"/sessions/", b"/sessions/"),
        (b"/a//b///c//", b"/a/b/c/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/b/../..", b"/"),
        (b"/a/b/..", b"/a"),
        (b"/a/b/../", b"/a/"),
        (b"/a/.", b"/a"),
        (b"/a/./", b"/a/"),
        (b"/..", b"/"),
        (b"/../", b"/"),
        (b"/../../a", b"/a"),
        (b"/./", b"/"),
        (b"/...", b"/..."),
        (b"/.a/..b", b"/.a/..b"),
        (b"/%2E%2E/a", b"/%252E%252E/a"),
        (b"/a%2Fb", b"/a%252Fb"),
        (b"/a%20b", b"/a%2520b"),
        (b"/a+b=c", b"/a%2Bb%3Dc"),
        (b"/\xc3\xa9\xff\n", b"/%C3%A9%FF%0A"),
    ],
)
def test_path_is_normalised_and_encoded(path: bytes, expected: bytes) -> None:
    assert reference.canonical_path(path) == expected


@pytest.mark.parametrize("path", ["", "/", "//a/./b/../c//", "/%2F/+/=", "/~a", "/.."])
def test_s3_path_is_left_as_sent(path: str) -> None:
    judged = S3SigV4Auth(Credentials("id", "secret"), "s3", "eu-west-1")._normalize_url_path(path)
    assert reference.canonical_path_s3(path.encode()) == (judged or "/").encode()


@pytest.mark.parametrize("path", [b"a", b"./a", b"*", b"/a?b", b"/a#b", b"?", b"https://host/"])
@pytest.mark.parametrize("rule", [reference.canonical_path, reference.canonical_path_s3])
def test_path_is_refused_when_it_does_not_start_with_a_slash(rule: Callable[[bytes], bytes], path: bytes) -> None:
    with pytest.raises(ValueError, match="a path that"):
        rule(path)


@pytest.mark.parametrize("bad", [b"/a\nb", b"/\r", b"/\0"])
def test_s3_path_with_a_line_break_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match="one line"):
        reference.canonical_path_s3(bad)
    assert reference.canonical_path(bad).startswith(b"/")


# Queries.


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", []),
        (b"a", [(b"a", b"")]),
        (b"a=", [(b"a", b"")]),
        (b"=b", [(b"", b"b")]),
        (b"=", [(b"", b"")]),
        (b"&", [(b"", b""), (b"", b"")]),
        (b"a=b&&c", [(b"a", b"b"), (b"", b""), (b"c", b"")]),
        (b"a=b=c==", [(b"a", b"b=c==")]),
        (b"a=1+1&a=1%2B1&a=1%201", [(b"a", b"1+1"), (b"a", b"1+1"), (b"a", b"1 1")]),
        (b"%3D%26=%26%3D", [(b"=&", b"&=")]),
        (b"b=2&a=1&b=1", [(b"b", b"2"), (b"a", b"1"), (b"b", b"1")]),
        (b"a;b=c", [(b"a;b", b"c")]),
    ],
)
def test_query_is_split_and_decoded(query: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    assert reference.parse_query(query) == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ([], b""),
        ([("", "")], b"="),
        ([("b", ""), ("a", "=")], b"a=%3D&b="),
        ([("a", "2"), ("a", "10"), ("a", "1")], b"a=1&a=10&a=2"),
        ([("a", "b"), ("A", "b"), ("~", ""), ("_", "")], b"A=b&_=&a=b&~="),
        # `a` is before `a-b`, although `a-b=` is before `a=`.
        ([("a-b", ""), ("a", "")], b"a=&a-b="),
        # `é` is after `z` when decoded, `%C3` before `a` when encoded; so are `:` and `%3A` for the values.
        ([("z", ""), ("é", "")], b"%C3%A9=&z="),
        ([("a", "1"), ("a", ":")], b"a=%3A&a=1"),
        ([("a", " +/é")], b"a=%20%2B%2F%C3%A9"),
        ([("arn", "arn:aws:iam::1:role/x")], b"arn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx"),
    ],
)
def test_canonical_query_is_encoded_and_sorted(parameters: Pairs, expected: bytes) -> None:
    assert reference.canonical_query(pairs(parameters)) == expected


def test_every_byte_of_a_query_is_encoded_or_left_alone() -> None:
    encoded = quote(EVERY_BYTE, safe="-_.~").encode()
    assert reference.canonical_query([(EVERY_BYTE, EVERY_BYTE)]) == encoded + b"=" + encoded
    assert reference.parse_query(encoded + b"=" + encoded) == [(EVERY_BYTE, EVERY_BYTE)]


@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), max_size=6), st.randoms())
def test_canonical_query_does_not_depend_on_order_and_is_stable(
    parameters: list[tuple[bytes, bytes]], random: Random
) -> None:
    canonical = reference.canonical_query(parameters)
    assert sorted(reference.parse_query(canonical)) == sorted(parameters)
    assert reference.canonical_query(reference.parse_query(canonical)) == canonical
    shuffled = list(parameters)
    random.shuffle(shuffled)
    assert reference.canonical_query(iter(shuffled)) == canonical


# Headers.


def test_headers_are_folded_sorted_and_joined() -> None:
    given_headers = [
        (b"X-B", b"  two \t words\t"),
        (b"Host", b"h"),
        (b"x-b", b""),
        (b"X-A", b"a,b"),
        (b"X-B", b'"in  quotes"'),
        (b"x", b"1"),
    ]
    assert reference.canonical_headers(given_headers) == (
        b'host:h\nx:1\nx-a:a,b\nx-b:two words,,"in quotes"\n',
        b"host;x;x-a;x-b",
    )
    assert reference.canonical_headers(iter([])) == (b"", b"")


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_in_a_header_is_kept_folded_or_refused(byte: int) -> None:
    one = bytes((byte,))
    if byte in TOKEN:
        assert reference.canonical_headers([(b"a" + one, b"")])[1] == (b"a" + one).lower()
    else:
        for name in (b"a" + one, one + b"a", b"a" + one + b"a", one):
            with pytest.raises(ValueError, match="name"):
                reference.canonical_headers([(name, b"")])
    if one in b"\r\n\0":
        for value in (one, b"a" + one, one + b"b"):
            with pytest.raises(ValueError, match="CR, LF or NUL"):
                reference.canonical_headers([(b"a", value)])
    else:
        folded = b" " if one in b" \t\v\f" else one
        assert (
            reference.canonical_headers([(b"a", b"b" + one + one + b"c")])[0]
            == b"a:b" + folded * (2 - (folded == b" ")) + b"c\n"
        )
        assert reference.canonical_headers([(b"a", one)])[0] == b"a:" + one.strip(b" \t\v\f") + b"\n"


@given(headers, st.randoms())
def test_order_of_headers_matters_only_for_repeated_names(headers: Pairs, random: Random) -> None:
    by_name = sorted(headers, key=lambda header: header[0].lower())
    random.shuffle(names := list({name.lower() for name, _ in headers}))
    moved = [header for name in names for header in by_name if header[0].lower() == name]
    assert reference.canonical_headers(pairs(moved)) == reference.canonical_headers(pairs(headers))


@given(headers)
def test_folding_headers_again_changes_nothing(headers: Pairs) -> None:
    block, signed = reference.canonical_headers(pairs(headers))
    folded = [(name, value) for name, _, value in (line.partition(b":") for line in block.splitlines())]
    assert reference.canonical_headers(folded) == (block, signed)


def test_values_of_a_repeated_header_keep_their_order() -> None:
    assert reference.canonical_headers([(b"a", b"2"), (b"A", b"1")])[0] == b"a:2,1\n"
    assert reference.canonical_headers([(b"A", b"1"), (b"a", b"2")])[0] == b"a:1,2\n"


# Refusals.


@pytest.mark.parametrize("method", [b"", b"GE T", b"GET\n", b"G/T", b"\xff"])
def test_method_is_refused_when_it_is_not_a_token(method: bytes) -> None:
    with pytest.raises(ValueError, match="method"):
        reference.canonical_request(method, b"/", parameters=[], headers=[], payload_hash=EMPTY_HASH)


@pytest.mark.parametrize("bad", [b"a\nb", b"a\rb", b"a\0b"])
def test_line_break_is_refused_in_values_that_must_stay_on_one_line(bad: bytes) -> None:
    with pytest.raises(ValueError, match="one line"):
        reference.canonical_request(b"GET", b"/", parameters=[], headers=[], payload_hash=bad)
    for algorithm, timestamp, scope in ((bad, b"t", b"s"), (b"a", bad, b"s"), (b"a", b"t", bad)):
        with pytest.raises(ValueError, match="one line"):
            reference.string_to_sign(algorithm, timestamp, scope=scope, canonical_request=b"")


TEXT_PLACES: list[Callable[[Any], object]] = [
    lambda x: reference.percent_encode(x),
    lambda x: reference.percent_decode(x),
    lambda x: reference.canonical_path(x),
    lambda x: reference.canonical_path_s3(x),
    lambda x: reference.parse_query(x),
    lambda x: reference.canonical_query([(x, b"")]),
    lambda x: reference.canonical_query([(b"", x)]),
    lambda x: reference.canonical_headers([(x, b"")]),
    lambda x: reference.canonical_headers([(b"a", x)]),
    lambda x: reference.canonical_request(x, b"/", parameters=[], headers=[], payload_hash=b""),
    lambda x: reference.canonical_request(b"GET", x, parameters=[], headers=[], payload_hash=b""),
    lambda x: reference.canonical_request(b"GET", b"/", parameters=[], headers=[], payload_hash=x),
    lambda x: reference.string_to_sign(x, b"", scope=b"", canonical_request=b""),
    lambda x: reference.string_to_sign(b"", x, scope=b"", canonical_request=b""),
    lambda x: reference.string_to_sign(b"", b"", scope=x, canonical_request=b""),
    lambda x: reference.string_to_sign(b"", b"", scope=b"", canonical_request=x),
    lambda x: reference.payload_hash(x),
    lambda x: reference.request_to_sign(x, b"/", [], b"", (b"", b"", b"")),
    lambda x: reference.request_to_sign(b"GET", x, [], b"", (b"", b"", b"")),
    lambda x: reference.request_to_sign(b"GET", b"/", [(b"a", x)], b"", (b"", b"", b"")),
    lambda x: reference.request_to_sign(b"GET", b"/", [], b"", (b"", x, b"")),
]
PAYLOAD_PLACE: Callable[[Any], object] = lambda x: reference.request_to_sign(b"GET", b"/", [], x, (b"", b"", b""))  # noqa: E731


@pytest.mark.parametrize("wrong", [None, 7, [97], bytearray(b"a"), memoryview(b"a")])
@pytest.mark.parametrize("call", [*TEXT_PLACES, PAYLOAD_PLACE])
def test_type_error_is_raised_when_a_value_is_not_text(call: Callable[[object], object], wrong: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"not {type(wrong).__name__}")):
        call(wrong)


@pytest.mark.parametrize("call", TEXT_PLACES)
def test_str_is_accepted_only_when_it_is_ascii(call: Callable[[object], object]) -> None:
    results = []
    for text in ("a", "/a"):  # A path begins with a slash; a name must not have one.
        with suppress(ValueError):
            results.append((call(text), call(text.encode())))
    assert results
    assert all(one == other for one, other in results)
    for wrong in ("é", "/\ud800", "\U0001f511"):
        with pytest.raises(ValueError, match="non-ASCII"):
            call(wrong)


@pytest.mark.parametrize("wrong", [(b"a",), (b"a", b"b", b"c"), b"a", None, 1])
def test_type_error_is_raised_when_a_header_or_parameter_is_not_a_pair(wrong: object) -> None:
    for function in (reference.canonical_query, reference.canonical_headers):
        with pytest.raises(TypeError, match="a tuple of 2 expected"):
            function([wrong])  # type: ignore[list-item]


# All stages at once.


def test_request_to_sign_equals_its_stages_in_turn() -> None:
    headers = [("Host", "h"), ("a", "1")]
    stages = reference.canonical_request(
        "PUT",
        "/a/../b",
        parameters=[("c", "d e"), ("a", "")],
        headers=headers,
        payload_hash=reference.payload_hash(b"x"),
    )
    context = ("ALGORITHM", "20260301T000000Z", "20260301/r/s/aws4_request")
    assert reference.request_to_sign("PUT", "/a/../b?c=d%20e&a", headers, b"x", context) == (
        reference.string_to_sign(*context[:2], scope=context[2], canonical_request=stages),
        b"a;host",
    )


def test_payload_given_as_str_is_used_as_the_payload_hash() -> None:
    context = ("A", "T", "S")
    word = reference.request_to_sign("GET", "/", [], "UNSIGNED-PAYLOAD", context)
    stages = reference.canonical_request("GET", "/", parameters=[], headers=[], payload_hash="UNSIGNED-PAYLOAD")
    assert word[0] == reference.string_to_sign("A", "T", scope="S", canonical_request=stages)
    assert word != reference.request_to_sign("GET", "/", [], b"UNSIGNED-PAYLOAD", context)
    assert reference.request_to_sign("GET", "/", [], b"", context) == reference.request_to_sign(
        "GET", "/", [], EMPTY_HASH.decode(), context
    )


def test_request_to_sign_applies_the_s3_rule_for_paths() -> None:
    context = ("A", "T", "S")
    assert reference.request_to_sign("GET", "/a//b", [], b"", context, True) != reference.request_to_sign(
        "GET", "/a//b", [], b"", context
    )
    assert reference.request_to_sign("GET", "/a/b", [], b"", context) == reference.request_to_sign(
        "GET", "/a//b", [], b"", context, False
    )


@pytest.mark.parametrize("target", ["/#", "/?#", "/a?b#c", "/?#%"])
def test_target_with_a_fragment_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="#"):
        reference.request_to_sign("GET", target, [], b"", ("", "", ""))


@pytest.mark.parametrize("context", [("a", "b"), ("a", "b", "c", "d"), ["a", "b", "c"], "abc", None])
def test_context_is_refused_when_it_is_not_a_tuple_of_three(context: object) -> None:
    with pytest.raises(TypeError, match="a tuple of 3 expected"):
        reference.request_to_sign("GET", "/", [], b"", context)  # type: ignore[arg-type]


def test_payload_hash_is_sha_256() -> None:
    assert reference.payload_hash(b"") == EMPTY_HASH
    assert reference.payload_hash("abc") == b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
