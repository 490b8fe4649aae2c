"""A vendor of TPMs: its CA certifies the endorsement keys of the swtpm TPMs that it makes, as chips' vendors do."""

from __future__ import annotations

from pathlib import Path

from softhsm.command import run
from softhsm.tpm import SoftTPM

_CA_FILES = {"signingkey": "signkey.pem", "issuercert": "issuercert.pem", "certserial": "certserial"}


class TPMVendor:
    """A CA of swtpm_localca, in a folder.

    Attributes:
        roots: the folder with its certificates.
    """

    def __init__(self, folder: Path) -> None:
        self.roots = folder / "roots"
        self._ca = folder / "ca"
        self._setup = folder / "setup.conf"
        for path in (self.roots, self._ca):
            path.mkdir(parents=True)
        ca = folder / "localca.conf"
        files = "".join(f"{name} = {self._ca / file}\n" for name, file in _CA_FILES.items())
        ca.write_text(f"statedir = {self._ca}\n{files}")
        options = folder / "options"
        options.write_text("")
        self._setup.write_text(
            "create_certs_tool = /usr/bin/swtpm_localca\n"
            f"create_certs_tool_config = {ca}\ncreate_certs_tool_options = {options}\nactive_pcr_banks = sha256\n"
        )

    def make(self, folder: Path) -> SoftTPM:
        """Make a TPM with certificates for its endorsement keys, and no other key. It does not run yet.

        Raises:
            ToolError: swtpm_setup is not installed, or failed.
        """
        state = folder / "state"
        state.mkdir(parents=True)
        run(["swtpm_setup", "--tpm2", "--create-ek-cert", "--tpmstate", str(state), "--config", str(self._setup)], {})
        for name in ("issuercert.pem", "swtpm-localca-rootca-cert.pem"):
            (self.roots / name).write_bytes((self._ca / name).read_bytes())
        return SoftTPM(folder)
