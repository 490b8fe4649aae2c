"""PKCS #11 modules that hwsigner was not written with, each with a new token and its user PIN."""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Functions
from softhsm.command import run
from softhsm.token import SoftHSM
from softhsm.tpm import SoftTPM
from softhsm.tpm2_pkcs11 import TPM2Token

PIN = "73190264"
_OPENCRYPTOKI_CONF = "version opencryptoki-3.0\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n"
# In namespaces of its own: $1 is the configuration. It lasts until stdin is closed.
_OPENCRYPTOKI = f"""
set -e
mkdir -p /run/opencryptoki /run/lock/opencryptoki
for folder in /var/lib/opencryptoki /run/opencryptoki /run/lock/opencryptoki /dev/shm; do
    mount -t tmpfs none $folder
done
mkdir -p /var/lib/opencryptoki/swtok/TOK_OBJ /run/lock/opencryptoki/swtok
# The daemon of 3.27 is not root.
chgrp -R pkcs11 /var/lib/opencryptoki /run/opencryptoki /run/lock/opencryptoki
chmod -R 0770 /var/lib/opencryptoki /run/lock/opencryptoki
mount --bind "$1" /etc/opencryptoki/opencryptoki.conf
pkcsslotd
echo hushed | pkcsconf -I -c 3 -S 87654321
pkcsconf -P -c 3 -S 87654321 -n 76543210
pkcsconf -u -c 3 -S 76543210 -n 12345678
pkcsconf -p -c 3 -U 12345678 -n {PIN}
echo ready
exec cat
"""


@dataclass(frozen=True)
class ModuleToken:
    """A token of a module.

    Attributes:
        module: the path of the module.
        label, pin: those of the token.
        env: the variables that programs which load the module need.
        prefix: the command that runs another one where the token is.
        forgive: makes the token forget wrong PINs, if a good login does not, and what its module has left there.
    """

    module: str
    label: str
    pin: str = PIN
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    forgive: Callable[[], object] = int

    def uri(self, attributes: str = "", module: str = "") -> str:
        """Return a URI of the token, or of an object in it, through this module or another one."""
        path = f"token={quote(self.label)}" + (f";{attributes}" if attributes else "")
        return f"pkcs11:{path}?module-path={quote(module or self.module)}"

    @contextmanager
    def in_process(self) -> Iterator[None]:
        """Let this process use the token, though it may have used another one of the module before."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.env.items():
                patch.setenv(name, value)
            reload_module(self.module)
            yield

    def make_key(self, label: str, id: bytes, kind: str) -> None:
        """Have pkcs11-tool make a key pair: `EC:prime256v1`, `rsa:2048`."""
        self._tool("--keypairgen", "--key-type", kind, "--label", label, "--id", id.hex())

    def public_key(self, id: bytes) -> bytes:
        """Return what pkcs11-tool reads of a public key: a DER SubjectPublicKeyInfo."""
        return self._tool("--read-object", "--type", "pubkey", "--id", id.hex())

    def delete_key(self, id: bytes) -> None:
        """Have pkcs11-tool delete a private key."""
        self._tool("--delete-object", "--type", "privkey", "--id", id.hex())

    def slots(self) -> str:
        """Return what pkcs11-tool shows of the module's slots and tokens, without a login."""
        command = ["pkcs11-tool", "--module", self.module, "--list-token-slots"]
        return run([*self.prefix, *command], self.env).decode()

    def _tool(self, *arguments: str) -> bytes:
        login = ["--token-label", self.label, "--login", "--pin", self.pin]
        return run([*self.prefix, "pkcs11-tool", "--module", self.module, *login, *arguments], self.env)


def reload_module(path: str) -> None:
    """Finalise and initialise a module again, if this process has initialised it."""
    functions = Functions(path)
    with suppress(PKCS11Error):
        functions.finalise()
        functions.initialise()


@contextmanager
def softhsm_token(folder: Path) -> Iterator[ModuleToken]:
    """A token of SoftHSM."""
    hsm = SoftHSM(folder / "hsm")
    hsm.make()
    hsm.add_token("hushed", PIN)
    yield ModuleToken(hsm.module, "hushed", env=hsm.env)


@contextmanager
def remote_token(folder: Path) -> Iterator[ModuleToken]:
    """A token of SoftHSM in another process, through p11-kit's remoting."""
    [client] = glob.glob("/usr/lib/*/pkcs11/p11-kit-client.so")
    socket = folder / "p11-kit"
    with softhsm_token(folder) as token:
        command = ["p11-kit", "server", "--foreground", "--sh", "--name", str(socket), "--provider", token.module]
        with subprocess.Popen([*command, "pkcs11:"], env={**os.environ, **token.env}, stdout=-1, text=True) as server:
            assert server.stdout is not None
            server.stdout.readline()
            try:
                yield ModuleToken(client, token.label, env={"P11_KIT_SERVER_ADDRESS": f"unix:path={socket}"})
            finally:
                server.terminate()


@contextmanager
def nss_token(folder: Path) -> Iterator[ModuleToken]:
    """The certificate database of NSS, made by certutil."""
    [module, *_] = glob.glob("/usr/lib/*/libsoftokn3.so") + glob.glob("/usr/lib*/libsoftokn3.so")
    (folder / "pin").write_text(PIN)
    certutil(folder, "-N")
    values = f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    yield ModuleToken(module, "NSS Certificate DB", env={"NSS_LIB_PARAMS": values})


def certutil(folder: Path, *arguments: str) -> bytes:
    """Run NSS's certutil on a database, and return its output."""
    noise = folder / "noise"
    noise.write_bytes(os.urandom(64))
    return run(["certutil", *arguments, "-d", f"sql:{folder}", "-f", str(folder / "pin"), "-z", str(noise)], {})


@contextmanager
def tpm2_token(folder: Path) -> Iterator[ModuleToken]:
    """A token of libtpm2-pkcs11, with an emulated TPM."""
    with SoftTPM(folder) as tpm:
        token = TPM2Token(folder / "store", tpm)
        token.make()

        def forgive() -> None:
            run(["tpm2_dictionarylockout", "--clear-lockout"], tpm.env)
            run(["tpm2_flushcontext", "--transient-object"], tpm.env)  # The module leaves keys there.

        yield ModuleToken(token.module, token.label, token.pin, token.env, forgive=forgive)


def find_opencryptoki() -> str:
    """Return the path of opencryptoki's module."""
    [module, *_] = glob.glob("/usr/lib/*/pkcs11/libopencryptoki.so")
    return module


@contextmanager
def opencryptoki_token(folder: Path) -> Iterator[ModuleToken]:
    """The software token of opencryptoki, whose daemon and files are in namespaces of their own. Needs root."""
    configuration = folder / "opencryptoki.conf"
    configuration.write_text(_OPENCRYPTOKI_CONF)
    kinds = ["--mount", "--ipc", "--pid"]
    command = ["unshare", *kinds, "--fork", "--kill-child", "--mount-proc", "sh", "-c", _OPENCRYPTOKI, "sh"]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen([*command, str(configuration)], stdin=-1, stdout=-1, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert any(line.endswith("ready\n") for line in process.stdout)  # After the prompts of pkcsconf.
        [inside] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield ModuleToken(find_opencryptoki(), "hushed", prefix=("nsenter", "--target", inside, *kinds))
