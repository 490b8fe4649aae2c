"""Sockets that systemd passes, and reports to it. Their content is tested in tests/agent and tests/serving."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._system import systemd
from hwsigner._system.systemd import Notifier, take_sockets
from hwsigner.errors import UsageError
from judges import needs_abstract_sockets, needs_long_socket_paths


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> int:
    """The first descriptor that systemd passes. It and all above it are free; the test opens lower ones."""
    number = max(map(int, os.listdir("/dev/fd"))) + 64
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", number)
    return number


def environ(count: str) -> dict[str, str]:
    return {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "x", "HOME": "/"}


@given(count=st.text(max_size=3), process=st.text(max_size=8))
def test_variables_for_another_process_are_ignored_and_removed(count: str, process: str) -> None:
    given_environ = {"LISTEN_FDS": count, "LISTEN_PID": process, "LISTEN_FDNAMES": "x", "HOME": "/"}
    if process != str(os.getpid()):
        assert take_sockets(given_environ) == []
        assert given_environ == {"HOME": "/"}


def test_passed_sockets_are_taken_and_not_inherited(first: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        for each in (one, other):
            os.set_inheritable(fcntl.fcntl(each, fcntl.F_DUPFD, first), True)
        environment = environ("2")
        taken = take_sockets(environment)
        assert [each.getsockname() for each in taken] == [one.getsockname(), other.getsockname()]
        assert environment == {"HOME": "/"}
        for each in taken:
            assert not each.get_inheritable()
            each.close()


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "²", "9" * 5000])
def test_invalid_count_means_no_sockets(count: str) -> None:
    assert take_sockets(environ(count)) == []


@pytest.mark.parametrize("count", ["2", "99999999999"])
def test_file_that_is_not_a_socket_is_an_error(first: int, count: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, open("/dev/null") as other:
        numbers = [fcntl.fcntl(each, fcntl.F_DUPFD, first) for each in (one, other)]
    with pytest.raises(UsageError, match="not a socket"):
        take_sockets(environ(count))
    with pytest.raises(OSError, match="Bad file"):
        os.close(numbers[0])  # It was taken and closed.
    os.close(numbers[1])


@pytest.mark.parametrize(
    ("asked", "interval"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": f"{os.getpid()}0"}, None),
        ({"WATCHDOG_USEC": "3000000", "NOTIFY_SOCKET": ""}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_watchdog_interval_is_half_of_what_systemd_allows_this_process(
    asked: dict[str, str], interval: float | None
) -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "HOME": "/", **asked}
    assert Notifier(environment).watchdog_interval == interval
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("is_abstract", [False, pytest.param(True, marks=needs_abstract_sockets)])
@needs_long_socket_paths
def test_ready_is_sent_to_a_socket_in_a_file_or_abstract(tmp_path: Path, is_abstract: bool) -> None:
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(20)
        listening.bind(f"\0{name}" if is_abstract else name)
        Notifier({"NOTIFY_SOCKET": f"@{name}" if is_abstract else name}).ready("here")
        assert listening.recv(100) == b"READY=1\nSTATUS=here"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nonexistent"}])
def test_report_that_no_one_receives_is_not_an_error(environment: dict[str, str]) -> None:
    Notifier(environment).alive()


def test_there_is_no_watchdog_without_a_socket() -> None:
    assert Notifier({"WATCHDOG_USEC": "3000000"}).watchdog_interval is None
