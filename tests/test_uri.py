"""Key URIs: every URI is the same after writing and parsing, and its PIN is never printed."""

from __future__ import annotations

import contextlib
import copy
import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._uri import KeyURI
from hwsigner.errors import HwsignerError, UsageError

NAMES = st.one_of(
    st.sampled_from(["token", "object", "id", "serial", "type", "slot-id", "model", "handle"]),
    st.text(string.ascii_lowercase + string.digits + "-", min_size=1).filter(lambda name: not name.startswith("pin-")),
)
VALUES = st.binary(max_size=40).map(lambda value: value.replace(b"\0", b""))
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def _with_binary_id(attributes: dict[str, bytes], identifier: bytes | None) -> dict[str, bytes]:
    return attributes if identifier is None else {**attributes, "id": identifier}


ATTRIBUTES = st.builds(_with_binary_id, st.dictionaries(NAMES, VALUES, max_size=5), st.none() | st.binary())
QUERIES = st.builds(
    _with_binary_id, st.dictionaries(NAMES | st.just("pin-source"), VALUES, max_size=5), st.none() | st.binary()
)
FILE_PATHS = VALUES.filter(bool).map(lambda path: {"path": path})
URIS = st.one_of(
    st.builds(KeyURI, st.just("file"), FILE_PATHS, QUERIES, st.none() | TEXTS),
    st.builds(KeyURI, st.just("file"), FILE_PATHS.map(lambda p: {"path": b"//" + p["path"]}), QUERIES),
    st.builds(KeyURI, st.sampled_from(["pkcs11", "tpm2"]), ATTRIBUTES, QUERIES, st.none() | TEXTS),
)
PINS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(
    lambda t: f"<4711{t}>"
)


def percent(text: str) -> str:
    """Percent-encode every byte."""
    return "".join(f"%{byte:02x}" for byte in text.encode())


class TestWritingAndReading:
    @given(URIS)
    def test_uri_is_the_same_after_writing_and_parsing(self, uri: KeyURI) -> None:
        assert KeyURI.parse(str(uri)) == uri

    @given(URIS)
    def test_text_of_a_uri_is_printable_ascii_without_spaces(self, uri: KeyURI) -> None:
        assert str(uri).isascii()
        assert str(uri).isprintable()
        assert " " not in str(uri)

    @given(TEXTS.filter(bool))
    def test_text_without_a_scheme_is_a_path(self, text: str) -> None:
        path = f"/{text}"
        uri = KeyURI.parse(path)
        assert (uri.scheme, uri.file, uri.query, uri.name) == ("file", path, {}, path)
        assert KeyURI.parse(str(uri)) == uri

    @pytest.mark.parametrize("path", ["C:\\key.pem", "https://host/key", "PKCS12:x", "./pkcs11:x", "pkcs11", "a?b=c;d"])
    def test_unknown_scheme_is_part_of_a_path(self, path: str) -> None:
        assert KeyURI.parse(path) == KeyURI("file", {"path": path.encode()})

    def test_path_that_is_not_utf8_is_kept(self) -> None:
        path = b"/caf\xe9.pem".decode("utf-8", "surrogateescape")
        assert KeyURI.parse(path) == KeyURI.parse("file:/caf%E9.pem") == KeyURI.parse(f"file:{path}")
        assert KeyURI.parse(path).file == path

    @given(st.text())
    def test_any_text_is_a_uri_or_a_usage_error(self, text: str) -> None:
        for scheme in ("", "file:", "pkcs11:", "tpm2:", "handle:"):
            with contextlib.suppress(UsageError):
                uri = KeyURI.parse(scheme + text)
                assert KeyURI.parse(str(uri)) == uri

    @pytest.mark.parametrize("scheme", ["pkcs11", "PKCS11", "Pkcs11"])
    def test_case_of_a_scheme_is_ignored(self, scheme: str) -> None:
        assert KeyURI.parse(f"{scheme}:token=A") == KeyURI("pkcs11", {"token": b"A"})

    def test_handle_is_short_for_tpm2(self) -> None:
        uri = KeyURI.parse("handle:0x81000001?tcti=device:/dev/tpmrm0")
        assert uri == KeyURI.parse("tpm2:handle=0x81000001?tcti=device:/dev/tpmrm0")
        assert uri.name == "tpm2:handle=0x81000001"


