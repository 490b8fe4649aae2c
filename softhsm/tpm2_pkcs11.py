"""A token of libtpm2-pkcs11, with its store in a folder and its keys in an emulated TPM."""

from __future__ import annotations

import glob
from pathlib import Path
from urllib.parse import quote

from softhsm.command import ToolError, run
from softhsm.token import PIN, SO_PIN
from softhsm.tpm import SoftTPM


def find_module() -> str:
    """Return the path of libtpm2-pkcs11.

    Raises:
        ToolError: it is not installed.
    """
    paths = glob.glob("/usr/lib/*/pkcs11/libtpm2_pkcs11.so") + glob.glob("/usr/lib*/**/libtpm2_pkcs11.so*")
    if not paths:
        raise ToolError("libtpm2_pkcs11.so is not installed; `make setup` installs what is needed")
    return paths[0]


class TPM2Token:
    """The only token of a store.

    Attributes:
        folder: the folder of the store.
        module: the path of the PKCS #11 module.
        label, pin: those of the token.
        env: the environment variables that users of the module need.
    """

    def __init__(self, folder: Path, tpm: SoftTPM, label: str = "chip") -> None:
        self.folder = folder
        self.module = find_module()
        self.label = label
        self.pin = PIN
        self.env = {"TPM2_PKCS11_STORE": str(folder), "TPM2_PKCS11_TCTI": tpm.tcti}

    def make(self) -> None:
        """Create the folder and initialise the token."""
        self.folder.mkdir(parents=True, mode=0o700)
        self._tool("--slot-index", "0", "--init-token", "--label", self.label, "--so-pin", SO_PIN)
        self._tool("--token-label", self.label, "--init-pin", "--so-pin", SO_PIN, "--pin", self.pin)

    def generate(self, label: str, id: bytes, kind: str) -> None:
        """Generate a key pair of a kind as in pkcs11-tool: `EC:prime256v1`, `rsa:2048`."""
        login = ["--token-label", self.label, "--login", "--pin", self.pin]
        self._tool(*login, "--keypairgen", "--key-type", kind, "--label", label, "--id", id.hex())

    def uri(self, label: str) -> str:
        """Return the key URI (RFC 7512) of an object."""
        return f"pkcs11:token={quote(self.label)};object={quote(label)}?module-path={quote(self.module)}"

    def _tool(self, *arguments: str) -> None:
        run(["pkcs11-tool", "--module", self.module, *arguments], self.env)
