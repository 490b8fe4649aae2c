"""tabrmd, the TPM resource manager in user space, in front of a swtpm and on its own D-Bus."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from types import TracebackType

from softhsm.command import ToolError
from softhsm.tpm import SoftTPM

_NAME = "com.intel.tss2.Tabrmd"
_OBJECT = "/com/intel/tss2/Tabrmd/Tcti"
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0


class ResourceManager:
    """A dbus-daemon and a tpm2-abrmd.

    A process that has used it must exit before the bus stops, or GLib kills it.

    Attributes:
        tcti: the TCTI that reaches it, in an environment with `env`.
        env: the environment variable that names the bus.
    """

    tcti = "tabrmd:bus_type=session"

    def __init__(self, tpm: SoftTPM) -> None:
        self.env: dict[str, str] = {}
        self._tpm = tpm
        self._bus: subprocess.Popen[bytes] | None = None
        self._manager: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ResourceManager:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start both, and wait until tabrmd is on the bus.

        Raises:
            ToolError: one of them is not installed or does not start.
        """
        address = f"unix:path={self._tpm.folder / 'bus'}"
        self.env = {"DBUS_SESSION_BUS_ADDRESS": address}
        self._bus = _start(["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}"])
        self.start_manager()

    def start_manager(self, tcti: str = "") -> None:
        """Start tabrmd on the running bus, and wait until it has flushed what it found in the TPM.

        Args:
            tcti: a TCTI to use instead of the TPM's own.

        Raises:
            ToolError: as `start`.
        """
        options = ["--allow-root"] if os.getuid() == 0 else []
        command = ["tpm2-abrmd", "--session", "--flush-all", f"--tcti={tcti or self._tpm.tcti}", *options]
        _wait(lambda: (self._tpm.folder / "bus").exists(), self._bus)
        self._manager = _start(command, self.env)
        _wait(self._is_on_bus, self._manager)
        self._call("com.intel.tss2.TctiTabrmd.Cancel", "uint64:0")  # It answers, with an error, when it has started.

    def stop_manager(self) -> None:
        """Stop tabrmd but not the bus."""
        _stop(self._manager)
        self._manager = None

    def stop(self) -> None:
        """Stop both."""
        self.stop_manager()
        _stop(self._bus)
        self._bus = None

    def _is_on_bus(self) -> bool:
        # It owns its name before it has the object that clients call.
        return "CreateConnection" in self._call("org.freedesktop.DBus.Introspectable.Introspect")

    def _call(self, *call: str) -> str:
        to = ["--session", "--print-reply=literal", f"--dest={_NAME}", _OBJECT]
        environment = {**os.environ, **self.env}
        return subprocess.run(["dbus-send", *to, *call], env=environment, capture_output=True, text=True).stdout


def _start(command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, env={**os.environ, **(env or {})}, stdin=null, stdout=null, stderr=null)
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is not installed; `make setup` installs what is needed") from None


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(is_ready: Callable[[], bool], process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_ready():
        if time.monotonic() > deadline or (process and process.poll() is not None):
            raise ToolError("tabrmd or its D-Bus does not start")
        time.sleep(0.005)
