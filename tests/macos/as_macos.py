"""A start-up hook, run before all else: this Python, on Linux, without what macOS lacks.

It changes modules of C only, from which the others take what they have.
"""

# ruff: noqa: F821, SIM905

from __future__ import annotations

import _socket
import errno
import os
import sys
import types

TYPE_CHECKING = False  # Importing typing takes longer than all of this.
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any, Never

# run.py gives these: the names to take away, by module; the library of libsystem.c; this user's folder for what ends
# with the login.
LINUX_ONLY: dict[str, list[str]]
LIBSYSTEM: str
RUNTIME_FOLDER: str

# What the stubs of mypy do not say: macOS has got these after version 11, with other numbers.
LATER_THAN_MACOS_11 = {"_socket": ["MSG_NOSIGNAL"], "fcntl": ["F_OFD_GETLK", "F_OFD_SETLK", "F_OFD_SETLKW"]}
# Functions of glibc that libSystem lacks, has with other numbers (syscall), or that always fail there (mlockall). The
# list of libSystem's that Zig brings was compared.
NOT_IN_LIBSYSTEM = frozenset(
    "accept4 capget capset clock_nanosleep clone close_range closefrom copy_file_range dl_iterate_phdr epoll_create "
    "epoll_create1 eventfd execveat explicit_bzero fallocate fanotify_init fexecve getauxval getdents64 getrandom "
    "getresgid getresuid gettid inotify_add_watch inotify_init inotify_init1 klogctl lgetxattr llistxattr lsetxattr "
    "mallinfo mallinfo2 malloc_info malloc_trim malloc_usable_size mallopt memfd_create memrchr mlock2 mlockall mremap "
    "munlockall personality pidfd_getfd pidfd_open pidfd_send_signal pidfd_spawn pipe2 posix_fadvise posix_fallocate "
    "ppoll prctl prlimit process_madvise process_vm_readv process_vm_writev pthread_getattr_np "
    "pthread_mutex_timedlock pthread_setaffinity_np recvmmsg renameat2 sched_getaffinity sched_getcpu "
    "sched_setaffinity secure_getenv sem_timedwait sendmmsg setfsgid setfsuid setns setresgid setresuid signalfd "
    "sigqueue sigtimedwait sigwaitinfo splice statx syscall timerfd_create unshare vmsplice".split(" ")
)
# Those that glibc lacks, of libsystem.c.
IN_LIBSYSTEM = frozenset(
    "_NSGetEnviron acl_from_text acl_get_fd acl_set_fd acl_to_text getpeereid launch_activate_socket "
    "malloc_zone_pressure_relief ptrace sysctlbyname".split(" ")
)
UNAME = ("Darwin", "mac", "24.6.0", "Darwin Kernel Version 24.6.0", "arm64")
SUN_PATH = 104  # Of a Unix socket's path, with the zero at its end.
SOL_LOCAL, LOCAL_PEERCRED, LOCAL_PEERPID = 0, 1, 2
MAX_GROUPS = 16
SO_PEERCRED, SIZE_OF_UCRED = 17, 12
CS_DARWIN_USER_DIRS = (65536, 65537)  # What lasts, and what is temporary: here they are one.
F_GETPATH = 50


def refuse(code: int) -> Never:
    raise OSError(code, os.strerror(code))


def take_names() -> None:
    for module, names in [*LINUX_ONLY.items(), *LATER_THAN_MACOS_11.items()]:
        # Not all of them are there: Python 3.13 has names that 3.11 lacks.
        for name in set(names) & set(vars(__import__(module))):
            delattr(sys.modules[module], name)
    if hasattr(os, "process_cpu_count"):  # It calls one of them.
        os.process_cpu_count = os.cpu_count
    os.__all__ = [name for name in os.__all__ if hasattr(os, name)]


