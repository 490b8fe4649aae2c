"""A CA, keys, the emulated service and profiles of config.toml, made in the machine."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from hwsigner.backends.tpm2.encode import write_tss2_pem
from hwsigner.backends.tpm2.key_file import PolicyCommand, TSS2Key
from machine.guest.commands import CONFIG, ENDPOINT, done, run, wait_until
from softhsm.demo_ca import DemoCA

SCRATCH = Path("/tmp")  # where the commands run
OWNER = 0x40000001
POLICY_PCR, SHA256 = 0x17F, 0xB
# The owner's storage key as hwsigner and tpm2-openssl make it.
PRIMARY = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
PASSWORD = "the key's own secret"
PKI = Path("/etc/hwsigner")
EMULATOR = f"""\
[Service]
ExecStart=/opt/hwsigner/bin/hwsigner emulator --trust-anchor {PKI}/ca.pem --port 8000
[Install]
WantedBy=multi-user.target
"""


class Machine:
    """What was set up.

    Attributes:
        ca: the CA that the emulated service trusts.
        web: the public key of the key at 0x81000010, in DER.
        arns: the flags of a session, as keys of config.toml.
    """

    def __init__(self) -> None:
        PKI.mkdir()
        self.ca = DemoCA("Machine CA")
        (PKI / "ca.pem").write_bytes(self.ca.pem)
        Path("/etc/systemd/system/emulator.service").write_text(EMULATOR)
        done("systemctl", "daemon-reload")
        done("systemctl", "enable", "--now", "emulator.service")
        self.arns = self._arns()
        self.web = self.tpm_key(0x81000010)

    def _arns(self) -> str:
        def printed() -> str:
            return run("journalctl", "--no-pager", "-o", "cat", "-u", "emulator.service").stdout

        wait_until(lambda: "role-arn=" in printed())
        values = dict(line.split("=", 1) for line in printed().splitlines() if "-arn=" in line)
        return "".join(f'{name} = "{value}"\n' for name, value in values.items())

    def profile(self, name: str, key: str, public_key: bytes, *more: str, file: Path = CONFIG) -> None:
        """Issue a certificate and add a profile for a key."""
        leaf = (PKI if file == CONFIG else file.parent) / f"{name}.pem"
        leaf.write_bytes(self.ca.issue(public_key, name))
        text = f'[profile.{name}]\ncertificate = "{leaf}"\nprivate-key = "{key}"\nendpoint = "{ENDPOINT}"\n'
        with file.open("a") as config:
            config.write(text + self.arns + "".join(f"{line}\n" for line in more) + "\n")

    def tpm_key(self, handle: int, password: str = "") -> bytes:
        """Make a signing key at a persistent handle of the TPM, and return its public key in DER."""
        attributes = "userwithauth" if password else "userwithauth|noda"
        public = self._create(attributes, *(["-p", password] if password else []))
        tpm2("load", "-C", "primary", "-u", "public", "-r", "private", "-c", "context")
        tpm2("evictcontrol", "-C", "o", "-c", "context", f"{handle:#x}")
        return public

    def pcr_key(self, file: Path, pcr: int) -> bytes:
        """Write the file of a TPM key that signs while a PCR has the value of now, and return its public key in DER."""
        tpm2("pcrread", f"sha256:{pcr}", "-o", "values")
        digest = hashlib.sha256((SCRATCH / "values").read_bytes()).digest()
        selection = struct.pack(">IHB", 1, SHA256, 3) + (1 << pcr).to_bytes(3, "little")
        # TPM 2.0 Library, part 3, 23.7. No trial session: the kernel's resource manager ends it with each tool.
        policy = hashlib.sha256(bytes(32) + struct.pack(">I", POLICY_PCR) + selection + digest).digest()
        (SCRATCH / "policy").write_bytes(policy)
        public = self._create("noda", "-L", "policy")
        command = PolicyCommand(POLICY_PCR, struct.pack(">H", len(digest)) + digest + selection)
        parts = (SCRATCH / "public").read_bytes(), (SCRATCH / "private").read_bytes()
        file.write_text(write_tss2_pem(TSS2Key(True, OWNER, *parts, policy=(command,))))
        return public

    def _create(self, attributes: str, *options: str) -> bytes:
        """Make a key under the owner's primary key in the files public and private; return its public key in DER."""
        tpm2("createprimary", "-C", "o", "-G", "ecc", "-c", "primary", "-a", PRIMARY)
        signing = f"fixedtpm|fixedparent|sensitivedataorigin|sign|{attributes}"
        files = ("-u", "public", "-r", "private", "-f", "pem", "-o", "public.pem")
        tpm2("create", "-C", "primary", "-G", "ecc256", "-a", signing, *files, *options)
        return public_key(SCRATCH / "public.pem")


def tpm2(name: str, *arguments: str) -> None:
    """Run one of tpm2-tools with the machine's TPM, in SCRATCH."""
    done(f"tpm2_{name}", *arguments, TPM2TOOLS_TCTI="device:/dev/tpmrm0")


def public_key(pem: Path) -> bytes:
    """Return the DER of a public key in PEM."""
    key = serialization.load_pem_public_key(pem.read_bytes())
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