class TestFilePaths:
    @pytest.mark.parametrize(
        ("text", "path"),
        {
            "file:/etc/key.pem": "/etc/key.pem",
            "file:///etc/key.pem": "/etc/key.pem",
            "file://localhost/etc/key.pem": "/etc/key.pem",
            "file:key.pem": "key.pem",
            "file:a%3Fb%25.pem?": "a?b%.pem",
            "file:////etc/key.pem": "//etc/key.pem",
            "file://localhost///etc": "///etc",
            "file:%2F%2Fetc": "//etc",
        }.items(),
    )
    def test_file_uri_may_have_any_form_of_rfc_8089(self, text: str, path: str) -> None:
        assert KeyURI.parse(text).file == path

    @pytest.mark.parametrize(
        "text", ["file:", "file:?pin-source=file:/x", "file://host/key.pem", "file://", "file://key.pem"]
    )
    def test_file_uri_without_a_local_path_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="no local path"):
            KeyURI.parse(text)


class TestRfc7512:
    """The examples of RFC 7512, section 3."""

    @pytest.mark.parametrize(
        ("text", "path", "query"),
        [
            ("pkcs11:", {}, {}),
            ("pkcs11:object=my-pubkey;type=public", {"object": b"my-pubkey", "type": b"public"}, {}),
            (
                "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
                {"object": b"my-key", "type": b"private"},
                {"pin-source": b"file:/etc/token"},
            ),
            (
                "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
                "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
                {
                    "token": b"The Software PKCS#11 Softtoken",
                    "manufacturer": b"Snake Oil, Inc.",
                    "model": b"1.0",
                    "object": b"my-certificate",
                    "type": b"cert",
                    "id": bytes.fromhex("69953e5cf4bdec91"),
                    "serial": b"",
                },
                {"pin-source": b"file:/etc/token_pin"},
            ),
            (
                "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
                {"object": b"my-sign-key", "type": b"private"},
                {"module-path": b"/mnt/libmypkcs11.so.1"},
            ),
            ("pkcs11:slot-description=Sun%20Metaslot", {"slot-description": b"Sun Metaslot"}, {}),
            (
                "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate",
                {"token": b"A name with a substring %;", "object": b"my-certificate"},
                {},
            ),
            (
                "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1",
                {"token": "Name with a small A with acute: á".encode()},
                {},
            ),
        ],
    )
    def test_example_is_parsed_and_written(self, text: str, path: dict[str, bytes], query: dict[str, bytes]) -> None:
        assert KeyURI.parse(text) == KeyURI("pkcs11", path, query)
        assert str(KeyURI.parse(text)) == text

    def test_attributes_of_a_token_may_have_nul(self) -> None:
        text = "pkcs11:token=nul%00%00;id=%00;object=a%00b"
        assert KeyURI.parse(text).path == {"token": b"nul\0\0", "id": b"\0", "object": b"a\0b"}
        assert str(KeyURI.parse(text)) == text

    def test_example_with_a_pin_is_written_without_it(self) -> None:
        uri = KeyURI.parse("pkcs11:token=Software%20PKCS%2311%20softtoken?module-name=mypkcs11&pin-value=the-pin")
        assert uri.pin_value == "the-pin"
        assert str(uri) == "pkcs11:token=Software%20PKCS%2311%20softtoken?module-name=mypkcs11"


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "words"),
        {
            "": "empty",
            "a\0b": "NUL",
            "file:/a%00b": "NUL character in 'path'",
            "tpm2:path=/a%00b": "NUL character in 'path'",
            "pkcs11:?pin-source=file:/a%00": "NUL character in 'pin-source'",
            "pkcs11:?module-path=/a%00": "NUL character in 'module-path'",
            "pkcs11:token=a;token=b": "gives 'token' twice",
            "pkcs11:?module-path=a&module-path=b": "gives 'module-path' twice",
            "pkcs11:token": "not name=value",
            "pkcs11:=alpha": "not name=value",
            "pkcs11:?x": "not name=value",
            "pkcs11:token=%zz": "bad percent-encoding in 'token'",
            "pkcs11:token=100%": "bad percent-encoding in 'token'",
            "pkcs11:token=%2": "bad percent-encoding in 'token'",
            "file:/100%": "bad percent-encoding in 'path'",
            "handle:%": "bad percent-encoding in 'handle'",
            "pkcs11:?pin-value=%ff": "'pin-value' that is not UTF-8",
            "pkcs11:token=a;pin-value=1": "has pin-value before its question mark",
            "tpm2:pin-source=env:PIN;handle=0x81000100": "has pin-source before its question mark",
            "pkcs11:token=a?module-name=p11;pin-value=1": "semicolon or question mark in 'module-name'",
            "pkcs11:token=a?pin-value=1?module-name=p11": "semicolon or question mark in 'pin-value'",
            "/\ud800": "not Unicode text",
        }.items(),
    )
    def test_malformed_uri_is_refused_with_what_is_wrong(self, text: str, words: str) -> None:
        with pytest.raises(UsageError, match=words) as caught:
            KeyURI.parse(text)
        assert caught.value.exit_status == 2

    def test_id_may_have_nul(self) -> None:
        assert KeyURI.parse("pkcs11:id=%00%01").path["id"] == b"\0\x01"

    def test_text_of_an_attribute_that_is_not_utf8_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="'object' that is not UTF-8"):
            KeyURI.parse("pkcs11:object=%ff").text("object")

    @pytest.mark.parametrize(
        ("text", "name"),
        {
            "pkcs11:tokn=alpha": "tokn",
            "pkcs11:Token=alpha": "Token",
            "pkcs11:token=alpha?modul-path=x": "modul-path",
            "pkcs11:token=alpha;x-vendor=1": "x-vendor",
            "pkcs11:token=alpha?x-vendor=1": "x-vendor",
        }.items(),
    )
    def test_unknown_attribute_is_refused(self, text: str, name: str) -> None:
        with pytest.raises(UsageError, match=f"no attribute '{name}'"):
            KeyURI.parse(text).require_known({"token"}, {"module-path"})

    @pytest.mark.parametrize(
        ("text", "hint"),
        {
            "pkcs11:token=alpha;module-path=x": "Write module-path=… after the question mark",
            "pkcs11:?token=alpha": "Write token=… before the question mark",
            "pkcs11:tokn=alpha": "Did you mean token?",
            "pkcs11:color=red": "Known here: token",
        }.items(),
    )
    def test_hint_says_where_an_attribute_belongs(self, text: str, hint: str) -> None:
        with pytest.raises(UsageError) as caught:
            KeyURI.parse(text).require_known({"token"}, {"module-path"})
        assert caught.value.hint == hint

    def test_hint_shows_the_attributes_of_the_scheme(self) -> None:
        with pytest.raises(UsageError, match="not name=value") as caught:
            KeyURI.parse("tpm2:/etc/pki/web.tss2")
        assert caught.value.hint.startswith("Write tpm2:path=/etc/pki/web.tss2,")

    def test_known_attributes_and_pins_are_accepted(self) -> None:
        uri = KeyURI.parse("pkcs11:token=alpha?module-path=x&pin-source=file:/pin&pin-value=1")
        uri.require_known({"token"}, {"module-path"})


