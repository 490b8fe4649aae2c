"""PINs: their places, in their order; files of PINs; nothing printed."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.errors import PinError, PinRequiredError, UnsafeKeyWarning, UsageError
from hwsigner.pin import MAX_PIN_FILE_BYTES, PinRequest, PinSource, read_pin_source
from hwsigner.uri import KeyURI

REQUEST = PinRequest("user PIN", "token 'alpha'")
WriteFile = Callable[[bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    """Return what writes a PIN file of mode 0600 and returns its pin-source."""

    def write(content: bytes) -> str:
        path = tmp_path / "pin"
        path.touch(0o600)
        path.write_bytes(content)
        return f"file:{path}"

    return write


def _uri(value: str | None, source: str | None) -> KeyURI:
    query = {} if source is None else {"pin-source": source.encode()}
    return KeyURI("pkcs11", {"token": b"alpha"}, query, value)


class TestPlaces:
    @pytest.mark.parametrize("places", list(itertools.product([False, True], repeat=4)))
    def test_the_first_place_that_has_a_pin_gives_it(self, write: WriteFile, places: tuple[bool, ...]) -> None:
        caller, value, source, ask = places
        uri = _uri("from pin-value" if value else None, write(b"from file\n") if source else None)
        pins = PinSource("from caller" if caller else None, (lambda request: "from person") if ask else None)
        names = ("from caller", "from pin-value", "from file", "from person")
        expected = next((name for name, there in zip(names, places, strict=True) if there), None)
        if expected is None:
            with pytest.raises(PinRequiredError):
                pins.get(uri, REQUEST)
        else:
            assert pins.get(uri, REQUEST) == expected
        assert pins.stored(uri, REQUEST) == (expected if expected != "from person" else None)

    def test_an_empty_pin_is_a_pin(self, write: WriteFile) -> None:
        assert PinSource("").get(_uri("x", None), REQUEST) == ""
        assert PinSource().get(_uri("", None), REQUEST) == ""
        assert PinSource().get(_uri(None, write(b"\n")), REQUEST) == ""
        assert PinSource(ask=lambda request: "").get(_uri(None, None), REQUEST) == ""

    def test_a_later_place_is_not_looked_at(self) -> None:
        def ask(request: PinRequest) -> str:
            raise AssertionError("asked")

        uri = _uri("value", "file:/nonexistent")
        assert PinSource("caller", ask).get(uri, REQUEST) == "caller"
        assert PinSource(ask=ask).get(uri, REQUEST) == "value"

    def test_a_bad_pin_file_is_an_error_and_not_passed_over(self) -> None:
        with pytest.raises(PinError, match="/nonexistent"):
            PinSource(ask=lambda request: "person").get(_uri(None, "file:/nonexistent"), REQUEST)

    def test_a_pin_source_that_is_not_text(self) -> None:
        uri = KeyURI("pkcs11", {}, {"pin-source": b"file:/\xff"})
        with pytest.raises(UsageError, match="pin-source"):
            PinSource().get(uri, REQUEST)


class TestASource:
    def test_is_read_once_so_that_a_pipe_will_do(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe, 0o600)
        writer = threading.Thread(target=pipe.write_bytes, args=(b"1234\n",))
        writer.start()
        pins, uri = PinSource(), _uri(None, f"file:{pipe}")
        assert [pins.stored(uri, REQUEST), pins.get(uri, REQUEST), pins.stored(uri, REQUEST)] == ["1234"] * 3
        writer.join()

    def test_each_has_its_own(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).touch(0o600)
            (tmp_path / name).write_text(name)
        pins = PinSource()
        assert [pins.stored(_uri(None, f"file:{tmp_path / name}"), REQUEST) for name in ("a", "b", "a")] == ["a", "b", "a"]


class TestAsking:
    def test_only_an_answer_that_was_right_is_not_asked_for_again(self) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return f"pin {len(asked)}"

        pins = PinSource(ask=ask)
        other = PinRequest("user PIN", "token 'beta'")
        # Nothing was right so far, so each is a new question.
        assert [pins.get(_uri(None, None), r) for r in (REQUEST, REQUEST, other)] == ["pin 1", "pin 2", "pin 3"]
        pins.remember(REQUEST, "pin 2")
        assert [pins.get(_uri(None, None), r) for r in (REQUEST, other)] == ["pin 2", "pin 4"]
        assert asked == [REQUEST, REQUEST, other, other]
        assert pins.ask(REQUEST) == "pin 5"

    @pytest.mark.parametrize("ask", [None, lambda request: None])
    def test_nobody_to_ask_names_every_place(self, ask: Callable[[PinRequest], str | None] | None) -> None:
        with pytest.raises(PinRequiredError) as caught:
            PinSource(ask=ask).get(_uri(None, None), REQUEST)
        assert "token 'alpha' wants its user PIN" in caught.value.message
        for place in ("pin-source=file:", "pin-value", "terminal"):
            assert place in caught.value.hint

    def test_without_pin_keeps_the_person_and_drops_the_pin(self) -> None:
        pins = PinSource("caller", lambda request: "person", allow_final_try=True).without_pin()
        assert pins.get(_uri(None, None), REQUEST) == "person"
        assert pins.allow_final_try

    def test_a_pin_is_in_no_repr(self) -> None:
        pins = PinSource("4711", lambda request: "4712")
        pins.without_pin().get(_uri(None, None), REQUEST)
        assert "471" not in f"{pins!r} {pins}"


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "pin"),
        {
            b"1234": "1234",
            b"1234\n": "1234",
            b"1234\r\n": "1234",
            b"1234\n\n": "1234\n",
            b"1234\r": "1234\r",
            b" 1234 \n": " 1234 ",
            b"\n": "",
            b"": "",
            "pässword\n".encode(): "pässword",
            b"two\nlines\n": "two\nlines",
        }.items(),
    )
    def test_one_trailing_newline_is_dropped(self, write: WriteFile, content: bytes, pin: str) -> None:
        assert read_pin_source(write(content)) == pin

    @given(pin=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=64))
    def test_any_pin_survives_a_newline(self, tmp_path_factory: pytest.TempPathFactory, pin: str) -> None:
        path = tmp_path_factory.getbasetemp() / "any pin"
        for end in ("", "\n", "\r\n"):
            path.write_bytes((pin + end).encode())
            path.chmod(0o600)
            assert read_pin_source(f"file:{path}") == pin

    @pytest.mark.parametrize("authority", ["//", "//localhost"])
    def test_the_authority_may_be_empty_or_localhost(self, write: WriteFile, authority: str) -> None:
        assert read_pin_source(write(b"1234").replace("file:", f"file:{authority}")) == "1234"

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777, 0o660])
    def test_a_file_that_others_can_write_is_not_trusted(self, write: WriteFile, mode: int) -> None:
        source = write(b"4711\n")
        path = Path(source.removeprefix("file:"))
        path.chmod(mode)
        with pytest.raises(PinError, match=f"{mode:04o}") as caught:
            read_pin_source(source)
        assert str(path) in caught.value.message
        assert f"chmod go-w {path}" in caught.value.hint
        assert caught.value.exit_status == 3

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o644])
    def test_a_file_that_others_can_only_read_is_read(self, write: WriteFile, mode: int) -> None:
        source = write(b"1234\n")
        Path(source.removeprefix("file:")).chmod(mode)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read_pin_source(source) == "1234"
        assert [type(warning.message) for warning in caught] == [UnsafeKeyWarning] * bool(mode & 0o044)

    def test_the_longest_and_one_byte_more(self, write: WriteFile) -> None:
        assert len(read_pin_source(write(b"1" * MAX_PIN_FILE_BYTES))) == MAX_PIN_FILE_BYTES
        with pytest.raises(PinError, match=str(MAX_PIN_FILE_BYTES)):
            read_pin_source(write(b"1" * (MAX_PIN_FILE_BYTES + 1)))

    def test_a_device_without_end_is_bounded(self) -> None:
        with pytest.raises(PinError, match=f"/dev/zero holds more than {MAX_PIN_FILE_BYTES}"):
            read_pin_source("file:/dev/zero")

    def test_what_is_not_text_is_not_shown(self, write: WriteFile) -> None:
        source = write(b"4711\xff")
        with pytest.raises(PinError, match="not UTF-8") as caught:
            read_pin_source(source)
        assert caught.value.__suppress_context__
        assert "4711" not in str(caught.value)

    @pytest.mark.parametrize(
        ("path", "words"), [("/nonexistent/pin", "No such file"), ("/", "Is a directory"), ("", "No such")]
    )
    def test_a_file_that_cannot_be_read_is_named(self, path: str, words: str) -> None:
        with pytest.raises(PinError, match=words) as caught:
            read_pin_source(f"file:{path}")
        assert path in caught.value.message

    def test_a_pipe_is_read(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe, 0o666)
        writer = threading.Thread(target=lambda: pipe.write_bytes(b"1234\n"))
        writer.start()
        assert read_pin_source(f"file:{pipe}") == "1234"
        writer.join()

    @pytest.mark.parametrize("source", ["4711", "env:4711", "|cat 4711", "/path/4711", "https://4711", ""])
    def test_other_kinds_are_refused_and_not_shown(self, source: str) -> None:
        with pytest.raises(PinError, match="pin-source=file:/path") as caught:
            read_pin_source(source)
        assert "4711" not in str(caught.value)
