"""Only `hwsigner/_system/` knows the system: nothing else asks which it is, or uses what macOS lacks."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwsigner
from stub_names import names_of

ROOT = Path(hwsigner.__file__).parent
# What the stubs take from a module of C, they name in the public one too.
LIBRARIES = ("fcntl", "mmap", "os", "resource", "select", "selectors", "signal", "socket", "time")
# What the stubs don't tell: functions of the C library, and a flag that only some versions of macOS have.
UNTOLD = {"prctl", "mlock2", "mlockall", "malloc_trim", "MSG_NOSIGNAL"}
QUESTIONS = {"sys.platform", "os.uname", "platform.system", "platform.uname", "platform.mac_ver"}
FOLDERS = re.compile(r"(?<![\w.])/(proc|sys|run)(/|$)")

# The field trials ask a machine with Linux what it is, and are not part of a client.
FREE = ("_system/", "trial/")
# What may name a folder of Linux elsewhere, and why.
NAMED = {
    ("_cli/agent.py", "the system's agent, in /run/hwsigner, instead of the user's"): "the help of a flag",
    (
        "backends/tpm2/uris.py",
        "unix:path=/run/dbus/system_bus_socket",
    ): "D-Bus's own place, for TPMs",
}


@functools.cache
def linux_names() -> frozenset[str]:
    """Return the names that macOS lacks."""
    lacking = (names_of(library, "linux") - names_of(library, "darwin") for library in LIBRARIES)
    return frozenset(UNTOLD.union(*lacking))


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each use of what only the room may know, with its line: under any name of a module, and in a text."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name) if (
                name in linux_names() or f"{ast.unparse(value)}.{name}" in QUESTIONS
            ):
                yield node.lineno, name
            case ast.ImportFrom(module=str(module), names=names):
                taken = [one.name for one in names]
                yield from (
                    (node.lineno, name) for name in taken if name in linux_names() or f"{module}.{name}" in QUESTIONS
                )
            case ast.Constant(value=str(text)) if id(node) not in docs and (
                text in linux_names() or FOLDERS.search(text)
            ):
                yield node.lineno, text


def test_typeshed_names_what_macos_lacks() -> None:
    known = {"memfd_create", "eventfd", "pidfd_open", "O_TMPFILE", "getxattr", "SO_PEERCRED", "AF_NETLINK", "F_NOTIFY"}
    known |= {"CLOCK_BOOTTIME", "MADV_DONTDUMP", "sigtimedwait", "epoll", "POLLRDHUP", "pipe2", "O_PATH"}
    assert known <= linux_names()
    assert not linux_names() & {"open", "AF_UNIX", "SIGTERM", "poll", "O_NOFOLLOW"}


@pytest.mark.parametrize(
    "code",
    [
        "if sys.platform == 'darwin': pass",
        "from sys import platform",
        "platform.system() == 'Darwin'",
        "os.pidfd_open(1)",
        "own_name.memfd_create('x')",
        "getattr(socket, 'SO_PEERCRED', 17)",
        "from socket import SO_PEERCRED",
        "libc.mlock2(a, b, 0)",
        "dlsym(library, 'prctl')",
        "sock.send(b'', socket.MSG_NOSIGNAL)",
        "open(f'/proc/self/fd/{number}')",
        "PLACE = '/run'",
    ],
)
def test_use_of_the_system_is_found(code: str) -> None:
    assert [line for line, _ in uses(ast.parse(code))] == [1]


@pytest.mark.parametrize("code", ["'Reads /proc/self.'", "os.open('/dev/tty', os.O_RDWR)", "x = 'file:/my/run/pin'"])
def test_what_each_system_has_is_free(code: str) -> None:
    assert not list(uses(ast.parse(code)))


def test_only_one_room_knows_the_system() -> None:
    found = {
        (str(path.relative_to(ROOT)), text): line
        for path in sorted(ROOT.rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(FREE)
        for line, text in uses(ast.parse(path.read_text()))
    }
    assert not [f"{path}:{line}: {text}" for (path, text), line in found.items() if (path, text) not in NAMED]
    assert NAMED.keys() <= found.keys()
