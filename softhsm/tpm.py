"""A swtpm TPM 2.0 in its own folder, on a Unix socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from softhsm.command import ToolError, run

# TPM2_GetRandom of 8 bytes (TPM 2.0 Library, part 3, 16.1): a command that any started TPM answers.
_GET_RANDOM = struct.pack(">HIIH", 0x8001, 12, 0x0000017B, 8)
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_KILL_SECONDS = 20.0
_MAX_SOCKET_PATH = 107
_PROVIDERS = ("-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2")


class SoftTPM:
    """A swtpm process and the folder with its state, socket and process ID.

    Attributes:
        folder: the folder.
        tcti: the TCTI that reaches it.
        env: the environment variables that tpm2-tools and OpenSSL's tpm2 provider need.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self.tcti = f"swtpm:path={self.socket}"
        self.env = {"TPM2TOOLS_TCTI": self.tcti, "TPM2OPENSSL_TCTI": self.tcti}
        self._process: subprocess.Popen[bytes] | None = None
        self._pid_file = folder / "swtpm.pid"

    def __enter__(self) -> SoftTPM:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, *, detached: bool = False) -> None:
        """Start swtpm and wait until it answers.

        Args:
            detached: let it outlive this process and its terminal. Any process can `stop` it.

        Raises:
            ToolError: swtpm is not installed or does not respond.
        """
        control = f"{self.socket}.ctrl"
        if len(control) > _MAX_SOCKET_PATH:
            raise ToolError(f"{control} is too long for the path of a Unix socket; choose a folder with a shorter path")
        state = self.folder / "state"
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        arguments = [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={state}",
            "--flags",
            "not-need-init,startup-clear",
        ]
        arguments += ["--server", f"type=unixio,path={self.socket}", "--ctrl", f"type=unixio,path={control}"]
        arguments += ["--pid", f"file={self._pid_file}", "--log", f"file={self.folder / 'swtpm.log'},level=1"]
        try:
            # With our stdout, a reader of our output would wait for swtpm to exit.
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(
                arguments, start_new_session=detached, stdin=null, stdout=null, stderr=null
            )
        except FileNotFoundError:
            raise ToolError("swtpm is not installed; `make setup` installs what is needed") from None
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop swtpm, even if another process started it. Its state stays in the folder.

        Raises:
            ToolError: it does not exit, or its process can't be identified.
        """
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        else:
            self._stop_by_pid()
        for path in (self.socket, Path(f"{self.socket}.ctrl"), self._pid_file):
            path.unlink(missing_ok=True)

    def restart(self) -> None:
        """Power the TPM off and on. Transient objects are lost, persistent ones stay."""
        self.stop()
        self.start()

    def cut_power(self) -> None:
        """End the process at once, wherever it is, and start it again. It must be one that this object started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.restart()

    def create_key_file(self, path: Path, kind: str, password: str = "") -> None:
        """Create a key in the TPM, under the owner's storage key, and write it as a TSS2 PRIVATE KEY file.

        Args:
            path: the file to write.
            kind: `EC:P-256`, `EC:P-384` or `RSA:2048`.
            password: the key's auth value.
        """
        algorithm, _, parameter = kind.partition(":")
        option = f"group:{parameter}" if algorithm == "EC" else f"bits:{parameter}"
        arguments = ["openssl", "genpkey", *_PROVIDERS, "-algorithm", algorithm, "-pkeyopt", option, "-out", str(path)]
        run([*arguments, *(["-pkeyopt", f"user-auth:{password}"] if password else [])], self.env)
        path.chmod(0o600)

    def persist(self, handle: int, kind: str, password: str = "") -> None:
        """Create a signing key in the TPM and make it persistent at a handle.

        Args:
            handle: a persistent handle, such as 0x81000100.
            kind: as tpm2_create writes it: `ecc256`, `rsa2048`.
            password: the key's auth value.
        """
        primary, public, private, context = (str(self.folder / f"{handle:x}.{name}") for name in "CPSK")
        auth = ["-p", password] if password else []
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
        run(["tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", primary], self.env)
        create = ["tpm2_create", "-Q", "-C", primary, "-G", kind, "-a", attributes, "-u", public, "-r", private, *auth]
        run(create, self.env)
        run(["tpm2_flushcontext", "-t"], self.env)
        run(["tpm2_load", "-Q", "-C", primary, "-u", public, "-r", private, "-c", context], self.env)
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", context, f"{handle:#010x}"], self.env)
        run(["tpm2_flushcontext", "-t"], self.env)
        for path in (primary, public, private, context):
            Path(path).unlink()

    def public_key(self, key: Path | int, password: str = "") -> bytes:
        """Return the public key of a TSS2 file or a persistent handle as a DER SubjectPublicKeyInfo (RFC 5280, 4.1)."""
        source = str(key) if isinstance(key, Path) else f"handle:{key:#010x}"
        auth = ["-passin", f"pass:{password}"]
        return run(["openssl", "pkey", *_PROVIDERS, "-in", source, *auth, "-pubout", "-outform", "DER"], self.env)

    def uri(self, key: Path | int) -> str:
        """Return the key URI of a TSS2 file or a persistent handle."""
        name = f"path={quote(str(key))}" if isinstance(key, Path) else f"handle={key:#010x}"
        return f"tpm2:{name}?tcti={quote(self.tcti, safe=':/')}"

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._responds():
            if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                self.stop()
                raise ToolError(f"swtpm does not respond; see {self.folder / 'swtpm.log'}")
            time.sleep(0.005)

    def _responds(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_START_SECONDS)
            try:
                connection.connect(str(self.socket))
                connection.sendall(_GET_RANDOM)
                return connection.recv(64)[6:10] == bytes(4)
            except OSError:
                return False

    def _stop_by_pid(self) -> None:
        """Stop the process named in the PID file, unless another process has that ID by now."""
        try:
            pid = int(self._pid_file.read_text())
        except FileNotFoundError:
            return
        except ValueError:
            hint = f"stop the swtpm of {self.folder} if it is running, then remove the file"
            raise ToolError(f"{self._pid_file} contains no process ID; {hint}") from None
        for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            if self._exits(pid, number, seconds):
                return
        raise ToolError(f"swtpm, process {pid}, does not exit")

    def _exits(self, pid: int, number: signal.Signals, seconds: float) -> bool:
        """Send a signal to this folder's swtpm, and return whether it exits in time or has exited before."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            if self._runs_as(pid):
                os.kill(pid, number)
        while self._runs_as(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _runs_as(self, pid: int) -> bool:
        """Return whether a process is this folder's swtpm."""
        try:
            # Empty for a zombie.
            return os.fsencode(self.socket) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