class TestAttributes:
    def test_text_is_read_from_path_and_query(self) -> None:
        uri = KeyURI.parse("pkcs11:token=%C3%A9?module-path=/x.so")
        assert (uri.text("token"), uri.text("module-path"), uri.text("object")) == ("é", "/x.so", None)

    @given(URIS, TEXTS)
    def test_with_query_sets_one_attribute(self, uri: KeyURI, value: str) -> None:
        changed = uri.with_query("module-path", value)
        assert changed.query["module-path"] == value.encode()
        assert {**changed.query, "module-path": b""} == {**uri.query, "module-path": b""}
        assert (changed.scheme, changed.path, changed.pin_value) == (uri.scheme, uri.path, uri.pin_value)

    @given(URIS)
    def test_token_is_named_without_its_objects(self, uri: KeyURI) -> None:
        objects = {"object", "id", "type"} if uri.scheme == "pkcs11" else set()
        assert uri.token.path == {n: v for n, v in uri.path.items() if n not in objects}
        assert (uri.token.query, uri.token.pin_value, uri.token.token) == (uri.query, uri.pin_value, uri.token)

    def test_name_has_no_query(self) -> None:
        assert KeyURI.parse("pkcs11:token=a?module-path=/x.so").name == "pkcs11:token=a"


class TestPins:
    @given(PINS, st.sampled_from(["file:/key", "pkcs11:token=a", "tpm2:handle=0x81", "handle:0x81"]))
    def test_pin_is_parsed_and_never_printed(self, pin: str, start: str) -> None:
        uri = KeyURI.parse(f"{start}?module-path=x&pin-value={percent(pin)}")
        assert uri.pin_value == pin
        for shown in (str(uri), repr(uri), uri.name, f"{uri}", f"{uri!r:>5}", repr(uri.query)):
            assert "4711" not in shown
            assert percent(pin) not in shown
        assert KeyURI.parse(str(uri)).pin_value is None

    @given(PINS)
    def test_pin_does_not_count_in_a_comparison(self, pin: str) -> None:
        uri = KeyURI.parse("pkcs11:token=a?module-path=x")
        same = KeyURI.parse(f"{uri}&pin-value={percent(pin)}")
        assert uri == same
        assert len({uri, same, uri.with_query("module-path", "y"), uri.changed(path={"token": b"b"})}) == 3

    @given(PINS)
    def test_pin_in_a_malformed_uri_is_in_no_exception(self, pin: str) -> None:
        given_pin = percent(pin)
        for text in (
            f"pkcs11:?pin-value={given_pin}%",
            f"pkcs11:?pin-value={given_pin}%ff",
            f"pkcs11:?pin-value={given_pin}%00",
            f"pkcs11:?pin-value={pin}\ud800",
            f"pkcs11:?pin-value={given_pin}&pin-value=1",
            f"pkcs11:?pin-value={given_pin}&=",
            f"pkcs11:?pin-value:{pin.replace('=', '')}",
            f"pkcs11:token=%ZZ?pin-value={given_pin}",
            f"/key.pem?PIN-VALUE={given_pin}",
        ):
            with pytest.raises(HwsignerError) as caught:
                KeyURI.parse(text)
            error: BaseException | None = caught.value
            while error is not None:
                assert "4711" not in f"{error!s} {error!r} {error.args}"
                assert given_pin not in f"{error!s} {error!r} {error.args}"
                error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def test_uris_are_equal_with_different_pins(self) -> None:
        assert KeyURI.parse("pkcs11:token=a?pin-value=1") == KeyURI.parse("pkcs11:token=a?pin-value=2")

    def test_copies_keep_the_pin(self) -> None:
        uri = KeyURI.parse("pkcs11:token=a?pin-value=4711")
        for other in (copy.copy(uri), pickle.loads(pickle.dumps(uri)), uri.with_query("module-path", "x")):
            assert other.pin_value == "4711"
