"""The process inside the namespaces of a `SoftPcsc`: it starts pcscd and connects cards to the virtual readers.

It runs as `pcsc_namespace.py FD FOLDER`, by a Python that need not find this package. FD is a Unix socket. Each byte
received is the number of a reader. The response is one byte, with the descriptor of a connection to that reader unless
connecting failed. When the other side closes the socket, pcscd and this process exit.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
# vpcd's port for the first reader. The second reader has the next port.
PORT = 35963
_DRIVER = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"
_READERS = f"""\
FRIENDLYNAME "Yubico YubiKey OTP+FIDO+CCID"
DEVICENAME /dev/null:{PORT:#x}
LIBPATH {_DRIVER}
CHANNELID {PORT:#x}
"""


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP_RUNNING))


def _mount(folder: Path) -> None:
    """Mount the folder where pcscd creates its socket, in this mount namespace only."""
    os.chdir(folder)
    # /run/pcscd may not exist, and creating it would be visible outside. A relative source stays reachable.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.mkdir("/run/pcscd")
    subprocess.run(["mount", "--no-canonicalize", "--bind", ".", "/run/pcscd"], check=True)


def _start_pcscd(folder: Path) -> subprocess.Popen[bytes]:
    readers, drivers = folder / "reader.conf.d", folder / "drivers"
    for path in (readers, drivers):
        path.mkdir(exist_ok=True)
    (readers / "vpcd").write_text(_READERS)
    # Without a USB driver, pcscd leaves the machine's real readers and cards alone.
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PCSCLITE_HP_DROPDIR": str(drivers)}
    command = ["pcscd", "--foreground", "--info", "--config", str(readers)]
    options = subprocess.run(["pcscd", "--help"], env=environment, capture_output=True).stdout
    if b"--disable-polkit" in options:  # pcscd 1.9 of Debian 12 has no such option.
        command.append("--disable-polkit")
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def _connect(reader: int) -> socket.socket | None:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.connect(("127.0.0.1", PORT + reader))
    except OSError:
        connection.close()
        return None
    return connection


def _serve(requests: socket.socket) -> None:
    while request := requests.recv(1):
        connection = _connect(request[0])
        if connection is None:
            requests.send(b"-")
        else:
            with connection:
                socket.send_fds(requests, [b"+"], [connection.fileno()])


def main(descriptor: str, folder: str) -> None:
    """Serve until the other side of the socket is closed."""
    requests = socket.socket(fileno=int(descriptor))
    _raise_loopback()
    if not os.path.exists(_DRIVER):
        sys.exit(f"{_DRIVER} is missing: vsmartcard-vpcd is not installed")
    _mount(Path(folder))
    pcscd = _start_pcscd(Path(folder))
    try:
        _serve(requests)
    finally:
        pcscd.terminate()
        pcscd.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
