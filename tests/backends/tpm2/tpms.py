"""Keys of a TPM for tests: tpm2-tools in a folder, and what files and signatures of theirs are like."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tpm2_pytss import ESAPI, TPM2_CAP, TPM2_CC, TPM2_ST

from backends.contract import openssl_verifies
from hwsigner.backends.tpm2.encode import write_tss2_pem
from hwsigner.backends.tpm2.key_file import TSS2Key
from hwsigner.key import HashName, open_key
from softhsm.command import run
from softhsm.tpm import SoftTPM

STORED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
SIGNING = f"{STORED}|sign"
PASSWORD = "right-4711"
NODA = ("-a", f"{STORED}|restricted|decrypt|noda")
# The first handles of objects, of loaded sessions and of saved ones.
_LOADED = (0x80000000, 0x02000000)
_SAVED = (0x03000000,)


class Tools:
    """Keys made with tpm2-tools, in a folder."""

    def __init__(self, tpm: SoftTPM, folder: Path) -> None:
        self.tpm = tpm
        self.folder = folder

    def run(self, *arguments: str, flush: bool = True) -> str:
        """Run a tool, and flush what it leaves in the TPM."""
        output = run(arguments, self.tpm.env).decode()
        if flush:
            self.flush()
        return output

    def flush(self) -> list[str]:
        """Flush the objects and sessions that are loaded in the TPM, and return their handles."""
        with _connected(self.tpm) as esys:
            loaded = loaded_in(esys, _LOADED)
        flush_handles(self.tpm, loaded)
        return loaded

    def key_file(
        self,
        kind: str = "ecc256",
        attributes: str = SIGNING,
        *,
        primary: tuple[str, ...] = ("-G", "ecc"),
        auth: str = "",
        policy: str = "",
    ) -> Path:
        """Create a key under the primary that tpm2_createprimary makes of `primary`, and encode it."""
        parent, path = self.path("primary"), self.path("key.pem")
        self.run("tpm2_createprimary", "-Q", "-c", str(parent), *primary)
        options = [*(["-p", auth] if auth else []), *(["-L", policy] if policy else [])]
        return self.key_file_under(str(parent), path, "-G", kind, "-a", attributes, *options)

    def key_file_under(self, parent: str, path: Path, *create: str) -> Path:
        """Create a key under a parent, and encode it."""
        parts = ["-u", str(self.path("public")), "-r", str(self.path("private"))]
        self.run("tpm2_create", "-Q", "-C", parent, *parts, *create)
        return self.encode(parent, path, is_empty="-p" not in create)

    def encode(self, parent: str, path: Path, *parent_auth: str, is_empty: bool) -> Path:
        """Encode the key made last into a file that says whether its auth value is empty."""
        parts = ["-u", str(self.path("public")), "-r", str(self.path("private")), "-o", str(path)]
        self.run("tpm2_encodeobject", "-C", parent, *parent_auth, *parts, *flag_of_encode(is_empty=is_empty))
        return path

    def parts(self) -> tuple[bytes, bytes]:
        """Return the TPM2B_PUBLIC and the TPM2B_PRIVATE of the key made last."""
        return self.path("public").read_bytes(), self.path("private").read_bytes()

    def duplicated(self, parent: Path, kind: str = "ecc256", auth: str = "") -> TSS2Key:
        """Create a key and encrypt it to another parent, given by its public area. Return its file."""
        primary, key, policy, session = (str(self.path(name)) for name in ("other", "loaded", "policy", "session"))
        public, private, seed = (str(self.path(name)) for name in ("public", "private", "seed"))
        self.run("tpm2_startauthsession", "-S", session, flush=False)
        self.run("tpm2_policycommandcode", "-Q", "-S", session, "-L", policy, "TPM2_CC_Duplicate")
        self.run("tpm2_flushcontext", session)
        self.run("tpm2_createprimary", "-Q", "-C", "n", "-G", "ecc", "-c", primary)
        parts = ["-u", public, "-r", private, *(["-p", auth] if auth else [])]
        attributes = "sensitivedataorigin|userwithauth|sign"
        self.run("tpm2_create", "-Q", "-C", primary, "-G", kind, "-a", attributes, "-L", policy, *parts)
        self.run("tpm2_load", "-Q", "-C", primary, "-u", public, "-r", private, "-c", key)
        self.run("tpm2_loadexternal", "-Q", "-C", "o", "-u", str(parent), "-c", primary)
        self.run("tpm2_startauthsession", "--policy-session", "-S", session, flush=False)
        self.run("tpm2_policycommandcode", "-Q", "-S", session, "TPM2_CC_Duplicate", flush=False)
        outputs = ["-r", private, "-s", seed]
        self.run("tpm2_duplicate", "-C", primary, "-c", key, "-G", "null", "-p", f"session:{session}", *outputs)
        self.run("tpm2_flushcontext", session)
        return TSS2Key(not auth, 0x40000001, *self.parts(), self.path("seed").read_bytes())

    def public_key(self) -> bytes:
        """Return the DER public key of the key made last."""
        pem = self.path("public.pem")
        output = run(["tpm2_print", "-t", "TPM2B_PUBLIC", "-f", "pem", str(self.path("public"))], self.tpm.env)
        pem.write_bytes(output)
        return run(["openssl", "pkey", "-pubin", "-in", str(pem), "-pubout", "-outform", "DER"], {})

    @contextmanager
    def persisted(self, handle: int = 0x81004720) -> Iterator[int]:
        """Give the key that key_file made last at a persistent handle."""
        parts = ["-u", str(self.path("public")), "-r", str(self.path("private"))]
        loaded = str(self.path("loaded"))
        self.run("tpm2_load", "-Q", "-C", str(self.path("primary")), *parts, "-c", loaded)
        self.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", loaded, hex(handle))
        yield handle
        self.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(handle))

    def write(self, key: TSS2Key, name: str = "written.pem") -> Path:
        """Write a key file of ours."""
        path = self.path(name)
        path.write_text(write_tss2_pem(key))
        return path

    def path(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.folder / name

    def left_over(self) -> str:
        """Return the handles of what is still loaded in the TPM."""
        return self.run_getcap("handles-transient") + self.run_getcap("handles-loaded-session")

    def run_getcap(self, what: str) -> str:
        """Ask for a capability, and flush nothing."""
        return run(["tpm2_getcap", what], self.tpm.env).decode()

    def counted_failures(self) -> int:
        """Return how many wrong auth values the TPM counts."""
        lines = self.run_getcap("properties-variable").splitlines()
        return next(int(line.split()[1], 16) for line in lines if line.startswith("TPM2_PT_LOCKOUT_COUNTER"))

    def set_lockout(self, tries: int, seconds: int = 1000) -> None:
        """Set the TPM's lockout, and clear it."""
        with _connected(self.tpm) as esys:
            esys.dictionary_attack_parameters(tries, seconds, 1000)
            esys.dictionary_attack_lock_reset()


