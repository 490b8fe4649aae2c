"""Sockets that systemd passes. What it is told: tests/agent/test_process.py, tests/serving/test_serve.py."""

from __future__ import annotations

import fcntl
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner import systemd
from hwsigner.errors import UsageError
from hwsigner.systemd import take_sockets

FIRST = 200


def environ(count: str) -> dict[str, str]:
    return {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "x", "HOME": "/"}


@given(count=st.text(max_size=3), process=st.text(max_size=8))
def test_what_systemd_says_to_another_process_is_not_taken_but_removed(count: str, process: str) -> None:
    given_environ = {"LISTEN_FDS": count, "LISTEN_PID": process, "LISTEN_FDNAMES": "x", "HOME": "/"}
    if process != str(os.getpid()):
        assert take_sockets(given_environ) == []
        assert given_environ == {"HOME": "/"}


def test_they_are_taken_and_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", FIRST)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        for each in (one, other):
            os.set_inheritable(fcntl.fcntl(each, fcntl.F_DUPFD, FIRST), True)
        environment = environ("2")
        taken = take_sockets(environment)
        assert [each.getsockname() for each in taken] == [one.getsockname(), other.getsockname()]
        assert environment == {"HOME": "/"}
        for each in taken:
            assert not each.get_inheritable()
            each.close()


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "²"])
def test_none(count: str) -> None:
    assert take_sockets(environ(count)) == []


@pytest.mark.parametrize("count", ["2", "99999999999"])
def test_what_is_no_socket(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", FIRST)
    with socket.create_server(("127.0.0.1", 0)) as one, open("/dev/null") as other:
        numbers = [fcntl.fcntl(each, fcntl.F_DUPFD, FIRST) for each in (one, other)]
    with pytest.raises(UsageError, match="no socket"):
        take_sockets(environ(count))
    with pytest.raises(OSError, match="Bad file"):
        os.close(numbers[0])  # It was taken, and is closed.
    os.close(numbers[1])
