"""SoftHSM tokens in their own folder."""

from __future__ import annotations

import glob
from pathlib import Path
from urllib.parse import quote

from softhsm.command import ToolError, run

PIN = "1234"
SO_PIN = "87654321"

_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/l*/**/libsofthsm2.so")


def find_module() -> str:
    """Return the path of SoftHSM's PKCS #11 module.

    Raises:
        ToolError: SoftHSM is not installed.
    """
    for pattern in _MODULES:
        for path in glob.iglob(pattern, recursive=True):
            return path
    raise ToolError("libsofthsm2.so is not installed; `make setup` installs what is needed")


class SoftHSM:
    """SoftHSM with its tokens in one folder. The token added last is the current one.

    Attributes:
        folder: the folder.
        module: the path of the PKCS #11 module.
        conf: the path of softhsm2.conf.
        env: the environment variables that users of the module need.
        label, pin, so_pin: those of the current token.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = find_module()
        self.conf = folder / "softhsm2.conf"
        self.env = {"SOFTHSM2_CONF": str(self.conf)}
        self.label = ""
        self.pin = PIN
        self.so_pin = SO_PIN
        self._pins: dict[str, str] = {}

    def make(self) -> None:
        """Create the folder, without tokens."""
        tokens = self.folder / "tokens"
        tokens.mkdir(parents=True, mode=0o700)
        self.conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")

    def add_token(self, label: str, pin: str = PIN) -> None:
        """Initialise another token and make it the current one."""
        arguments = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", SO_PIN]
        run(arguments, self.env)
        self.label, self.pin = label, pin
        self._pins[label] = pin

    def generate(self, label: str, id: bytes, kind: str, token: str | None = None) -> None:
        """Generate a key pair inside a token.

        Args:
            label: the CKA_LABEL of both objects.
            id: their CKA_ID.
            kind: as pkcs11-tool writes it: `EC:prime256v1`, `rsa:2048`.
            token: the token's label; the current token by default.
        """
        self._pkcs11_tool(token, "--keypairgen", "--key-type", kind, "--label", label, "--id", id.hex())

    def write_certificate(self, der: bytes, label: str, id: bytes, token: str | None = None) -> None:
        """Write a certificate into a token."""
        path = self.folder / "certificate.der"
        path.write_bytes(der)
        self._pkcs11_tool(token, "--write-object", str(path), "--type", "cert", "--label", label, "--id", id.hex())
        path.unlink()

    def delete(self, type: str, id: bytes, token: str | None = None) -> None:
        """Delete an object: `privkey`, `pubkey` or `cert`."""
        self._pkcs11_tool(token, "--delete-object", "--type", type, "--id", id.hex())

    def public_key(self, id: bytes, token: str | None = None) -> bytes:
        """Return a public key of a token as a DER SubjectPublicKeyInfo (RFC 5280, 4.1)."""
        # pkcs11-tool 0.23 of Debian 12 reads no EC key.
        label = token or self.label
        uri = f"pkcs11:token={quote(label, safe='')};id={quote(id, safe='')};type=public"
        command = ["p11tool", "--provider", self.module, "--login", "--outder", "--export", uri]
        return run(command, {**self.env, "GNUTLS_PIN": self._pins[label]})

    def uri(self, label: str, pin_file: Path | None = None) -> str:
        """Return the key URI (RFC 7512) of an object of the current token."""
        query = f"module-path={quote(self.module)}"
        if pin_file is not None:
            query += f"&pin-source=file:{quote(str(pin_file))}"
        return f"pkcs11:token={quote(self.label, safe='')};object={quote(label, safe='')}?{query}"

    def _pkcs11_tool(self, token: str | None, *arguments: str) -> None:
        label = token or self.label
        login = ["--token-label", label, "--login", "--pin", self._pins[label]]
        run(["pkcs11-tool", "--module", self.module, *login, *arguments], self.env)
