"""A CA, keys, the emulated service and profiles of config.toml, made in the machine."""

from __future__ import annotations

from pathlib import Path

from conftest import CONFIG, ENDPOINT, done, run
from softhsm.demo_ca import DemoCA

TCTI = "device:/dev/tpmrm0"
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
        arns: the flags of a session, as keys of config.toml.
    """

    def __init__(self) -> None:
        PKI.mkdir()
        self.ca = DemoCA("Machine CA")
        (PKI / "ca.pem").write_bytes(self.ca.pem)
        Path("/etc/systemd/system/emulator.service").write_text(EMULATOR)
        done("systemctl", "daemon-reload")
        done("systemctl", "enable", "--now", "emulator.service")
        prefix = "arn:aws:rolesanywhere:us-east-1:123456789012"
        self.arns = self._arns(prefix)

    def _arns(self, prefix: str) -> str:
        from conftest import wait_until

        def printed() -> str:
            return run("journalctl", "--no-pager", "-o", "cat", "-u", "emulator.service").stdout

        wait_until(lambda: "role-arn=" in printed())
        values = dict(line.split("=", 1) for line in printed().splitlines() if "-arn=" in line)
        flags = {name: value for name, value in values.items()}
        return "".join(f'{name} = "{value}"\n' for name, value in flags.items())

    def profile(self, name: str, key: str, public_key: bytes, *more: str, file: Path = CONFIG) -> None:
        """Issue a certificate and add a profile for a key."""
        leaf = (PKI if file == CONFIG else file.parent) / f"{name}.pem"
        leaf.write_bytes(self.ca.issue(public_key, name))
        text = f'[profile.{name}]\ncertificate = "{leaf}"\nprivate-key = "{key}"\nendpoint = "{ENDPOINT}"\n'
        with file.open("a") as config:
            config.write(text + self.arns + "".join(f"{line}\n" for line in more) + "\n")

    def tpm_key(self, handle: int, password: str = "") -> bytes:
        """Make a signing key at a persistent handle of the TPM, and return its public key in DER."""
        folder = Path("/tmp")
        files = {name: str(folder / f"key.{name}") for name in ("primary", "public", "private", "context")}
        auth = ["-p", password] if password else []
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign" + ("" if password else "|noda")
        tpm = {"TPM2TOOLS_TCTI": TCTI, "TPM2OPENSSL_TCTI": TCTI}
        done("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", files["primary"], **tpm)
        create = ["tpm2_create", "-Q", "-C", files["primary"], "-G", "ecc256", "-a", attributes, *auth]
        done(*create, "-u", files["public"], "-r", files["private"], **tpm)
        loaded = ["-u", files["public"], "-r", files["private"], "-c", files["context"]]
        done("tpm2_load", "-Q", "-C", files["primary"], *loaded, **tpm)
        done("tpm2_evictcontrol", "-Q", "-C", "o", "-c", files["context"], f"{handle:#x}", **tpm)
        done("tpm2_readpublic", "-Q", "-c", f"{handle:#x}", "-f", "pem", "-o", "/tmp/public.pem", **tpm)
        done("openssl", "pkey", "-pubin", "-in", "/tmp/public.pem", "-outform", "DER", "-out", "/tmp/public.der")
        return Path("/tmp/public.der").read_bytes()
