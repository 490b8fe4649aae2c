"""A CA, keys, the emulated service and profiles of config.toml, made in the machine."""

from __future__ import annotations

from pathlib import Path

from machine.guest.commands import BIN, CONFIG, ENDPOINT, done, run, wait_until
from softhsm.demo_ca import DemoCA

HWSIGNER = BIN / "hwsigner"
PASSWORD = "the key's own secret"
PKI = Path("/etc/hwsigner")
REQUESTS = Path("/run/requests")
EMULATOR = f"""\
[Service]
ExecStart={HWSIGNER} emulator --trust-anchor {PKI}/ca.pem --port 8000 --log {REQUESTS}
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
        PKI.mkdir(exist_ok=True)
        self.ca = DemoCA("Machine CA")
        (PKI / "ca.pem").write_bytes(self.ca.pem)
        Path("/etc/systemd/system/emulator.service").write_text(EMULATOR)
        done("systemctl", "daemon-reload")
        done("systemctl", "enable", "--now", "emulator.service")
        self.arns = self._arns()
        done(HWSIGNER, "keygen", "handle:0x81000110")

    def _arns(self) -> str:
        def printed() -> str:
            return run("journalctl", "--no-pager", "-o", "cat", "-u", "emulator.service").stdout

        wait_until(lambda: "role-arn=" in printed())
        values = dict(line.split("=", 1) for line in printed().splitlines() if "-arn=" in line)
        return "".join(f'{name} = "{value}"\n' for name, value in values.items())

    @property
    def flags(self) -> list[str]:
        """The flags of a session."""
        return [f"--{line.replace(' = ', '=')}" for line in self.arns.replace('"', "").splitlines()]

    def profile(
        self, name: str, key: str, *more: str, file: Path = CONFIG, user: str = "root", pin: str | None = None
    ) -> None:
        """Have the CA certify a key, and add a profile for it."""
        leaf = (PKI if file == CONFIG else file.parent) / f"{name}.pem"
        leaf.write_bytes(self.certify(name, key, user=user, pin=pin))
        text = f'[profile.{name}]\ncertificate = "{leaf}"\nprivate-key = "{key}"\nendpoint = "{ENDPOINT}"\n'
        with file.open("a") as config:
            config.write(text + self.arns + "".join(f"{line}\n" for line in more) + "\n")

    def certify(self, name: str, key: str, *, user: str = "root", pin: str | None = None) -> bytes:
        """Have a key sign a certificate request, and return the certificate."""
        request = Path(f"/tmp/{name}.csr")
        env = {} if pin is None else {"HWSIGNER_PIN": pin}
        done(HWSIGNER, "csr", key, f"--subject=CN={name}", f"--out={request}", user=user, **env)
        return self.ca.issue(request.read_bytes())


def tpm2(name: str, *arguments: str) -> None:
    """Run one of tpm2-tools with the machine's TPM."""
    done(f"tpm2_{name}", *arguments, TPM2TOOLS_TCTI="device:/dev/tpmrm0")
