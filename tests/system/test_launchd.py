"""The sockets that launchd passes. A library in C stands for launchd, with the answers of launch_activate_socket(3)."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwsigner._agent.client import Address
from hwsigner._agent.listener import open_listener
from hwsigner._serving.listener import take_activated
from hwsigner._system import launchd, sockets
from hwsigner.errors import UsageError
from judges import needs_bare_start, needs_linux

SOURCE = """
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int answer = 0, passed[8], freed = 0, asked = 0;
size_t length = 0;
static int *array;

int launch_activate_socket(const char *name, int **descriptors, size_t *count) {
    if (strcmp(name, "Listeners") != 0) return ENOENT;
    if (asked++) return EALREADY;
    if (answer) return answer;
    array = malloc(sizeof passed);
    memcpy(array, passed, sizeof passed);
    *descriptors = array;
    *count = length;
    return 0;
}

void free(void *memory) {
    if (memory && memory == array) freed++;
}
"""
Fake = Callable[..., ctypes.CDLL]
pytestmark = needs_linux  # The library is one of Linux.


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launchd")
    (folder / "launchd.c").write_text(SOURCE)
    command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-o", str(folder / "launchd.so"), str(folder / "launchd.c")]
    subprocess.run(command, check=True)
    return folder / "launchd.so"


@pytest.fixture
def fake(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A Mac whose launchd answers with a status, or passes descriptors."""

    def answer(*descriptors: int, status: int = 0) -> ctypes.CDLL:
        copy = tmp_path / f"launchd-{len(list(tmp_path.iterdir()))}.so"  # A library is loaded once by each path.
        copy.write_bytes(built.read_bytes())
        library = ctypes.CDLL(str(copy))
        ctypes.c_int.in_dll(library, "answer").value = status
        ctypes.c_size_t.in_dll(library, "length").value = len(descriptors)
        passed = (ctypes.c_int * 8).in_dll(library, "passed")
        passed[: len(descriptors)] = [*descriptors]
        monkeypatch.setattr(launchd, "_library", lambda: library)
        monkeypatch.setattr(sys, "platform", "darwin")
        return library

    return answer


@pytest.fixture
def listener(short_folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(short_folder / "agent.sock"))
        made.listen()
        yield made


def freed(library: ctypes.CDLL) -> int:
    return ctypes.c_int.in_dll(library, "freed").value


@needs_bare_start
def test_sockets_of_launchd_are_taken_and_its_array_is_freed(fake: Fake, listener: socket.socket) -> None:
    given = [os.dup(listener.fileno()) for _ in range(3)]
    for each in given:
        os.set_inheritable(each, True)
    library = fake(*given)
    taken = sockets.take_sockets({})
    assert [one.fileno() for one in taken] == given
    assert not [one for one in taken if one.get_inheritable()]
    assert {one.getsockname() for one in taken} == {listener.getsockname()}
    assert freed(library) == 1
    for one in taken:
        one.close()


@pytest.mark.parametrize("status", [errno.ENOENT, errno.ESRCH])
def test_process_that_launchd_did_not_start_takes_no_sockets(fake: Fake, status: int) -> None:
    fake(status=status)
    assert launchd.take_sockets() == []


@pytest.mark.parametrize("status", [errno.EALREADY, errno.EINVAL, errno.EMFILE])
@needs_bare_start
def test_other_answer_of_launchd_is_an_error_that_says_what_to_do(fake: Fake, status: int) -> None:
    fake(status=status)
    with pytest.raises(UsageError, match=os.strerror(status)) as caught:
        launchd.take_sockets()
    assert "hwsigner launchd install" in caught.value.hint


@needs_bare_start
def test_file_that_is_not_a_socket_is_an_error_and_none_stays_open(fake: Fake, listener: socket.socket) -> None:
    first, second = os.dup(listener.fileno()), os.open(os.devnull, os.O_RDONLY)
    library = fake(first, second)
    with pytest.raises(UsageError, match="not a socket"):
        launchd.take_sockets()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    os.close(second)
    assert freed(library) == 1


def test_system_without_launchd_passes_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sockets.take_sockets({}) == []


@needs_bare_start
def test_agent_listens_on_the_socket_of_launchd(fake: Fake, listener: socket.socket, tmp_path: Path) -> None:
    fake(os.dup(listener.fileno()))
    with open_listener(Address(str(tmp_path / "absent" / "hwsigner"), is_system=False), {}) as taken:
        assert taken.getsockname() == listener.getsockname()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.getsockname())
            taken.accept()[0].close()
    assert Path(listener.getsockname()).exists()


@needs_bare_start
def test_serve_takes_the_ports_of_launchd(fake: Fake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        fake(os.dup(made.fileno()))
        (taken,) = take_activated({})
        assert taken.getsockname() == made.getsockname()
        taken.close()