class BuildVariables:
    """Finds the module with the variables of Python's build, whose name has the platform in it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith("_sysconfigdata_") or "_darwin_" not in name:
            return None
        external = sys.modules["_frozen_importlib_external"]
        found = external.PathFinder.find_spec(name.replace("_darwin_", "_linux_"))
        made: ModuleSpec | None = external.spec_from_file_location(name, found.origin)
        return made


def change_system() -> None:
    sys.platform = "darwin"
    sys.meta_path.append(BuildVariables)
    of_glibc = os.confstr

    def confstr(name: str | int) -> str | None:
        return RUNTIME_FOLDER if name in CS_DARWIN_USER_DIRS else of_glibc(name)

    for module in (os, sys.modules["posix"]):
        vars(module).update(confstr=confstr, uname=lambda: os.uname_result(UNAME))
    # urllib asks it for the proxies of macOS's settings.
    proxies = types.ModuleType("_scproxy")
    vars(proxies).update(_get_proxies=dict, _get_proxy_settings=lambda: {"exclude_simple": False})
    sys.modules["_scproxy"] = proxies


def change_fcntl() -> None:
    import fcntl

    of_linux = fcntl.fcntl

    def control(file: Any, command: int, argument: Any = 0) -> Any:
        if command != F_GETPATH:
            return of_linux(file, command, argument)
        path = os.readlink(f"/dev/fd/{file if isinstance(file, int) else file.fileno()}")
        if not path.startswith("/"):  # A pipe or socket.
            refuse(errno.EBADF)
        return os.fsencode(path).ljust(len(argument), b"\0")

    vars(fcntl).update(fcntl=control, F_GETPATH=F_GETPATH)


def check_address(address: object) -> None:
    if isinstance(address, str | bytes | bytearray):
        path = os.fsencode(address) if isinstance(address, str) else bytes(address)
        if not path or path.startswith(b"\0"):  # An abstract socket.
            refuse(errno.ENOENT)
        if len(path) >= SUN_PATH:
            raise OSError("AF_UNIX path too long")


def peer(ucred: bytes, option: int, size: int) -> bytes | int:
    """Return the answer to LOCAL_PEERCRED or LOCAL_PEERPID, from the kernel's struct ucred: pid, uid, gid."""
    pid, uid, gid = (ucred[start : start + 4] for start in (0, 4, 8))
    if pid == bytes(4):  # The socket is not connected.
        refuse(errno.ENOTCONN)
    if option == LOCAL_PEERPID:
        return pid[:size] if size else int.from_bytes(pid, sys.byteorder)
    if option != LOCAL_PEERCRED or not size:
        refuse(errno.EINVAL)
    # struct xucred: version, uid, number of groups (a short), groups.
    number = (1).to_bytes(2, sys.byteorder) + bytes(2)
    return (bytes(4) + uid + number + gid + bytes(4 * (MAX_GROUPS - 1)))[:size]


# Others have SOCK_CLOEXEC or SOCK_NONBLOCK in them, or are not there for Unix sockets (SOCK_SEQPACKET).
FAMILIES = frozenset({_socket.AF_UNIX, _socket.AF_INET, _socket.AF_INET6})
KINDS = frozenset({_socket.SOCK_STREAM, _socket.SOCK_DGRAM, _socket.SOCK_RAW})


def check_kind(family: int, kind: int) -> None:
    if family not in FAMILIES:
        refuse(errno.EAFNOSUPPORT)
    if kind not in KINDS:
        refuse(errno.EPROTONOSUPPORT)


class MacSocket(_socket.socket):
    """The class under that of the module socket."""

    __slots__ = ()

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        if fileno is None and family != -1:
            check_kind(family, _socket.SOCK_STREAM if type == -1 else type)
        super().__init__(family, type, proto, fileno)

    def bind(self, address: Any) -> None:
        check_address(address)
        super().bind(address)

    def connect(self, address: Any) -> None:
        check_address(address)
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        check_address(address)
        return super().connect_ex(address)

    def sendto(self, data: Any, *more: Any) -> int:
        check_address(more[-1])
        return super().sendto(data, *more)

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        if level == _socket.SOL_SOCKET and option == SO_PEERCRED:
            refuse(errno.ENOPROTOOPT)
        if self.family != _socket.AF_UNIX or level != SOL_LOCAL:
            return super().getsockopt(level, option, *([size] if size else []))
        return peer(super().getsockopt(_socket.SOL_SOCKET, SO_PEERCRED, SIZE_OF_UCRED), option, size)


def change_sockets() -> None:
    of_linux = _socket.socketpair

    def socketpair(family: int = _socket.AF_UNIX, type: int = _socket.SOCK_STREAM, proto: int = 0) -> Any:
        check_kind(family, type)
        return of_linux(family, type, proto)

    MacSocket.__name__ = MacSocket.__qualname__ = "socket"
    MacSocket.__module__ = socketpair.__module__ = "_socket"
    vars(_socket).update(socket=MacSocket, SocketType=MacSocket, socketpair=socketpair, LOCAL_PEERCRED=LOCAL_PEERCRED)


def change_symbols() -> None:
    import _ctypes

    of_glibc = _ctypes.dlsym

    class LibSystem:
        """As ctypes.CDLL, for CFuncPtr."""

        _handle = _ctypes.dlopen(LIBSYSTEM, 0)

    def is_given(name: str | bytes) -> bool:
        """Return whether a function is of libsystem.c. Raises an AttributeError if macOS has none of this name."""
        name = name.decode() if isinstance(name, bytes) else name
        if name in NOT_IN_LIBSYSTEM:
            raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")
        return name in IN_LIBSYSTEM

    def dlsym(handle: int, name: str) -> int:
        try:
            return of_glibc(LibSystem._handle if is_given(name) else handle, name)
        except AttributeError as error:
            raise OSError(str(error)) from None

    class CFuncPtr(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL

        def __new__(cls, *arguments: Any) -> CFuncPtr:
            if arguments and isinstance(arguments[0], tuple):
                (name, library), *rest = arguments
                if not isinstance(name, int):
                    library = LibSystem if is_given(name) else library
                arguments = ((name, library), *rest)
            return super().__new__(cls, *arguments)

    vars(_ctypes).update(dlsym=dlsym, CFuncPtr=CFuncPtr)


if sys.platform != "darwin":  # site-packages may be on the path twice: as lib, and as lib64.
    take_names()
    change_system()
    change_fcntl()
    change_sockets()
    change_symbols()
