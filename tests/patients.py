"""A sound set-up for `hwsigner doctor`: tests plant one mistake and look at what is found."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import certs
from hwsigner.emulator import Emulator
from hwsigner.trust_policy.writing import write_trust_policy
from scene import Outcome

Finding = dict[str, str]


@dataclass
class Patient:
    """A home with the profile `web`, the files of the AWS SDKs, and a trust policy.

    Attributes:
        folder: the home.
        ca: the CA of the certificate, which the emulator trusts.
        emulator: the service.
        call: a function that runs a command in this process.
        values: the values of the profile.
    """

    folder: Path
    ca: certs.Authority
    emulator: Emulator
    call: Callable[..., Outcome]
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def leaf(self) -> Path:
        return self.folder / "web.pem"

    @property
    def key(self) -> Path:
        return self.folder / "web.key"

    def set_up(self) -> None:
        """Write all files, with nothing wrong in them."""
        certs.write_key(self.key, ec.generate_private_key(ec.SECP256R1()))
        self.issue()
        self.change(
            {
                "certificate": str(self.leaf),
                "private-key": str(self.key),
                "trust-anchor-arn": self.emulator.trust_anchor_arn,
                "profile-arn": self.emulator.profile_arn,
                "role-arn": self.emulator.role_arn,
                "endpoint": self.emulator.url,
            }
        )
        self.program("hwsigner", "exit 0")
        self.aws_config(f"[profile web]\ncredential_process = {self.process}\n")

    @property
    def process(self) -> str:
        return f"{self.folder}/bin/hwsigner credential-process --profile web"

    def change(self, values: dict[str, Any]) -> None:
        """Change values of the profile. None removes one."""
        self.values = {name: value for name, value in {**self.values, **values}.items() if value is not None}
        lines = ["[profile.web]", *(f"{name} = {json.dumps(value)}" for name, value in self.values.items())]
        self.write("config/hwsigner/config.toml", "\n".join(lines))

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def aws_config(self, text: str) -> None:
        self.write(".aws/config", text)

    def process_line(self, line: str) -> None:
        self.aws_config(f"[profile web]\ncredential_process = {line}\n")

    def program(self, name: str, script: str) -> Path:
        """Write a program into the only folder of PATH that is this home's."""
        path = self.write(f"bin/{name}", f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def public_key(self) -> Any:
        return load_pem_private_key(self.key.read_bytes(), None).public_key()

    def issue(self, shape: certs.Shape = certs.LEAF, *above: certs.Authority, public_key: Any = None) -> None:
        """Replace the certificate by one of the first CA above it, or of the CA, and write those CAs after it."""
        leaf = certs.issue(above[0] if above else self.ca, public_key or self.public_key(), shape)
        self.leaf.write_bytes(certs.pem(leaf, *(each.certificate for each in above)))

    def issue_named(self, subject: x509.Name, *extensions: x509.ExtensionType) -> None:
        """Replace the certificate by one with other names or extensions."""
        good = certs.issue(self.ca, self.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.ca.certificate.subject)
            .public_key(self.public_key())
            .serial_number(4711)
            .not_valid_before(good.not_valid_before_utc)
            .not_valid_after(good.not_valid_after_utc + timedelta(days=1))
        )
        for extension in (*(each.value for each in good.extensions), *extensions):
            builder = builder.add_extension(extension, critical=False)
        self.leaf.write_bytes(certs.pem(builder.sign(self.ca.key, SHA256())))

    def openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def policy(self, **change: Any) -> Path:
        """Write a sound trust policy, with changes to its statement."""
        policy = write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=self.emulator.trust_anchor_arn)
        policy["Statement"][0].update(change)
        return self.write("policy.json", json.dumps(policy))

    def findings(self, *flags: str | Path) -> list[Finding]:
        """Run the command for the profile, and return what it finds."""
        outcome = self.call("doctor", "--profile", "web", "--json", *flags)
        assert outcome.err == ""
        found: list[Finding] = json.loads(outcome.out)["findings"]
        assert outcome.status == (1 if found else 0)
        return found

    def names(self, *flags: str | Path) -> set[str]:
        return {each["id"] for each in self.findings(*flags)}