def handles_in(tpm: SoftTPM) -> list[str]:
    """Return the handles of what is loaded in a TPM, or saved out of it: objects and sessions."""
    with _connected(tpm) as esys:
        return loaded_in(esys)


def loaded_in(esys: ESAPI, firsts: tuple[int, ...] = _LOADED + _SAVED) -> list[str]:
    """Return the same through an open connection, for all kinds of handles or for some."""
    return [f"{handle:#x}" for first in firsts for handle in _handles(esys, first)]


@contextmanager
def _connected(tpm: SoftTPM) -> Iterator[ESAPI]:
    esys = ESAPI(tpm.tcti)
    try:
        yield esys
    finally:
        esys.close()


def _handles(esys: ESAPI, first: int) -> list[int]:
    _, answer = esys.get_capability(TPM2_CAP.HANDLES, first, 100)  # The list is a part of it.
    return [int(handle) for handle in answer.data.handles]


_SIGNER = """
import sys
from hwsigner.key import open_key
for uri in sys.argv[1:]:
    with open_key(uri) as key:
        for number in range(10):
            print(key.sign(b"%d" % number).hex())
"""


def start_signer(*uris: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process that prints ten signatures of each key, one per line."""
    root = Path(__file__).parents[3]
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(root)} | environment
    command = [sys.executable, "-c", _SIGNER, *uris]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def flag_of_encode(*, is_empty: bool) -> list[str]:
    """Return what makes tpm2_encodeobject write whether an auth value is empty. Before 5.8, -p wrote the opposite."""
    major, minor = re.findall(r'version="(\d+)\.(\d+)', run(["tpm2_encodeobject", "--version"], {}).decode())[0]
    is_inverted = (int(major), int(minor)) < (5, 8)
    return ["-p"] if is_empty is is_inverted else []


def flush_handles(tpm: SoftTPM, handles: list[str]) -> None:
    """Flush what is in a TPM by its handles: hash sequences too, which tpm2_flushcontext can't."""
    with _connected(tpm) as esys:
        for handle in handles:
            esys.tcti.transmit(struct.pack(">HIII", TPM2_ST.NO_SESSIONS, 14, TPM2_CC.FlushContext, int(handle, 16)))
            esys.tcti.receive()


def read_der(path: Path) -> bytes:
    """Return what a PEM file holds. Text may stand before the block."""
    block = path.read_text().partition("-----BEGIN")[2]
    body = "".join(line for line in block.splitlines()[1:] if "-----" not in line)
    return run(["openssl", "base64", "-d", "-A"], {}, body.encode())


def sign_and_verify(
    uri: str, public_key: bytes, folder: Path, pin: str | None = None, hash: HashName = "sha256"
) -> bool:
    with open_key(uri, pin) as key:
        assert key.public_key() == public_key
        return openssl_verifies(folder, public_key, key.sign(b"message", hash), b"message", hash)


def openssl_signs(tools: Tools, path: Path, auth: str = "") -> bool:
    """Return whether openssl, with tpm2-openssl, makes a signature with the file of the key that was made last."""
    message, signature = tools.path("message"), tools.path("signature")
    message.write_bytes(b"message")
    command = [
        "openssl",
        "dgst",
        "-provider",
        "tpm2",
        "-provider",
        "default",
        "-propquery",
        "?provider=tpm2",
        "-sha256",
    ]
    command += ["-sign", str(path), *(["-passin", f"pass:{auth}"] if auth else []), "-out", str(signature)]
    run([*command, str(message)], tools.tpm.env)
    return openssl_verifies(tools.folder, tools.public_key(), signature.read_bytes(), b"message", "sha256")
