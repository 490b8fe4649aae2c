"""An issuer for hwsigner: a CA whose certificate and key are in a folder, for a laboratory.

`--issuer-url file:///srv/ca` names a folder with `ca.pem` and `ca.key`; `--issuer-secret` is the key's passphrase.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.issuers import Issued, IssuerSettings, OpensIssuer, Pending
from hwsigner.errors import ServiceError, ServiceUnreachableError, UsageError


def open_issuer(settings: IssuerSettings) -> FolderCA:
    """Return the CA in the folder of `settings.url`."""
    url = urlsplit(settings.url)
    if url.scheme != "file" or url.netloc or not url.path:
        raise UsageError("--issuer-url does not name a folder", "Use file:///PATH")
    return FolderCA(Path(url.path), settings)


@dataclass(frozen=True)
class FolderCA:
    """A CA in a folder."""

    folder: Path
    settings: IssuerSettings

    def issue(self, request: CertificateRequest) -> Issued | Pending:
        """Have openssl sign the request. While the folder has a file `closed`, there are no certificates."""
        if (self.folder / "closed").exists():
            return Pending()
        passphrase = self.settings.secret() if self.settings.secret else ""
        command = ["openssl", "x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-passin", "env:PASSPHRASE"]
        try:
            ran = subprocess.run(
                [*command, "-days", "2", "-copy_extensions", "copy"],
                cwd=self.folder,
                env={"PATH": os.defpath, "PASSPHRASE": passphrase},
                input=request.pem,
                capture_output=True,
                timeout=self.settings.timeout,
            )
        except FileNotFoundError:
            raise UsageError(f"there is no folder {self.folder}, or no openssl", "Check --issuer-url") from None
        except subprocess.TimeoutExpired:
            raise ServiceUnreachableError("openssl did not end in time", "Run it by hand") from None
        if ran.returncode:
            reason = ran.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
            raise ServiceError(f"openssl did not sign the request: {reason}", "Check the folder and --issuer-secret")
        return Issued.from_pem(ran.stdout + (self.folder / "ca.pem").read_bytes(), "the answer of openssl")


if TYPE_CHECKING:
    import hwsigner_folder_ca

    _: OpensIssuer = hwsigner_folder_ca
