"""The lines of the agent's protocol, and the channel that carries them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._agent import protocol
from hwsigner._agent.protocol import AgentRequest, Channel, Head, Verb, parse_head, parse_request
from hwsigner.errors import AgentError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True)
SOURCE = Path(__file__).parents[2] / "native" / "credentials.c"


class TestRequest:
    @given(st.sampled_from(list(Verb)), NAMES | st.just(""), st.booleans())
    def test_request_survives_the_line(self, verb: Verb, name: str, with_notes: bool) -> None:
        request = AgentRequest(verb, name, with_notes and bool(name))
        line = request.line()
        assert line.endswith(b"\n")
        assert len(line) <= protocol.MAX_LINE
        is_whole = bool(name) if verb in ("get", "unlock", "refresh", "put") else verb == "lock" or not name
        is_whole = is_whole and (verb == "get" or not request.with_notes)
        assert parse_request(line[:-1]) == (request if is_whole else None)

    @given(st.binary(max_size=100))
    def test_invalid_request_is_none(self, line: bytes) -> None:
        request = parse_request(line)
        assert request is None or request.line() == line + b"\n"

    @given(NAMES)
    def test_valid_names_are_accepted(self, name: str) -> None:
        assert protocol.is_name(name)

    @pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a\n", "é", "x" * 65, "a'b"])
    def test_invalid_names_are_refused(self, name: str) -> None:
        assert not protocol.is_name(name)


class TestHead:
    @pytest.mark.parametrize(
        ("line", "head"),
        [
            (b"1 working", Head("working")),
            (b"1 unknown", Head("unknown")),
            (b"1 ok 1", Head("ok", 1)),
            (b"1 ask 65536", Head("ask", 65536)),
            (b"1 pin 4", Head("pin", 4)),
            (b"1 error 3 12", Head("error", 12, 3)),
            (b"1 error 3 12 locked", Head("error", 12, 3, "locked")),
            (b"1 error 3 12 pin", Head("error", 12, 3, "pin")),
            (b"1 error 3 12 ", None),
            (b"1 error 3 12 other", None),
            (b"1 error 3 12 pin locked", None),
            (b"1 ok 12 pin", None),
            (b"1 ok 0", None),
            (b"1 ok 65537", None),
            (b"1 error 0 1", None),
            (b"1 error 8 1", None),
            (b"1 error 1", None),
            (b"1 ok", None),
            (b"2 ok 1", None),
            (b"1 ok 1\n", None),
            (b"1 working 1", None),
            (b"", None),
        ],
    )
    def test_head_is_parsed(self, line: bytes, head: Head | None) -> None:
        assert parse_head(line) == head

    @given(st.sampled_from(["ok", "ask", "pin"]), st.binary(min_size=1, max_size=protocol.MAX_BODY))
    def test_body_has_the_stated_size(self, kind: str, body: bytes) -> None:
        line, _, rest = protocol.with_body(kind, body).partition(b"\n")
        assert (parse_head(line), rest) == (Head(kind, len(body)), body)

    @given(st.integers(1, 7), st.text(min_size=1), st.sampled_from(["", protocol.LOCKED, protocol.NEEDS_PIN]))
    def test_error_has_status_and_printable_text_and_reason(self, status: int, text: str, reason: str) -> None:
        line, _, rest = protocol.error(status, text, reason).partition(b"\n")
        assert parse_head(line) == Head("error", len(rest), status, reason)
        assert rest.decode().isprintable()

    def test_long_error_is_cut(self) -> None:
        line, _, rest = protocol.error(1, "x" * 70000).partition(b"\n")
        assert parse_head(line) == Head("error", protocol.MAX_BODY, 1)
        assert len(rest) == protocol.MAX_BODY


def test_program_in_c_has_the_same_limits() -> None:
    text = SOURCE.read_text()
    seconds = {
        "FIRST_BYTE": protocol.FIRST_BYTE_LIMIT,
        "SILENCE": protocol.SILENCE_LIMIT,
        "LONGEST": protocol.ANSWER_LIMIT,
    }
    for name, limit in seconds.items():
        assert f"#define {name} {limit * 1000:.0f}\n" in text
    assert f" LINE_SIZE = {protocol.MAX_LINE}, BODY_SIZE = {protocol.MAX_BODY}," in text
    assert protocol.WORKING_EVERY * 2 <= protocol.FIRST_BYTE_LIMIT


class TestChannel:
    @pytest.fixture
    def ends(self) -> Iterator[tuple[Channel, socket.socket]]:
        """A channel and its other end."""
        one, other = socket.socketpair()
        with one, other:
            yield Channel(one), other

    def test_answer_follows_reports_of_work(self, ends: tuple[Channel, socket.socket]) -> None:
        ends[1].sendall(protocol.WORKING * 3 + b"1 ok 2\n{}1 ok 1\nx")
        assert ends[0].answer() == (Head("ok", 2), b"{}")
        assert ends[0].answer() == (Head("ok", 1), b"x")

    def test_long_answer_comes_in_parts(self, ends: tuple[Channel, socket.socket]) -> None:
        text = "é" * protocol.MAX_BODY
        assert protocol.ok(text).count(b"1 part 65536\n") == 1
        ends[1].sendall(protocol.ok(text))
        assert ends[0].answer() == (Head("ok", protocol.MAX_BODY), text.encode())

    @pytest.mark.parametrize("data", [b"", b"x" * 200, b"1 ok 5\nab", b"2 ok 1\nx", b"1 working\n", b"\n", b"1 ok 1"])
    def test_invalid_answer_is_an_error(self, ends: tuple[Channel, socket.socket], data: bytes) -> None:
        ends[1].sendall(data)
        ends[1].shutdown(socket.SHUT_WR)
        with pytest.raises(AgentError):
            ends[0].answer()

    @pytest.mark.parametrize(
        ("limit", "data"),
        [
            ("FIRST_BYTE_LIMIT", b""),
            ("FIRST_BYTE_LIMIT", b"1 o"),
            ("SILENCE_LIMIT", protocol.WORKING),
            ("SILENCE_LIMIT", b"1 ok 5\nx"),
        ],
    )
    def test_late_answer_is_an_error(
        self, ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, limit: str, data: bytes
    ) -> None:
        monkeypatch.setattr(protocol, limit, 0.05)
        ends[1].sendall(data)
        with pytest.raises(AgentError, match="in time"):
            ends[0].answer(protocol.FIRST_BYTE_LIMIT)

    def test_endless_reports_of_work_are_an_error(
        self, ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "ANSWER_LIMIT", 0.1)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                ends[1].sendall(protocol.WORKING)
                time.sleep(0.01)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            with pytest.raises(AgentError, match="in time"):
                ends[0].answer()
        finally:
            stop.set()
            thread.join()
