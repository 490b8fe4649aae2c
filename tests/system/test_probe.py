"""The program that asks a server on a Unix socket how it is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hwsigner._system import probe


@contextmanager
def server(path: Path, answer: bytes) -> Iterator[None]:
    def give() -> None:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(4096).startswith(b"GET /ready HTTP/1.0\r\n")
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=give)
        thread.start()
        yield
        thread.join()


def test_good_answer_is_status_0_without_output(short_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server(short_folder / "s", b"HTTP/1.1 200 OK\r\n\r\nok\n"):
        assert probe.main(str(short_folder / "s"), "/ready") == 0
    assert capsys.readouterr().out == ""


def test_bad_answer_is_status_1_and_is_printed(short_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server(short_folder / "s", b"HTTP/1.1 503 Service Unavailable\r\n\r\nno link\n"):
        assert probe.main(str(short_folder / "s"), "/ready") == 1
    assert capsys.readouterr().out == "no link\n"


def test_no_server_is_status_1(short_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(str(short_folder / "s"), "/ready") == 1
    assert "No such file" in capsys.readouterr().out
